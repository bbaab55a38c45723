"""To a network's grid and back: voxels one way, masks and points the other.

Between grids whose axes are parallel each axis is resampled on its own, with a triangle filter
that widens when the grid becomes coarser, so that thin structures are averaged and not skipped.
Masks return straight to the planes that were read, however the volume was resampled.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates

from service.core.findings import FindingMask
from service.core.geometry import Floats, to_index
from service.core.headers import SourceFrame
from workers.volume.axes import Voxels, aligned_view, resample_axes
from workers.volume.grid import Grid, grid_of
from workers.volume.series import Volume, default_threads

# Below this many voxels, as round one candidate, starting threads costs more than they save.
_SMALL = 1 << 20


@dataclass(frozen=True)
class SourcePoint:
    """A point of the patient on the nearest plane that was read.

    ``column`` and ``row`` are image coordinates: (0.5, 0.5) is the centre of the top left pixel.
    ``distance_mm`` is how far off the plane the point lies.
    """

    frame_index: int
    frame: SourceFrame
    column: float
    row: float
    distance_mm: float


def to_grid(
    volume: Volume, grid: Grid, *, background: float | None = None, threads: int | None = None
) -> Voxels:
    """Return the volume's values on another grid, float32, in the grid's array order.

    ``background`` stands where the grid reaches beyond the volume; by default the volume's least
    value. Grids turned against the volume are sampled linearly, without the widened filter.
    """
    outside = float(volume.voxels.min()) if background is None else background
    aligned = aligned_view(volume, grid)
    if aligned is None:
        return _turned(volume, grid, outside)
    source, maps = aligned
    result = np.full(grid.shape, outside, np.float32)
    if result.size < _SMALL:
        resample_axes(source, result, maps, map)
    else:
        with ThreadPoolExecutor(threads or default_threads()) as executor:
            resample_axes(source, result, maps, executor.map)
    return result


def mask_from_grid(
    block: NDArray[Any],
    grid: Grid,
    volume: Volume,
    *,
    offset: Sequence[int] = (0, 0, 0),
    threshold: float = 0.5,
) -> FindingMask:
    """Put a block of a grid onto the planes that the volume was read from.

    Parameters
    ----------
    block
        Probabilities or booleans, shape (a, b, c) in the grid's array order; it begins at
        ``offset`` and is zero all round.
    threshold
        A source voxel belongs to the mask from this interpolated value on. When no plane meets
        the block, as with a lesion thinner than the gap between planes, the nearest one does.

    Returns
    -------
    FindingMask
        Bounding block on the source frames, in the order of ``volume.frames``; without voxels
        when the block lies outside all of them.
    """
    padded = np.pad(np.asarray(block, dtype=np.float32), 1)
    start = np.asarray(offset) - 1
    low, high = _source_box(volume, grid, start, padded.shape)
    values = np.zeros(np.maximum(high - low, 0), np.float32)
    for index in range(len(values)):
        plane = volume.stack.plane_affine(int(low[0]) + index)
        _sample_plane(values[index], padded, np.linalg.inv(grid.affine) @ plane, start, low)
    if np.any(values >= threshold):
        return _tight(values >= threshold, low)
    return _on_nearest_plane(padded, grid, volume, start=start, threshold=threshold)


def mask_on_source(volume: Volume, mask: FindingMask) -> FindingMask:
    """Put a mask of the volume's own grid onto the planes that it was read from."""
    if not volume.is_resampled:
        return mask
    return mask_from_grid(mask.voxels, grid_of(volume), volume, offset=mask.offset)


def point_on_source(volume: Volume, point_mm: ArrayLike) -> SourcePoint:
    """Find a point of the patient (LPS mm) on the nearest plane that was read."""
    point = np.asarray(point_mm, dtype=np.float64)
    index, distance = _nearest_plane(volume, point)
    column, row, _ = to_index(volume.stack.plane_affine(index), point)
    return SourcePoint(
        index, volume.frames[index], float(column) + 0.5, float(row) + 0.5, abs(distance)
    )


def _turned(volume: Volume, grid: Grid, outside: float) -> Voxels:
    """Sample linearly on a grid with other directions, or one sheared against the volume."""
    image = SimpleITK.GetImageFromArray(volume.voxels)
    image.SetSpacing(volume.spacing_mm[::-1])
    image.SetOrigin(volume.affine[:3, 3].tolist())
    image.SetDirection(_directions(volume.affine))
    sampler = SimpleITK.ResampleImageFilter()
    sampler.SetSize(grid.shape[::-1])
    sampler.SetOutputSpacing(grid.spacing_mm[::-1])
    sampler.SetOutputOrigin(grid.affine[:3, 3].tolist())
    sampler.SetOutputDirection(_directions(grid.affine))
    sampler.SetInterpolator(SimpleITK.sitkLinear)
    sampler.SetDefaultPixelValue(outside)
    sampler.SetOutputPixelType(SimpleITK.sitkFloat32)
    result: Voxels = SimpleITK.GetArrayFromImage(sampler.Execute(image))
    return result


