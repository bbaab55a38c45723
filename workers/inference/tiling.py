"""Covering a volume with overlapping windows and blending what a network says in each.

Arrays are (z, y, x), maps (channels, z, y, x). A network of stride s gives maps whose cell i covers
voxels i·s to i·s + s - 1, so windows start at multiples of the stride and maps add up cell by
cell.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from service.core.errors import ContractViolation

Array = NDArray[np.float32]
Run = Callable[[Array], Mapping[str, Array]]
Box = tuple[slice, ...]


@dataclass(frozen=True)
class Plan:
    """The windows that cover a region.

    `frame` is the box of the volume that the windows together span, in voxels; `starts` are the
    first voxels of the windows, in voxels of the volume.
    """

    frame: Box
    patch: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    stride: int


@dataclass(frozen=True)
class Blend:
    """Blended maps over the plan's frame, by output name, and the cells that a window reached.

    Maps have shape (channels, z, y, x) in cells; cells that no window reached hold 0.
    """

    maps: Mapping[str, Array]
    covered: NDArray[np.bool_]


def plan_windows(
    shape: Sequence[int],
    patch: Sequence[int],
    *,
    overlap: float,
    stride: int = 1,
    region: NDArray[np.bool_] | None = None,
) -> Plan:
    """Return the windows over a volume of `shape`, only those that meet `region` where given.

    The volume has to be at least as large as the patch; patch and shape are multiples of the
    stride (see `padded`).
    """
    bounds = _bounds(shape, region)
    axes = [
        _starts(low, high, edge, length, step=_step(edge, overlap, stride), stride=stride)
        for (low, high), edge, length in zip(bounds, patch, shape, strict=True)
    ]
    starts = [
        start for start in product(*axes) if region is None or region[_box(start, patch)].any()
    ]
    if not starts:
        return Plan(tuple(slice(0, 0) for _ in shape), tuple(patch), (), stride)
    lows = np.min(starts, axis=0)
    highs = np.max(starts, axis=0) + np.asarray(patch)
    frame = tuple(slice(int(low), int(high)) for low, high in zip(lows, highs, strict=True))
    return Plan(frame, tuple(patch), tuple(starts), stride)


def blend_windows(
    volume: Array,
    plan: Plan,
    run: Run,
    *,
    blending: str = "gaussian",
    batch: int = 1,
    on_window: Callable[[int, int], None] = lambda done, total: None,
) -> Blend:
    """Run the network on every window and return the weighted mean of its outputs.

    `run` takes (N, 1, z, y, x) and returns maps (N, channels, z/s, y/s, x/s) by name. Window after
    window is added in place: memory holds the maps of the frame once, not once a window.

    Raises
    ------
    ContractViolation
        ``MODEL_OUTPUT`` when a map does not have one cell for every stride of voxels.
    """
    cells = tuple((part.stop - part.start) // plan.stride for part in plan.frame)
    patch_cells = tuple(edge // plan.stride for edge in plan.patch)
    weight = window_weights(patch_cells, blending)
    total = np.zeros(cells, dtype=np.float32)
    maps: dict[str, Array] = {}
    for done, starts in _batches(plan.starts, batch):
        windows = np.stack([volume[_box(start, plan.patch)] for start in starts])[:, None]
        outputs = run(windows)
        _require_cells(outputs, len(starts), patch_cells)
        for index, start in enumerate(starts):
            place = _cells(start, plan, patch_cells)
            total[place] += weight
            for name, output in outputs.items():
                held = maps.setdefault(name, np.zeros((output.shape[1], *cells), dtype=np.float32))
                held[(slice(None), *place)] += output[index] * weight
        on_window(done, len(plan.starts))
    covered = total > 0
    np.maximum(total, np.finfo(np.float32).tiny, out=total)
    for blended in maps.values():
        np.divide(blended, total, out=blended)
    return Blend(maps, covered)


def padded(volume: Array, patch: Sequence[int], *, stride: int, value: float) -> Array:
    """Return the volume, padded at its far ends to hold one patch and whole cells."""
    wanted = [
        max(edge, -(-length // stride) * stride)
        for length, edge in zip(volume.shape, patch, strict=True)
    ]
    if list(volume.shape) == wanted:
        return volume
    margins = [(0, size - length) for size, length in zip(wanted, volume.shape, strict=True)]
    return np.pad(volume, margins, constant_values=value)


def _bounds(shape: Sequence[int], region: NDArray[np.bool_] | None) -> list[tuple[int, int]]:
    """Return first and last-plus-one voxel of the region along each axis."""
    if region is None:
        return [(0, length) for length in shape]
    bounds = []
    for axis in range(len(shape)):
        others = tuple(other for other in range(len(shape)) if other != axis)
        met = np.flatnonzero(region.any(axis=others))
        bounds.append((int(met[0]), int(met[-1]) + 1) if met.size else (0, 0))
    return bounds


def _step(edge: int, overlap: float, stride: int) -> int:
    return max(stride, int(edge * (1 - overlap)) // stride * stride)


def _starts(low: int, high: int, edge: int, length: int, *, step: int, stride: int) -> list[int]:
    """Return window starts that cover [low, high) evenly, within [0, length)."""
    last = (length - edge) // stride * stride
    first = min(low // stride * stride, last)
    if high - first <= edge:
        # One window does: centre it on the region, so that its edge, where networks are worst,
        # stays away from the content.
        centered = (low + high - edge) // 2 // stride * stride
        return [min(max(centered, 0), last)]
    count = -(-(high - first - edge) // step) + 1
    end = min(-(-(high - edge) // stride) * stride, last)
    return sorted({int(place) // stride * stride for place in np.linspace(first, end, count)})


def _box(start: Sequence[int], patch: Sequence[int]) -> Box:
    return tuple(slice(place, place + edge) for place, edge in zip(start, patch, strict=True))


def _cells(start: Sequence[int], plan: Plan, patch_cells: Sequence[int]) -> Box:
    origin = [
        (place - part.start) // plan.stride for place, part in zip(start, plan.frame, strict=True)
    ]
    return _box(origin, patch_cells)


def _require_cells(outputs: Mapping[str, Array], count: int, patch_cells: tuple[int, ...]) -> None:
    for name, output in outputs.items():
        if output.shape[0] != count or output.shape[2:] != patch_cells:
            raise ContractViolation(
                "MODEL_OUTPUT",
                f"{name}: found {output.shape}, allowed {(count, 'channels', *patch_cells)}",
            )


def _batches(
    starts: Sequence[tuple[int, ...]], size: int
) -> Iterator[tuple[int, Sequence[tuple[int, ...]]]]:
    for first in range(0, len(starts), size):
        chosen = starts[first : first + size]
        yield first + len(chosen), chosen


def window_weights(shape: Sequence[int], blending: str) -> Array:
    """Return the weight of each cell of a window: flat, or falling off from its centre.

    The Gaussian has a standard deviation of an eighth of the edge, as nnU-Net has it, and never
    falls below a thousandth, so that corners which only one window reaches keep their value.
    """
    weight = np.ones(shape, dtype=np.float32)
    if blending == "constant":
        return weight
    for axis, edge in enumerate(shape):
        distance = (np.arange(edge) - (edge - 1) / 2) / max(edge / 8, 1e-6)
        profile = np.exp(-0.5 * distance**2).astype(np.float32)
        weight *= profile.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    return np.maximum(weight, np.float32(weight.max() * 1e-3), dtype=np.float32)
