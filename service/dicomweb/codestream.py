"""What a compressed frame says of its own size, before anything is allocated for it.

References
----------
ITU-T T.81 B.2.2 (SOF), T.87 C.2.2 (SOF55), T.800 A.5.1 (SIZ).
"""

import struct
from typing import Final

_NOT_FRAME_HEADERS: Final = frozenset({0xFFC4, 0xFFC8, 0xFFCC})
_JPEG_2000: Final = b"\xff\x4f\xff\x51"
_BOX_BYTES: Final = 512  # how far the boxes of a JP2 file may reach before its codestream


def size_of(frame: bytes) -> tuple[int, int, int] | None:
    """Return rows, columns and components of JPEG, JPEG-LS or JPEG 2000; None if it is neither."""
    try:
        if frame[:2] == b"\xff\xd8":
            return _jpeg(frame)
        at = frame.find(_JPEG_2000, 0, _BOX_BYTES)
        return _jpeg_2000(frame, at) if at >= 0 else None
    except struct.error:
        return None


def _jpeg(frame: bytes) -> tuple[int, int, int] | None:
    at = 2
    while at + 4 <= len(frame):
        marker, length = struct.unpack_from(">HH", frame, at)
        if marker == 0xFFFF:  # fill bytes may stand before any marker
            at += 1
            continue
        is_header = 0xFFC0 <= marker <= 0xFFCF and marker not in _NOT_FRAME_HEADERS
        if is_header or marker == 0xFFF7:
            _, rows, columns, components = struct.unpack_from(">BHHB", frame, at + 4)
            return rows, columns, components
        at += 2 + length
    return None


def _jpeg_2000(frame: bytes, at: int) -> tuple[int, int, int]:
    width, height, left, top = struct.unpack_from(">4I", frame, at + 8)
    (components,) = struct.unpack_from(">H", frame, at + 40)
    return height - top, width - left, components
