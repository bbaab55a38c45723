"""Frames as a browser shows them: PNG or JPEG, by the window asked for or the image's own.

References
----------
DICOM PS3.18 section 8.3.5 (rendering parameters); PS3.3 C.11.2 (windows).
"""

import io
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.core.errors import InvalidRequest, NotFound
from service.core.headers import InstanceHeader
from service.dicomweb.pixels import FrameReader, is_native, ybr_to_rgb

MEDIA_TYPES: Final = ("image/png", "image/jpeg")
THUMBNAIL_PIXELS: Final = 128
_FUNCTIONS: Final = ("linear", "linear-exact", "sigmoid")
_VIEWPORT_LIMIT: Final = 4096
_PERCENTILES: Final = (0.5, 99.5)
Values = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Window:
    """Which values become black and white, in the image's own units."""

    center: float
    width: float
    function: str = "linear"


@dataclass(frozen=True)
class Rendering:
    """How to render; what is None is the image's own."""

    window: Window | None = None
    viewport: tuple[int, int] | None = None
    quality: int = 90


def rendering(*, window: str = "", viewport: str = "", quality: str = "") -> Rendering:
    """Read the parameters of a rendered resource.

    Raises
    ------
    InvalidRequest
        ``INVALID_QUERY`` naming the parameter that is wrong.
    """
    return Rendering(
        window=_window(window) if window else None,
        viewport=_viewport(viewport) if viewport else None,
        quality=_quality(quality) if quality else 90,
    )


def render(reader: FrameReader, number: int, how: Rendering, media_type: str) -> bytes:
    """Return a frame as PNG or JPEG.

    Raises
    ------
    NotFound
        ``NO_SUCH_FRAME``; ``NOT_RENDERED`` for what has no picture, such as floating point.
    RefusedInstance
        ``PIXEL_DATA`` when the frame cannot be read.
    """
    picture = Image.fromarray(_shown(reader, number, how))
    if how.viewport is not None:
        # PIL keeps the proportions and never enlarges.
        picture.thumbnail(how.viewport, Image.Resampling.BILINEAR)
    written = io.BytesIO()
    if media_type == "image/jpeg":
        picture.save(written, "JPEG", quality=how.quality)
    else:
        picture.save(written, "PNG", compress_level=1)
    return written.getvalue()


def _shown(reader: FrameReader, number: int, how: Rendering) -> NDArray[np.uint8]:
    header = reader.instance.header
    samples = reader.samples(number)
    if reader.format.samples > 1:
        return _colour(samples, header, native=is_native(reader.instance))
    if reader.format.bits_allocated == 1:
        return np.asarray(samples * 255, np.uint8)
    if not header.photometric_interpretation.startswith("MONOCHROME"):
        raise NotFound("NOT_RENDERED", "frames of this kind are not rendered")
    values = _modality_values(samples, header, number)
    grey = windowed(values, how.window or _own_window(values, header))
    inverse = header.photometric_interpretation == "MONOCHROME1"
    return 255 - grey if inverse else grey


def _colour(samples: NDArray[Any], header: InstanceHeader, *, native: bool) -> NDArray[np.uint8]:
    if samples.dtype != np.uint8 or samples.shape[2] != 3:
        raise NotFound("NOT_RENDERED", "frames of this kind are not rendered")
    if native and header.photometric_interpretation == "YBR_FULL":
        return ybr_to_rgb(samples)
    return np.ascontiguousarray(samples)


def _modality_values(samples: NDArray[Any], header: InstanceHeader, number: int) -> Values:
    """Return stored values after sign and rescale, in the units that windows are given in."""
    bits = min(header.bits_stored or header.bits_allocated or 16, samples.dtype.itemsize * 8)
    shift = max((header.high_bit or bits - 1) - bits + 1, 0)
    stored = (samples.astype(np.int64) >> shift) & ((1 << bits) - 1)
    if header.pixel_representation == 1:
        stored = np.where(stored >> (bits - 1), stored - (1 << bits), stored)
    slope, intercept = header.rescale_slope, header.rescale_intercept
    if number <= len(header.frames) and header.frames[number - 1].rescale_slope is not None:
        frame = header.frames[number - 1]
        slope, intercept = frame.rescale_slope, frame.rescale_intercept
    return stored.astype(np.float32) * np.float32(slope or 1.0) + np.float32(intercept or 0.0)


def _own_window(values: Values, header: InstanceHeader) -> Window:
    """Return the window that the header names, else one that shows what is there."""
    if header.window_center is not None and (header.window_width or 0) >= 1:
        return Window(header.window_center, float(header.window_width or 1))
    low, high = (float(value) for value in np.percentile(values, _PERCENTILES))
    return Window((low + high) / 2, max(high - low, 1.0), "linear-exact")


def windowed(values: Values, window: Window) -> NDArray[np.uint8]:
    """Return values as grey levels (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    >>> windowed(np.array([-1000.0, 40.0, 3000.0]), Window(40, 400)).tolist()
    [0, 128, 255]
    """
    center, width = window.center, window.width
    if window.function == "sigmoid":
        exponent = np.clip(-4 * (values - center) / width, -50, 50)
        return np.asarray(np.round(255 / (1 + np.exp(exponent))), np.uint8)
    if window.function == "linear":
        center, width = center - 0.5, max(width - 1, 1e-6)
    share = (values - center) / width + 0.5
    return np.asarray(np.round(np.clip(share, 0, 1) * 255), np.uint8)


def _window(text: str) -> Window:
    parts = [part.strip().lower() for part in text.split(",")]
    try:
        center, width = float(parts[0]), float(parts[1])
    except (ValueError, IndexError):
        raise _invalid("window: takes center,width,function") from None
    function = parts[2].replace("_", "-") if len(parts) > 2 else "linear"
    least = 1.0 if function == "linear" else 1e-6
    if not (math.isfinite(center) and math.isfinite(width)) or width < least:
        raise _invalid("window: takes a center, and a width that is not too small")
    if function not in _FUNCTIONS or len(parts) > 3:
        raise _invalid(f"window: takes one of the functions {', '.join(_FUNCTIONS)}")
    return Window(center, width, function)


def _viewport(text: str) -> tuple[int, int]:
    parts = text.split(",")
    sizes = [
        int(part) if part.isascii() and part.isdigit() and len(part) < 6 else 0 for part in parts
    ]
    if len(sizes) != 2 or not all(1 <= size <= _VIEWPORT_LIMIT for size in sizes):
        raise _invalid(f"viewport: takes width,height, each from 1 to {_VIEWPORT_LIMIT}")
    return sizes[0], sizes[1]


def _quality(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= 100):
        raise _invalid("quality: takes a number from 1 to 100")
    return int(text)


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest("INVALID_QUERY", message)
