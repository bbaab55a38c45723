"""Moving between a series as it was acquired and the grids that networks see.

A `Grid` is canonical: its arrays are (z, y, x), z to the head, y to the back, x to the patient's
left, whatever way the slices of the series ran. `Scan` samples the series on any grid; `on_planes`
brings what was found there back to the source planes, pixel by pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from service.core.findings import FindingMask
from workers.kinds.coarse import Anatomy, Coarse, coarsen, find_anatomy
from workers.volume.series import Volume
from workers.volume.values import AIR_HU, HOUNSFIELD

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

_AXIS_OF = {"S": 0, "I": 0, "P": 1, "A": 1, "L": 2, "R": 2}
_FORWARD = frozenset("SPL")


@dataclass(frozen=True)
class Grid:
    """A regular grid along the patient's axes.

    ``origin_mm`` is the centre of voxel (0, 0, 0) in LPS (x, y, z); ``spacing_mm`` and ``shape``
    are (z, y, x).
    """

    origin_mm: Floats
    spacing_mm: Spacing
    shape: Shape

    def points_mm(self, indices: Floats) -> Floats:
        """Map (z, y, x) indices, shape (..., 3), to LPS millimetres (x, y, z)."""
        points: Floats = self.origin_mm + (np.asarray(indices) * self.spacing_mm)[..., ::-1]
        return points

    def indices(self, points_mm: Floats) -> Floats:
        """Map LPS millimetres (x, y, z), shape (..., 3), to (z, y, x) indices."""
        away = (np.asarray(points_mm) - self.origin_mm)[..., ::-1]
        indices: Floats = away / np.asarray(self.spacing_mm)
        return indices

    def part(self, box: Sequence[slice]) -> "Grid":
        """Return the grid of a box of this one."""
        starts = np.array([side.start for side in box], dtype=np.float64)
        shape = [side.stop - side.start for side in box]
        return Grid(self.points_mm(starts), self.spacing_mm, (shape[0], shape[1], shape[2]))

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel."""
        return float(np.prod(self.spacing_mm))


def centered_grid(center_mm: Floats, spacing_mm: Spacing, shape: Shape) -> Grid:
    """Return the grid of a shape whose middle, index (shape - 1) / 2, lies at a point."""
    half = (np.array(shape) - 1) / 2 * np.asarray(spacing_mm)
    return Grid(np.asarray(center_mm, dtype=np.float64) - half[::-1], spacing_mm, shape)


@dataclass(frozen=True)
class Scan:
    """A volume that can be sampled; the sampler and the coarse view are made once."""

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

    @cached_property
    def _image(self) -> SimpleITK.Image:
        return _image_of(self.volume.voxels, self.volume.affine)

    def grid(self, spacing_mm: Spacing) -> Grid:
        """Return the canonical grid that bounds the scan; spacing 0 keeps the source's own."""
        affine, voxels = self.volume.affine, self.volume.voxels
        ends = np.array(voxels.shape[::-1]) - 1
        corners = np.array([np.array(corner) * ends for corner in np.ndindex(2, 2, 2)])
        points = corners @ affine[:3, :3].T + affine[:3, 3]
        low, high = points.min(axis=0), points.max(axis=0)
        own = self._own_spacing()
        wanted = np.array([want or have for want, have in zip(spacing_mm, own, strict=True)])
        shape = np.floor((high - low)[::-1] / wanted + 1e-3).astype(int) + 1
        return Grid(
            low,
            (float(wanted[0]), float(wanted[1]), float(wanted[2])),
            (int(shape[0]), int(shape[1]), int(shape[2])),
        )

    def on(self, grid: Grid) -> Array:
        """Return the scan on a grid by linear interpolation, shape (z, y, x), float32."""
        size = [int(edge) for edge in reversed(grid.shape)]
        sampled = SimpleITK.Resample(
            self._image, size, SimpleITK.Transform(3, SimpleITK.sitkIdentity), SimpleITK.sitkLinear,
            [float(value) for value in grid.origin_mm], list(reversed(grid.spacing_mm)),
            np.eye(3).ravel().tolist(), self.outside, SimpleITK.sitkFloat32,
        )  # fmt: skip
        values: Array = SimpleITK.GetArrayViewFromImage(sampled).copy()
        return values

    def _own_spacing(self) -> Floats:
        """Return the source's spacing along (z, y, x) of the patient."""
        steps = self.volume.affine[:3, :3]
        # Each source axis belongs to the patient axis it runs along most.
        nearest = np.abs(steps / np.linalg.norm(steps, axis=0)).argmax(axis=1)
        lengths: Floats = np.linalg.norm(steps, axis=0)[nearest][::-1]
        return lengths


