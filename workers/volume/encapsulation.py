"""Finds the frames of encapsulated and deflated Pixel Data, and reads what a frame says of itself.

Everything is checked against the bytes that are there, before anything is decoded.
"""

import struct
import zlib
from dataclasses import dataclass

from pydicom.encaps import generate_frames

from service.core.elements import PIXEL_DATA, Element, Encoding, walk
from service.core.errors import RefusedInstance, UnsuitableSeries


@dataclass(frozen=True)
class Codestream:
    """What a compressed frame says of itself."""

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False


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


def codestream_of(frame: bytes) -> Codestream | None:
    """Read size and precision from a JPEG, JPEG-LS or JPEG 2000 codestream; None if it is other.

    References
    ----------
    ITU-T T.81 B.2.2 (SOF), T.87 C.2.2 (SOF55), T.800 A.5.1 (SIZ).
    """
    try:
        if frame[:2] == b"\xff\xd8":
            return _jpeg_header(frame)
        at = frame.find(b"\xff\x4f\xff\x51", 0, 512)
        return _jpeg2000_header(frame, at) if at >= 0 else None
    except struct.error:
        return None


def _jpeg_header(frame: bytes) -> Codestream | None:
    at = 2
    while at + 4 <= len(frame):
        marker, length = struct.unpack_from(">HH", frame, at)
        if marker == 0xFFFF:  # fill bytes may stand before any marker
            at += 1
            continue
        is_frame_header = 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC)
        if is_frame_header or marker == 0xFFF7:
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, at + 4)
            return Codestream(rows, columns, components, precision)
        at += 2 + length
    return None


def _jpeg2000_header(frame: bytes, at: int) -> Codestream:
    width, height, left, top = struct.unpack_from(">4I", frame, at + 8)
    components, depth = struct.unpack_from(">HB", frame, at + 40)
    return Codestream(
        rows=height - top,
        columns=width - left,
        components=components,
        precision=(depth & 0x7F) + 1,
        signed=bool(depth & 0x80),
    )


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
