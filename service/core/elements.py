"""Walk the bytes of a data set from its first to its last, without trusting any of them.

A received data set counts as understood only when every length in it leads to where the next
element begins. Nothing is decoded and nothing is copied here: the walk returns where the top-level
elements lie. Whatever breaks the rules raises `RefusedInstance` with a reason code.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from mmap import mmap
from struct import Struct
from typing import Final, NamedTuple

from pydicom.datadict import dictionary_VR
from pydicom.uid import UID

from service.core.errors import RefusedInstance

Buffer = bytes | bytearray | memoryview | mmap

MAX_DEPTH: Final = 32
# Elements and items that any data set may have, and that the largest may: walking costs a
# microsecond or two each. In between they must come with bytes, so that what is refused in the end
# was as dear to send. Empty items have 8 bytes each; what describes the frames of a segmentation
# has 20 each and more, without their pixels.
FEW_ELEMENTS: Final = 200_000
MAX_ELEMENTS: Final = 2_000_000
_BYTES_AN_ELEMENT: Final = 16

PIXEL_DATA: Final = 0x7FE00010
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_UNDEFINED: Final = 0xFFFFFFFF

_LONG_VRS: Final = frozenset(vr.encode() for vr in "OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT_VRS: Final = {
    vr.encode(): vr
    for vr in "AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()
}


@dataclass(frozen=True)
class Encoding:
    """How a transfer syntax writes a data set (PS3.5 section 10)."""

    implicit: bool = False
    big_endian: bool = False
    encapsulated: bool = False

    @classmethod
    def of(cls, transfer_syntax_uid: str) -> "Encoding":
        """Return the encoding of a transfer syntax; a deflated one's after inflating."""
        return _encoding(transfer_syntax_uid)


@lru_cache(maxsize=256)
def _encoding(transfer_syntax_uid: str) -> Encoding:
    uid = UID(transfer_syntax_uid)
    if not uid.is_transfer_syntax:  # private: PS3.5 has no say; explicit is what is met
        return Encoding()
    return Encoding(
        implicit=uid.is_implicit_VR,
        big_endian=not uid.is_little_endian,
        encapsulated=uid.is_encapsulated,
    )


class Element(NamedTuple):
    """Where one element lies in the buffer; ``vr`` is empty where the encoding is implicit."""

    tag: int
    vr: str
    start: int
    value_start: int
    value_end: int
    end: int
    defined: bool  # whether the length stood in the element itself

    @property
    def length(self) -> int:
        """Size of the value in bytes, without delimiters."""
        return self.value_end - self.value_start


def walk(
    buffer: Buffer, encoding: Encoding, *, start: int = 0, end: int | None = None
) -> list[Element]:
    """Return the top-level elements of a data set after checking it to its last byte.

    Unsorted elements are let through, as real modalities send them; repeated ones are not,
    because two readers would then see two different instances.

    Raises
    ------
    RefusedInstance
        ``EMPTY_DATA_SET``, ``TRUNCATED``, ``LENGTH_BEYOND_DATA``, ``NESTED_TOO_DEEP``,
        ``TOO_MANY_ELEMENTS``, ``GROUP_NOT_ALLOWED``, ``REPEATED_ELEMENT``, ``UNKNOWN_VR``,
        ``STRAY_DELIMITER``, ``NOT_AN_ITEM``, ``NOT_CLOSED`` or ``NATIVE_PIXEL_DATA``.

    References
    ----------
    DICOM PS3.5 section 7.1 (data elements), 7.5 (nesting), A.4 (encapsulation).
    """
    stop = len(buffer) if end is None else end
    if start >= stop:
        raise RefusedInstance("EMPTY_DATA_SET", "there is no data set")
    elements = _Walk(buffer, encoding).elements(start, stop)
    if len({element.tag for element in elements}) < len(elements):
        raise _refused("REPEATED_ELEMENT", _first_repeated(elements).start)
    if encoding.encapsulated:
        for element in elements:
            if element.tag == PIXEL_DATA and element.defined:
                raise _refused("NATIVE_PIXEL_DATA", element.start)
    return elements


def _first_repeated(elements: Sequence[Element]) -> Element:
    seen: set[int] = set()
    for element in elements:
        if element.tag in seen:
            return element
        seen.add(element.tag)
    raise ValueError("none is repeated")