def _directions(affine: Floats) -> list[float]:
    units = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    directions: list[float] = units.ravel().tolist()
    return directions


def _sample_plane(
    target: Voxels,
    block: Voxels,
    chain: Floats,
    start: NDArray[np.int_],
    low: NDArray[np.int_],
) -> None:
    """Interpolate a block of a grid at the pixels of a plane.

    ``chain`` maps (column, row, 0) of the plane to (last, middle, first) index of the grid.
    """
    rows, columns = np.meshgrid(
        low[1] + np.arange(target.shape[0]), low[2] + np.arange(target.shape[1]), indexing="ij"
    )
    coordinates = [
        chain[2 - axis, 0] * columns + chain[2 - axis, 1] * rows + chain[2 - axis, 3] - start[axis]
        for axis in range(3)
    ]
    map_coordinates(block, coordinates, output=target, order=1, mode="constant")


def _on_nearest_plane(
    block: Voxels, grid: Grid, volume: Volume, *, start: NDArray[np.int_], threshold: float
) -> FindingMask:
    """Put a block that lies between two planes onto the nearer one, along the normal."""
    nothing = FindingMask(offset=(0, 0, 0), voxels=np.zeros((0, 0, 0), np.bool_))
    meant = np.argwhere(block >= threshold)
    if not len(meant):
        return nothing
    middle = grid.patient_mm(meant.mean(axis=0) + start)
    index, distance = _nearest_plane(volume, middle)
    if abs(distance) > 0.5 * np.diff(volume.stack.distances_mm).max():
        return nothing
    through = volume.stack.plane_affine(index)
    through[:3, 3] += distance * volume.stack.normal
    _, rows, columns = volume.source_shape
    values = np.zeros((1, rows, columns), np.float32)
    low = np.array([index, 0, 0])
    _sample_plane(values[0], block, np.linalg.inv(grid.affine) @ through, start, low)
    reached = values >= min(threshold, values.max())
    return _tight(reached, low) if values.any() else nothing


def _nearest_plane(volume: Volume, point_mm: Floats) -> tuple[int, float]:
    """Return the plane nearest to a point, and how far beyond it the point lies, in mm."""
    along = float((point_mm - volume.stack.origins_mm[0]) @ volume.stack.normal)
    away = along - volume.stack.distances_mm
    index = int(np.argmin(np.abs(away)))
    return index, float(away[index])


def _source_box(
    volume: Volume, grid: Grid, start: NDArray[np.int_], shape: Sequence[int]
) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Return first and last + 1 (frame, row, column) of the planes that a block can reach."""
    ends = [(start[axis], start[axis] + shape[axis] - 1) for axis in range(3)]
    corners = grid.patient_mm(np.array(list(product(*ends))))
    stack = volume.stack
    first = np.linalg.inv(stack.plane_affine(0))
    placed = corners @ first[:3, :3].T + first[:3, 3]  # (column, row, mm along the normal)
    distances, shifts = stack.distances_mm, stack.offsets_pixels
    low_frame = np.searchsorted(distances, placed[:, 2].min() - 1e-6)
    high_frame = np.searchsorted(distances, placed[:, 2].max() + 1e-6)
    low = placed[:, 1::-1].min(axis=0) - shifts.max(axis=0)
    high = placed[:, 1::-1].max(axis=0) - shifts.min(axis=0)
    size = np.array(volume.source_shape)
    box_low = np.array([low_frame, *np.floor(low).astype(int)])
    box_high = np.array([high_frame, *np.ceil(high).astype(int) + 1])
    return np.clip(box_low, 0, size), np.clip(box_high, 0, size)


def _tight(mask: NDArray[np.bool_], low: NDArray[np.int_]) -> FindingMask:
    """Cut a mask to the voxels that are set; at least one is."""
    ranges = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(mask.any(axis=others))
        ranges.append((int(used[0]), int(used[-1]) + 1))
    cut = mask[tuple(slice(first, last) for first, last in ranges)]
    start = [int(low[axis]) + ranges[axis][0] for axis in range(3)]
    return FindingMask(offset=(start[0], start[1], start[2]), voxels=np.ascontiguousarray(cut))
