"""multipart/related in bytes, both ways, without ever holding a part in memory (RFC 2046, 2387).

References
----------
DICOM PS3.18 section 8.6.1.2 (multipart payloads).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from service.core.errors import InvalidRequest

MAX_PART_HEADERS_BYTES: Final = 1 << 14
_PARAMETER: Final = re.compile(
    r';\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=("(?:[^"\\]|\\.)*"|[^\s;"]+)\s*'
)
# RFC 2046 allows fewer; real peers use any printable character.
_BOUNDARY: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,68}[\x21-\x7e])?")
_LOOSE_END: Final = 2  # bytes after a delimiter that tell whether it is the last one


@dataclass(frozen=True)
class MediaType:
    """A content type: its name in small letters and its parameters."""

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def media_type(content_type: str) -> MediaType:
    """Read the value of a Content-Type header; what does not parse is left out.

    >>> media_type('Multipart/Related; type="application/dicom"; boundary=a1')
    MediaType(name='multipart/related', parameters={'type': 'application/dicom', 'boundary': 'a1'})
    """
    name, separator, rest = content_type.partition(";")
    parameters = {}
    for key, value in _PARAMETER.findall(separator + rest):
        unquoted = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        parameters[key.lower()] = unquoted
    return MediaType(name.strip().lower(), parameters)


@dataclass(frozen=True)
class PartBegin:
    """A part begins; header names are in small letters."""

    headers: Mapping[str, str]


@dataclass(frozen=True)
class PartData:
    """More bytes of the part that began last."""

    data: bytes


@dataclass(frozen=True)
class PartEnd:
    """The part is complete."""


Event = PartBegin | PartData | PartEnd


class _Where(Enum):
    PREAMBLE = auto()
    DELIMITER = auto()
    HEADERS = auto()
    BODY = auto()
    EPILOGUE = auto()


class MultipartReader:
    """Splits a body that comes in pieces into its parts."""

    def __init__(self, boundary: str) -> None:
        if _BOUNDARY.fullmatch(boundary) is None:
            raise InvalidRequest("MALFORMED_MULTIPART", "a boundary has 1 to 70 characters")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        # The first delimiter may stand at the very beginning, without the line break before it.
        self._buffer = bytearray(b"\r\n")
        self._where = _Where.PREAMBLE

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield what the next bytes complete; they must be consumed before the next call.

        Raises
        ------
        InvalidRequest
            ``MALFORMED_MULTIPART`` when delimiters or part headers are wrong.
        """
        self._buffer += data
        steps = {
            _Where.PREAMBLE: self._preamble,
            _Where.DELIMITER: self._after_delimiter,
            _Where.HEADERS: self._headers,
            _Where.BODY: self._body,
        }
        while self._where in steps:
            before = self._where, len(self._buffer)
            yield from steps[self._where]()
            if (self._where, len(self._buffer)) == before:
                return
        self._buffer.clear()

    def finish(self) -> None:
        """Check that the body was complete; raises as `feed` does."""
        if self._where is not _Where.EPILOGUE:
            raise _malformed("the body ends before its last delimiter")

    def _preamble(self) -> Iterator[Event]:
        at = self._buffer.find(self._delimiter)
        if at < 0:
            del self._buffer[: max(0, len(self._buffer) - len(self._delimiter) + 1)]
        else:
            del self._buffer[: at + len(self._delimiter)]
            self._where = _Where.DELIMITER
        yield from ()

    def _after_delimiter(self) -> Iterator[Event]:
        if len(self._buffer) < _LOOSE_END:
            return
        if self._buffer.startswith(b"--"):
            self._where = _Where.EPILOGUE
            return
        end = self._buffer.find(b"\r\n")
        if (end < 0 and len(self._buffer) > MAX_PART_HEADERS_BYTES) or (
            end >= 0 and self._buffer[:end].strip(b" \t")
        ):
            raise _malformed("a delimiter is followed by text")
        if end >= 0:
            del self._buffer[:end]  # the line break stays: headers may be absent altogether
            self._where = _Where.HEADERS
        yield from ()

    def _headers(self) -> Iterator[Event]:
        end = self._buffer.find(b"\r\n\r\n")
        if end > MAX_PART_HEADERS_BYTES or (end < 0 and len(self._buffer) > MAX_PART_HEADERS_BYTES):
            raise _malformed("the headers of a part are too long")
        if end >= 0:
            headers = _headers(bytes(self._buffer[2:end]))
            del self._buffer[: end + 4]
            # A part may be empty: its delimiter then begins with the line break after the headers.
            self._where = _Where.BODY
            yield PartBegin(headers)

    def _body(self) -> Iterator[Event]:
        at = self._buffer.find(self._delimiter)
        length = at if at >= 0 else len(self._buffer) - len(self._delimiter) + 1
        if length > 0:
            data = bytes(memoryview(self._buffer)[:length])
            del self._buffer[:length]
            yield PartData(data)
        if at >= 0:
            del self._buffer[: len(self._delimiter)]
            self._where = _Where.DELIMITER
            yield PartEnd()


@dataclass(frozen=True)
class Part:
    """A part to be written: its headers and its bytes in pieces."""

    headers: Mapping[str, str]
    body: Iterable[bytes]


def encode_multipart(parts: Iterable[Part], boundary: str) -> Iterator[bytes]:
    """Yield a body in pieces; the boundary must not occur in any part."""
    delimiter = f"--{boundary}".encode("ascii")
    for part in parts:
        lines = "".join(f"{name}: {value}\r\n" for name, value in part.headers.items())
        yield delimiter + b"\r\n" + lines.encode("latin_1") + b"\r\n"
        yield from part.body
        yield b"\r\n"
    yield delimiter + b"--\r\n"


def _headers(block: bytes) -> dict[str, str]:
    headers = {}
    for line in block.decode("latin_1").split("\r\n"):
        name, colon, value = line.partition(":")
        if line and not colon:
            raise _malformed("a header of a part has no colon")
        if line:
            headers[name.strip().lower()] = value.strip()
    return headers


def _malformed(message: str) -> InvalidRequest:
    return InvalidRequest("MALFORMED_MULTIPART", message)
