"""How far probabilities can be believed: reliability, expected error, temperature.

All arrays are one-dimensional with one entry per case (or per lesion).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

Values = NDArray[np.float64]
Labels = NDArray[np.bool_]


@dataclass(frozen=True)
class ReliabilityBin:
    """Cases whose probability lies in [low, high): their number, mean probability, rate."""

    low: float
    high: float
    cases: int
    mean_probability: float
    positive_rate: float


@dataclass(frozen=True)
class Platt:
    """Maps a logit to a probability: sigmoid(logit / temperature + bias)."""

    temperature: float
    bias: float

    def probability(self, logits: Values) -> Values:
        """Return calibrated probabilities, same shape as `logits`."""
        return sigmoid(np.asarray(logits, dtype=np.float64) / self.temperature + self.bias)


def sigmoid(logits: Values) -> Values:
    """Return 1 / (1 + exp(-logits)) without overflow."""
    half = np.tanh(0.5 * np.asarray(logits, dtype=np.float64))
    return np.asarray(0.5 * (1.0 + half), dtype=np.float64)


def reliability(probabilities: Values, labels: Labels, bins: int = 15) -> list[ReliabilityBin]:
    """Return the non-empty equal-width bins of the reliability diagram; 1.0 joins the last."""
    p = np.asarray(probabilities, dtype=np.float64)
    y = np.asarray(labels, dtype=bool)
    if p.shape != y.shape:
        raise ValueError(f"probabilities {p.shape} and labels {y.shape} differ")
    if p.size and (p.min() < 0 or p.max() > 1):
        raise ValueError("probabilities must lie in 0..1")
    which = np.minimum((p * bins).astype(int), bins - 1)
    return [
        ReliabilityBin(
            k / bins,
            (k + 1) / bins,
            int(inside.sum()),
            float(p[inside].mean()),
            float(y[inside].mean()),
        )
        for k in range(bins)
        if (inside := which == k).any()
    ]


def expected_calibration_error(probabilities: Values, labels: Labels, bins: int = 15) -> float:
    """Return the mean gap between probability and positive rate, weighted by cases.

    References
    ----------
    Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (15 equal-width bins).

    Examples
    --------
    >>> expected_calibration_error(np.array([0.2, 0.2, 0.9]), np.array([False, False, True]), 10)
    0.16666666666666666
    """
    rows = reliability(probabilities, labels, bins)
    total = sum(row.cases for row in rows)
    if not total:
        raise ValueError("no cases")
    gaps = (row.cases * abs(row.mean_probability - row.positive_rate) for row in rows)
    return float(sum(gaps) / total)


def negative_log_likelihood(logits: Values, labels: Labels | Values) -> float:
    """Return the mean binary cross-entropy of logits, in nats; labels may lie between 0 and 1."""
    z = np.asarray(logits, dtype=np.float64)
    y = np.asarray(labels, dtype=np.float64)
    return float(np.mean(np.logaddexp(0.0, z) - y * z))


def fit_platt(logits: Values, labels: Labels, *, with_bias: bool = True) -> Platt:
    """Fit temperature (and bias) by maximum likelihood on validation cases.

    The targets are Platt's, a little inside 0 and 1 by how many cases there are, so that classes
    which happen to be separable do not end in certainty. Without both classes there is nothing to
    fit and the identity is returned.

    References
    ----------
    Platt, Probabilistic outputs for support vector machines, section 2.2 (1999).
    """
    z = np.asarray(logits, dtype=np.float64)
    y = np.asarray(labels, dtype=bool)
    if not y.any() or y.all():
        return Platt(1.0, 0.0)
    positives, negatives = int(y.sum()), int((~y).sum())
    targets = np.where(y, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(theta: Values) -> float:
        bias = theta[1] if with_bias else 0.0
        return negative_log_likelihood(z * np.exp(-theta[0]) + bias, targets)

    start = np.zeros(2)
    best = optimize.minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-5})
    temperature = float(np.exp(np.clip(best.x[0], -5.0, 5.0)))
    return Platt(temperature, float(best.x[1]) if with_bias else 0.0)
