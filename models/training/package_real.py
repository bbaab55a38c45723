"""Assemble the packages of networks that were trained on real images.

    python -m models.training.package_real TASK NETWORK.onnx METRICS.json FOLDER

TASK is `pneumonia` (for ``models/child_pneumonia``) or `brain_slices` (``models/brain_lesion``).
METRICS.json is that of `models.training.real_scores` on the set's validation part. Golden inputs
are drawn here: no patient's image lies in a package.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from models.training.packaging import digest, table, write_package

# Of 600 training images, enlarged four times (`guard_features.distribution`).
_CHILDREN = {
    "features": ["symmetry", "mediastinal_contrast", "skewness", "kurtosis"],
    "mean": [0.663518, 1.18157, -0.504781, 2.59961],
    "inverse_covariance": [
        [34.7699, -4.55422, -6.99107, -1.76441],
        [-4.55422, 12.2265, 0.621369, 1.30499],
        [-6.99107, 0.621369, 18.6117, 5.04107],
        [-1.76441, 1.30499, 5.04107, 2.02293],
    ],
    "threshold": 8.24,
}
_NOT_CLINICAL = "Research, testing and demonstration. Not for clinical use."


@dataclass(frozen=True)
class Recipe:
    """What is particular to one package: its fixed sections, and a golden input."""

    sections: Callable[[dict[str, Any]], list[str]]
    golden: Callable[[Path], None]
    golden_name: str
    role: str


def _pneumonia(metrics: dict[str, Any]) -> list[str]:
    temperature = metrics["calibration"]
    return [
        table("[package]", {
            "name": "child_pneumonia", "version": "0.1.0",
            "title": "Pneumonia in children's chest radiographs",
            "task": "child_pneumonia", "kind": "classification", "licence": "MIT",
            "intended_use": _NOT_CLINICAL,
            "not_for": "Adults, lateral views, any finding but pneumonia.",
            "limitations": "Sees 28 x 28 pixels; one hospital, children of one to five years.",
        }),
        table("[[training_data]]", {
            "name": "PneumoniaMNIST (MedMNIST v2)", "licence": "CC BY 4.0",
            "attribution": "Yang J et al. 2023, Sci Data 10:41; Kermany DS et al. 2018, Cell "
                           "172:1122",
            "url": "https://medmnist.com",
        }),
        "@network@",
        table("[applicability]", {
            "modalities": ["DX", "CR"],
            "body_part": {"words": ["CHILD", "PEDIATRIC", "PAEDIATRIC", "INFANT", "BABYGRAM"],
                          "required": True},
            "view_positions": ["PA", "AP"],
            "patient_age_years": {"maximum": 7.0},
        }),
        table("[input]", {
            "size": [28, 28], "fit": "crop",
            "intensity": {"mode": "percentile", "lower": 0.5, "upper": 99.5},
        }),
        table("[decoding]", {"evidence_activation": "relative", "mask_threshold": 0.7}),
        table("[[classes]]", {
            "name": "pneumonia", "kind": "finding",
            "label": {"value": "233604007", "scheme": "SCT", "meaning": "Pneumonia"},
            "site": {"value": "39607008", "scheme": "SCT", "meaning": "Lung"},
            "color_lab": [62.0, 40.0, 45.0], "lateral": True,
        }),
        table("[[operating_points]]", {
            "name": "balanced", "present": 0.5, "indeterminate": 0.2,
            "measured_on": f"{metrics['images']} validation images of PneumoniaMNIST",
            "sensitivity": metrics["at_half"]["sensitivity"],
            "specificity": metrics["at_half"]["specificity"],
        }),
        table("[calibration]", {
            "method": "temperature", **temperature, "ece": metrics["ece"],
            "fitted_on": "PneumoniaMNIST validation images",
        }),
        table("[measurements]", {"take": ["area"]}),
        table("[[guard.rules]]", {
            "measure": "symmetry", "range": {"minimum": -0.1}, "reason": "NOT_FRONTAL",
        }),
        table("[[guard.rules]]", {
            "measure": "mediastinal_contrast", "range": {"minimum": 0.0}, "reason": "NOT_CHEST",
        }),
        table("[guard.distribution]", _CHILDREN),
        table("[metrics]", {"file": "metrics.json", "set": "PneumoniaMNIST validation"}),
    ]  # fmt: skip


def _brain(metrics: dict[str, Any]) -> list[str]:
    return [
        table("[package]", {
            "name": "brain_lesion", "version": "0.1.0",
            "title": "Brain tumours in T1 MR after contrast",
            "task": "brain_lesion_segmentation", "kind": "segmentation", "licence": "MIT",
            "intended_use": _NOT_CLINICAL,
            "not_for": "Metastases under 1 cm, series without contrast agent, children.",
            "limitations": "Learned from slices with one tumour each; invents some elsewhere.",
        }),
        table("[[training_data]]", {
            "name": "Brain tumor dataset, 669 slices (figshare 1512427)", "licence": "CC BY 4.0",
            "attribution": "Cheng J, doi:10.6084/m9.figshare.1512427",
        }),
        "@network@",
        table("[applicability]", {
            "modalities": ["MR"], "orientation": "axial", "contrast": "required",
            "slices": {"minimum": 8}, "slice_spacing_mm": {"minimum": 0.5, "maximum": 8.0},
            "pixel_spacing_mm": {"minimum": 0.3, "maximum": 1.6},
            "body_part": {"words": ["BRAIN", "HEAD", "SKULL"], "required": True},
            "description_excludes": ["T2", "FLAIR", "DWI", "ADC", "SWI", "PERFUSION"],
        }),
        table("[input]", {
            # 512 pixels of 0.48 mm became 192 in training; slices are taken as they come.
            "spacing_mm": [0.0, 1.28, 1.28], "context_slices": 1,
            "intensity": {"mode": "percentile", "lower": 0.0, "upper": 99.7},
        }),
        table("[tiling]", {"patch": [192, 192], "overlap": 0.25, "batch": 4}),
        table("[decoding]", {
            "activation": "sigmoid", "lesion_threshold": metrics["threshold"],
            "minimum_volume_mm3": 300.0, "minimum_diameter_mm": 6.0, "floor": 0.05,
        }),
        table("[[classes]]", {
            "name": "lesion", "kind": "lesion",
            "label": {"value": "126952004", "scheme": "SCT", "meaning": "Neoplasm of brain"},
            "site": {"value": "12738006", "scheme": "SCT", "meaning": "Brain"},
            "color_lab": [60.0, 60.0, 20.0],
        }),
        table("[[operating_points]]", {
            "name": "balanced", "present": 0.6, "indeterminate": 0.4,
            "sensitivity": round(1 - metrics["missed"], 4),
            "measured_on": f"{metrics['images']} validation slices, one tumour each, Dice over 0.1",
        }),
        table("[calibration]", {"method": "none"}),
        table("[measurements]", {"take": ["long_axis", "short_axis", "volume"]}),
        table("[[guard.rules]]", {
            "measure": "foreground_fraction", "range": {"minimum": 0.05, "maximum": 0.85},
            "reason": "NOT_HEAD",
        }),
        table("[metrics]", {"file": "metrics.json", "set": "validation slices"}),
    ]  # fmt: skip


def _network(path: Path, role: str) -> str:
    """Return the manifest's entry for the package's only network."""
    model = onnx.load(path)
    tensors = {
        "inputs": [_tensor(value) for value in model.graph.input],
        "outputs": [_tensor(value) for value in model.graph.output],
    }
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    entry = {"role": role, "file": "model.onnx", "sha256": digest(path), "opset": opset}
    return table("[[networks]]", {**entry, "precision": "fp16_weights", **tensors})


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    sizes = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
    return {"name": value.name, "shape": sizes}


def _drawn_chest(path: Path) -> None:
    """Write two dark lungs in a bright chest, one with a cloud in it."""
    rows, columns = np.mgrid[0:256, 0:256] / 255.0
    image = 1900.0 + 900.0 * np.exp(-(((columns - 0.5) / 0.16) ** 2)) + 500.0 * rows
    for middle in (0.24, 0.76):
        lung = ((rows - 0.48) / 0.38) ** 2 + ((columns - middle) / 0.17) ** 2
        image -= 1100.0 / (1 + np.exp(12 * (lung - 1)))
    cloud = np.exp(-(((rows - 0.62) / 0.1) ** 2) - ((columns - 0.26) / 0.08) ** 2)
    np.savez_compressed(path, pixels=(image + 900 * cloud).astype(np.float32))


def _drawn_head(path: Path) -> None:
    """Write a head of nested ellipsoids with one bright ball in it, 12 slices of 5 mm."""
    z, rows, columns = np.mgrid[0:12, 0:192, 0:192].astype(np.float32)
    y, x = (rows - 96) / 96, (columns - 96) / 96
    radius = np.sqrt((y / 0.85) ** 2 + (x / 0.68) ** 2)
    head = np.where(radius < 1, 420.0, 10.0) + np.where(abs(radius - 0.93) < 0.05, 350.0, 0.0)
    head += 40 * np.sin(9 * x) * np.cos(7 * y) * (radius < 0.85)
    ball = ((z - 6) * 5) ** 2 + ((rows - 80) * 1.28) ** 2 + ((columns - 125) * 1.28) ** 2 < 18**2
    voxels = np.where(ball, 900.0, head).astype(np.int16)
    affine = np.diag([1.28, 1.28, 5.0, 1.0])
    np.savez_compressed(path, voxels=voxels, affine=affine, unit="")


RECIPES = {
    "pneumonia": Recipe(_pneumonia, _drawn_chest, "drawn_chest", "classifier"),
    "brain_slices": Recipe(_brain, _drawn_head, "drawn_head", "segmenter"),
}


def main() -> None:
    """Write the package."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("task", choices=RECIPES)
    for name in ("network", "metrics", "folder"):
        arguments.add_argument(name, type=Path)
    given = arguments.parse_args()
    recipe = RECIPES[given.task]
    (given.folder / "golden").mkdir(parents=True, exist_ok=True)
    for source, name in ((given.network, "model.onnx"), (given.metrics, "metrics.json")):
        if source.resolve() != (given.folder / name).resolve():
            shutil.copyfile(source, given.folder / name)
    recipe.golden(given.folder / "golden" / f"{recipe.golden_name}.npz")
    metrics = json.loads(given.metrics.read_text())
    entry = _network(given.folder / "model.onnx", recipe.role)
    sections = [entry if s == "@network@" else s for s in recipe.sections(metrics)]
    write_package(given.folder, sections, recipe.golden_name)


if __name__ == "__main__":
    main()
