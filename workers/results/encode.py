"""DICOM data elements as bytes: explicit VR little endian, UTF-8, defined lengths.

Results hold tens of thousands of small elements of known keywords. Written straight to bytes they
cost a tenth of what building and saving a tree of objects costs, and the same values always give
the same bytes. Reading stays with pydicom.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.valuerep import format_number_as_ds

from service.core.errors import ContractViolation
from service.core.part10 import file_meta

Scalar: TypeAlias = str | int | float
# None is an element without a value. Bytes are a binary value. A list of bytes is a sequence of
# encoded items; any other sequence a value of multiplicity greater than one.
Value: TypeAlias = Scalar | bytes | Sequence[Scalar] | Sequence[bytes] | None

EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"

_LONG_LENGTH: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UC", "UN", "UR", "UT"})
_BINARY: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_NUMBERS: Final = {
    "AT": "HH", "FD": "d", "FL": "f", "SL": "i", "SS": "h", "UL": "I", "US": "H",
}  # fmt: skip
# Pixel Data is "OB or OW" in the dictionary: OB for at most 8 bits, OW above (PS3.5 A.2).
_PIXEL_DATA: Final = 0x7FE00010
_CHOSEN: Final = {"OB or OW": "OB", "US or SS": "US"}
_ITEM: Final = struct.Struct("<HHI")
_SHORT: Final = struct.Struct("<HH2sH")
_LONG: Final = struct.Struct("<HH2sHI")


def decimal_string(value: float) -> str:
    """Return a number as a Decimal String of at most 16 characters (PS3.5 section 6.2).

    What was read from a valid Decimal String comes out equal when it is read again.

    >>> decimal_string(0.7), decimal_string(-204.0), decimal_string(-0.12345678901234)
    ('0.7', '-204', '-.12345678901234')
    """
    text = repr(float(value)).removesuffix(".0")
    if "e" in text:
        text = _shortest_exponent(text)
    elif len(text) > 16 and text.lstrip("-").startswith("0."):
        text = text.replace("0.", ".", 1)
    return text if len(text) <= 16 else str(format_number_as_ds(float(value)))


def _shortest_exponent(text: str) -> str:
    """Return a number in exponent form without zeros, signs or a point that it can do without."""
    digits, exponent = text.split("e")
    digits = digits.removesuffix(".0")
    usual = f"{digits}e{int(exponent)}"
    whole, _, fraction = digits.partition(".")
    pointless = f"{whole}{fraction}e{int(exponent) - len(fraction)}"
    return usual if len(usual) <= 16 else pointless


def clip(text: str, length: int = 64) -> str:
    """Return `text` fit for a Long String: no backslash or control character, `length` at most."""
    printable = "".join(" " if ord(c) < 32 or c == "\\" else c for c in text)
    return printable.strip()[:length].rstrip()


def item(**values: Value) -> bytes:
    """Return the data elements of one item, by keyword, in ascending order of their tags.

    >>> item(CodeValue="CT").hex(" ")
    '08 00 00 01 53 48 02 00 43 54'
    """
    return encoded(values)


def encoded(values: Mapping[str, Value]) -> bytes:
    """Return data elements by keyword, in ascending order of their tags."""
    known = sorted((*_attribute(keyword), value) for keyword, value in values.items())
    words = values.get("BitsAllocated") == 16
    return b"".join(
        _element(tag, "OW" if words and tag == _PIXEL_DATA else vr, value)
        for tag, vr, value in known
    )


def part10(values: Mapping[str, Value]) -> bytes:
    """Return a data set as the bytes of a DICOM file (PS3.10 section 7)."""
    meta = file_meta(
        sop_class_uid=_text(values, "SOPClassUID"),
        sop_instance_uid=_text(values, "SOPInstanceUID"),
        transfer_syntax_uid=EXPLICIT_VR_LITTLE_ENDIAN,
    )
    return meta + encoded(values)


def tag_of(keyword: str) -> int:
    """Return the tag of a keyword of the standard.

    >>> hex(tag_of("PatientID"))
    '0x100020'
    """
    return _attribute(keyword)[0]


def _text(values: Mapping[str, Value], keyword: str) -> str:
    value = values[keyword]
    if not isinstance(value, str):
        raise ContractViolation("INVALID_ELEMENT", f"{keyword} must be one string")
    return value


@lru_cache(maxsize=1024)
def _attribute(keyword: str) -> tuple[int, str]:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ContractViolation("INVALID_ELEMENT", f"{keyword} is not a DICOM keyword")
    vr = dictionary_VR(tag)
    return tag, _CHOSEN.get(vr, vr)


def _element(tag: int, vr: str, value: Value) -> bytes:
    content = _content(vr, value)
    size = len(content)
    if vr in _LONG_LENGTH:
        return _LONG.pack(tag >> 16, tag & 0xFFFF, vr.encode(), 0, size) + content
    if size > 0xFFFE:
        raise ContractViolation(
            "ELEMENT_TOO_LONG", f"({tag >> 16:04x},{tag & 0xFFFF:04x}) has {size} bytes"
        )
    return _SHORT.pack(tag >> 16, tag & 0xFFFF, vr.encode(), size) + content


def _content(vr: str, value: Value) -> bytes:
    if value is None:
        return b""
    if vr == "SQ":
        return _items(value)
    if vr in _BINARY:
        if not isinstance(value, bytes):
            raise ContractViolation("INVALID_ELEMENT", f"a value of VR {vr} must be bytes")
        return value + b"\0" * (len(value) & 1)
    several = (value,) if isinstance(value, str | int | float) else value
    if vr in _NUMBERS:
        return b"".join(_number(vr, part) for part in several)
    text = "\\".join(_string(vr, part) for part in several).encode()
    return text + (b"\0" if vr == "UI" else b" ") * (len(text) & 1)


def _items(value: Value) -> bytes:
    if isinstance(value, str | int | float | bytes) or value is None:
        raise ContractViolation("INVALID_ELEMENT", "a sequence must be a list of items")
    parts: list[bytes] = []
    for content in value:
        if not isinstance(content, bytes):
            raise ContractViolation("INVALID_ELEMENT", "an item must be encoded")
        parts += (_ITEM.pack(0xFFFE, 0xE000, len(content)), content)
    return b"".join(parts)


def _number(vr: str, value: Scalar | bytes) -> bytes:
    if vr == "AT":
        return struct.pack("<HH", int(value) >> 16, int(value) & 0xFFFF)
    return struct.pack("<" + _NUMBERS[vr], float(value) if vr in ("FD", "FL") else int(value))


def _string(vr: str, value: Scalar | bytes) -> str:
    if vr == "DS" and isinstance(value, int | float):
        return decimal_string(value)
    return str(value)


def floats(values: Iterable[float]) -> tuple[float, ...]:
    """Return plain floats, whatever kind of numbers came in."""
    return tuple(float(value) for value in values)
