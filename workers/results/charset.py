"""A written result in the character set of its study (PS3.3 C.12.1.1.2), byte for byte.

Results are written in UTF-8. For a destination that shows only what it knows, the text of a whole
data set is taken into the study's own character set: what was carried over from the study has the
very bytes that the modality wrote, the rest is encoded anew.
"""

import struct
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.valuerep import PersonName

from service.core.errors import ContractViolation
from workers.results.encode import tag_of
from workers.results.source import SourceStudy

_TEXT: Final = frozenset({b"LO", b"LT", b"PN", b"SH", b"ST", b"UC", b"UT"})
_LONG: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_CHARACTER_SET: Final = tag_of("SpecificCharacterSet")
_TAG: Final = struct.Struct("<HH")
_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_Recode = Callable[[bytes, bytes], bytes]


def in_source_text(content: bytes, source: SourceStudy) -> bytes:
    """Return a result of ours in the study's character set.

    A letter of our own words that the set lacks gives way to the nearest plain one.

    Parameters
    ----------
    content
        A Part 10 file of `workers.results.encode`: explicit VR little endian, defined lengths.
    """
    if not source.character_set:
        return content
    encodings = _encodings(source.character_set)
    start = 144 + int(_U32.unpack_from(content, 140)[0])
    recode = partial(_text, encodings=encodings)
    return content[:start] + _data_set(content, start, len(content), recode, source)


def decoded(value: bytes, character_set: str) -> str:
    """Return text in a character set, decoded; raises UnicodeDecodeError where it is not in it."""
    if character_set == "ISO_IR 192" or value.isascii():
        return value.decode("utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return decode_bytes(value, _encodings(character_set), set())
        except (UserWarning, LookupError) as error:
            raise UnicodeDecodeError("dicom", value, 0, len(value), str(error)) from error


def _encodings(character_set: str) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(convert_encodings(character_set.split("\\")))


def _data_set(content: bytes, at: int, end: int, recode: _Recode, source: SourceStudy) -> bytes:
    parts: list[bytes] = []
    while at < end:
        group, element = _TAG.unpack_from(content, at)
        tag, vr = group << 16 | element, content[at + 4 : at + 6]
        at, value, after = _value(content, at, vr)
        if tag == _CHARACTER_SET:
            value = source.character_set.encode("ascii")
        elif vr == b"SQ":
            value = _items(value, recode, source)
        elif vr in _TEXT and not value.isascii():
            value = source.verbatim(tag, value) or recode(value, vr)
        parts.append(_element(group, element, vr, value))
        at = after
    return b"".join(parts)


def _value(content: bytes, at: int, vr: bytes) -> tuple[int, bytes, int]:
    if vr in _LONG:
        length, start = _U32.unpack_from(content, at + 8)[0], at + 12
    else:
        length, start = _U16.unpack_from(content, at + 6)[0], at + 8
    return at, content[start : start + length], start + length


def _items(value: bytes, recode: _Recode, source: SourceStudy) -> bytes:
    parts: list[bytes] = []
    at = 0
    while at < len(value):
        length = _U32.unpack_from(value, at + 4)[0]
        # What stands in an item was copied too, but its bytes are not kept: they are made anew.
        body = _data_set(value, at + 8, at + 8 + length, recode, source.without_bytes)
        parts += (value[at : at + 4], _U32.pack(len(body)), body)
        at += 8 + length
    return b"".join(parts)


def _element(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    value += b" " * (len(value) & 1) if vr != b"UI" and vr not in (b"OB", b"UN") else b""
    if vr in _LONG:
        return _TAG.pack(group, element) + vr + b"\0\0" + _U32.pack(len(value)) + value
    if len(value) > 0xFFFE:
        raise ContractViolation("ELEMENT_TOO_LONG", f"{len(value)} bytes in another character set")
    return _TAG.pack(group, element) + vr + _U16.pack(len(value)) + value


def _text(value: bytes, vr: bytes, *, encodings: Sequence[str]) -> bytes:
    text = value.decode("utf-8").rstrip(" ")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            if vr == b"PN":
                return bytes(PersonName(text, encodings).encode(encodings))
            return bytes(encode_string(text, list(encodings)))
        except (UnicodeError, UserWarning, LookupError):
            # Never the patient's: those are in the set by their origin. Ours give way.
            plain = unicodedata.normalize("NFKD", text)
            return "".join(c for c in plain if not unicodedata.combining(c)).encode(
                "ascii", "replace"
            )
