"""Measure the liver lesion network on synthetic patients it has not seen.

    python -m models.training.evaluate_lesion_segmentation draw FOLDER [--patients 60]
    python -m models.training.evaluate_lesion_segmentation score FOLDER NETWORK  (.onnx or .pt)
    python -m models.training.evaluate_lesion_segmentation report FOLDER METRICS (metrics.json)

`draw` scans each patient of the validation, test and shift sets at the scanner's own resolution
and brings the scan to the network's grid; `score` runs the network and compares; `report` chooses
the lesion threshold and fits the calibration on validation alone and measures on the others.
"""

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from scipy import ndimage

from models.phantoms.abdomen_scan import abdomen_scan
from models.phantoms.geometry import ArrayModules
from models.phantoms.seeds import SEEDS, Domain, Split
from models.training.generators import Generators, Sample, Seeds
from models.training.lesion_grid import CONTEXT, SPACING_MM, resampled
from models.training.lesion_network import LesionNetwork
from models.training.lesion_segmentation import windowed
from workers.evaluation.calibration import (
    Platt,
    expected_calibration_error,
    fit_platt,
    reliability,
)
from workers.evaluation.overlap import dice, hausdorff_95_mm, match_lesions, surface_dice

SPLITS = (Split.VALIDATION, Split.TEST, Split.SHIFT)
THRESHOLDS = (0.4, 0.5)
MINIMUM_MM3 = 30.0  # a sphere of 3.9 mm
_VOXEL_MM3 = float(np.prod(SPACING_MM))
_CONNECTIVITY = ndimage.generate_binary_structure(3, 2)  # 18 neighbours
_BINS_MM = ((0, 10), (10, 20), (20, 200))


def exam(seed: int, domain: Domain, modules: ArrayModules) -> Iterator[Sample]:
    """Yield HU and classes of a patient on the network's grid, and how it was scanned."""
    abdomen, _, scan = abdomen_scan(seed, domain, modules=modules)
    hu, classes = resampled(scan, modules)
    if modules.on_gpu:
        hu, classes = hu.get(), classes.get()  # type: ignore[attr-defined]
    notes = [abdomen.phase, str(scan.protocol.thickness_mm), f"{scan.protocol.noise_hu:.1f}"]
    yield hu, classes, np.array(notes)


def draw(folder: Path, patients: int, processes: int, *, on_gpu: bool) -> None:
    """Write ``<split>/<seed>.npz`` for each patient."""
    for split in SPLITS:
        known = SEEDS[split]
        (folder / split).mkdir(parents=True, exist_ok=True)
        seeds = Seeds(known.first, known.first + patients - 1, domain=known.domain)
        for seed, (hu, classes, notes) in Generators(exam, seeds, count=processes, on_gpu=on_gpu):
            np.savez(folder / split / f"{seed}.npz", hu=hu, classes=classes, notes=notes)
        print(f"{split}: {len(list((folder / split).glob('*.npz')))} patients", flush=True)


def _network(path: Path, device: torch.device) -> Any:
    """Return a function from windowed slabs to class probabilities, both tensors."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda x: torch.from_numpy(session.run(None, {"slab": x.numpy()})[0]).softmax(1)
    network = LesionNetwork(CONTEXT)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval().to(device)

    def run(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return network(x.to(device)).softmax(1).cpu()

    return run


def probabilities(network: Any, hu: np.ndarray) -> np.ndarray:
    """Return class probabilities, shape (3, slices, rows, columns), slice by slice."""
    half, (slices, rows, columns) = CONTEXT // 2, hu.shape
    pad = ((half, half), (0, -rows % 16), (0, -columns % 16))
    volume = windowed(torch.from_numpy(np.pad(hu, pad, mode="edge").astype(np.float32)))
    parts = [
        network(torch.stack([volume[k : k + CONTEXT] for k in range(z, min(z + 8, slices))]))
        for z in range(0, slices, 8)
    ]
    whole: np.ndarray = torch.cat(parts).numpy()[:, :, :rows, :columns]
    return whole.transpose(1, 0, 2, 3)


def decode(share: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return liver and lesion masks as the product reads them from probabilities."""
    lesion = share[2] > threshold
    liver = lesion | (share[1] + share[2] > share[0])
    labelled, count = ndimage.label(liver)
    if count > 1:
        sizes = np.bincount(labelled.ravel())[1:]
        liver = labelled == 1 + int(np.argmax(sizes))
    parts, count = ndimage.label(lesion, _CONNECTIVITY)
    keep = np.bincount(parts.ravel(), minlength=count + 1) * _VOXEL_MM3 >= MINIMUM_MM3
    keep[0] = False
    touching = np.zeros(count + 1, bool)
    touching[np.unique(parts[ndimage.binary_dilation(liver) & lesion])] = True
    return liver, (keep & touching)[parts]


