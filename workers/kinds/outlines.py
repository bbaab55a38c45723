"""Shapes of a mask in one image plane: its outline, its box, its RECIST axes.

A plane is boolean, shape (rows, columns). Points are (column, row) in pixels with (0, 0) at the top
left corner of the top left pixel, as SR wants them (PS3.3 C.18.6.1.2): the centre of pixel (r, c)
is (c + 0.5, r + 0.5).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

Point = tuple[float, float]
Plane = NDArray[np.bool_]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Chord:
    """A straight line across a lesion: its ends in pixels, its length in mm."""

    ends: tuple[Point, Point]
    length_mm: float


@dataclass(frozen=True)
class Axes:
    """The two RECIST axes of a lesion in a plane."""

    long: Chord
    short: Chord


def recist_axes(plane: Plane, *, row_spacing_mm: float, column_spacing_mm: float) -> Axes:
    """Return the longest diameter of the mask and the longest chord at a right angle to it.

    Both are taken on the convex hull of the mask's outline, through the middles of the outer pixel
    edges: a digitised disk then measures its diameter, which neither pixel centres (one pixel
    short) nor pixel corners (up to a diagonal too long) give.

    Parameters
    ----------
    plane
        At least one pixel set.
    row_spacing_mm, column_spacing_mm
        Distance between the centres of adjacent rows and columns.

    References
    ----------
    Eisenhauer et al., RECIST 1.1, Eur J Cancer 2009: longest diameter in the plane of
    measurement, and the longest perpendicular to it.

    Examples
    --------
    >>> plane = np.zeros((9, 9), bool); plane[4, 1:8] = True
    >>> axes = recist_axes(plane, row_spacing_mm=0.5, column_spacing_mm=0.5)
    >>> axes.long.length_mm, axes.short.length_mm
    (3.5, 0.5)
    """
    scale = np.array([column_spacing_mm, row_spacing_mm])
    points = _edge_middles(plane) * scale
    hull = points[ConvexHull(points).vertices]
    gaps = np.linalg.norm(hull[:, None] - hull[None], axis=2)
    first, second = np.unravel_index(int(gaps.argmax()), gaps.shape)
    long_ends = np.stack([hull[first], hull[second]])
    short_ends = _widest_across(hull, long_ends)
    return Axes(_chord(long_ends, scale), _chord(short_ends, scale))


def box_of(plane: Plane) -> tuple[Point, ...]:
    """Return the corners of the mask's bounding box, clockwise from the top left, closed."""
    rows = np.flatnonzero(plane.any(axis=1))
    columns = np.flatnonzero(plane.any(axis=0))
    top, bottom = float(rows[0]), float(rows[-1] + 1)
    left, right = float(columns[0]), float(columns[-1] + 1)
    return ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))


def outline_of(plane: Plane, *, tolerance_pixels: float = 0.35) -> tuple[Point, ...]:
    """Return the outer outline of the mask's piece with the longest outline, closed.

    Vertices lie on the middles of pixel edges; those nearer than `tolerance_pixels` to the line
    between their neighbours are left out (Douglas and Peucker).
    """
    loop = max(_loops(plane), key=len)
    corners = np.array(loop, dtype=np.float64)
    middles = (corners + np.roll(corners, -1, axis=0)) / 2
    # Two far vertices split the ring, for the algorithm works on open lines.
    far = int(np.linalg.norm(middles - middles[0], axis=1).argmax())
    ring = np.concatenate([middles, middles[:1]])
    kept = [
        *_simplified(ring[: far + 1], tolerance_pixels),
        *_simplified(ring[far:], tolerance_pixels)[1:],
    ]
    return tuple((float(x), float(y)) for x, y in kept)


def _chord(ends_mm: Points, scale: Points) -> Chord:
    (x0, y0), (x1, y1) = ends_mm / scale
    length = float(np.linalg.norm(ends_mm[1] - ends_mm[0]))
    return Chord(((float(x0), float(y0)), (float(x1), float(y1))), length)


