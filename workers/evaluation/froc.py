"""Free-response ROC and CPM of a detector, by the rules of the LUNA16 challenge.

A mark hits a nodule when its centre lies within the nodule's radius. Several hits on one nodule
count once, with the best score. Marks on findings that are not counted are dropped. Sensitivity
is read at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives per scan, with straight lines between the
measured points; the CPM is the mean of the seven. Intervals come from a bootstrap over scans.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_SMALLEST_EXCLUDED_MM = 5.0


@dataclass(frozen=True)
class Marks:
    """What a detector marked in one scan: centres (n, 3) in mm and scores (n,)."""

    centers_mm: Floats
    scores: Floats


@dataclass(frozen=True)
class Truths:
    """What there is in one scan: centres (n, 3) and diameters (n,) in mm; whether each counts."""

    centers_mm: Floats
    diameters_mm: Floats
    counted: NDArray[np.bool_]


@dataclass(frozen=True)
class ScanOutcome:
    """One scan, matched.

    Attributes
    ----------
    nodule_scores
        For each counted nodule the best score of the marks that hit it, -inf where none did.
    false_scores
        Scores of the marks that hit nothing.
    """

    nodule_scores: Floats
    false_scores: Floats


def match(marks: Marks, truths: Truths) -> ScanOutcome:
    """Match the marks of one scan with its truth.

    Examples
    --------
    >>> marks = Marks(np.array([[0.0, 0, 0], [1, 0, 0], [30, 0, 0]]), np.array([0.5, 0.9, 0.7]))
    >>> truths = Truths(np.array([[0.0, 0, 1]]), np.array([6.0]), np.array([True]))
    >>> match(marks, truths)
    ScanOutcome(nodule_scores=array([0.9]), false_scores=array([0.7]))
    """
    counted = truths.counted
    if not len(marks.scores) or not len(counted):
        return ScanOutcome(np.full(int(counted.sum()), -np.inf), np.asarray(marks.scores, float))
    away = np.linalg.norm(marks.centers_mm[:, None] - truths.centers_mm[None], axis=2)
    radius = truths.diameters_mm / 2
    # Findings under 3 mm have no size that readers agree on; 5 mm is what LUNA16's lists imply.
    reach = np.where(counted, radius, np.maximum(radius, _SMALLEST_EXCLUDED_MM / 2))
    hits = away < reach
    scores = np.where(hits, marks.scores[:, None], -np.inf).max(0)
    return ScanOutcome(scores[counted], np.asarray(marks.scores[~hits.any(1)], float))


@dataclass(frozen=True)
class Curve:
    """Sensitivity against false positives per scan, thresholds falling from infinity."""

    false_positives_per_scan: Floats
    sensitivity: Floats
    thresholds: Floats

    def at(self, rates: Sequence[float] | Floats = RATES) -> Floats:
        """Return the sensitivity at each rate; beyond the last point it stays the last one's."""
        return np.interp(rates, self.false_positives_per_scan, self.sensitivity)

    def threshold_at(self, rate: float) -> float:
        """Return the lowest threshold with at most `rate` false positives per scan."""
        allowed = self.false_positives_per_scan <= rate
        return float(self.thresholds[np.flatnonzero(allowed)[-1]])


def froc(outcomes: Sequence[ScanOutcome]) -> Curve:
    """Return the curve over all scans; one point per distinct score.

    Raises
    ------
    ValueError
        There is no scan or no counted nodule, so sensitivity means nothing.
    """
    nodules = np.concatenate([o.nodule_scores for o in outcomes]) if outcomes else np.zeros(0)
    if not len(nodules):
        message = "no counted nodule in any scan"
        raise ValueError(message)
    alarms = np.sort(np.concatenate([o.false_scores for o in outcomes]))
    found = np.sort(nodules)
    thresholds = np.unique(np.concatenate([found[np.isfinite(found)], alarms]))[::-1]
    sensitivity = (len(found) - np.searchsorted(found, thresholds, "left")) / len(found)
    rate = (len(alarms) - np.searchsorted(alarms, thresholds, "left")) / len(outcomes)
    return Curve(np.r_[0.0, rate], np.r_[0.0, sensitivity], np.r_[np.inf, thresholds])


@dataclass(frozen=True)
class FrocResult:
    """The seven sensitivities and their mean, each with a 95 % interval."""

    scans: int
    nodules: int
    sensitivities: tuple[float, ...]
    sensitivity_intervals: tuple[tuple[float, float], ...]
    cpm: float
    cpm_interval: tuple[float, float]
    curve: Curve


def evaluate(
    outcomes: Sequence[ScanOutcome], *, resamples: int = 1000, seed: int = 0
) -> FrocResult:
    """Return CPM and sensitivities of all scans with bootstrap intervals over scans."""
    curve = froc(outcomes)
    sensitivities = curve.at()
    rng = np.random.default_rng(seed)
    drawn: list[Floats] = []
    while len(drawn) < resamples:
        sample = [outcomes[i] for i in rng.integers(len(outcomes), size=len(outcomes))]
        if any(len(o.nodule_scores) for o in sample):
            drawn.append(froc(sample).at())
    spread = np.array(drawn)
    low, high = np.percentile(spread, [2.5, 97.5], axis=0)
    mean_low, mean_high = np.percentile(spread.mean(1), [2.5, 97.5])
    return FrocResult(
        scans=len(outcomes),
        nodules=sum(len(o.nodule_scores) for o in outcomes),
        sensitivities=tuple(float(s) for s in sensitivities),
        sensitivity_intervals=tuple((float(a), float(b)) for a, b in zip(low, high, strict=True)),
        cpm=float(sensitivities.mean()),
        cpm_interval=(float(mean_low), float(mean_high)),
        curve=curve,
    )
