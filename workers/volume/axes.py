"""Resampling between grids whose axes are parallel, one axis at a time.

The filter is a triangle, one voxel to each side of the coarser of the two grids, with whole voxels
as its frame of reference: within planes Pillow's, across planes the same in numpy.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.core.geometry import Floats
from workers.volume.grid import Grid
from workers.volume.series import Volume

Voxels = NDArray[np.float32]
Each = Callable[..., Iterable[None]]


@dataclass(frozen=True)
class AxisMap:
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


def aligned_view(volume: Volume, grid: Grid) -> tuple[NDArray[Any], list[AxisMap]] | None:
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
        maps.append(AxisMap(float(scale), float(offset), size, grid.shape[axis]))
    return view, maps


def resample_axes(
    source: NDArray[Any], result: Voxels, maps: Sequence[AxisMap], each: Each
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


def _plane(source: NDArray[Any], target: Voxels, maps: Sequence[AxisMap]) -> None:
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
