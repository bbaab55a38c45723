"""Every data element of a written file, read back without interpretation.

It shares nothing with the encoder: both defined and undefined lengths, explicit and implicit VR
and deflated data sets are read, so that objects of other makers pass through the same checks.
"""

import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple

from pydicom.datadict import dictionary_VR

from service.core.errors import InvalidResult

_LONG: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_END_OF_ITEM: Final = 0xFFFEE00D
_END_OF_SEQUENCE: Final = 0xFFFEE0DD
_TRANSFER_SYNTAX: Final = 0x00020010
_IMPLICIT: Final = "1.2.840.10008.1.2"
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
_TAG: Final = struct.Struct("<HH")
_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_LONGEST_NESTING: Final = 64


class Element(NamedTuple):
    """One element that is no sequence.

    ``root`` is the tag of the top-level element that it is, or lies in, and ``entry`` the item of
    that one which holds it, counted from 0.
    """

    root: int
    entry: int
    tag: int
    vr: bytes
    value: bytes


class Reread(NamedTuple):
    """A file's transfer syntax, its elements, and how many items each top-level sequence has."""

    transfer_syntax_uid: str
    elements: tuple[Element, ...]
    items: dict[int, int]


def reread(content: bytes) -> Reread:
    """Read every element of a Part 10 file.

    Raises
    ------
    InvalidResult
        ``UNREADABLE`` when the bytes are no such file or end early.
    """
    try:
        if content[128:132] != b"DICM":
            raise InvalidResult("UNREADABLE", "the file has no DICOM prefix")
        meta = _Reader(content, explicit=True)
        at = meta.read_meta(132)
        syntax = next(
            (e.value.rstrip(b"\0 ").decode() for e in meta.found if e.tag == _TRANSFER_SYNTAX), ""
        )
        if not syntax or syntax == _BIG_ENDIAN:
            raise InvalidResult("UNREADABLE", f"transfer syntax {syntax!r} is not read here")
        data = content[at:]
        if syntax == _DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data)
        reader = _Reader(data, explicit=syntax != _IMPLICIT)
        reader.read_all()
    except (struct.error, zlib.error, UnicodeDecodeError, IndexError) as error:
        raise InvalidResult("UNREADABLE", "the file ends early or is garbled") from error
    return Reread(syntax, tuple(reader.found), reader.items)


class _Reader:
    """Walks a data set once; ``found`` and ``items`` hold what it saw."""

    def __init__(self, data: bytes, *, explicit: bool) -> None:
        self._data = data
        self._header: Callable[[int], tuple[int, bytes, int, int]] = (
            self._explicit if explicit else self._implicit
        )
        self.found: list[Element] = []
        self.items: dict[int, int] = {}

    def read_meta(self, at: int) -> int:
        """Read group 2 and return where it ends."""
        while at + 8 <= len(self._data) and _U16.unpack_from(self._data, at)[0] == 2:
            at = self._element(at, None, 0, 0)
        return at

    def read_all(self) -> None:
        """Read the whole data set."""
        at = 0
        while at < len(self._data):
            at = self._element(at, None, 0, 0)

    def _element(self, at: int, root: int | None, index: int, depth: int) -> int:
        tag, vr, length, start = self._header(at)
        top = tag if root is None else root
        if vr == b"SQ" or (length == _UNDEFINED and vr == b"UN"):
            return self._sequence(start, length, root is None, top, index, depth + 1)
        if length == _UNDEFINED:  # encapsulated pixels: fragments
            return self._fragments(start)
        end = start + length
        if end > len(self._data):
            raise InvalidResult("UNREADABLE", f"element {tag:08x} leaves the file")
        self.found.append(Element(top, index, tag, vr, self._data[start:end]))
        return end

    def _sequence(
        self, at: int, length: int, outermost: bool, root: int, index: int, depth: int
    ) -> int:
        if depth > _LONGEST_NESTING:
            raise InvalidResult("UNREADABLE", "sequences are nested without end")
        end = len(self._data) if length == _UNDEFINED else at + length
        count = 0
        while at < end:
            tag, size = self._delimiter(at)
            at += 8
            if tag == _END_OF_SEQUENCE:
                break
            if tag != _ITEM:
                raise InvalidResult("UNREADABLE", f"{tag:08x} stands where an item should")
            at = self._item(at, size, root, count if outermost else index, depth)
            count += 1
        if outermost:
            self.items[root] = count
        return at

    def _item(self, at: int, size: int, root: int, index: int, depth: int) -> int:
        if size != _UNDEFINED:
            end = at + size
            while at < end:
                at = self._element(at, root, index, depth)
            return at
        while self._delimiter(at)[0] != _END_OF_ITEM:
            at = self._element(at, root, index, depth)
        return at + 8

    def _fragments(self, at: int) -> int:
        while True:
            tag, size = self._delimiter(at)
            at += 8 + size
            if tag == _END_OF_SEQUENCE:
                return at

    def _delimiter(self, at: int) -> tuple[int, int]:
        group, element = _TAG.unpack_from(self._data, at)
        return group << 16 | element, _U32.unpack_from(self._data, at + 4)[0]

    def _explicit(self, at: int) -> tuple[int, bytes, int, int]:
        group, element = _TAG.unpack_from(self._data, at)
        vr = self._data[at + 4 : at + 6]
        if vr in _LONG:
            return group << 16 | element, vr, _U32.unpack_from(self._data, at + 8)[0], at + 12
        return group << 16 | element, vr, _U16.unpack_from(self._data, at + 6)[0], at + 8

    def _implicit(self, at: int) -> tuple[int, bytes, int, int]:
        tag, length = self._delimiter(at)
        return tag, _vr(tag), length, at + 8


@lru_cache(maxsize=4096)
def _vr(tag: int) -> bytes:
    try:
        return dictionary_VR(tag)[:2].encode()
    except KeyError:
        return b"UN"


def numbers(element: Element) -> tuple[float, ...]:
    """Return the numbers of an element of VR DS, FL, FD, UL or US."""
    if element.vr == b"DS":
        return tuple(float(part) for part in element.value.split(b"\\") if part.strip())
    kinds: dict[bytes, str] = {b"FL": "f", b"FD": "d", b"UL": "I", b"US": "H"}
    kind = kinds[element.vr]
    unpacked: tuple[Any, ...] = struct.unpack(
        f"<{len(element.value) // struct.calcsize(kind)}{kind}", element.value
    )
    return tuple(float(value) for value in unpacked)


def text(element: Element) -> str:
    """Return the text of an element, padding removed."""
    return element.value.decode("utf-8", "replace").rstrip("\0 ")
