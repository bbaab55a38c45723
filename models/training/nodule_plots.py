"""Draw the nodule package's FROC curves and reliability diagram as SVG.

``python -m models.training.nodule_plots --candidates DIR/candidates.json --package DIR``
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.phantoms.seeds import Split
from models.training.nodule_metrics import FLOOR, fit_weights, labelled, outcome, read_scans
from workers.evaluation.calibration import reliability, sigmoid
from workers.evaluation.froc import RATES, froc

_WIDTH, _HEIGHT, _LEFT, _TOP = 520, 380, 60, 20
_PLOT_WIDTH, _PLOT_HEIGHT = 420, 300
_COLOURS = ("#1b6ca8", "#c2571a")


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


def _at(point: tuple[float, float]) -> str:
    x, y = point
    return f"{_LEFT + x * _PLOT_WIDTH:.1f},{_TOP + (1 - y) * _PLOT_HEIGHT:.1f}"


def drawing(lines: Sequence[Line], across: Axis, up: Axis) -> str:
    """Return an SVG with both axes, a light grid and a legend."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    bottom = _TOP + _PLOT_HEIGHT
    for place, label in across.ticks:
        x = _LEFT + place * _PLOT_WIDTH
        parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{label}</text>')
    for place, label in up.ticks:
        y = _TOP + (1 - place) * _PLOT_HEIGHT
        parts.append(f'<path d="M{_LEFT} {y:.1f}h{_PLOT_WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    middle = _LEFT + _PLOT_WIDTH / 2
    parts.append(f'<text x="{middle}" y="{bottom + 38}" text-anchor="middle">{across.title}</text>')
    parts.append(
        f'<text transform="translate(16 {_TOP + _PLOT_HEIGHT / 2}) rotate(-90)" '
        f'text-anchor="middle">{up.title}</text>'
    )
    for number, line in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(_at(p) for p in line.points)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        if line.dots:
            for point in line.points:
                x, y = _at(point).split(",")
                parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
        y_text = bottom - 14 - 18 * (len(lines) - 1 - number)
        parts.append(
            f'<text x="{_LEFT + _PLOT_WIDTH - 8}" y="{y_text}" text-anchor="end" '
            f'fill="{colour}">{line.name}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _log_place(rate: float) -> float:
    """Place a rate of 1/8 to 8 false positives per scan on a logarithmic axis."""
    return float(np.log2(max(rate, RATES[0]) / RATES[0]) / np.log2(RATES[-1] / RATES[0]))


def main() -> None:
    """Write ``froc.svg`` and ``reliability.svg`` into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=Path, required=True)
    parser.add_argument("--package", type=Path, default=Path("models/lung_nodule_detection"))
    chosen = parser.parse_args()
    scans = read_scans(chosen.candidates)
    weights = fit_weights([scan for scan in scans if scan.split is Split.VALIDATION])
    curves, bins = [], []
    for split, name in ((Split.TEST, "test"), (Split.SHIFT, "shifted")):
        mine = [scan for scan in scans if scan.split is split]
        curve = froc([outcome(scan, weights) for scan in mine])
        rates = np.geomspace(RATES[0], RATES[-1], 120)
        points = tuple(
            (_log_place(r), float(s)) for r, s in zip(rates, curve.at(rates), strict=True)
        )
        curves.append(Line(name, points))
        rows, labels = labelled(mine)
        probability = sigmoid(weights.logits(rows))
        kept = probability >= FLOOR
        found = reliability(probability[kept], labels[kept])
        bins.append(
            Line(name, tuple((b.mean_probability, b.positive_rate) for b in found), dots=True)
        )
    tenths = tuple((v / 10, f"{v / 10:g}") for v in range(0, 11, 2))
    rates_axis = Axis("false positives per scan", tuple((_log_place(r), f"{r:g}") for r in RATES))
    froc_svg = drawing(curves, rates_axis, Axis("sensitivity", tenths))
    (chosen.package / "froc.svg").write_text(froc_svg)
    reliable = drawing(
        bins, Axis("probability said", tenths), Axis("share that were nodules", tenths)
    )
    (chosen.package / "reliability.svg").write_text(reliable)


if __name__ == "__main__":
    main()
