"""Finds the frames of encapsulated and deflated Pixel Data.

Everything is checked against the bytes that are there, before anything is decoded.
"""

import struct
import zlib

from pydicom.encaps import generate_frames

from service.core.elements import PIXEL_DATA, Element, Encoding, walk
from service.core.errors import RefusedInstance, UnsuitableSeries


def fragments_in(data: bytes) -> bytes:
    """Return the encapsulated Pixel Data of a DICOM file whose header does not say where they lie.

    Raises
    ------
    UnsuitableSeries
        ``PIXEL_DATA`` when the file holds none or breaks off.
    """
    try:
        element = _pixel_element(data, _data_set_at(data), encapsulated=True)
    except struct.error as error:
        raise UnsuitableSeries("PIXEL_DATA", "the file ends within its header") from error
    return data[element.value_start : element.value_end]


def split_frames(fragments: bytes, number_of_frames: int) -> list[bytes]:
    """Return the codestream of each frame, with or without a basic offset table.

    Raises
    ------
    UnsuitableSeries
        ``PIXEL_DATA`` when fragments are broken or fewer than the frames that the header says.

    References
    ----------
    DICOM PS3.5 Annex A.4. An extended offset table is not needed: with one, every frame is one
    fragment (PS3.3 C.7.6.3.1.8).
    """
    try:
        frames = list(generate_frames(fragments, number_of_frames=number_of_frames))
    except (struct.error, ValueError, IndexError) as error:
        raise UnsuitableSeries("PIXEL_DATA", "fragments of the pixel data are broken") from error
    if len(frames) != number_of_frames:
        raise UnsuitableSeries(
            "PIXEL_DATA", f"{len(frames)} frames where the header says {number_of_frames}"
        )
    return frames


def inflated_pixels(data: bytes, *, limit_bytes: int) -> bytes:
    """Return the native Pixel Data of a file in Deflated Explicit VR Little Endian.

    ``limit_bytes`` bounds the whole inflated data set, however little its deflated form is.

    References
    ----------
    DICOM PS3.5 Annex A.5.
    """
    try:
        deflated = zlib.decompressobj(wbits=-15)
        inflated = deflated.decompress(data[_data_set_at(data) :], limit_bytes)
    except (struct.error, zlib.error) as error:
        raise UnsuitableSeries("PIXEL_DATA", "the deflated data set is broken") from error
    if deflated.unconsumed_tail:
        raise UnsuitableSeries("PIXEL_DATA", "the deflated data set is far larger than its frames")
    element = _pixel_element(inflated, 0, encapsulated=False)
    return inflated[element.value_start : element.value_end]


def _pixel_element(data: bytes, at: int, *, encapsulated: bool) -> Element:
    try:
        elements = walk(data, Encoding(encapsulated=encapsulated), start=at)
    except RefusedInstance as error:
        raise UnsuitableSeries("PIXEL_DATA", f"the file cannot be read ({error.reason})") from error
    for element in elements:
        if element.tag == PIXEL_DATA:
            return element
    raise UnsuitableSeries("PIXEL_DATA", "the file holds no pixel data")


def _data_set_at(data: bytes) -> int:
    """Return where the data set begins, behind preamble and file meta group (PS3.10 7.1)."""
    if data[128:132] != b"DICM":
        raise UnsuitableSeries("PIXEL_DATA", "not a DICOM file")
    group, element, _, _, length = struct.unpack_from("<HH2sHI", data, 132)
    if (group, element) != (2, 0):
        raise UnsuitableSeries("PIXEL_DATA", "the file meta group has no length")
    return 144 + int(length)
