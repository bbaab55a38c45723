"""Outlines with their holes made one ring, for formats that know no holes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workers.results.contours import Loop

Ring = NDArray[np.float64]


def joined(loops: Sequence[Loop]) -> list[Ring]:
    """Return a ring of (column, row) for each outer outline, its holes reached through a cut.

    The cut is walked in both directions and so encloses nothing.

    Examples
    --------
    >>> outer, hole = [(0, 0), (4, 0), (4, 4), (0, 4)], [(1, 1), (1, 3), (3, 3), (3, 1)]
    >>> (ring,) = joined([outer, hole])
    >>> len(ring), float(area(ring))
    (10, 12.0)
    """
    rings = [np.array(loop, np.float64) for loop in loops]
    outer = [ring for ring in rings if area(ring) > 0]
    for hole in (ring for ring in rings if area(ring) < 0):
        number = next(i for i, ring in enumerate(outer) if _holds(ring, hole))
        outer[number] = _spliced(outer[number], hole)
    return outer


def area(ring: Ring) -> float:
    """Return the area inside a ring, positive for one that runs clockwise on the image."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _holds(ring: Ring, hole: Ring) -> bool:
    """Return whether the hole's first corner pixel lies inside the ring, by the even-odd rule."""
    following = hole[1] - hole[0]
    # A point inside the hole's first pixel: a hole has the mask on its right, itself on its left.
    inside = hole[0] + np.sign(following) / 2 + np.sign((following[1], -following[0])) / 2
    x, y = ring.T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    crossing = (y > inside[1]) != (next_y > inside[1])
    at = x + (inside[1] - y) * (next_x - x) / np.where(crossing, next_y - y, 1)
    return bool(np.count_nonzero(crossing & (at > inside[0])) % 2)


def _spliced(ring: Ring, hole: Ring) -> Ring:
    """Return the ring with a detour through the hole, from where the two are nearest."""
    gaps = np.linalg.norm(ring[:, None] - hole[None], axis=2)
    on_ring, on_hole = np.unravel_index(int(gaps.argmin()), gaps.shape)
    detour = np.concatenate([np.roll(hole, -on_hole, axis=0), hole[on_hole : on_hole + 1]])
    return np.concatenate([ring[: on_ring + 1], detour, ring[on_ring:]])
