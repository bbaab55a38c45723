"""Bytes to text by Specific Character Set (0008,0005), without ever raising or losing a study.

What cannot be decoded as declared is kept as Latin-1, one character a byte. Text comes out without
NUL characters and lone surrogates, so that every database takes it.
"""

import re
from collections.abc import Sequence
from typing import Final

from pydicom.charset import CODES_TO_ENCODINGS, handled_encodings, python_encoding
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

LATIN_1: Final = ("latin_1",)
_FRAGMENTS: Final = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*", re.DOTALL)
_TEXT_DELIMITERS: Final = bytes(TEXT_VR_DELIMS) + b"\\"
_NAME_DELIMITERS: Final = _TEXT_DELIMITERS + bytes(PN_DELIMS) + b"="


def encodings_of(character_set: bytes) -> Sequence[str]:
    r"""Return the Python encodings of a value of Specific Character Set, Latin-1 if unknown.

    >>> encodings_of(b"ISO_IR 192"), encodings_of(rb"\\ISO 2022 IR 87"), encodings_of(b"KLINGON")
    (('UTF8',), ('iso8859', 'iso2022_jp'), ('latin_1',))
    """
    names = [name.strip(" \0") for name in character_set.decode("latin_1").split("\\")]
    known = tuple(python_encoding[name] for name in names if name in python_encoding)
    return known or LATIN_1


def decoded(value: bytes, encodings: Sequence[str], *, person_name: bool = False) -> str:
    r"""Return a value as text, with code extensions resolved (PS3.5 section 6.1.2.5).

    >>> decoded(b"\xce\x9b^\xce", ("UTF8",)), decoded(b"\xce\x9b^A", ("UTF8",))
    ('Î\x9b^Î', 'Λ^A')
    """
    if b"\x1b" not in value:
        if value.isascii():
            return value.decode("ascii").replace("\0", "")
        return _clean(_decoded(value, encodings[0]))
    delimiters = _NAME_DELIMITERS if person_name else _TEXT_DELIMITERS
    parts = (_fragment(part, encodings, delimiters) for part in _FRAGMENTS.findall(value))
    return _clean("".join(parts))


def _fragment(part: bytes, encodings: Sequence[str], delimiters: bytes) -> str:
    """Decode what follows one escape sequence; a delimiter returns to the first encoding."""
    if not part.startswith(b"\x1b"):
        return _decoded(part, encodings[0])
    escape = part[: 4 if part[1:3] in {b"$(", b"$)"} else 3]
    encoding = CODES_TO_ENCODINGS.get(escape)
    if encoding is None:
        return _decoded(part[len(escape) :], encodings[0])
    if encoding in handled_encodings:  # Python's codec wants to see the escape sequence
        return _decoded(part, encoding)
    rest = part[len(escape) :]
    end = next((i for i, byte in enumerate(rest) if byte in delimiters), len(rest))
    return _decoded(rest[:end], encoding) + _decoded(rest[end:], encodings[0])


def _decoded(value: bytes, encoding: str) -> str:
    try:
        return value.decode(encoding)
    except (UnicodeError, LookupError):
        return value.decode("latin_1")


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
