"""To a network's grid and back: voxels one way, masks and points the other.

Between grids whose axes are parallel each axis is resampled on its own, with a triangle filter
that widens when the grid becomes coarser, so that thin structures are averaged and not skipped.
Masks return straight to the planes that were read, however the volume was resampled.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.ndimage import map_coordinates

from service.core.findings import FindingMask
from service.core.geometry import Floats, to_index
from service.core.headers import SourceFrame
from workers.volume.grid import Grid, grid_of
from workers.volume.series import Volume, default_threads

Voxels = NDArray[np.float32]
_Each = Callable[..., Iterable[None]]

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


@dataclass(frozen=True)
class _AxisMap:
    """Source index = scale x grid index + offset, along one axis."""

    scale: float
    offset: float
    source_size: int
    size: int

    @property
    def inside(self) -> tuple[int, int]:
        """First and last + 1 grid index whose voxel lies within the source, but for rounding."""
        first = np.ceil((-0.5 - self.offset) / self.scale + 0.5 - 1e-6)
        last = np.floor((self.source_size - 0.5 - self.offset) / self.scale - 0.5 + 1e-6)
        return max(0, int(first)), min(self.size, int(last) + 1)

    @property
    def centred_inside(self) -> tuple[int, int]:
        """First and last + 1 grid index whose centre lies within the source's voxels."""
        first = np.ceil((-0.5 - self.offset) / self.scale - 1e-6)
        last = np.floor((self.source_size - 0.5 - self.offset) / self.scale + 1e-6)
        return max(0, int(first)), min(self.size, int(last) + 1)

    @property
    def is_copy(self) -> bool:
        """Whether grid voxels are source voxels."""
        whole = abs(self.offset - round(self.offset)) < 1e-3
        return abs(self.scale - 1) < 1e-6 and whole

    def span(self, first: int, last: int) -> tuple[float, float]:
        """Return the borders, in source voxels counted from 0, of the grid voxels [first, last)."""
        low = self.scale * (first - 0.5) + self.offset + 0.5
        high = self.scale * (last - 0.5) + self.offset + 0.5
        return max(0.0, low), min(float(self.source_size), high)

    def weights(self, index: int) -> tuple[int, Floats]:
        """Return the first source index that a grid index draws on, and the weights from there."""
        center = self.scale * index + self.offset
        support = max(1.0, self.scale)
        first = max(0, int(np.ceil(center - support + 1e-9)))
        last = min(self.source_size - 1, int(np.floor(center + support - 1e-9)))
        if last < first:
            return min(max(round(center), 0), self.source_size - 1), np.ones(1)
        weights = 1 - np.abs(np.arange(first, last + 1) - center) / support
        return first, weights / weights.sum()


def to_grid(
    volume: Volume, grid: Grid, *, background: float | None = None, threads: int | None = None
) -> Voxels:
    """Return the volume's values on another grid, float32, in the grid's array order.

    ``background`` stands where the grid reaches beyond the volume; by default the volume's least
    value. Grids turned against the volume are sampled linearly, without the widened filter.
    """
    outside = float(volume.voxels.min()) if background is None else background
    aligned = _aligned(volume, grid)
    if aligned is None:
        return _turned(volume, grid, outside)
    source, maps = aligned
    result = np.full(grid.shape, outside, np.float32)
    if result.size < _SMALL:
        _resample_axes(source, result, maps, map)
    else:
        with ThreadPoolExecutor(threads or default_threads()) as executor:
            _resample_axes(source, result, maps, executor.map)
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


def _aligned(volume: Volume, grid: Grid) -> tuple[NDArray[Any], list[_AxisMap]] | None:
    """Return a view of the voxels with the grid's axes, and the map along each; None if turned."""
    chain = np.linalg.inv(volume.affine) @ grid.affine
    linear = chain[2::-1, 2::-1]  # both sides in array order
    translation = chain[2::-1, 3]
    order = np.argmax(np.abs(linear), axis=0)
    scales = linear[order, range(3)]
    rest = linear.copy()
    rest[order, range(3)] = 0
    # A thousandth of a voxel over the whole grid: positions in headers are not exacter.
    if len(set(order)) < 3 or np.abs(rest * np.array(grid.shape)).max() > 1e-3:
        return None
    view = np.transpose(volume.voxels, order)
    maps = []
    for axis in range(3):
        scale, offset, size = scales[axis], translation[order[axis]], view.shape[axis]
        if scale < 0:
            view = np.flip(view, axis)
            scale, offset = -scale, size - 1 - offset
        maps.append(_AxisMap(float(scale), float(offset), size, grid.shape[axis]))
    return view, maps


def _resample_axes(
    source: NDArray[Any], result: Voxels, maps: Sequence[_AxisMap], each: _Each
) -> None:
    """Resample plane by plane, then across planes; only planes that are drawn on are touched."""
    first, last = maps[0].centred_inside
    if first >= last:
        return
    if maps[0].is_copy:
        low = round(maps[0].offset) + first
        count = last - first
        list(each(_plane, source[low : low + count], result[first:last], [maps] * count))
        return
    drawn = [maps[0].weights(index) for index in range(first, last)]
    low = drawn[0][0]
    high = max(start + len(weights) for start, weights in drawn)
    planes = np.repeat(result[:1], high - low, axis=0)
    list(each(_plane, source[low:high], planes, [maps] * (high - low)))

    def blend(index: int) -> None:
        start, weights = drawn[index - first]
        used = planes[start - low : start - low + len(weights)]
        np.einsum("k,kij->ij", weights.astype(np.float32), used, out=result[index])

    list(each(blend, range(first, last)))


def _plane(source: NDArray[Any], target: Voxels, maps: Sequence[_AxisMap]) -> None:
    """Fill the part of `target` that lies within the source plane."""
    rows, columns = maps[1], maps[2]
    (top, bottom), (left, right) = rows.inside, columns.inside
    if top >= bottom or left >= right:
        return
    (y0, y1), (x0, x1) = rows.span(top, bottom), columns.span(left, right)
    if rows.is_copy and columns.is_copy:
        y, x = round(y0), round(x0)
        target[top:bottom, left:right] = source[y : y + bottom - top, x : x + right - left]
        return
    # Pillow's filter may reach one widened voxel beyond the box.
    reach_y, reach_x = int(np.ceil(rows.scale)) + 1, int(np.ceil(columns.scale)) + 1
    y_low, x_low = max(0, int(y0) - reach_y), max(0, int(x0) - reach_x)
    cut = source[y_low : int(np.ceil(y1)) + reach_y, x_low : int(np.ceil(x1)) + reach_x]
    image = Image.fromarray(np.ascontiguousarray(cut, dtype=np.float32))
    resized = image.resize(
        (right - left, bottom - top),
        Image.Resampling.BILINEAR,
        box=(x0 - x_low, y0 - y_low, x1 - x_low, y1 - y_low),
    )
    target[top:bottom, left:right] = np.asarray(resized)


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
