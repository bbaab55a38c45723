"""Read values out of a walked data set: text by its character set, numbers by their VR.

Nothing here raises on a garbled value: whether an instance can be analysed is decided later and
with a reason.
"""

import math
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from service.core.elements import Buffer, Element, Encoding, items
from service.core.text import LATIN_1, decoded, encodings_of

SPECIFIC_CHARACTER_SET: Final = 0x00080005
MAX_TEXT_BYTES: Final = 4096  # longer values are cut: every attribute read here is shorter
_BINARY: Final = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d"}


class Values:
    """The values of one data set or item, by tag."""

    def __init__(
        self,
        buffer: Buffer,
        encoding: Encoding,
        elements: Sequence[Element],
        *,
        encodings: Sequence[str] | None = None,
    ) -> None:
        self._buffer = buffer
        self._encoding = encoding
        self._elements = {element.tag: element for element in elements}
        self._encodings = self._own_encodings(encodings or LATIN_1)

    def __contains__(self, tag: int) -> bool:
        """Return whether the data set has the element."""
        return tag in self._elements

    def raw(self, tag: int) -> bytes:
        """Return a value's bytes, cut at a bound; empty when the element is absent."""
        element = self._elements.get(tag)
        return b"" if element is None else self._value(element)

    def texts(self, tag: int) -> tuple[str, ...]:
        """Return the values of a text element, split at the backslash and stripped."""
        element = self._elements.get(tag)
        if element is None:
            return ()
        return _texts(self._value(element), self._encodings)

    def text(self, tag: int) -> str:
        """Return the first value of a text element."""
        values = self.texts(tag)
        return values[0] if values else ""

    def person_name(self, tag: int) -> str:
        """Return a person name with its component groups joined by ``=`` (PS3.5 6.2.1)."""
        text = decoded(self.raw(tag), self._encodings, person_name=True)
        return text.split("\\")[0].strip(" \0")

    def numbers(self, tag: int, *, vr: str) -> tuple[float, ...]:
        """Return finite numbers, stopping at the first that is none; `vr` holds for implicit VR."""
        element = self._elements.get(tag)
        if element is None:
            return ()
        form = _BINARY.get(element.vr or vr)
        value = self._value(element)
        if form is None:
            return _decimal_numbers(value)
        return _binary_numbers(value, (">" if self._encoding.big_endian else "<") + form)

    def number(self, tag: int, *, vr: str = "DS") -> float | None:
        """Return the first value as a number."""
        found = self.numbers(tag, vr=vr)
        return found[0] if found else None

    def integer(self, tag: int, *, vr: str = "IS") -> int | None:
        """Return the first value as an integer."""
        number = self.number(tag, vr=vr)
        return None if number is None else int(number)

    def items(self, tag: int) -> list["Values"]:
        """Return the items of a sequence; none where the element is absent or no sequence."""
        element = self._elements.get(tag)
        if element is None or element.vr not in {"SQ", ""} or element.length < 8:
            return []
        return [
            Values(self._buffer, self._encoding, elements, encodings=self._encodings)
            for elements in items(self._buffer, self._encoding, element)
        ]

    def _value(self, element: Element) -> bytes:
        """Return a value's bytes, cut at a bound."""
        end = min(element.value_end, element.value_start + MAX_TEXT_BYTES)
        return bytes(self._buffer[element.value_start : end])

    def _own_encodings(self, inherited: Sequence[str]) -> Sequence[str]:
        if SPECIFIC_CHARACTER_SET not in self._elements:
            return inherited
        declared = self.raw(SPECIFIC_CHARACTER_SET)
        return tuple(encodings_of(declared)) if declared.strip(b" \0\\") else inherited


# The instances of a series say the same over and over: what was read once is looked up.
@lru_cache(maxsize=8192)
def _texts(value: bytes, encodings: Sequence[str]) -> tuple[str, ...]:
    stripped = value.strip(b" \0")
    if not stripped:
        return ()
    text = decoded(stripped, encodings)
    return tuple(part.strip(" \0") for part in text.split("\\"))


@lru_cache(maxsize=4096)
def _binary_numbers(value: bytes, form: str) -> tuple[float, ...]:
    whole = len(value) - len(value) % struct.calcsize(form)
    found = (item[0] for item in struct.iter_unpack(form, value[:whole]))
    return tuple(float(number) for number in found if math.isfinite(number))


@lru_cache(maxsize=4096)
def _decimal_numbers(value: bytes) -> tuple[float, ...]:
    found = []
    for part in value.decode("latin_1").split("\\"):
        try:
            number = float(part.strip(" \0"))
        except ValueError:
            break
        if not math.isfinite(number) or "_" in part:  # Python reads 1_000, DICOM does not
            break
        found.append(number)
    return tuple(found)
