"""What every benchmark has in common: rounds in turn, medians with spread, ratios, goals."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One measured quantity of one contender: its median and its range over the rounds."""

    case: str
    contender: str
    quantity: str
    unit: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.values)

    def __str__(self) -> str:
        """Return a line for people."""
        spread = f"{_short(min(self.values))}..{_short(max(self.values))}"
        name = f"{self.case:22} {self.contender:26} {self.quantity}"
        return f"{name}: {_short(self.median)} {self.unit} ({spread})"


@dataclass(frozen=True)
class Goal:
    """A ratio of two contenders in one run, and what it should be."""

    name: str
    ratio: float
    bound: float
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the ratio is on the right side of its bound."""
        return self.ratio <= self.bound if self.at_most else self.ratio >= self.bound

    def __str__(self) -> str:
        """Return a line for people."""
        sign = "<=" if self.at_most else ">="
        verdict = "met" if self.is_met else "NOT MET"
        return f"{self.name}: {self.ratio:.2f} (goal {sign} {self.bound:g}) {verdict}"


@dataclass
class Report:
    """Everything one benchmark found."""

    name: str
    figures: list[Figure] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)  # size, ms

    def median(self, case: str, contender: str, quantity: str) -> float:
        """Return the median of one figure."""
        for figure in self.figures:
            if (figure.case, figure.contender, figure.quantity) == (case, contender, quantity):
                return figure.median
        raise KeyError((case, contender, quantity))

    def add(self, case: str, contender: str, quantity: str, unit: str, values: Sequence[float]):
        """Add a figure."""
        self.figures.append(Figure(case, contender, quantity, unit, tuple(values)))

    def json(self) -> dict[str, Any]:
        """Return the report as it is recorded."""
        return {
            "figures": [{**asdict(each), "median": each.median} for each in self.figures],
            "goals": [{**asdict(goal), "met": goal.is_met} for goal in self.goals],
            "notes": self.notes,
            "curves": self.curves,
        }


def in_turn(
    contenders: Mapping[str, Callable[[], float | tuple[float, ...]]], rounds: int
) -> dict[str, list[Any]]:
    """Measure every contender once a round, so that what else the machine does meets all alike."""
    found: dict[str, list[Any]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            found[name].append(run())
    return found


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:.0f}"
