"""Bringing a radiograph to the size a network wants, and what it shows back to the image.

Positions count from the top left corner of the top left pixel, so that resizing maps edges to
edges: no half pixel is lost either way.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Fit:
    """How an image lies on the canvas: its scaled size, and where its top left corner falls.

    ``top`` and ``left`` are negative where the image is larger than the canvas and is cut.
    """

    image: tuple[int, int]
    canvas: tuple[int, int]
    scaled: tuple[int, int]
    top: int
    left: int


def fit_of(image: tuple[int, int], canvas: tuple[int, int], fit: str) -> Fit:
    """Return how an image (rows, columns) comes onto a canvas (rows, columns).

    ``stretch`` fills it, ``letterbox`` keeps the aspect and leaves bars, ``crop`` keeps the aspect
    and cuts the longer side.
    """
    if fit == "stretch":
        return Fit(image, canvas, canvas, 0, 0)
    ratios = (canvas[0] / image[0], canvas[1] / image[1])
    scale = min(ratios) if fit == "letterbox" else max(ratios)
    scaled = (max(1, round(image[0] * scale)), max(1, round(image[1] * scale)))
    return Fit(image, canvas, scaled, (canvas[0] - scaled[0]) // 2, (canvas[1] - scaled[1]) // 2)


def resized(pixels: Array, size: tuple[int, int]) -> Array:
    """Return an image of another size (rows, columns), filtered against aliasing."""
    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def on_canvas(scaled: Array, fit: Fit, *, padding: float) -> Array:
    """Return the scaled image on its canvas, bars filled with `padding`."""
    canvas = np.full(fit.canvas, padding, dtype=np.float32)
    inside, seen = _overlap(fit)
    canvas[inside] = scaled[seen]
    return canvas


def on_image(evidence: Array, fit: Fit) -> Array:
    """Return a map of the canvas, of any resolution, on the whole image; 0 where it was cut off."""
    rows, columns = fit.image
    inside, seen = _overlap(fit)
    per_row, per_column = evidence.shape[0] / fit.canvas[0], evidence.shape[1] / fit.canvas[1]
    box = (
        inside[1].start * per_column,
        inside[0].start * per_row,
        inside[1].stop * per_column,
        inside[0].stop * per_row,
    )
    top, bottom = (round(edge * rows / fit.scaled[0]) for edge in (seen[0].start, seen[0].stop))
    left, right = (round(edge * columns / fit.scaled[1]) for edge in (seen[1].start, seen[1].stop))
    source = Image.fromarray(np.ascontiguousarray(evidence, dtype=np.float32))
    part = source.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=box)
    whole = np.zeros(fit.image, dtype=np.float32)
    whole[top:bottom, left:right] = np.asarray(part)
    return whole


def _overlap(fit: Fit) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the part of the canvas that the image covers, and the part of the image seen there."""
    inside, seen = [], []
    for start, length, edge in zip((fit.top, fit.left), fit.scaled, fit.canvas, strict=True):
        first, last = max(start, 0), min(start + length, edge)
        inside.append(slice(first, last))
        seen.append(slice(first - start, last - start))
    return (inside[0], inside[1]), (seen[0], seen[1])
