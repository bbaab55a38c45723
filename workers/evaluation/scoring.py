"""What the scores of the three kinds have in common: cases, subgroups, intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.core.findings import Analysis
from workers.evaluation.curves import Chart
from workers.evaluation.folder import ImageSeries
from workers.evaluation.references import Truth
from workers.volume.radiograph import Radiograph
from workers.volume.series import Volume

Figures = dict[str, Any]
_RESAMPLES = 1000


@dataclass(frozen=True)
class Case:
    """One analysed series: which, from where, in which subgroups, how long it took."""

    series: ImageSeries
    groups: Mapping[str, str]
    seconds: float


@dataclass(frozen=True)
class Shown:
    """How badly a case went, in words, and how to draw it."""

    badness: float
    caption: str
    draw: Callable[[], str]


class Scores(Protocol):
    """Collects cases of one kind and turns them into figures and curves."""

    def add(self, image: Volume | Radiograph, analysis: Analysis, truth: Truth) -> Shown:
        """Compare one case with its reference."""
        ...

    def figures(self) -> Figures:
        """Return everything that was measured over all cases."""
        ...

    def headline(self, chosen: Sequence[int]) -> Figures:
        """Return the figures that subgroups are compared by, over cases by number."""
        ...

    def case_figures(self, number: int) -> Figures:
        """Return what one case scored."""
        ...

    def charts(self) -> list[Chart]:
        """Return the curves over all cases."""
        ...


def groups_of(series: ImageSeries) -> dict[str, str]:
    """Return the subgroups that a series belongs to; what its header does not say is left out."""
    header = series.header
    thickness = header.slice_thickness_mm
    found = {
        "folder": series.domain,
        "scanner": f"{header.manufacturer} {header.manufacturer_model_name}".strip(),
        "kernel": header.convolution_kernel[0] if header.convolution_kernel else "",
        "thickness": _thickness(thickness) if thickness else "",
        "view": header.view_position,
    }
    return {name: value for name, value in found.items() if value}


def _thickness(thickness_mm: float) -> str:
    bands = ((1.25, "up to 1.25 mm"), (2.5, "up to 2.5 mm"), (5.0, "up to 5 mm"))
    return next((name for limit, name in bands if thickness_mm <= limit + 1e-6), "over 5 mm")


def subgroups(cases: Sequence[Case], scores: Scores) -> Figures:
    """Return the headline of each subgroup, for every division that divides the cases."""
    table: Figures = {}
    for name in sorted({name for case in cases for name in case.groups}):
        members: dict[str, list[int]] = {}
        for number, case in enumerate(cases):
            members.setdefault(case.groups.get(name, "not stated"), []).append(number)
        if len(members) > 1:
            table[name] = {
                value: {"cases": len(chosen), **scores.headline(chosen)}
                for value, chosen in sorted(members.items())
            }
    return table


def rounded(value: float | np.floating[Any]) -> float:
    """Return a figure to four decimals."""
    return round(float(value), 4)


def mean_with_interval(values: Sequence[float] | NDArray[np.floating], name: str) -> Figures:
    """Return a mean with its 95 % bootstrap interval over the values; nothing without values."""
    if not len(values):
        return {}
    array = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(0)
    means = array[rng.integers(len(array), size=(_RESAMPLES, len(array)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {name: rounded(array.mean()), f"{name}_interval": [rounded(low), rounded(high)]}


def resampled_interval(
    count: int, figure: Callable[[NDArray[np.intp]], float | None]
) -> list[float] | None:
    """Return the 95 % bootstrap interval of a figure of case numbers; None where it has none."""
    rng = np.random.default_rng(0)
    drawn = [figure(rng.integers(count, size=count)) for _ in range(_RESAMPLES)]
    known = [value for value in drawn if value is not None]
    if not known:
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return [rounded(low), rounded(high)]
