"""A volume as the kinds look at it: on a network's grid, and at a few millimetres as a whole."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.core import codes
from service.core.findings import Code, FindingMask
from workers.kinds.coarse import SPACING_MM, Anatomy, Coarse, coarsen, find_anatomy, widened
from workers.volume.grid import Grid
from workers.volume.resample import to_grid
from workers.volume.series import Volume
from workers.volume.values import AIR_HU, HOUNSFIELD

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

# Nearer to the middle of the body, its own asymmetry decides on which side a point lies.
_MIDLINE_MM = 10.0


@dataclass(frozen=True)
class Scan:
    """A volume whose coarse view, body and lungs are found once, when first asked for."""

    volume: Volume

    @cached_property
    def coarse(self) -> Coarse:
        """The whole scan at a few millimetres."""
        return coarsen(self.volume.voxels, self.volume.affine)

    @cached_property
    def anatomy(self) -> Anatomy:
        """Body and lungs on the coarse grid."""
        return find_anatomy(self.coarse)

    @cached_property
    def outside(self) -> float:
        """Value of what the scan does not show: air in CT, else the least value."""
        return float(AIR_HU if self.volume.unit == HOUNSFIELD else self.volume.voxels.min())

    def on(self, grid: Grid) -> Array:
        """Return the scan on a grid, float32."""
        return to_grid(self.volume, grid, background=self.outside)

    def region_on(self, grid: Grid, region: str, margin_mm: float) -> Mask | None:
        """Return where on a grid the body or the lungs lie, or None when all is wanted."""
        if region == "all":
            return None
        mask = self.anatomy.lungs if region == "lungs" else self.anatomy.body
        return on_grid(widened(mask, margin_mm), self.coarse, grid)

    def side_of(self, point_mm: Floats) -> Code | None:
        """Return on which side of the body a point lies, by the middle of the body at its height.

        Nothing within a centimetre of the middle.
        """
        body = self.anatomy.body
        place = self.coarse.indices(point_mm)
        height = int(np.clip(np.rint(place[0]), 0, len(body) - 1))
        columns = np.nonzero(body[height])[1]
        if not columns.size:
            return None
        away_mm = (float(place[2]) - (columns.min() + columns.max()) / 2) * SPACING_MM
        if abs(away_mm) < _MIDLINE_MM:
            return None
        return codes.LEFT if away_mm > 0 else codes.RIGHT


def on_grid(mask: Mask, coarse: Coarse, grid: Grid) -> Mask:
    """Return a mask of the coarse grid on another one, by nearest voxel."""
    start = coarse.indices(grid.patient_mm(np.zeros(3)))
    steps = (coarse.indices(grid.patient_mm(np.eye(3))) - start).T
    straight = np.abs(steps - np.diag(np.diag(steps))).max() * max(grid.shape) < 0.5
    if straight:
        return mask[np.ix_(*(_nearest(start, steps, grid, mask, axis) for axis in range(3)))]
    turned = ndimage.affine_transform(
        mask.astype(np.uint8), steps, start, output_shape=grid.shape, order=0, mode="nearest"
    )
    return np.asarray(turned, dtype=np.bool_)


def trimmed(offset: tuple[int, int, int], voxels: Mask) -> FindingMask | None:
    """Return a mask as the smallest block that holds it, or nothing when it is empty."""
    if not voxels.any():
        return None
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        met = np.flatnonzero(voxels.any(axis=others))
        box.append(slice(int(met[0]), int(met[-1]) + 1))
    first, row, column = (start + side.start for start, side in zip(offset, box, strict=True))
    return FindingMask((first, row, column), np.ascontiguousarray(voxels[tuple(box)]))


def _nearest(start: Floats, steps: Floats, grid: Grid, mask: Mask, axis: int) -> NDArray[np.int_]:
    places = np.rint(start[axis] + steps[axis, axis] * np.arange(grid.shape[axis]))
    return np.asarray(np.clip(places, 0, mask.shape[axis] - 1), dtype=np.int_)
