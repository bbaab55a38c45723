"""Curves and bars as SVG text, to stand in a page or a file by themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT, _LEFT, _TOP = 520, 380, 60, 20
_PLOT_WIDTH, _PLOT_HEIGHT = 420, 300
_COLOURS = ("#1b6ca8", "#c2571a", "#3c8d40", "#8452a1", "#a8323e", "#5f6b73")


@dataclass(frozen=True)
class Line:
    """A named polyline of points between 0 and 1 on both axes; `dots` marks them."""

    name: str
    points: tuple[tuple[float, float], ...]
    dots: bool = False


@dataclass(frozen=True)
class Axis:
    """Title, and labels with their places between 0 and 1."""

    title: str
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Chart:
    """A named drawing."""

    title: str
    svg: str


def tenths(title: str) -> Axis:
    """Return an axis from 0 to 1 with a label every fifth."""
    return Axis(title, tuple((k / 5, f"{k / 5:.1f}") for k in range(6)))


def _at(point: tuple[float, float]) -> str:
    x, y = point
    return f"{_LEFT + x * _PLOT_WIDTH:.1f},{_TOP + (1 - y) * _PLOT_HEIGHT:.1f}"


def drawing(lines: Sequence[Line], across: Axis, up: Axis) -> str:
    """Return an SVG with both axes, a light grid and a legend."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        *_axes(across, up),
    ]
    for number, line in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(_at(p) for p in line.points)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        if line.dots:
            parts += [
                f'<circle cx="{_at(p).split(",")[0]}" cy="{_at(p).split(",")[1]}" r="4" '
                f'fill="{colour}"/>'
                for p in line.points
            ]
        y = _TOP + _PLOT_HEIGHT - 16 * (len(lines) - number)
        parts.append(
            f'<text x="{_LEFT + _PLOT_WIDTH - 8}" y="{y}" text-anchor="end" fill="{colour}">'
            f"{escape(line.name)}</text>"
        )
    return "\n".join([*parts, "</svg>"])


def _axes(across: Axis, up: Axis) -> list[str]:
    bottom, parts = _TOP + _PLOT_HEIGHT, []
    for place, label in across.ticks:
        x = _LEFT + place * _PLOT_WIDTH
        parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{escape(label)}</text>'
        )
    for place, label in up.ticks:
        y = _TOP + (1 - place) * _PLOT_HEIGHT
        parts.append(f'<path d="M{_LEFT} {y:.1f}h{_PLOT_WIDTH}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>'
        )
    middle = _LEFT + _PLOT_WIDTH / 2
    parts.append(
        f'<text x="{middle}" y="{bottom + 38}" text-anchor="middle">{escape(across.title)}</text>'
    )
    parts.append(
        f'<text transform="translate(16 {_TOP + _PLOT_HEIGHT / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(up.title)}</text>'
    )
    return parts
