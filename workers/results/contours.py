"""Outlines of a mask's planes along the edges of its pixels, so that they enclose exactly it."""

import numpy as np
from numpy.typing import NDArray

Corner = tuple[int, int]
Loop = list[Corner]


def loops_of(plane: NDArray[np.bool_]) -> list[Loop]:
    """Return every outline of a plane, holes included, as corners where it turns.

    Parameters
    ----------
    plane
        Boolean, shape (rows, columns).

    Returns
    -------
    list
        Loops of (column, row), (0, 0) being the top left corner of the top left pixel; the first
        corner is not repeated. Outer outlines run clockwise as seen on the image, holes the other
        way. Pixels that touch only at a corner belong to different loops.

    Examples
    --------
    >>> plane = np.zeros((4, 5), bool); plane[1:3, 1:4] = True
    >>> loops_of(plane)
    [[(1, 1), (4, 1), (4, 3), (1, 3)]]
    """
    after = _directed_edges(plane)
    loops = []
    while after:
        start = next(iter(after))
        loops.append(_walk(after, start))
    return loops


def _directed_edges(plane: NDArray[np.bool_]) -> dict[Corner, list[Corner]]:
    """Return where the edges that begin at each corner lead to, the mask on their right."""
    padded = np.pad(plane, 1)
    inner = padded[1:-1, 1:-1]
    sides = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # above: from left to right
        (padded[1:-1, 2:], (1, 0), (1, 1)),  # on the right: downwards
        (padded[2:, 1:-1], (1, 1), (0, 1)),  # below: from right to left
        (padded[1:-1, :-2], (0, 1), (0, 0)),  # on the left: upwards
    )
    after: dict[Corner, list[Corner]] = {}
    for neighbour, (from_x, from_y), (to_x, to_y) in sides:
        rows, columns = np.nonzero(inner & ~neighbour)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            start = (column + from_x, row + from_y)
            after.setdefault(start, []).append((column + to_x, row + to_y))
    return after


def _walk(after: dict[Corner, list[Corner]], start: Corner) -> Loop:
    """Follow edges from a corner back to it, using them up; keep the corners of turns."""
    at, step = start, (0, 0)
    loop: Loop = []
    while True:
        following = _next(after, at, step)
        new_step = (following[0] - at[0], following[1] - at[1])
        if new_step != step:
            loop.append(at)
        at, step = following, new_step
        if at == start:
            break
    first = loop[0], loop[1 % len(loop)]
    if step == _direction(*first):  # the walk began in the middle of a side
        loop.pop(0)
    return loop


def _next(after: dict[Corner, list[Corner]], at: Corner, step: Corner) -> Corner:
    """Take the edge that leaves a corner; of two, the one that stays at the same pixel."""
    leaving = after[at]
    turned = (at[0] - step[1], at[1] + step[0])
    following = turned if turned in leaving else leaving[0]
    leaving.remove(following)
    if not leaving:
        del after[at]
    return following


def _direction(start: Corner, end: Corner) -> Corner:
    """Return the unit step along an axis from one corner to another."""
    return (int(np.sign(end[0] - start[0])), int(np.sign(end[1] - start[1])))
