"""A small chest with lungs and balls in them, drawn in patient coordinates at any geometry.

Only as anatomical as the product's threshold rules need; the phantoms in ``models/phantoms`` are
the real ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from service.core.geometry import affine_of, stack_planes, to_patient_mm
from service.core.headers import FrameHeader
from tests.builders.dicom import AXIAL, Cosines, ct_series
from tests.builders.volumes import loaded
from workers.volume.plan import VolumeRules
from workers.volume.series import Volume

AIR, LUNG, TISSUE = -1000, -850, 40


@dataclass(frozen=True)
class Ball:
    """A ball of one attenuation: centre in LPS mm, diameter, HU."""

    center_mm: tuple[float, float, float]
    diameter_mm: float
    hounsfield: float = 600.0


@cache
def chest(
    balls: tuple[Ball, ...] = (),
    *,
    spacing_mm: tuple[float, float, float] = (2.5, 1.2, 1.5),
    orientation: Cosines = AXIAL,
    shape: tuple[int, int, int] = (44, 116, 128),
    lungs: bool = True,
    tilt_degrees: float = 0.0,
) -> Volume:
    """Return a chest centred at the origin of the patient, 170 x 120 x 100 mm.

    The same arguments give the same volume, which no test may change.
    """
    instances = chest_series(
        balls,
        spacing_mm=spacing_mm,
        orientation=orientation,
        shape=shape,
        lungs=lungs,
        tilt_degrees=tilt_degrees,
    )
    return loaded(instances, VolumeRules())


def chest_series(
    balls: Sequence[Ball] = (),
    *,
    spacing_mm: tuple[float, float, float] = (2.5, 1.2, 1.5),
    orientation: Cosines = AXIAL,
    shape: tuple[int, int, int] = (44, 116, 128),
    lungs: bool = True,
    tilt_degrees: float = 0.0,
    **attributes: Any,
) -> list[Dataset]:
    """Return the instances of a CT series of that chest."""
    normal = np.cross(orientation[:3], orientation[3:])
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    # A tilted gantry shifts each slice against the one before along the columns.
    step = spacing_mm[0] * (normal + np.tan(np.radians(tilt_degrees)) * column)
    half = (np.array(shape) - 1) / 2
    origin = -(half[0] * step + half[1] * spacing_mm[1] * column + half[2] * spacing_mm[2] * row)
    plane = FrameHeader(
        image_position_mm=tuple(origin),
        image_orientation=orientation,
        row_spacing_mm=spacing_mm[1],
        column_spacing_mm=spacing_mm[2],
    )
    stack, _ = stack_planes([plane], orientation_tolerance_degrees=0.5)
    affine = affine_of(stack, origin_mm=origin, slice_spacing_mm=spacing_mm[0])
    affine[:3, 2] = step
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)[..., ::-1]
    values = _paint(to_patient_mm(affine, index), balls, lungs=lungs)
    return ct_series(
        hounsfield=np.round(values),
        spacing_mm=spacing_mm,
        origin_mm=tuple(origin),
        orientation=orientation,
        step_mm=tuple(step),
        **attributes,
    )


def _paint(
    points: NDArray[np.float64], balls: Sequence[Ball], *, lungs: bool
) -> NDArray[np.float64]:
    x, y, z = np.moveaxis(points, -1, 0)
    values = np.full(points.shape[:-1], float(AIR))
    values[(x / 85) ** 2 + (y / 60) ** 2 <= 1] = TISSUE
    if lungs:
        for side in (-45, 45):
            lung = ((x - side) / 26) ** 2 + (y / 38) ** 2 + (z / 45) ** 2 <= 1
            values[lung] = LUNG
    for ball in balls:
        away = np.linalg.norm(points - np.array(ball.center_mm), axis=-1)
        # One voxel's worth of soft edge, as partial volume would leave it.
        share = np.clip(ball.diameter_mm / 2 - away + 0.5, 0, 1)
        values = values * (1 - share) + ball.hounsfield * share
    return values
