"""What a compressed frame says of itself, read before anything is allocated for it.

References
----------
ITU-T T.81 B.2.2 (SOF), T.87 C.2.2 (SOF55), T.800 A.5.1 (SIZ).
"""

import struct
from dataclasses import dataclass
from typing import Final

_NOT_FRAME_HEADERS: Final = frozenset({0xFFC4, 0xFFC8, 0xFFCC})
_JPEG_2000: Final = b"\xff\x4f\xff\x51"
_BOX_BYTES: Final = 512  # how far the boxes of a JP2 file may reach before its codestream


@dataclass(frozen=True)
class Codestream:
    """What a compressed frame says of itself."""

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False


def codestream_of(frame: bytes) -> Codestream | None:
    """Read size and precision from a JPEG, JPEG-LS or JPEG 2000 codestream; None if it is other."""
    try:
        if frame[:2] == b"\xff\xd8":
            return _jpeg_header(frame)
        at = frame.find(_JPEG_2000, 0, _BOX_BYTES)
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
        is_frame_header = 0xFFC0 <= marker <= 0xFFCF and marker not in _NOT_FRAME_HEADERS
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
