"""Calibrate the nodule detector on validation scans and measure it on unseen ones.

``python -m models.training.nodule_metrics --candidates FILE --out metrics.json``

FILE is what `models.training.nodule_detection` found in scans of unseen synthetic patients, or the
package's ``candidates.json.gz``, which keeps what the decoding looks at.
All figures follow from it.
"""

import argparse
import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import optimize

from models.phantoms.seeds import Split, split_of
from models.training.nodule_matching import matches, merged
from workers.evaluation.calibration import expected_calibration_error, reliability, sigmoid
from workers.evaluation.froc import (
    RATES,
    FrocResult,
    Marks,
    ScanOutcome,
    Truths,
    evaluate,
    froc,
    match,
)

FLOOR = 0.02
# As in the manifest's decoding: heat of 0.05 and more, at most 96.
_CANDIDATE_LOGIT = float(np.log(0.05 / 0.95))
_MOST_CANDIDATES = 96
POINTS = {"sensitive": (0.1, 0.02), "balanced": (0.5, 0.1), "specific": (0.9, 0.5)}


@dataclass(frozen=True)
class MeasuredScan:
    """One scan's candidates (z, y, x, diameter, heat logit, second logit) and its truth.

    `nodules` are rows (z, y, x, diameter, counted), in voxels of 1 mm and mm; `kinds`, `sites`,
    `dice`, `malignancy` and `malignancy_logit` go with the counted ones.
    """

    split: Split
    thickness_mm: float
    noise_hu: float
    candidates: np.ndarray
    nodules: np.ndarray
    kinds: tuple[str, ...]
    sites: tuple[str, ...]
    dice: tuple[float, ...]
    malignancy: tuple[float, ...]
    malignancy_logit: tuple[float, ...]


@dataclass(frozen=True)
class Weights:
    """probability = sigmoid(detector * heat + reduction * second + bias)."""

    detector: float
    reduction: float
    bias: float

    def logits(self, candidates: np.ndarray) -> np.ndarray:
        """Return the combined logit of each candidate."""
        return candidates[:, 4] * self.detector + candidates[:, 5] * self.reduction + self.bias


def shipped(rows: np.ndarray) -> np.ndarray:
    """Return the candidates that the package's decoding looks at."""
    return merged(rows[rows[:, 4] >= _CANDIDATE_LOGIT])[:_MOST_CANDIDATES]


def read_scans(path: Path) -> list[MeasuredScan]:
    """Read a file of candidates, compressed or not."""
    content = path.read_bytes()
    rows = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    return [
        MeasuredScan(
            split=split_of(row["seed"]),
            thickness_mm=row["protocol"]["thickness_mm"],
            noise_hu=row["protocol"]["noise_hu"],
            candidates=shipped(np.array(row["candidates"], float).reshape(-1, 6)),
            nodules=np.array(row["nodules"], float).reshape(-1, 5),
            kinds=tuple(row["kinds"]),
            sites=tuple(row["sites"]),
            dice=tuple(row["dice"]),
            malignancy=tuple(row["malignancy"]["likelihood"]),
            malignancy_logit=tuple(row["malignancy"]["logit"]),
        )
        for row in rows
    ]


def write_compact(source: Path, target: Path) -> None:
    """Keep, compressed, only the candidates that the decoding looks at, to two decimals."""
    rows = json.loads(source.read_text())
    for row in rows:
        row.pop("split", None)
        found = shipped(np.array(row["candidates"], float).reshape(-1, 6))
        row["candidates"] = found.round(2).tolist()
    text = json.dumps(rows, separators=(",", ":"))
    target.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def labelled(scans: Sequence[MeasuredScan]) -> tuple[np.ndarray, np.ndarray]:
    """Return all candidates that are to be judged, and whether each hits a counted nodule."""
    rows, labels = [], []
    for scan in scans:
        hits, skipped = matches(scan.candidates, scan.nodules)
        rows.append(scan.candidates[~skipped])
        labels.append(hits[~skipped])
    return np.concatenate(rows), np.concatenate(labels)


