"""Measure an exported network on a set of real images, with intervals.

    python -m models.training.real_scores TASK --data FOLDER --network FILE.onnx --out FILE.json
        [--part validation|all]

`all` is for a set kept back whole, laid out like the one that was trained on. Outlines are compared
with what at least two of four readers drew; slices on which nobody agrees are left out.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.training.real_sets import READERS, Array
from workers.evaluation.auroc import at_specificity, auprc, auroc
from workers.evaluation.calibration import (
    Platt,
    expected_calibration_error,
    fit_platt,
    reliability,
)
from workers.evaluation.scoring import mean_with_interval, rounded

_BATCH = 32
_SPECIFICITIES = (0.9, 0.95, 0.99)
THRESHOLD = 0.4
_VOLUME_SLICES = 24


def logits_of(network: Path, images: Array) -> Array:
    """Return the first output for every image: (N,) of a classifier, (N, H, W) of an outline."""
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [
        session.run(None, {name: images[k : k + _BATCH, None]})[0][:, 0]
        for k in range(0, len(images), _BATCH)
    ]
    return np.concatenate(parts)


def class_figures(logits: Array, labels: NDArray[np.bool_], platt: Platt) -> dict[str, Any]:
    """Return areas, sensitivities at fixed specificity, and calibration."""
    area = auroc(logits, labels)
    probability = platt.probability(logits)
    return {
        "images": len(labels),
        "positives": area.positives,
        "auroc": rounded(area.value),
        "auroc_interval": [rounded(area.low), rounded(area.high)],
        "auprc": rounded(auprc(logits, labels)),
        **{
            f"sensitivity_at_specificity_{s:g}": rounded(
                at_specificity(logits, labels, s).sensitivity
            )
            for s in _SPECIFICITIES
        },
        "calibration": {"temperature": rounded(platt.temperature), "bias": rounded(platt.bias)},
        "at_half": {
            "sensitivity": rounded((probability[labels] >= 0.5).mean()),
            "specificity": rounded((probability[~labels] < 0.5).mean()),
        },
        "ece": rounded(expected_calibration_error(probability, labels)),
        "reliability": [
            [b.cases, rounded(b.mean_probability), rounded(b.positive_rate)]
            for b in reliability(probability, labels)
        ],
    }


def outline_figures(
    logits: Array, masks: Array, threshold: float, *, slices: int = 0
) -> dict[str, Any]:
    """Return Dice by image where the reference is not empty; of volumes of `slices` as a whole."""
    found = 1 / (1 + np.exp(-logits)) > threshold
    reference = masks >= 0.5 - 1e-6
    known = reference.any(axis=(1, 2))
    both = (found & reference).sum((1, 2))[known]
    total = (found.sum((1, 2)) + reference.sum((1, 2)))[known]
    dice = 2 * both / total
    whole = {}
    if slices:
        both_whole = (found & reference).reshape(-1, slices, *found.shape[1:]).sum((1, 2, 3))
        parts = (found.sum((1, 2)) + reference.sum((1, 2))).reshape(-1, slices).sum(1)
        whole = {"dice_by_volume": [rounded(v) for v in 2 * both_whole / parts]}
    return {
        **whole,
        "images": int(known.sum()),
        "threshold": threshold,
        **mean_with_interval(dice, "dice"),
        "dice_median": rounded(np.median(dice)),
        "missed": rounded(np.mean(dice < 0.1)),
    }


def measure(task: str, data: Path, network: Path, *, part: str) -> dict[str, Any]:
    """Return the figures of one part of a set; calibration is fitted on its validation images."""
    known = READERS[task](data)
    images, targets = (
        (known.images, known.targets) if part == "all" else known.part(validation=True)
    )
    logits = logits_of(network, images)
    if targets.ndim == 3:
        slices = _VOLUME_SLICES if task == "brain_volumes" else 0
        return outline_figures(logits, targets, THRESHOLD, slices=slices)
    labels = targets > 0.5
    return class_figures(logits, labels, fit_platt(logits, labels))


def main() -> None:
    """Read the command line."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("task", choices=READERS)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--network", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--part", choices=("validation", "all"), default="validation")
    given = arguments.parse_args()
    found = measure(given.task, given.data, given.network, part=given.part)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({k: v for k, v in found.items() if k != "reliability"}, indent=1))


if __name__ == "__main__":
    main()