def _diameter_mm(voxels: int) -> float:
    return float((6 * voxels * _VOXEL_MM3 / np.pi) ** (1 / 3))


def _lesions(found: np.ndarray, truth: np.ndarray) -> list[dict[str, float]]:
    """Compare each true lesion with the found components that touch it."""
    rows = []
    parts, count = ndimage.label(truth, _CONNECTIVITY)
    components, _ = ndimage.label(found, _CONNECTIVITY)
    for number in range(1, count + 1):
        mine = parts == number
        if mine.sum() * _VOXEL_MM3 < MINIMUM_MM3:
            continue
        names = np.unique(components[mine])
        touching = np.isin(components, names[names > 0])
        rows.append({"diameter_mm": _diameter_mm(int(mine.sum())), "dice": dice(touching, mine)})
    return rows


def _found(found: np.ndarray, truth: np.ndarray, share: np.ndarray) -> list[list[float]]:
    """Return for each found component its mean probability and whether it meets a lesion."""
    components, count = ndimage.label(found, _CONNECTIVITY)
    index = range(1, count + 1)
    if not count:
        return []
    mean = ndimage.mean(share[2], components, index)
    hit = ndimage.mean(truth.astype(np.float32), components, index)
    return [[float(m), float(h > 0.1)] for m, h in zip(mean, hit, strict=True)]


def _agreement(found: np.ndarray, truth: np.ndarray, name: str) -> dict[str, float]:
    return {
        f"{name}_dice": dice(found, truth),
        f"{name}_nsd": surface_dice(found, truth, SPACING_MM),
        f"{name}_hd95": hausdorff_95_mm(found, truth, SPACING_MM),
    }


