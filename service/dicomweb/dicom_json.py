"""The DICOM JSON model, written straight from the bytes of a data set.

Several times as fast as going through a parsed data set, so that the metadata of a long series are
there at once. Nothing here raises on a garbled value: numbers that are none stay text.

References
----------
DICOM PS3.18 annex F.
"""

import base64
import math
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

from pydicom.datadict import dictionary_VR

from service.core.elements import Buffer, Element, Encoding, items, walk
from service.core.part10 import read_file_meta
from service.core.text import LATIN_1, decoded, encodings_of
from service.core.values import SPECIFIC_CHARACTER_SET

INLINE_LIMIT_BYTES: Final = 4096
JsonElement = dict[str, Any]
DataSetJson = dict[str, JsonElement]

_PIXEL_REPRESENTATION: Final = 0x00280103
_SPLIT: Final = frozenset("AE AS CS DA DS DT IS LO PN SH TM UC UI".split())
_UNSPLIT: Final = frozenset("LT ST UT UR".split())
_NUMBERS: Final = {
    "US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d", "SV": "q", "UV": "Q",
}  # fmt: skip
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_UNKNOWN: Final = "UN"

# Gives the address of a big value by the path to it: tags and item numbers.
Bulk = Callable[[str], str]


def of_file(header: bytes, bulk: Bulk) -> DataSetJson:
    """Return the data set of a DICOM file without its file meta group.

    Binary values above 4 KiB become addresses by `bulk`.

    Raises
    ------
    RefusedInstance
        When the bytes do not walk; those of the archive have been walked before.
    """
    meta = read_file_meta(header)
    if meta is None:
        return {}
    encoding = Encoding.of(meta.transfer_syntax_uid)
    elements = walk(header, encoding, start=meta.length)
    return _Writer(header, encoding, bulk).data_set(elements, LATIN_1, signed=False, path="")


def element(vr: str, *values: Any) -> JsonElement:
    """Return an attribute; empty values leave it without a value."""
    kept = [value for value in values if value not in ("", None)]
    if vr == "PN":
        kept = [person_name(value) for value in kept]
    return {"vr": vr, "Value": kept} if kept else {"vr": vr}


def person_name(text: str) -> dict[str, str]:
    """Return a person name by its groups.

    >>> person_name("Yamada^Tarou=山田^太郎")
    {'Alphabetic': 'Yamada^Tarou', 'Ideographic': '山田^太郎'}
    """
    groups = zip(_GROUPS, text.split("="), strict=False)
    return {name: value for name, value in groups if value}


def stated_vr(tag: int, vr: str, *, signed: bool) -> str:
    """Return an element's VR, from the dictionary where the encoding is implicit."""
    found = vr or _dictionary_vr(tag)
    if len(found) == 2:
        return found
    if "OW" in found:  # "OB or OW", and look-up tables, which may hold either
        return "OW"
    return "SS" if signed else "US"


class _Writer:
    def __init__(self, buffer: Buffer, encoding: Encoding, bulk: Bulk) -> None:
        self._buffer = buffer
        self._encoding = encoding
        self._order = ">" if encoding.big_endian else "<"
        self._bulk = bulk

    def data_set(
        self, elements: Sequence[Element], encodings: Sequence[str], *, signed: bool, path: str
    ) -> DataSetJson:
        """Return the elements in the order of their tags."""
        for one in elements:
            if one.tag == SPECIFIC_CHARACTER_SET:
                declared = self._value(one)
                encodings = encodings_of(declared) if declared.strip(b" \0\\") else encodings
            elif one.tag == _PIXEL_REPRESENTATION:
                signed = self._value(one)[:2].strip(b"\0") != b""
        return {
            f"{one.tag:08X}": self._element(one, encodings, signed, path)
            for one in sorted(elements)
            if one.tag & 0xFFFF  # group lengths are retired
        }

    def _element(
        self, one: Element, encodings: Sequence[str], signed: bool, path: str
    ) -> JsonElement:
        vr = stated_vr(one.tag, one.vr, signed=signed)
        at = f"{path}{one.tag:08X}"
        if vr == "SQ" or (vr == _UNKNOWN and not one.defined):
            return self._sequence(one, encodings, signed, at)
        if one.length == 0:
            return {"vr": vr}
        if vr in _SPLIT or vr in _UNSPLIT:
            return {"vr": vr, "Value": _text_values(vr, self._value(one), encodings)}
        if vr in _NUMBERS or vr == "AT":
            read = self._tags if vr == "AT" else self._numbers
            return {"vr": vr, "Value": read(vr, self._value(one))}
        if one.length > INLINE_LIMIT_BYTES:
            return {"vr": vr, "BulkDataURI": self._bulk(at)}
        return {"vr": vr, "InlineBinary": base64.b64encode(self._value(one)).decode()}

    def _sequence(
        self, one: Element, encodings: Sequence[str], signed: bool, path: str
    ) -> JsonElement:
        inner, writer = self._encoding, self
        if one.vr == _UNKNOWN:  # PS3.5 section 6.2.2: items of UN are implicit
            inner = Encoding(implicit=True)
            writer = _Writer(self._buffer, inner, self._bulk)
        found = [
            writer.data_set(elements, encodings, signed=signed, path=f"{path}/{number}/")
            for number, elements in enumerate(items(self._buffer, inner, one), start=1)
        ]
        return {"vr": "SQ", "Value": found} if found else {"vr": "SQ"}

    def _value(self, one: Element) -> bytes:
        return bytes(self._buffer[one.value_start : one.value_end])

    def _numbers(self, vr: str, value: bytes) -> list[Any]:
        form = self._order + _NUMBERS[vr]
        whole = len(value) - len(value) % struct.calcsize(form)
        return [_finite(number) for (number,) in struct.iter_unpack(form, value[:whole])]

    def _tags(self, _vr: str, value: bytes) -> list[str]:
        form = self._order + "HH"
        whole = len(value) - len(value) % 4
        return [
            f"{group:04X}{number:04X}" for group, number in struct.iter_unpack(form, value[:whole])
        ]


def _text_values(vr: str, value: bytes, encodings: Sequence[str]) -> list[Any]:
    text = decoded(value, encodings, person_name=vr == "PN")
    if vr in _UNSPLIT:
        return [text.rstrip(" \0")]
    parts = [part.strip(" \0") for part in text.split("\\")]
    if vr == "PN":
        return [person_name(part) or None for part in parts]
    if vr == "DS":
        return [_decimal(part) for part in parts]
    if vr == "IS":
        return [_integer(part) for part in parts]
    return [part or None for part in parts]


def _decimal(text: str) -> float | str | None:
    try:
        number = float(text) if "_" not in text else math.nan
    except ValueError:
        return text or None
    return number if math.isfinite(number) else text


def _integer(text: str) -> int | str | None:
    # Beyond 12 characters it is no IS, and no number that JSON's readers agree on.
    return int(text) if len(text) <= 12 and text.lstrip("+-").isdecimal() else text or None


def _finite(number: float) -> float | str:
    """Return a number; JSON has no infinities, PS3.18 F.2.3.1 writes them as text."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


@lru_cache(maxsize=8192)
def _dictionary_vr(tag: int) -> str:
    if tag >> 16 & 1:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else _UNKNOWN
    try:
        return dictionary_VR(tag)
    except KeyError:
        return _UNKNOWN
