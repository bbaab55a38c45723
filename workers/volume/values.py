"""What stored values mean: bits, sign, padding, rescale and unit.

PS3.3 C.7.6.3 (Image Pixel), C.7.5.1.1.2 (Pixel Padding), C.11.1 (Modality LUT).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.core.errors import UnsuitableSeries
from service.core.headers import InstanceHeader, SourceFrame
from workers.volume.decoders import Stored
from workers.volume.pixels import FrameFormat

Values = NDArray[np.int16 | np.float32]

# The least value of the common 12-bit CT scale. Nothing is thinner than air: what lies below stands
# outside the field of view, whether it is marked as padding or, as often, is not.
AIR_HU = -1024
HOUNSFIELD = "HU"
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class Meaning:
    """How the stored values of one frame become values in a unit."""

    slope: float
    intercept: float
    padding: tuple[int, int] | None = None

    @property
    def is_whole_shift(self) -> bool:
        """Whether values differ from stored ones by a whole number that 16 bits hold."""
        whole = self.slope == 1 and float(self.intercept).is_integer()
        return whole and abs(self.intercept) <= _INT16.max


def meaning_of(frame: SourceFrame) -> Meaning:
    """Return how a frame's stored values are to be read; without a rescale they stand as they are.

    Raises
    ------
    UnsuitableSeries
        ``MODALITY_LUT`` when the instance maps its values by a table instead of a line;
        ``PIXEL_DATA`` when the slope is 0.
    """
    header = frame.instance
    if header.has_modality_lut:
        raise UnsuitableSeries("MODALITY_LUT", "stored values go through a modality lookup table")
    slope, intercept = _rescale_of(frame)
    if slope == 0:
        raise UnsuitableSeries("PIXEL_DATA", "the rescale slope is 0")
    return Meaning(
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
        padding=padding_range(header),
    )


def unit_of(frames: Sequence[SourceFrame]) -> str:
    """Return the unit of the rescaled values: ``HU``, what Rescale Type says, or nothing.

    CT without a Rescale Type is in Hounsfield units (PS3.3 C.8.2.1), but only with a rescale.
    """
    types = {frame.instance.rescale_type for frame in frames}
    if len(types) > 1:
        raise UnsuitableSeries("UNIT", f"the unit varies: {', '.join(sorted(types))}")
    rescaled = all(_rescale_of(frame)[0] is not None for frame in frames)
    named = types.pop()
    if named == HOUNSFIELD or (not named and frames[0].instance.modality == "CT"):
        return HOUNSFIELD if rescaled else ""
    return "" if named == "US" else named


def padding_range(header: InstanceHeader) -> tuple[int, int] | None:
    """Return the least and greatest stored value that is padding, or None.

    Pixel Padding Value is often written with the other sign's VR (GE: US 63536 beside signed
    pixels, meaning -2000), so it is taken as a bit pattern.
    """
    first = header.pixel_padding_value
    if first is None or not header.bits_allocated:
        return None
    limit = header.pixel_padding_range_limit
    signed = header.pixel_representation == 1
    ends = [
        _as_stored(value, header.bits_allocated, signed=signed)
        for value in (first, first if limit is None else limit)
    ]
    return min(ends), max(ends)


def value_type(
    formats: Sequence[FrameFormat], meanings: Sequence[Meaning], unit: str
) -> type[np.int16] | type[np.float32]:
    """Return the type that holds the values of all frames: int16 where it is enough.

    Hounsfield units above 32767, which no matter reaches, are cut off rather than doubling the
    memory of a volume; other units keep every value.
    """
    for stored, meaning in zip(formats, meanings, strict=True):
        if not meaning.is_whole_shift or stored.bits_allocated > 16:
            return np.float32
        low, high = stored_range(stored)
        fits = low + meaning.intercept >= _INT16.min and high + meaning.intercept <= _INT16.max
        if not fits and unit != HOUNSFIELD:
            return np.float32
    return np.int16


def shift_in_place(frame: Values, stored: FrameFormat, meaning: Meaning, *, unit: str) -> None:
    """Turn stored 16-bit patterns into values of type int16 where they lie.

    Hounsfield units below air become air.
    """
    raw: Stored = frame.view(stored.dtype)
    shift = int(meaning.intercept)
    least = AIR_HU if unit == HOUNSFIELD else int(_INT16.min)
    low, high = stored_range(stored)
    padded = None if _is_below(meaning, least - shift, stored) else padding_mask(raw, meaning)
    normalise_bits(raw, stored)
    if low + shift < least:
        np.maximum(raw, raw.dtype.type(max(low, least - shift)), out=raw)
    if high + shift > _INT16.max:
        np.minimum(raw, raw.dtype.type(_INT16.max - shift), out=raw)
    if shift:
        # Wraps within 16 bits on purpose: after the limits above the sum is representable.
        pattern = frame.view(np.uint16)
        np.add(pattern, np.uint16(shift & 0xFFFF), out=pattern)
    fill_padding(frame, padded, unit)


def scale_into(
    target: Values, raw: Stored, stored: FrameFormat, meaning: Meaning, *, unit: str
) -> None:
    """Write slope x stored + intercept into `target`; `raw` is changed on the way.

    Hounsfield units below air become air.
    """
    padded = padding_mask(raw, meaning)
    normalise_bits(raw, stored)
    if target.dtype == np.int16:
        shifted = raw.astype(np.int32) + int(meaning.intercept)
        np.clip(shifted, _INT16.min, _INT16.max, out=target, casting="unsafe")
    else:
        np.multiply(raw, np.float32(meaning.slope), out=target, casting="unsafe")
        np.add(target, np.float32(meaning.intercept), out=target)
    if unit == HOUNSFIELD:
        np.maximum(target, target.dtype.type(AIR_HU), out=target)
    fill_padding(target, padded, unit)


def padding_mask(raw: Stored, meaning: Meaning) -> NDArray[np.bool_] | None:
    """Return where stored values are padding; None where there is none."""
    if meaning.padding is None:
        return None
    low, high = meaning.padding
    mask: NDArray[np.bool_] = raw == low if low == high else (raw >= low) & (raw <= high)
    return mask if mask.any() else None


def fill_padding(frame: Values, padded: NDArray[np.bool_] | None, unit: str) -> None:
    """Put air where there is padding: in CT a number, else the least value of the image."""
    if padded is None:
        return
    if unit == HOUNSFIELD:
        air = AIR_HU
    else:
        image = frame[~padded]
        air = image.min() if image.size else 0
    np.copyto(frame, frame.dtype.type(air), where=padded)


def normalise_bits(raw: Stored, stored: FrameFormat) -> None:
    """Drop what stands above the stored bits (old overlays) and extend the sign, in place."""
    unused = stored.bits_allocated - stored.bits_stored
    if not unused:
        return
    if stored.signed:
        np.left_shift(raw, unused, out=raw)
        np.right_shift(raw, unused, out=raw)
    else:
        np.bitwise_and(raw, raw.dtype.type((1 << stored.bits_stored) - 1), out=raw)


def _rescale_of(frame: SourceFrame) -> tuple[float | None, float | None]:
    """Return slope and intercept: the frame's own in an enhanced instance, else the instance's."""
    header = frame.instance
    if header.frames:
        plane = header.frames[frame.frame_number - 1]
        if plane.rescale_slope is not None:
            return plane.rescale_slope, plane.rescale_intercept
    return header.rescale_slope, header.rescale_intercept


def _as_stored(value: int, bits: int, *, signed: bool) -> int:
    pattern = value & ((1 << bits) - 1)
    return pattern - (1 << bits) if signed and pattern >> (bits - 1) else pattern


def _is_below(meaning: Meaning, limit: int, stored: FrameFormat) -> bool:
    """Whether padding lies where values are cut off anyway, so that it need not be looked for."""
    within = stored.bits_stored == stored.bits_allocated
    return meaning.padding is not None and within and meaning.padding[1] <= limit


def stored_range(stored: FrameFormat) -> tuple[int, int]:
    """Return the least and greatest value that the stored bits can hold."""
    span = 1 << stored.bits_stored
    return (-span // 2, span // 2 - 1) if stored.signed else (0, span - 1)
