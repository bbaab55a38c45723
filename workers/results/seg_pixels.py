"""The pixels of a segmentation in each of its forms (PS3.3 C.8.20.2): bits, fractions, labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.core.headers import SourceFrame
from service.core.profiles import SegForm
from workers.results.encode import Value
from workers.results.segments import Segment, overlap

MAXIMUM_FRACTION: Final = 255
_LABELS_OF_A_BYTE: Final = 255
# Eight frames always fill whole bytes, whatever the number of pixels of a frame.
_FRAMES_PACKED_AT_ONCE: Final = 8


@dataclass(frozen=True)
class SegFrame:
    """One frame of a segmentation: the segments that it may hold, and the source frame it is on."""

    segments: tuple[Segment, ...]
    index: int


def fitting_form(wanted: SegForm, segments: Sequence[Segment]) -> SegForm:
    """Return the form wanted, or BINARY where a label map could not hold these segments.

    A voxel of a label map belongs to one segment alone; ours have 8 bits.
    """
    fits = len(segments) <= _LABELS_OF_A_BYTE and not overlap(segments)
    return wanted if wanted is not SegForm.LABELMAP or fits else SegForm.BINARY


def pixel_elements(form: SegForm) -> dict[str, Value]:
    """Return what describes the pixels of a form."""
    bits = 1 if form is SegForm.BINARY else 8
    elements: dict[str, Value] = {
        "SegmentationType": form.upper(),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
    }
    if form is SegForm.FRACTIONAL:
        elements["SegmentationFractionalType"] = "PROBABILITY"
        elements["MaximumFractionalValue"] = MAXIMUM_FRACTION
    elif form is SegForm.LABELMAP:
        elements["PixelPaddingValue"] = 0
    return elements


def fraction_of(segment: Segment) -> int:
    """Return the probability of a segment's finding in 1..255: what its voxels are, if anything."""
    return max(1, round(MAXIMUM_FRACTION * segment.finding.probability))


def pixels_of(form: SegForm, order: Sequence[SegFrame], frame: SourceFrame) -> bytes:
    """Return all frames, one after another."""
    shape = (frame.instance.rows or 0, frame.instance.columns or 0)
    if form is SegForm.BINARY:
        return _packed(order, shape)
    return b"".join(grey_of(form, each, shape).tobytes() for each in order)


def grey_of(form: SegForm, frame: SegFrame, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return one frame of 8 bits: probabilities of its segment, or the numbers of its segments."""
    image = np.zeros(shape, np.uint8)
    for segment in frame.segments:
        drawn = np.zeros(shape, bool)
        segment.draw(frame.index, drawn)
        image[drawn] = segment.number if form is SegForm.LABELMAP else fraction_of(segment)
    return image


def _packed(order: Sequence[SegFrame], shape: tuple[int, int]) -> bytes:
    """Return all frames as one run of bits, the first pixel in the lowest bit (PS3.5 8.1.1)."""
    parts: list[bytes] = []
    for start in range(0, len(order), _FRAMES_PACKED_AT_ONCE):
        some = order[start : start + _FRAMES_PACKED_AT_ONCE]
        images = np.zeros((len(some), *shape), bool)
        for image, frame in zip(images, some, strict=True):
            frame.segments[0].draw(frame.index, image)
        parts.append(np.packbits(images.reshape(-1), bitorder="little").tobytes())
    return b"".join(parts)
