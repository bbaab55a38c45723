"""Brings planes that are sheared (gantry tilt) or unevenly spaced onto an orthogonal grid.

The grid keeps the planes' own row and column direction and pixel size, so that values are only
moved within a plane and blended between neighbouring planes.
"""

from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from service.core.geometry import Floats, Stack, affine_of
from workers.volume.values import Values


def straighten(
    voxels: Values, stack: Stack, *, slice_spacing_mm: float, executor: Executor
) -> tuple[Values, Floats]:
    """Resample planes onto an orthogonal grid that covers all of them.

    Parameters
    ----------
    voxels
        One plane of the stack after the other, shape (slices, rows, columns).
    slice_spacing_mm
        Distance between the slices of the new grid.

    Returns
    -------
    tuple
        Voxels of the same type, and their affine. What no plane shows takes the least value of
        `voxels`, which in CT is air.
    """
    # Hundredths of a pixel are what positions with few decimals differ by; following them would
    # only blur the planes and add a border.
    offsets = np.round(stack.offsets_pixels, 2) * (not stack.is_perpendicular)
    first = np.floor(offsets.min(axis=0)).astype(int)
    size = np.array(voxels.shape[1:]) + np.ceil(offsets.max(axis=0)).astype(int) - first
    distances = stack.distances_mm
    count = int(np.floor(distances[-1] / slice_spacing_mm + 1e-6)) + 1
    straight = np.empty((count, *size), voxels.dtype)
    background = float(voxels.min())

    def fill(index: int) -> None:
        below, weight = _between(distances, index * slice_spacing_mm)
        plane = _shifted(voxels[below], offsets[below] - first, straight.shape[1:], background)
        if weight > 0:
            above = _shifted(
                voxels[below + 1], offsets[below + 1] - first, straight.shape[1:], background
            )
            plane += np.float32(weight) * (above - plane)
        straight[index] = np.rint(plane) if voxels.dtype.kind == "i" else plane

    list(executor.map(fill, range(count)))
    origin = (
        stack.origins_mm[0]
        + first[0] * stack.row_spacing_mm * stack.column_direction
        + first[1] * stack.column_spacing_mm * stack.row_direction
    )
    return straight, affine_of(stack, origin_mm=origin, slice_spacing_mm=slice_spacing_mm)


def _between(distances: Floats, distance: float) -> tuple[int, float]:
    """Return the plane at or below a distance, and how far the distance is on to the next."""
    below = int(np.searchsorted(distances, distance + 1e-6, side="right")) - 1
    below = min(max(below, 0), len(distances) - 1)
    if below == len(distances) - 1:
        return below, 0.0
    gap = distances[below + 1] - distances[below]
    weight = float(np.clip((distance - distances[below]) / gap, 0, 1))
    return (below, weight) if weight > 1e-6 else (below, 0.0)


def _shifted(
    plane: NDArray[np.generic], offset: Floats, shape: tuple[int, ...], background: float
) -> NDArray[np.float32]:
    """Return a plane moved by (rows, columns), linear between pixels, on a larger background."""
    whole = np.floor(offset + 1e-6).astype(int)
    rest = np.clip(offset - whole, 0, 1)
    rows, columns = plane.shape
    # One more row and column all round, so that the blend at the border reaches the background.
    moved = np.full((shape[0] + 2, shape[1] + 2), background, np.float32)
    top, left = whole + 1
    moved[top : top + rows, left : left + columns] = plane
    if rest[0] > 1e-6:
        moved[1:] += np.float32(rest[0]) * (moved[:-1] - moved[1:])
    if rest[1] > 1e-6:
        moved[:, 1:] += np.float32(rest[1]) * (moved[:, :-1] - moved[:, 1:])
    return moved[1:-1, 1:-1]
