"""Charts as places in a picture: numbers become coordinates here, the template draws them.

Every chart is plain SVG inside the page, so that it needs neither a script nor a policy of its
own; next to each stands a table with the same numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 640.0
HEIGHT: Final = 180.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 8.0, 10.0, 24.0
_TICKS: Final = 4
_LABELS: Final = 7
_WIDEST_BAR: Final = 44.0


@dataclass(frozen=True)
class Tick:
    """A line across, or a word below, at `at`."""

    at: float
    text: str


@dataclass(frozen=True)
class Bar:
    """One bar, and what it says when it is pointed at."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Line:
    """One line through points, and a name for it."""

    name: str
    points: str
    dots: Sequence[tuple[float, float, str]]


@dataclass(frozen=True)
class Chart:
    """A chart ready to be drawn in a box of `WIDTH` by `HEIGHT`."""

    title: str
    rows: Sequence[Tick]
    columns: Sequence[Tick]
    bars: Sequence[Bar] = ()
    lines: Sequence[Line] = ()

    @property
    def box(self) -> str:
        """The view box."""
        return f"0 0 {WIDTH:g} {HEIGHT:g}"

    @property
    def left(self) -> float:
        """Where the plot begins."""
        return _LEFT

    @property
    def right(self) -> float:
        """Where the plot ends."""
        return WIDTH - _RIGHT

    @property
    def base(self) -> float:
        """Where zero is."""
        return HEIGHT - _BOTTOM


def bars(title: str, labels: Sequence[str], values: Sequence[float], unit: str = "") -> Chart:
    """Return bars from left to right."""
    top = _scale_top(max(values, default=0))
    step = (WIDTH - _LEFT - _RIGHT) / max(len(values), 1)
    width = min(max(step * 0.72, 1.0), _WIDEST_BAR)
    drawn = [
        Bar(
            x=round(_LEFT + step * place + (step - width) / 2, 2),
            y=round(_height(value, top), 2),
            width=round(width, 2),
            height=round(HEIGHT - _BOTTOM - _height(value, top), 2),
            title=f"{label}: {_number(value)}{unit}",
        )
        for place, (label, value) in enumerate(zip(labels, values, strict=True))
    ]
    return Chart(title, _rows(top), _columns(labels, step), bars=drawn)


def lines(
    title: str, labels: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], unit: str = ""
) -> Chart:
    """Return lines over the same labels."""
    top = _scale_top(max((max(values, default=0) for _, values in series), default=0))
    step = (WIDTH - _LEFT - _RIGHT) / max(len(labels), 1)
    drawn = []
    for name, values in series:
        places = [
            (round(_LEFT + step * (place + 0.5), 2), round(_height(value, top), 2), value)
            for place, value in enumerate(values)
        ]
        dots = [
            (x, y, f"{label}, {name}: {_number(value)}{unit}")
            for (x, y, value), label in zip(places, labels, strict=True)
        ]
        drawn.append(Line(name, " ".join(f"{x:g},{y:g}" for x, y, _ in places), dots))
    return Chart(title, _rows(top), _columns(labels, step), lines=drawn)


def _height(value: float, top: float) -> float:
    room = HEIGHT - _TOP - _BOTTOM
    return HEIGHT - _BOTTOM - room * (value / top if top else 0)


def _scale_top(most: float) -> float:
    """Return the round number that the scale ends with.

    >>> _scale_top(0), _scale_top(37), _scale_top(0.8), _scale_top(1200)
    (1.0, 40.0, 0.8, 2000.0)
    """
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    ends = (1, 2, 4, 5, 8, 10)
    return round(next(end * power for end in ends if end * power >= most * (1 - 1e-9)), 10)


def _rows(top: float) -> list[Tick]:
    values = [top * place / _TICKS for place in range(_TICKS + 1)]
    return [Tick(round(_height(value, top), 2), _number(value)) for value in values]


def _columns(labels: Sequence[str], step: float) -> list[Tick]:
    """Return as many words as fit, evenly spread."""
    every = max(1, math.ceil(len(labels) / _LABELS))
    return [
        Tick(round(_LEFT + step * (place + 0.5), 2), label)
        for place, label in enumerate(labels)
        if place % every == 0
    ]


def _number(value: float) -> str:
    """Return a number as short as it can be read.

    >>> _number(40.0), _number(0.25), _number(12_000)
    ('40', '0.25', '12,000')
    """
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}"
