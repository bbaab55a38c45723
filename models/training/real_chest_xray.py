"""Measure the chest radiograph network on real radiographs with labels, without any tuning.

    python -m models.training.real_chest_xray NETWORK.onnx IMAGES.npz OUT.json

IMAGES.npz holds ``images`` (n, rows, columns), ``labels14`` (n, 14) and ``classes`` (14), the names
of NIH ChestX-ray14. Small images are enlarged to the network's size, so fine detail is missing.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from models.phantoms.findings import Finding
from workers.evaluation.auroc import auroc

SIZE = 320
LABELS = {
    Finding.NODULE_MASS: ("Nodule", "Mass"),
    Finding.CONSOLIDATION: ("Consolidation", "Pneumonia", "Infiltration"),
    Finding.PLEURAL_EFFUSION: ("Effusion",),
    Finding.PNEUMOTHORAX: ("Pneumothorax",),
    Finding.CARDIOMEGALY: ("Cardiomegaly",),
    Finding.ATELECTASIS: ("Atelectasis",),
}


def _prepared(image: np.ndarray) -> np.ndarray:
    """Enlarge, clip to the percentiles 0.5 and 99.5 and standardise, as the manifest says."""
    large = np.asarray(
        Image.fromarray(image.astype(np.float32)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    )
    clipped = np.clip(large, *np.percentile(large, [0.5, 99.5]))
    return np.asarray((clipped - clipped.mean()) / (clipped.std() + 1e-6), np.float32)


def measure(network: Path, images: Path) -> dict[str, Any]:
    """Return AUROC with interval for each finding that the labels know."""
    known = np.load(images)
    names = [str(name) for name in known["classes"]]
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    logits = np.concatenate(
        [
            session.run(["logits"], {"image": _prepared(image)[None, None]})[0]
            for image in known["images"]
        ]
    )
    rows: dict[str, Any] = {}
    for k, finding in enumerate(Finding):
        columns = [names.index(label) for label in LABELS[finding] if label in names]
        labels = known["labels14"][:, columns].any(1)
        if 5 <= labels.sum() < len(labels):
            area = auroc(logits[:, k], labels)
            rows[finding.value] = {
                "auroc": round(area.value, 4),
                "auroc_interval": [round(area.low, 4), round(area.high, 4)],
                "positives": area.positives,
                "negatives": area.negatives,
            }
    return {"images": len(logits), "size": list(known["images"].shape[1:]), "findings": rows}


def main() -> None:
    """Read the command line."""
    arguments = argparse.ArgumentParser(description=__doc__)
    for name in ("network", "images", "out"):
        arguments.add_argument(name, type=Path)
    given = arguments.parse_args()
    found = measure(given.network, given.images)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