def _edge_middles(plane: Plane) -> Points:
    """Return the middle of every pixel edge between mask and background, as (x, y) in pixels."""
    padded = np.pad(plane, 1)
    inner = padded[1:-1, 1:-1]
    sides = [
        (padded[:-2, 1:-1], 0.5, 0.0),
        (padded[2:, 1:-1], 0.5, 1.0),
        (padded[1:-1, :-2], 0.0, 0.5),
        (padded[1:-1, 2:], 1.0, 0.5),
    ]
    parts = []
    for neighbour, x, y in sides:
        rows, columns = np.nonzero(inner & ~neighbour)
        parts.append(np.stack([columns + x, rows + y], axis=1))
    return np.concatenate(parts)


def _widest_across(hull: Points, long_ends: Points) -> Points:
    """Return the ends of the longest chord of a convex polygon perpendicular to a line.

    Along the line, the distance between the upper and the lower chain is piecewise linear, so it
    is greatest at a vertex.
    """
    along = (long_ends[1] - long_ends[0]) / np.linalg.norm(long_ends[1] - long_ends[0])
    across = np.array([-along[1], along[0]])
    places = hull @ along
    heights = hull @ across
    start, end = int(places.argmin()), int(places.argmax())
    candidates = np.sort(places)
    upper, lower = (
        np.interp(candidates, *_chain(places, heights, start, end)),
        np.interp(candidates, *_chain(places, heights, end, start)),
    )
    best = int(np.abs(upper - lower).argmax())
    base = candidates[best] * along
    return np.stack([base + lower[best] * across, base + upper[best] * across])


def _chain(places: Points, heights: Points, first: int, last: int) -> tuple[Points, Points]:
    """Return one side of the polygon from vertex `first` on to `last`, in growing place."""
    count = len(places)
    indices = [(first + step) % count for step in range((last - first) % count + 1)]
    order = np.argsort(places[indices], kind="stable")
    return places[indices][order], heights[indices][order]


def _loops(plane: Plane) -> list[list[tuple[int, int]]]:
    """Return the closed walks along pixel corners (x, y) that keep the mask on their right."""
    following: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    padded = np.pad(plane, 1)
    inner = padded[1:-1, 1:-1]
    walks = [
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    ]
    for neighbour, start, end in walks:
        rows, columns = np.nonzero(inner & ~neighbour)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            following[column + start[0], row + start[1]].append((column + end[0], row + end[1]))
    loops = []
    while following:
        loops.append(_walk(following))
    return loops


def _walk(following: dict[tuple[int, int], list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Take one closed walk out of `following`."""
    start = next(iter(following))
    loop, here, heading = [], start, (0, 0)
    while True:
        loop.append(here)
        ways = following[here]
        # Where two pixels touch at a corner, the sharpest turn to the right stays on its pixel.
        way = max(ways, key=lambda there: _turn(heading, here, there))
        ways.remove(way)
        if not ways:
            del following[here]
        heading, here = (way[0] - here[0], way[1] - here[1]), way
        if here == start:
            return loop


def _turn(heading: tuple[int, int], here: tuple[int, int], there: tuple[int, int]) -> int:
    # With y downwards a positive cross product is a turn to the right.
    return heading[0] * (there[1] - here[1]) - heading[1] * (there[0] - here[0])


def _simplified(line: Points, tolerance: float) -> Sequence[Points]:
    """Return the vertices of an open line that matter at a tolerance."""
    keep = np.zeros(len(line), dtype=bool)
    keep[[0, -1]] = True
    spans = [(0, len(line) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        between = line[first + 1 : last] - line[first]
        chord = line[last] - line[first]
        length = float(np.linalg.norm(chord))
        off = (
            np.abs(between[:, 0] * chord[1] - between[:, 1] * chord[0]) / length
            if length
            else np.linalg.norm(between, axis=1)
        )
        worst = int(off.argmax())
        if off[worst] > tolerance:
            middle = first + 1 + worst
            keep[middle] = True
            spans += [(first, middle), (middle, last)]
    return list(line[keep])
