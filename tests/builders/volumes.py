"""Volumes for tests: synthetic series written, read back and given a known content."""

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydicom.dataset import Dataset

from service.core.geometry import affine_of, stack_planes, to_patient_mm
from service.core.headers import FrameHeader
from service.core.part10 import read_file_meta
from tests.builders.dicom import OBLIQUE, ct_series, header_of, write_series
from workers.volume.pixels import SourceInstance
from workers.volume.plan import VolumeRules
from workers.volume.series import Volume, load_volume

# HU per millimetre along x, y and z: three different slopes, so that no two axes can be mistaken.
GRADIENT = np.array([1.7, -2.3, 3.1])
_RULES = VolumeRules()


def linear_hu(points_mm: ArrayLike) -> NDArray[np.float64]:
    """Return a value that tells where in the patient a point (LPS mm) lies."""
    return np.asarray(points_mm) @ GRADIENT + 40.0


def source_instance(path: Path) -> SourceInstance:
    """Return an archived instance as receipt would have left it."""
    content = path.read_bytes()
    meta = read_file_meta(content)
    assert meta is not None
    data_set = content[meta.length :]
    return SourceInstance(header_of(path), path, hashlib.sha256(data_set).hexdigest())


def sources_in(folder: Path) -> list[SourceInstance]:
    """Return every instance of a folder of DICOM files, by file name."""
    return [source_instance(path) for path in sorted(folder.glob("*.dcm"))]


def sources(instances: Sequence[Dataset], folder: Path) -> list[SourceInstance]:
    """Write data sets into a folder and return them as archived instances."""
    return [source_instance(path) for path in write_series(instances, folder)]


def linear_series(
    *,
    slices: int = 8,
    rows: int = 14,
    columns: int = 11,
    spacing_mm: tuple[float, float, float] = (2.5, 0.7, 0.8),
    origin_mm: tuple[float, float, float] = (-12.5, -31.25, -24.0),
    orientation: tuple[float, ...] = OBLIQUE,
    step_mm: Sequence[float] | None = None,
    **options: Any,
) -> list[Dataset]:
    """Return a CT series whose every voxel holds `linear_hu` of its place, to half a unit."""
    normal = np.cross(orientation[:3], orientation[3:])
    step = normal * spacing_mm[0] if step_mm is None else np.asarray(step_mm)
    planes = [
        FrameHeader(
            image_position_mm=tuple(np.array(origin_mm) + index * step),
            image_orientation=orientation,
            row_spacing_mm=spacing_mm[1],
            column_spacing_mm=spacing_mm[2],
        )
        for index in range(slices)
    ]
    stack, order = stack_planes(planes, orientation_tolerance_degrees=0.5)
    indices = np.stack(np.meshgrid(np.arange(columns), np.arange(rows), [0.0]), axis=-1)
    values = np.empty((slices, rows, columns))
    for place, index in enumerate(order):
        affine = affine_of(stack, origin_mm=stack.origins_mm[place], slice_spacing_mm=1.0)
        values[index] = linear_hu(to_patient_mm(affine, indices))[:, :, 0]
    return ct_series(
        hounsfield=np.round(values),
        spacing_mm=spacing_mm,
        origin_mm=origin_mm,
        orientation=orientation,
        step_mm=None if step_mm is None else tuple(step),
        **options,
    )


def loaded(instances: Sequence[Dataset], rules: VolumeRules = _RULES, **options: Any) -> Volume:
    """Write a series to a folder that vanishes again, and read it as a volume."""
    with tempfile.TemporaryDirectory() as folder:
        return load_volume(sources(instances, Path(folder)), rules, threads=2, **options)
