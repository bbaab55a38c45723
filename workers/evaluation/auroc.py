"""Areas under ROC and precision-recall curves with intervals, and operating points.

Scores come in as probabilities or logits (only their order counts), labels as booleans;
all arrays are one-dimensional with one entry per case.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Labels = NDArray[np.bool_]

_Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True)
class Area:
    """An area under a curve with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    positives: int
    negatives: int


@dataclass(frozen=True)
class RocPoint:
    """One operating point: a case is called positive when its score is >= `threshold`."""

    threshold: float
    sensitivity: float
    specificity: float


def _midranks(values: Scores) -> Scores:
    """Return 1-based ranks, ties sharing the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank = last - (counts - 1) / 2.0
    return np.asarray(mean_rank[inverse], dtype=np.float64)


def _split(scores: Scores, labels: Labels) -> tuple[Scores, Scores]:
    scores = np.asarray(scores, dtype=np.float64)
    labels = np.asarray(labels, dtype=bool)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must be equal vectors")
    positive, negative = scores[labels], scores[~labels]
    if not positive.size or not negative.size:
        raise ValueError("an area needs at least one positive and one negative case")
    return positive, negative


def auroc(scores: Scores, labels: Labels) -> Area:
    """Return the area under the ROC curve with DeLong's 95 % interval.

    Ties count one half. The interval is cut to 0..1.

    References
    ----------
    DeLong et al., Biometrics 44:837-845 (1988); Sun and Xu, IEEE SPL 21:1389 (2014).

    Examples
    --------
    >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])).value
    0.75
    """
    positive, negative = _split(scores, labels)
    n_pos, n_neg = positive.size, negative.size
    pooled = _midranks(np.concatenate([positive, negative]))
    v_pos = (pooled[:n_pos] - _midranks(positive)) / n_neg
    v_neg = 1.0 - (pooled[n_pos:] - _midranks(negative)) / n_pos
    area = float(v_pos.mean())
    variance = 0.0
    if n_pos > 1:
        variance += float(v_pos.var(ddof=1)) / n_pos
    if n_neg > 1:
        variance += float(v_neg.var(ddof=1)) / n_neg
    half = _Z_95 * float(np.sqrt(variance))
    return Area(area, max(0.0, area - half), min(1.0, area + half), n_pos, n_neg)


def auprc(scores: Scores, labels: Labels) -> float:
    """Return the average precision: precision summed over steps of recall, ties as one step.

    Examples
    --------
    >>> auprc(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]))
    0.8333333333333333
    """
    _split(scores, labels)
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    hits = np.asarray(labels, dtype=bool)[order]
    ordered = np.asarray(scores, dtype=np.float64)[order]
    last_of_tie = np.append(np.diff(ordered) != 0, True)
    true_positive = np.cumsum(hits)[last_of_tie]
    called = (np.arange(hits.size) + 1)[last_of_tie]
    gained = np.diff(np.concatenate([[0], true_positive]))
    return float((gained * true_positive / called).sum() / hits.sum())


def roc_curve(scores: Scores, labels: Labels) -> NDArray[np.float64]:
    """Return ROC points, shape ``(points, 3)``: false positive rate, sensitivity, threshold.

    The first point calls nothing positive and has threshold infinity.
    """
    positive, negative = _split(scores, labels)
    thresholds = np.unique(np.concatenate([positive, negative]))[::-1]
    tpr = 1.0 - np.searchsorted(np.sort(positive), thresholds, side="left") / positive.size
    fpr = 1.0 - np.searchsorted(np.sort(negative), thresholds, side="left") / negative.size
    rows = np.stack([fpr, tpr, thresholds], axis=1)
    return np.concatenate([np.array([[0.0, 0.0, np.inf]]), rows])


def at_threshold(scores: Scores, labels: Labels, threshold: float) -> RocPoint:
    """Return sensitivity and specificity when scores >= `threshold` are called positive."""
    positive, negative = _split(scores, labels)
    return RocPoint(
        threshold,
        float((positive >= threshold).mean()),
        float((negative < threshold).mean()),
    )


def at_specificity(scores: Scores, labels: Labels, specificity: float) -> RocPoint:
    """Return the most sensitive point whose specificity is at least `specificity`.

    Without such a finite threshold (ties at the top) nothing is called: sensitivity 0.
    """
    curve = roc_curve(scores, labels)
    allowed = curve[1.0 - curve[:, 0] >= specificity - 1e-12]
    fpr, tpr, threshold = allowed[-1]
    return RocPoint(float(threshold), float(tpr), float(1.0 - fpr))


def youden(scores: Scores, labels: Labels) -> RocPoint:
    """Return the point with the largest sensitivity + specificity."""
    curve = roc_curve(scores, labels)
    fpr, tpr, threshold = curve[int(np.argmax(curve[:, 1] - curve[:, 0]))]
    return RocPoint(float(threshold), float(tpr), float(1.0 - fpr))
