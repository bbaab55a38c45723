"""Small pictures for reports: one slice or radiograph with reference and findings drawn on it."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

Grey = NDArray[np.float32]
Mask = NDArray[np.bool_]

REFERENCE = (64, 200, 96)
FOUND = (240, 96, 64)
_EDGE = 256
_OUTLINE_WIDTH = 2


@dataclass(frozen=True)
class Ring:
    """A circle on a picture: centre (column, row) and radius in pixels of the image."""

    column: float
    row: float
    radius: float
    colour: tuple[int, int, int]


def picture(
    pixels: NDArray[np.generic],
    *,
    window: tuple[float, float],
    rings: tuple[Ring, ...] = (),
    reference: Mask | None = None,
    found: Mask | None = None,
) -> str:
    """Return an image, its longer side brought to 256 pixels, as a PNG in a data URI.

    Outlines of masks (same shape as `pixels`) are drawn in green for the reference and in orange
    for what was found; `window` is what becomes black and white.
    """
    low, high = window
    grey = np.clip((np.asarray(pixels, np.float32) - low) / max(high - low, 1e-6), 0, 1)
    scale = (
        min(1.0, _EDGE / max(grey.shape)) if max(grey.shape) > _EDGE else _EDGE / max(grey.shape)
    )
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    image = Image.fromarray((grey * 255).astype(np.uint8)).resize(size).convert("RGB")
    canvas = np.array(image)
    for mask, colour in ((reference, REFERENCE), (found, FOUND)):
        if mask is not None and mask.any():
            canvas[_outline(mask, size)] = colour
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for ring in rings:
        x, y, radius = ring.column * scale, ring.row * scale, max(4.0, ring.radius * scale + 3)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=ring.colour, width=2)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _outline(mask: Mask, size: tuple[int, int]) -> Mask:
    scaled = np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), np.bool_)
    inner = ndimage.binary_erosion(scaled, iterations=_OUTLINE_WIDTH)
    return np.asarray(scaled & ~inner, np.bool_)


def window_of(pixels: NDArray[np.generic], unit: str) -> tuple[float, float]:
    """Return what is to be black and white: percentiles, or for HU a window that fits them."""
    low, high = np.percentile(np.asarray(pixels, np.float32), [1, 99.5])
    if unit != "HU":
        return float(low), float(high)
    # Mostly air and lung: the lung's window; else soft tissue's.
    return (-1350.0, 150.0) if np.median(np.asarray(pixels)) < -300 else (-160.0, 240.0)