def region_on(mask: Mask, coarse: Coarse, grid: Grid) -> Mask:
    """Return a mask of the coarse grid on another grid, by nearest voxel."""
    places = []
    for axis in range(3):
        start = coarse.indices(grid.origin_mm)[axis]
        step = (coarse.indices(grid.points_mm(np.eye(3)[axis])) - coarse.indices(grid.origin_mm))[
            axis
        ]
        near = np.rint(start + step * np.arange(grid.shape[axis])).astype(int)
        places.append(np.clip(near, 0, mask.shape[axis] - 1))
    return mask[np.ix_(*places)]


def on_planes(
    probability: Array, grid: Grid, volume: Volume, *, threshold: float
) -> FindingMask | None:
    """Return where a map on a canonical grid reaches a threshold on the source planes.

    The map is sampled at the centre of each source pixel, on the planes that were read, also where
    the volume was resampled from them: the mask always lies on the images of the PACS.

    Parameters
    ----------
    probability
        Shape `grid.shape`; beyond its edge it counts as 0.

    Returns
    -------
    FindingMask or None
        The block that bounds the mask, or nothing where no pixel reaches the threshold.
    """
    planes, rows, columns = _block(grid, volume)
    shape = tuple(side.stop - side.start for side in (planes, rows, columns))
    if 0 in shape:
        return None
    image = SimpleITK.GetImageFromArray(np.pad(probability, 1))
    padded = grid.points_mm(np.array([-1.0, -1.0, -1.0]))
    image.SetOrigin([float(value) for value in padded])
    image.SetSpacing(list(reversed(grid.spacing_mm)))
    voxels = np.zeros(shape, dtype=np.bool_)
    for index in range(planes.start, planes.stop):
        affine = volume.stack.plane_affine(index)
        affine[:3, 3] = affine[:3, :3] @ [columns.start, rows.start, 0] + affine[:3, 3]
        plane = _sampled(image, affine, (1, *shape[1:]))
        voxels[index - planes.start] = plane[0] >= threshold
    return trimmed((planes.start, rows.start, columns.start), voxels)


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


def to_axes(array: Array, axes: str) -> Array:
    """Return a canonical array (z, y, x) with its axes running to the directions named."""
    turned = array.transpose([_AXIS_OF[letter] for letter in axes])
    flips = tuple(slice(None) if letter in _FORWARD else slice(None, None, -1) for letter in axes)
    return np.ascontiguousarray(turned[flips])


def from_axes(array: Array, axes: str) -> Array:
    """Undo `to_axes` on the last three axes of an array."""
    flips = tuple(slice(None) if letter in _FORWARD else slice(None, None, -1) for letter in axes)
    order = [_AXIS_OF[letter] for letter in axes]
    lead = array.ndim - 3
    back = [*range(lead), *(lead + order.index(axis) for axis in range(3))]
    return np.ascontiguousarray(array[(..., *flips)].transpose(back))


def _block(grid: Grid, volume: Volume) -> tuple[slice, slice, slice]:
    """Return the source planes, rows and columns that a canonical grid reaches."""
    stack = volume.stack
    ends = np.array([np.array(c) * (np.array(grid.shape) + 1) - 1 for c in np.ndindex(2, 2, 2)])
    points = grid.points_mm(ends)
    distances = (points - stack.origins_mm[0]) @ stack.normal
    met = np.flatnonzero(
        (stack.distances_mm >= distances.min()) & (stack.distances_mm <= distances.max())
    )
    if not met.size:
        return slice(0, 0), slice(0, 0), slice(0, 0)
    away = points[:, None] - stack.origins_mm[None, met]
    rows = away @ stack.column_direction / stack.row_spacing_mm
    columns = away @ stack.row_direction / stack.column_spacing_mm
    _, height, width = volume.source_shape
    return (
        slice(int(met[0]), int(met[-1]) + 1),
        _whole(rows, height),
        _whole(columns, width),
    )


def _whole(places: Floats, length: int) -> slice:
    low = min(max(int(np.floor(places.min())), 0), length)
    high = min(max(int(np.ceil(places.max())) + 1, low), length)
    return slice(low, high)


def _image_of(voxels: NDArray[np.generic], affine: Floats) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(voxels)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing([float(length) for length in lengths])
    image.SetDirection((affine[:3, :3] / lengths).ravel().tolist())
    image.SetOrigin([float(value) for value in affine[:3, 3]])
    return image


def _sampled(image: SimpleITK.Image, affine: Floats, shape: tuple[int, ...]) -> Array:
    """Return an image at the voxel centres of another grid, 0 beyond its edge."""
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    sampled = SimpleITK.Resample(
        image, [int(edge) for edge in reversed(shape)],
        SimpleITK.Transform(3, SimpleITK.sitkIdentity), SimpleITK.sitkLinear,
        affine[:3, 3].tolist(), lengths.tolist(),
        (affine[:3, :3] / lengths).ravel().tolist(), 0.0, SimpleITK.sitkFloat32,
    )  # fmt: skip
    values: Array = SimpleITK.GetArrayViewFromImage(sampled).copy()
    return values
