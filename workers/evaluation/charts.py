"""The curves of an evaluation: FROC, ROC, reliability."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from workers.evaluation.auroc import roc_curve
from workers.evaluation.calibration import reliability
from workers.evaluation.curves import Axis, Chart, Line, drawing, tenths
from workers.evaluation.froc import RATES, Curve

Values = NDArray[np.float64]
Labels = NDArray[np.bool_]


def log_place(rate: float) -> float:
    """Place a rate of 1/8 to 8 false positives per scan on a logarithmic axis."""
    return float(np.log2(max(rate, RATES[0]) / RATES[0]) / np.log2(RATES[-1] / RATES[0]))


def froc_chart(curves: Mapping[str, Curve]) -> Chart:
    """Return FROC curves over 1/8 to 8 false positives per scan."""
    rates = np.geomspace(RATES[0], RATES[-1], 120)
    lines = [
        Line(
            name,
            tuple((log_place(r), float(s)) for r, s in zip(rates, curve.at(rates), strict=True)),
        )
        for name, curve in curves.items()
    ]
    across = Axis("false positives per scan", tuple((log_place(r), f"{r:g}") for r in RATES))
    return Chart("FROC", drawing(lines, across, tenths("sensitivity")))


def roc_chart(cases: Mapping[str, tuple[Values, Labels]]) -> Chart:
    """Return a ROC curve for each name; one with both classes in it."""
    lines = [
        Line(name, tuple((float(x), float(y)) for x, y, _ in roc_curve(scores, labels)))
        for name, (scores, labels) in cases.items()
    ]
    svg = drawing(lines, tenths("1 - specificity"), tenths("sensitivity"))
    return Chart("ROC", svg)


def reliability_chart(cases: Mapping[str, tuple[Values, Labels]]) -> Chart:
    """Return a reliability diagram with one line a name."""
    lines = [
        Line(
            name,
            tuple((b.mean_probability, b.positive_rate) for b in reliability(scores, labels)),
            dots=True,
        )
        for name, (scores, labels) in cases.items()
    ]
    svg = drawing(lines, tenths("probability said"), tenths("share that were right"))
    return Chart("Reliability", svg)
