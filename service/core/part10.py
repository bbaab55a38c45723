"""The DICOM file format in bytes (PS3.10 section 7.1): the header before a data set."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from service.core.elements import PIXEL_DATA, Buffer, Element
from service.core.errors import RefusedInstance
from service.core.identifiers import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

PREAMBLE_AND_MAGIC: Final = bytes(128) + b"DICM"
MAX_META_BYTES: Final = 1 << 16
MAX_HEADER_ELEMENT_BYTES: Final = 1 << 16
MAX_HEADER_SEQUENCE_BYTES: Final = 8 << 20
_ITEM_TAGS: Final = {b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00"}  # little and big endian


@dataclass(frozen=True)
class FileMeta:
    """What the header of a DICOM file says of the data set that follows."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    length: int  # bytes of preamble, magic and file meta together


def file_meta(*, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Return the bytes that stand before a data set in a file of ours.

    The preamble is always zeros: a received one could make the file run as a program. Nothing of
    the sender stands here, so that the same instance gives the same file whoever sends it.
    """
    body = b"".join(
        (
            _element(0x0001, b"OB", b"\0\1"),
            _element(0x0002, b"UI", _even(sop_class_uid, "\0")),
            _element(0x0003, b"UI", _even(sop_instance_uid, "\0")),
            _element(0x0010, b"UI", _even(transfer_syntax_uid, "\0")),
            _element(0x0012, b"UI", _even(IMPLEMENTATION_CLASS_UID, "\0")),
            _element(0x0013, b"SH", _even(IMPLEMENTATION_VERSION_NAME, " ")),
        )
    )
    return PREAMBLE_AND_MAGIC + _element(0x0000, b"UL", struct.pack("<L", len(body))) + body


def read_file_meta(buffer: Buffer) -> FileMeta | None:
    """Read the header of a DICOM file; None when `buffer` does not hold all of it yet.

    Raises
    ------
    RefusedInstance
        ``NOT_A_DICOM_FILE`` when it is none, or its header cannot be read.
    """
    if len(buffer) < 144:
        return None
    if bytes(buffer[128:132]) != b"DICM" or bytes(buffer[132:138]) != b"\2\0\0\0UL":
        raise RefusedInstance("NOT_A_DICOM_FILE", "no DICM prefix with a file meta group length")
    end = 144 + struct.unpack_from("<L", buffer, 140)[0]
    if end > MAX_META_BYTES:
        raise RefusedInstance("NOT_A_DICOM_FILE", "file meta information is too long")
    if len(buffer) < end:
        return None
    values = _meta_values(bytes(buffer[144:end]))
    return FileMeta(
        sop_class_uid=_uid(values, 0x0002),
        sop_instance_uid=_uid(values, 0x0003),
        transfer_syntax_uid=_uid(values, 0x0010),
        length=end,
    )


def header_only(buffer: Buffer, elements: Sequence[Element], *, meta: bytes) -> bytes:
    """Return a DICOM file that lacks the big elements: Pixel Data and what is like it.

    Elements above 64 KiB are left out (sequences above 8 MiB), so that the header of any
    instance fits a database row and still reads as a data set.
    """
    parts = [meta]
    start = end = elements[0].start
    for element in elements:
        tag, _, _, value_start, value_end, element_end, _ = element
        short = value_end - value_start <= MAX_HEADER_ELEMENT_BYTES and tag < PIXEL_DATA
        if short or _is_small(buffer, element):  # mostly short: no call for those
            end = element_end
        else:
            parts.append(bytes(buffer[start:end]))
            start = end = element.end
    parts.append(bytes(buffer[start:end]))
    return b"".join(parts)


def _is_small(buffer: Buffer, element: Element) -> bool:
    if element.tag == PIXEL_DATA or element.tag >> 16 == 0xFFFC:  # FFFC: trailing padding
        return False
    if element.length <= MAX_HEADER_ELEMENT_BYTES:
        return True
    first = bytes(buffer[element.value_start : element.value_start + 4])
    is_sequence = element.vr in {"SQ", ""} and first in _ITEM_TAGS
    return is_sequence and element.length <= MAX_HEADER_SEQUENCE_BYTES


def _meta_values(body: bytes) -> dict[int, bytes]:
    """Return the values of the file meta elements by element number."""
    values, position = {}, 0
    while position + 8 <= len(body):
        group, number = struct.unpack_from("<HH", body, position)
        if group != 2:
            raise RefusedInstance("NOT_A_DICOM_FILE", "file meta information is garbled")
        if body[position + 4 : position + 6] in {b"OB", b"UN"}:
            start = position + 12
            length = struct.unpack_from("<L", body.ljust(start, b"\0"), position + 8)[0]
        else:
            start = position + 8
            length = struct.unpack_from("<H", body, position + 6)[0]
        values[number] = body[start : start + length]
        position = start + length
    return values


def _uid(values: dict[int, bytes], number: int) -> str:
    return values.get(number, b"").decode("latin_1").rstrip("\0 ")


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    length = struct.pack("<HL", 0, len(value)) if vr == b"OB" else struct.pack("<H", len(value))
    return struct.pack("<HH2s", 2, number, vr) + length + value


def _even(text: str, padding: str) -> bytes:
    return (text + padding * (len(text) % 2)).encode("ascii")
