"""Measure the chest radiograph network on synthetic patients it has not seen.

    python -m models.training.evaluate_chest_xray draw FOLDER [--patients 400]
    python -m models.training.evaluate_chest_xray score FOLDER NETWORK     (.onnx, or .pt weights)
    python -m models.training.evaluate_chest_xray report FOLDER METRICS    (metrics.json)

`draw` makes one radiograph of each patient of the validation, test and shift sets; `score` runs
the network; `report` fits temperatures on validation alone and measures on the others.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from models.phantoms.detector import develop
from models.phantoms.geometry import ArrayModules
from models.phantoms.radiograph import cast_shadows, draw_exposure, make_chest_patient
from models.phantoms.seeds import SEEDS, Domain, Split
from models.training.chest_xray import FINDINGS, SIZE, cells_of, on_host, standardise
from models.training.chest_xray_network import ChestNetwork
from models.training.generators import Generators, Sample, Seeds
from workers.evaluation.auroc import at_specificity, at_threshold, auprc, auroc
from workers.evaluation.calibration import (
    Platt,
    expected_calibration_error,
    fit_platt,
    reliability,
    sigmoid,
)

SPLITS = (Split.VALIDATION, Split.TEST, Split.SHIFT)
_SPECIFICITY = 0.90
_INDETERMINATE_SENSITIVITY = 0.98


def exam(seed: int, domain: Domain, modules: ArrayModules) -> Iterator[Sample]:
    """Yield one radiograph of a patient, its masks, and whether it was taken AP."""
    thorax = make_chest_patient(seed, domain)
    exposure = draw_exposure(thorax, (SIZE, SIZE))
    rng = np.random.default_rng([seed, 303])
    shadow = next(cast_shadows(thorax, exposure, modules=modules))
    cells = np.zeros((len(FINDINGS), SIZE // 8, SIZE // 8), np.uint8)
    for finding, mask in shadow.masks.items():
        cells[FINDINGS.index(finding)] = cells_of(on_host(mask))
    image = develop(shadow.path, rng, pixel_mm=exposure.pixel_mm, domain=domain, modules=modules)
    yield np.rint(on_host(image) * 255).astype(np.uint8), cells, np.array(exposure.view == "AP")


def draw(folder: Path, patients: int, processes: int, *, on_gpu: bool) -> None:
    """Write ``<split>.npz`` for each set, patients in the order of their seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        known = SEEDS[split]
        seeds = Seeds(known.first, known.first + patients - 1, domain=known.domain)
        found = dict(Generators(exam, seeds, count=processes, on_gpu=on_gpu))
        rows = [found[seed] for seed in sorted(found)]
        images, masks, anterior = (np.stack([row[k] for row in rows]) for k in range(3))
        np.savez_compressed(
            folder / f"{split}.npz",
            seeds=np.array(sorted(found)),
            images=images,
            masks=masks,
            anterior_posterior=anterior,
        )
        print(f"{split}: {len(rows)} patients", flush=True)


def _network(path: Path) -> Any:
    """Return a function from standardised images to logits and evidence."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda x: session.run(["logits", "evidence"], {"image": x.numpy()})
    network = ChestNetwork(len(FINDINGS))
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval()

    def run(x: torch.Tensor) -> list[np.ndarray]:
        with torch.no_grad():
            return [y.numpy() for y in network(x)]

    return run


def score(folder: Path, network_path: Path) -> None:
    """Write ``<split>.scores.npz``: logits, labels, and where the evidence peaks."""
    network = _network(network_path)
    for split in SPLITS:
        known = np.load(folder / f"{split}.npz")
        logits, evidence = [], []
        for start in range(0, len(known["images"]), 8):
            images = torch.from_numpy(known["images"][start : start + 8]).float()[:, None] / 255
            both = network(standardise(images))
            logits.append(both[0])
            evidence.append(both[1])
        maps, masks = np.concatenate(evidence), known["masks"] / 255.0
        peak = maps.reshape(*maps.shape[:2], -1).argmax(2)
        hit = np.take_along_axis(masks.reshape(*maps.shape[:2], -1), peak[..., None], 2)[..., 0]
        found = sigmoid(maps.astype(np.float64)) > 0.5
        overlap = (
            2
            * (found & (masks > 0.5)).sum((2, 3))
            / np.maximum(found.sum((2, 3)) + (masks > 0.5).sum((2, 3)), 1)
        )
        np.savez_compressed(
            folder / f"{split}.scores.npz",
            seeds=known["seeds"],
            logits=np.concatenate(logits),
            labels=masks.sum((2, 3)) > 0.4,
            peak_inside=hit > 0,
            overlap=overlap,
            anterior_posterior=known["anterior_posterior"],
        )


def _rounded(value: float) -> float:
    return round(float(value), 4)


def _thresholds(probability: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return thresholds from validation: present at the wanted specificity, but at 0.25 to 0.6.

    Indeterminate begins where all but a few of the positives are kept, at most at half of present.
    """
    point = at_specificity(probability, labels, _SPECIFICITY)
    present = float(np.clip(point.threshold, 0.25, 0.6))
    keep = float(np.quantile(probability[labels], 1 - _INDETERMINATE_SENSITIVITY))
    return {
        "present": _rounded(present),
        "indeterminate": _rounded(np.clip(keep, 0.05, present / 2)),
    }