def fit_weights(scans: Sequence[MeasuredScan]) -> Weights:
    """Fit the combination of both stages by maximum likelihood, slightly regularised."""
    rows, labels = labelled(scans)
    sign = np.where(labels, 1.0, -1.0)

    def loss(theta: np.ndarray) -> float:
        combined = rows[:, 4] * theta[0] + rows[:, 5] * theta[1] + theta[2]
        return float(np.logaddexp(0, -sign * combined).sum() + 0.05 * (theta[:2] ** 2).sum())

    best = optimize.minimize(loss, np.array([1.0, 1.0, 0.0]), method="L-BFGS-B").x
    return Weights(*(round(float(v), 4) for v in best))


def outcome(scan: MeasuredScan, weights: Weights, *, smallest_mm: float = 0.0) -> ScanOutcome:
    """Match one scan; nodules under `smallest_mm` neither count nor harm."""
    counted = (scan.nodules[:, 4] > 0) & (scan.nodules[:, 3] >= smallest_mm)
    marks = Marks(scan.candidates[:, :3], weights.logits(scan.candidates))
    return match(marks, Truths(scan.nodules[:, :3], scan.nodules[:, 3], counted))


def described(result: FrocResult) -> dict[str, object]:
    """Return a FROC result for the metrics file."""
    return {
        "scans": result.scans,
        "nodules": result.nodules,
        "cpm": round(result.cpm, 4),
        "cpm_interval": [round(v, 4) for v in result.cpm_interval],
        "false_positives_per_scan": list(RATES),
        "sensitivity": [round(v, 4) for v in result.sensitivities],
        "sensitivity_interval": [
            [round(low, 4), round(high, 4)] for low, high in result.sensitivity_intervals
        ],
    }


def at_point(scans: Sequence[MeasuredScan], weights: Weights, present: float) -> dict[str, object]:
    """Return sensitivity and false positives per scan from one probability on."""
    outcomes = [outcome(scan, weights) for scan in scans]
    threshold = float(np.log(present / (1 - present)))
    nodules = np.concatenate([o.nodule_scores for o in outcomes]) >= threshold
    alarms = np.array([(o.false_scores >= threshold).sum() for o in outcomes])
    rng = np.random.default_rng(0)
    counts = [(int((o.nodule_scores >= threshold).sum()), len(o.nodule_scores)) for o in outcomes]
    drawn = []
    for _ in range(1000):
        picked = [counts[i] for i in rng.integers(len(counts), size=len(counts))]
        total = sum(n for _, n in picked)
        if total:
            drawn.append(sum(h for h, _ in picked) / total)
    return {
        "present": present,
        "sensitivity": round(float(nodules.mean()), 4),
        "sensitivity_interval": [round(float(v), 4) for v in np.percentile(drawn, [2.5, 97.5])],
        "false_positives_per_scan": round(float(alarms.mean()), 4),
    }


def _size_band(diameter_mm: float) -> str:
    bands = ((4.0, "under 4 mm"), (6.0, "4 to 6 mm"), (10.0, "6 to 10 mm"))
    return next((name for limit, name in bands if diameter_mm < limit), "10 mm and more")


_GROUPS: dict[str, Callable[[MeasuredScan, int], str]] = {
    "size": lambda scan, i: _size_band(float(scan.nodules[i, 3])),
    "kind": lambda scan, i: scan.kinds[i],
    "site": lambda scan, i: scan.sites[i],
    "thickness": lambda scan, _: f"{scan.thickness_mm:g} mm",
    "noise": lambda scan, _: "under 30 HU" if scan.noise_hu < 30 else "30 HU and more",
}


