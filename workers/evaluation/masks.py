"""Masks of findings on the source planes, and how they pair with the pieces of a reference."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.core.findings import FindingMask

Mask = NDArray[np.bool_]
Box = tuple[slice, ...]
_TOUCHING = np.ones((3, 3, 3))


@dataclass(frozen=True)
class Piece:
    """A connected piece of a mask: its box, its voxels in the box, and their number."""

    box: Box
    voxels: Mask
    size: int


def union(masks: Iterable[FindingMask], shape: tuple[int, ...]) -> Mask:
    """Return masks together as one array of the source planes' shape."""
    full = np.zeros(shape, np.bool_)
    for mask in masks:
        full[box_of(mask)] |= mask.voxels
    return full


def box_of(mask: FindingMask) -> Box:
    """Return where on the source planes a mask's block lies."""
    return tuple(
        slice(start, start + length)
        for start, length in zip(mask.offset, mask.voxels.shape, strict=True)
    )


def pieces(mask: Mask) -> Iterator[Piece]:
    """Yield the connected pieces of a mask, shape (planes, rows, columns)."""
    parts, _ = ndimage.label(mask, _TOUCHING)
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        voxels = parts[box] == number
        yield Piece(box, voxels, int(voxels.sum()))


def best_dice(piece: Piece, found: Sequence[FindingMask]) -> float:
    """Return the Dice of the mask that fits a piece best, 0 where none meets it."""
    scores = [
        2 * shared / (piece.size + int(mask.voxels.sum()))
        for mask in found
        if (shared := overlap(piece, mask))
    ]
    return max(scores, default=0.0)


def overlap(piece: Piece, mask: FindingMask) -> int:
    """Return how many voxels a piece and a mask share."""
    mine, other = [], []
    for own, theirs in zip(piece.box, box_of(mask), strict=True):
        low, high = max(own.start, theirs.start), min(own.stop, theirs.stop)
        if low >= high:
            return 0
        mine.append(slice(low - own.start, high - own.start))
        other.append(slice(low - theirs.start, high - theirs.start))
    return int((piece.voxels[tuple(mine)] & mask.voxels[tuple(other)]).sum())
