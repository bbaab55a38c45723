"""Whole studies for tests of the whole path: a small chest with bright balls, and its package."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from service.core.packages import ModelPackage
from tests.builders import onnx
from tests.builders.chests import Ball, chest_series
from tests.builders.dicom import write_series
from tests.builders.packages import WINDOW, manifest, write_package

NODULES = (
    Ball(center_mm=(-38.0, 5.0, 10.0), diameter_mm=16.0),
    Ball(center_mm=(38.0, -8.0, -12.0), diameter_mm=15.0),
)


@dataclass(frozen=True)
class SmallStudy:
    """A study as files, ready to be sent."""

    study_instance_uid: str
    files: tuple[Path, ...]
    datasets: tuple[Dataset, ...]


def chest_study(
    folder: Path, *, name: str = "chest", balls: Sequence[Ball] = NODULES, **attributes: object
) -> SmallStudy:
    """Write a small chest CT with balls in its lungs."""
    datasets = chest_series(balls, study=name, name=f"{name} series", **attributes)
    files = write_series(datasets, folder / name)
    return SmallStudy(str(datasets[0].StudyInstanceUID), tuple(files), tuple(datasets))


def ball_package(models_dir: Path, *, name: str = "ball_detection") -> ModelPackage:
    """Write a package that really finds bright balls in lungs."""
    values = manifest("detection")
    values["package"] = {**values["package"], "name": name, "task": "balls"}
    values["decoding"] = {"floor": 0.3, "merge_distance_mm": 15.0}
    values["tiling"] = {"patch": [32, 32, 32], "region": "lungs", "margin_mm": 6.0}
    values["applicability"] = {
        "modalities": ["CT"],
        "body_part": {"words": ["chest", "thorax"]},
        "slices": {"minimum": 8},
    }
    crop = {"size": [24, 24, 24], "spacing_mm": [1.0, 1.0, 1.0], "intensity": WINDOW}
    return write_package(
        models_dir,
        values,
        {
            "detector": onnx.detector(threshold=0.55, diameter_mm=12.0),
            "segmentation": onnx.bright_voxels(threshold=0.5),
        },
        crops={"segmentation": crop},
    )