def by_subgroup(scans: Sequence[MeasuredScan], weights: Weights) -> dict[str, object]:
    """Return the sensitivity at one false positive per scan in each subgroup."""
    outcomes = [outcome(scan, weights) for scan in scans]
    threshold = froc(outcomes).threshold_at(1.0)
    table: dict[str, object] = {}
    for name, group_of in _GROUPS.items():
        found: dict[str, list[bool]] = {}
        for scan, done in zip(scans, outcomes, strict=True):
            for i, score in enumerate(done.nodule_scores):
                found.setdefault(group_of(scan, i), []).append(bool(score >= threshold))
        table[name] = {
            group: {"nodules": len(hits), "sensitivity": round(float(np.mean(hits)), 4)}
            for group, hits in sorted(found.items())
        }
    return table


def calibration_of(scans: Sequence[MeasuredScan], weights: Weights) -> dict[str, object]:
    """Return the calibration error of the candidates that the product keeps."""
    rows, labels = labelled(scans)
    probability = sigmoid(weights.logits(rows))
    kept = probability >= FLOOR
    bins = reliability(probability[kept], labels[kept])
    return {
        "candidates": int(kept.sum()),
        "floor": FLOOR,
        "ece": round(expected_calibration_error(probability[kept], labels[kept]), 4),
        "ece_if_calibrated": _chance(probability[kept]),
        "ece_of_all_candidates": round(expected_calibration_error(probability, labels), 4),
        "reliability": [
            [b.cases, round(b.mean_probability, 4), round(b.positive_rate, 4)] for b in bins
        ],
    }


def _chance(probability: np.ndarray) -> list[float]:
    """Return what error probabilities would show if they were true: mean, and 95 % interval.

    Few cases in 15 bins leave an error by chance alone: below it no fit can be told from another.
    """
    rng = np.random.default_rng(0)
    drawn = [
        expected_calibration_error(probability, rng.random(len(probability)) < probability)
        for _ in range(1000)
    ]
    return [round(float(v), 4) for v in (np.mean(drawn), *np.percentile(drawn, [2.5, 97.5]))]


def crops_of(scans: Sequence[MeasuredScan]) -> dict[str, object]:
    """Return how well outlines agree with the truth and the surrogate with its likelihood."""
    dice = np.array([d for scan in scans for d in scan.dice])
    likely = np.array([v for scan in scans for v in scan.malignancy])
    said = sigmoid(np.array([v for scan in scans for v in scan.malignancy_logit]))
    return {
        "nodules": len(dice),
        "dice_mean": round(float(dice.mean()), 4),
        "dice_median": round(float(np.median(dice)), 4),
        "malignancy_surrogate_mean_absolute_difference": round(float(abs(said - likely).mean()), 4),
        "malignancy_surrogate_correlation": round(float(np.corrcoef(said, likely)[0, 1]), 4),
    }


def measure(scans: Sequence[MeasuredScan]) -> dict[str, object]:
    """Return everything that the metrics file holds."""
    weights = fit_weights([scan for scan in scans if scan.split is Split.VALIDATION])
    report: dict[str, object] = {
        "definition": "LUNA16: hit within the radius, CPM over 1/8..8 false positives per scan",
        "calibration": {**vars(weights), "fitted_on": "validation"},
    }
    for split in (Split.VALIDATION, Split.TEST, Split.SHIFT):
        chosen = [scan for scan in scans if scan.split == split]
        whole = [outcome(scan, weights) for scan in chosen]
        large = [outcome(scan, weights, smallest_mm=4.0) for scan in chosen]
        report[split.value] = {
            "all_nodules": described(evaluate(whole)),
            "nodules_from_4_mm": described(evaluate(large)),
            "operating_points": {
                name: at_point(chosen, weights, present) for name, (present, _) in POINTS.items()
            },
            "calibration": calibration_of(chosen, weights),
            "subgroups_at_1_false_positive_per_scan": by_subgroup(chosen, weights),
            "crops": crops_of(chosen),
        }
    return report


def main() -> None:
    """Measure and write the metrics file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    report = measure(read_scans(chosen.candidates))
    chosen.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["calibration"]))


if __name__ == "__main__":
    main()