def _measured(probability: np.ndarray, known: Any, k: int, present: float) -> dict[str, Any]:
    labels, logits = known["labels"][:, k], known["logits"][:, k]
    area = auroc(logits, labels)
    point = at_threshold(probability, labels, present)
    fixed = at_specificity(logits, labels, _SPECIFICITY)
    views = {}
    for name, wanted in (("ap", True), ("pa", False)):
        here = known["anterior_posterior"] == wanted
        if 0 < labels[here].sum() < here.sum():
            views[f"auroc_{name}"] = _rounded(auroc(logits[here], labels[here]).value)
    return {
        "auroc": _rounded(area.value),
        "auroc_interval": [_rounded(area.low), _rounded(area.high)],
        "auprc": _rounded(auprc(logits, labels)),
        "positives": area.positives,
        "negatives": area.negatives,
        "sensitivity_at_specificity_0.90": _rounded(fixed.sensitivity),
        "sensitivity": _rounded(point.sensitivity),
        "specificity": _rounded(point.specificity),
        "ece": _rounded(expected_calibration_error(probability, labels)),
        "evidence_peak_inside": _rounded(known["peak_inside"][labels, k].mean()),
        "evidence_dice": _rounded(known["overlap"][labels, k].mean()),
        **views,
    }


def report(folder: Path, metrics: Path) -> None:
    """Write metrics: calibration and thresholds from validation, figures on test and shift."""
    known = {split: np.load(folder / f"{split}.scores.npz") for split in SPLITS}
    validation = known[Split.VALIDATION]
    content: dict[str, Any] = {"calibration": {}, "thresholds": {}, "sets": {}}
    for split in SPLITS:
        seeds = known[split]["seeds"]
        content["sets"][split.value] = {
            "patients": len(seeds),
            "seeds": [int(seeds[0]), int(seeds[-1])],
            "findings": {},
        }
    for k, finding in enumerate(FINDINGS):
        logits, labels = validation["logits"][:, k], validation["labels"][:, k]
        platt: Platt = fit_platt(logits, labels)
        thresholds = _thresholds(platt.probability(logits), labels)
        content["thresholds"][finding.value] = thresholds
        content["calibration"][finding.value] = {
            "temperature": _rounded(platt.temperature),
            "bias": _rounded(platt.bias),
        }
        for split in SPLITS:
            probability = platt.probability(known[split]["logits"][:, k])
            row = _measured(probability, known[split], k, thresholds["present"])
            raw = sigmoid(known[split]["logits"][:, k].astype(np.float64))
            row["ece_uncalibrated"] = _rounded(
                expected_calibration_error(raw, known[split]["labels"][:, k])
            )
            content["sets"][split.value]["findings"][finding.value] = row
    for split in SPLITS:
        rows = list(content["sets"][split.value]["findings"].values())
        everything = _pooled(known[split], content["calibration"])
        content["sets"][split.value]["mean_auroc"] = _rounded(np.mean([r["auroc"] for r in rows]))
        content["sets"][split.value]["ece"] = _rounded(expected_calibration_error(*everything))
        content["sets"][split.value]["reliability"] = [
            [_rounded(b.mean_probability), _rounded(b.positive_rate), b.cases]
            for b in reliability(*everything)
        ]
    metrics.write_text(json.dumps(content, indent=1) + "\n")
    for split in SPLITS:
        entry = content["sets"][split.value]
        print(split.value, "mean AUROC", entry["mean_auroc"], "ECE", entry["ece"])
        for name, row in entry["findings"].items():
            print(f"  {name:18} {row}")


def _pooled(known: Any, calibration: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    columns = [
        Platt(**calibration[f.value]).probability(known["logits"][:, k])
        for k, f in enumerate(FINDINGS)
    ]
    return np.concatenate(columns), known["labels"].T.reshape(-1)


def main() -> None:
    """Run one of the three steps."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("step", choices=("draw", "score", "report"))
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("target", type=Path, nargs="?")
    arguments.add_argument("--patients", type=int, default=400)
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--render", choices=("numpy", "cupy"), default="numpy")
    given = arguments.parse_args()
    if given.step == "draw":
        draw(given.folder, given.patients, given.processes, on_gpu=given.render == "cupy")
    elif given.target is None:
        arguments.error(f"{given.step} needs a second path")
    elif given.step == "score":
        score(given.folder, given.target)
    else:
        report(given.folder, given.target)


if __name__ == "__main__":
    main()