def compare(share: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
    """Measure one patient: the liver once, the lesions at every threshold."""
    truth = classes == 2
    liver, _ = decode(share, 0.5)
    rows: dict[str, Any] = {"has_lesions": bool(truth.any()), "at": {}}
    rows |= _agreement(liver, classes > 0, "liver")
    for threshold in THRESHOLDS:
        _, lesion = decode(share, threshold)
        rows["at"][str(threshold)] = {
            **_agreement(lesion, truth, "lesion"),
            "match": {
                str(iou): vars(match_lesions(lesion, truth, minimum_iou=iou)) for iou in (0.1, 0.5)
            },
            "lesions": _lesions(lesion, truth),
            "found": _found(lesion, truth, share),
        }
    return rows


def _compare_file(share: np.ndarray, path: Path) -> dict[str, Any]:
    known = np.load(path)
    notes = [str(n) for n in known["notes"]]
    return {
        "seed": int(path.stem),
        "phase": notes[0],
        "thickness_mm": float(notes[1]),
        "noise_hu": float(notes[2]),
        **compare(share.astype(np.float32), known["classes"]),
    }


def score(folder: Path, network_path: Path, processes: int) -> None:
    """Write ``<split>.scores.json``, one record for each patient."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = _network(network_path, device)
    with ProcessPoolExecutor(processes) as pool:
        for split in SPLITS:
            waiting = []
            for path in sorted((folder / split).glob("*.npz")):
                share = probabilities(network, np.load(path)["hu"]).astype(np.float16)
                waiting.append(pool.submit(partial(_compare_file, share, path)))
            rows = [job.result() for job in waiting]
            (folder / f"{split}.scores.json").write_text(json.dumps(rows))
            print(f"{split}: {len(rows)} patients scored", flush=True)


def _rounded(value: float) -> float:
    return round(float(value), 4)


def _interval(values: list[float]) -> list[float]:
    """Return the 95 % bootstrap interval of a mean over patients or lesions."""
    rng = np.random.default_rng(5)
    array = np.asarray(values)
    means = [array[rng.integers(len(array), size=len(array))].mean() for _ in range(1000)]
    return [_rounded(q) for q in np.percentile(means, [2.5, 97.5])]


def _large_dice(rows: list[dict[str, Any]], threshold: str) -> float:
    lesions = [les["dice"] for r in rows for les in r["at"][threshold]["lesions"]]
    large = [
        les["dice"]
        for r in rows
        for les in r["at"][threshold]["lesions"]
        if les["diameter_mm"] >= 10
    ]
    return float(np.mean(large or lesions or [0.0]))


def _lesion_figures(rows: list[dict[str, Any]], threshold: str) -> dict[str, Any]:
    lesions = [les for r in rows for les in r["at"][threshold]["lesions"]]
    figures: dict[str, Any] = {}
    for name, low, high in (
        ("10_mm_and_up", 10, 1e9),
        *((f"{a}_{b}_mm", a, b) for a, b in _BINS_MM),
    ):
        scores = [les["dice"] for les in lesions if low <= les["diameter_mm"] < high]
        if scores:
            figures[name] = {
                "lesions": len(scores),
                "dice": _rounded(np.mean(scores)),
                "dice_interval": _interval(scores),
                "found": _rounded(np.mean([s > 0.1 for s in scores])),
            }
    return figures


def _totals(rows: list[dict[str, Any]], threshold: str) -> dict[str, Any]:
    figures = {}
    for iou in ("0.1", "0.5"):
        counts = [r["at"][threshold]["match"][iou] for r in rows]
        total = {k: sum(c[k] for c in counts) for k in counts[0]}
        sensitivity = total["reference_hit"] / max(1, total["reference"])
        precision = total["found_hit"] / max(1, total["found"])
        figures[f"iou_{iou}"] = {
            "sensitivity": _rounded(sensitivity),
            "precision": _rounded(precision),
            "f1": _rounded(2 * sensitivity * precision / max(1e-9, sensitivity + precision)),
        }
    return figures


def _measured(rows: list[dict[str, Any]], threshold: str, platt: Platt) -> dict[str, Any]:
    at = [r["at"][threshold] for r in rows]
    sick = [a for r, a in zip(rows, at, strict=True) if r["has_lesions"]]
    found = np.array([f for a in at for f in a["found"]]).reshape(-1, 2)
    probability = platt.probability(_logit(found[:, 0]))
    right = found[:, 1] > 0.5
    finite = [a["lesion_hd95"] for a in sick if np.isfinite(a["lesion_hd95"])]
    return {
        "patients": len(rows),
        "seeds": [rows[0]["seed"], rows[-1]["seed"]],
        "patients_with_lesions": len(sick),
        "liver_dice": _rounded(np.mean([r["liver_dice"] for r in rows])),
        "liver_nsd_2mm": _rounded(np.mean([r["liver_nsd"] for r in rows])),
        "liver_hd95_mm_median": _rounded(np.median([r["liver_hd95"] for r in rows])),
        "lesion_dice_per_patient": _rounded(np.mean([a["lesion_dice"] for a in sick])),
        "lesion_dice_per_patient_interval": _interval([a["lesion_dice"] for a in sick]),
        "lesion_nsd_2mm": _rounded(np.mean([a["lesion_nsd"] for a in sick])),
        "lesion_hd95_mm_median": _rounded(np.median(finite)),
        "patients_with_no_lesion_found": len(sick) - len(finite),
        "lesions": _lesion_figures(rows, threshold),
        "lesion_wise": _totals(rows, threshold),
        "false_positives_per_scan": _rounded((~right).sum() / len(rows)),
        "ece": _rounded(expected_calibration_error(probability, right)),
        "reliability": [
            [_rounded(b.mean_probability), _rounded(b.positive_rate), b.cases]
            for b in reliability(probability, right)
        ],
        "by_phase": {
            phase: _rounded(
                np.mean(
                    [
                        r["at"][threshold]["lesion_dice"]
                        for r in rows
                        if r["phase"] == phase and r["has_lesions"]
                    ]
                )
            )
            for phase in sorted({r["phase"] for r in rows if r["has_lesions"]})
        },
    }


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-5, 1 - 1e-5)
    return np.asarray(np.log(p / (1 - p)))


def report(folder: Path, metrics: Path) -> None:
    """Write metrics: threshold and calibration from validation, figures on all sets."""
    known = {s: json.loads((folder / f"{s}.scores.json").read_text()) for s in SPLITS}
    rows = known[Split.VALIDATION]
    threshold = max(map(str, THRESHOLDS), key=lambda t: _large_dice(rows, t))
    found = np.array([f for r in rows for f in r["at"][threshold]["found"]]).reshape(-1, 2)
    platt = fit_platt(_logit(found[:, 0]), found[:, 1] > 0.5)
    content = {
        "spacing_mm": list(SPACING_MM),
        "lesion_threshold": float(threshold),
        "calibration": {
            "temperature": _rounded(platt.temperature),
            "bias": _rounded(platt.bias),
        },
        "sets": {s.value: _measured(known[s], threshold, platt) for s in SPLITS},
    }
    metrics.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content, indent=1))


def main() -> None:
    """Run one of the three steps."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("step", choices=("draw", "score", "report"))
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("target", type=Path, nargs="?")
    arguments.add_argument("--patients", type=int, default=60)
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--render", choices=("numpy", "cupy"), default="numpy")
    given = arguments.parse_args()
    if given.step == "draw":
        draw(given.folder, given.patients, given.processes, on_gpu=given.render == "cupy")
    elif given.target is None:
        arguments.error(f"{given.step} needs a second path")
    elif given.step == "score":
        score(given.folder, given.target, given.processes)
    else:
        report(given.folder, given.target)


if __name__ == "__main__":
    main()