def items(buffer: Buffer, encoding: Encoding, sequence: Element) -> Iterator[list[Element]]:
    """Yield the elements of each item of a sequence that `walk` has been through."""
    walker = _Walk(buffer, encoding)
    position = sequence.value_start
    while position < sequence.value_end:
        _, length = walker.item(position, sequence.value_end)
        position += 8
        if length == _UNDEFINED:
            elements, position = walker.until_delimiter(position, sequence.value_end, 1)
            yield elements
        else:
            yield walker.elements(position, position + length)
            position += length


def elements_allowed(size_bytes: int) -> int:
    """Return how many elements and items a data set of this size may have.

    >>> elements_allowed(1000), elements_allowed(8_000_000), elements_allowed(10**9)
    (200000, 500000, 2000000)
    """
    return min(MAX_ELEMENTS, max(FEW_ELEMENTS, size_bytes // _BYTES_AN_ELEMENT))


class _Walk:
    """One pass over a buffer, with its budget of elements."""

    def __init__(self, buffer: Buffer, encoding: Encoding) -> None:
        order = ">" if encoding.big_endian else "<"
        self.buffer = buffer
        self.encoding = encoding
        self.budget = elements_allowed(len(buffer))
        self.tag = Struct(order + "HH").unpack_from
        self.short = Struct(order + "H").unpack_from
        self.long = Struct(order + "L").unpack_from
        self.tag_and_long = Struct(order + "HHL").unpack_from
        self.head = Struct(order + "HH2sH").unpack_from

    def elements(self, position: int, stop: int, depth: int = 0) -> list[Element]:
        """Return the elements that fill the bytes from `position` to `stop` exactly."""
        found: list[Element] = []
        while position < stop:
            position = self.short_elements(position, stop, found)
            if position == stop:
                break
            element = self.element(position, stop, depth)
            if element.tag >> 16 == 0xFFFE:
                raise _refused("STRAY_DELIMITER", position)
            found.append(element)
            position = element.end
        return found

    def short_elements(self, position: int, stop: int, found: list[Element]) -> int:
        """Take the elements that most data sets consist of; return where another one begins.

        Those are of explicit VR, hold no others and state their length in 16 bits. Nothing is
        refused here: whatever is odd is left to `element`.
        """
        if self.encoding.implicit:
            return position
        buffer, head, names, new = self.buffer, self.head, _SHORT_VRS, tuple.__new__
        last = stop - 8
        begun = len(found)
        while position <= last:
            group, number, vr, length = head(buffer, position)
            name = names.get(vr)
            end = position + 8 + length
            if name is None or not 2 < group < 0xFFFE or end > stop:
                break
            tag = group << 16 | number
            found.append(new(Element, (tag, name, position, position + 8, end, end, True)))
            position = end
        self.budget -= len(found) - begun
        if self.budget < 0:
            raise _refused("TOO_MANY_ELEMENTS", position)
        return position

    def until_delimiter(self, position: int, stop: int, depth: int) -> tuple[list[Element], int]:
        """Return the elements of an item of undefined length, and where the next one begins."""
        found: list[Element] = []
        while position < stop:
            group, number, length = self.item_header(position, stop)
            if group == 0xFFFE:
                if number != _ITEM_END & 0xFFFF or length != 0:
                    raise _refused("STRAY_DELIMITER", position)
                return found, position + 8
            element = self.element(position, stop, depth)
            found.append(element)
            position = element.end
        raise _refused("NOT_CLOSED", position)

    def element(self, position: int, stop: int, depth: int) -> Element:
        """Return one element after checking all that lies inside it."""
        self.spend(position)
        if position + 8 > stop:
            raise _refused("TRUNCATED", position)
        group, number = self.tag(self.buffer, position)
        if group <= 2 or group == 0xFFFF:  # command and file meta groups have no place here
            raise _refused("GROUP_NOT_ALLOWED", position)
        tag = group << 16 | number
        vr, length, value = self.vr_and_length(position, stop, tag)
        if length == _UNDEFINED:
            value_end, end = self.undefined(tag, vr, value, stop, depth)
            return Element(tag, vr.decode(), position, value, value_end, end, False)
        end = value + length
        if end > stop:
            raise _refused("LENGTH_BEYOND_DATA", position)
        if vr == b"SQ" or (not vr and length >= 8 and self.holds_items(tag, value)):
            self.sequence(value, end, depth, closed=False, implicit=False)
        return Element(tag, vr.decode(), position, value, end, end, True)

    def vr_and_length(self, position: int, stop: int, tag: int) -> tuple[bytes, int, int]:
        """Return VR, stated length and where the value begins."""
        if self.encoding.implicit or tag >> 16 == 0xFFFE:
            return b"", self.long(self.buffer, position + 4)[0], position + 8
        vr = bytes(self.buffer[position + 4 : position + 6])
        if vr in _SHORT_VRS:
            return vr, self.short(self.buffer, position + 6)[0], position + 8
        if vr not in _LONG_VRS:
            raise _refused("UNKNOWN_VR", position)
        if position + 12 > stop:
            raise _refused("TRUNCATED", position)
        return vr, self.long(self.buffer, position + 8)[0], position + 12

    def undefined(self, tag: int, vr: bytes, value: int, stop: int, depth: int) -> tuple[int, int]:
        """Return end of value and of element where the length is undefined."""
        if vr in {b"OB", b"OW", b"OF", b"OD", b"OL", b"OV"} or (not vr and tag == PIXEL_DATA):
            end = self.fragments(value, stop)
        elif vr in {b"SQ", b"UN", b""}:
            # UN of undefined length holds implicit VR items whatever the transfer syntax
            # (PS3.5 section 6.2.2).
            end = self.sequence(value, stop, depth, closed=True, implicit=vr == b"UN")
        else:
            raise _refused("LENGTH_BEYOND_DATA", value)
        return end - 8, end

    def sequence(
        self, position: int, stop: int, depth: int, *, closed: bool, implicit: bool
    ) -> int:
        """Walk the items of a sequence; return where it ends."""
        if depth >= MAX_DEPTH:
            raise _refused("NESTED_TOO_DEEP", position)
        if implicit and not self.encoding.implicit:
            inner = _Walk(self.buffer, Encoding(implicit=True))
            inner.budget = self.budget
            end = inner.sequence(position, stop, depth, closed=closed, implicit=False)
            self.budget = inner.budget
            return end
        while position < stop:
            tag, length = self.item(position, stop)
            position += 8
            if tag == _SEQUENCE_END and closed:
                return position
            if tag != _ITEM:
                raise _refused("NOT_AN_ITEM", position)
            if length == _UNDEFINED:
                _, position = self.until_delimiter(position, stop, depth + 1)
            else:
                if position + length > stop:
                    raise _refused("LENGTH_BEYOND_DATA", position)
                self.elements(position, position + length, depth + 1)
                position += length
        if closed:
            raise _refused("NOT_CLOSED", position)
        return position

    def fragments(self, position: int, stop: int) -> int:
        """Walk encapsulated pixel data; return where it ends."""
        while True:
            tag, length = self.item(position, stop)
            position += 8
            if tag == _SEQUENCE_END:
                return position
            if tag != _ITEM:
                raise _refused("NOT_AN_ITEM", position)
            position += length
            if length == _UNDEFINED or position > stop:
                raise _refused("LENGTH_BEYOND_DATA", position)

    def item(self, position: int, stop: int) -> tuple[int, int]:
        """Return tag and length of an item or delimiter."""
        self.spend(position)
        group, number, length = self.item_header(position, stop)
        return group << 16 | number, length

    def item_header(self, position: int, stop: int) -> tuple[int, int, int]:
        if position + 8 > stop:
            raise _refused("NOT_CLOSED" if position >= stop else "TRUNCATED", position)
        group, number, length = self.tag_and_long(self.buffer, position)
        return group, number, length

    def holds_items(self, tag: int, value: int) -> bool:
        """Return whether a value without stated VR is a sequence by the data dictionary."""
        if self.tag(self.buffer, value) != (0xFFFE, 0xE000):
            return False
        try:
            return dictionary_VR(tag) == "SQ"
        except KeyError:
            return False

    def spend(self, position: int) -> None:
        self.budget -= 1
        if self.budget < 0:
            raise _refused("TOO_MANY_ELEMENTS", position)


def _refused(reason: str, position: int) -> RefusedInstance:
    return RefusedInstance(reason, f"data set cannot be read at byte {position}")
