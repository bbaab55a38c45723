"""Which of the media types that a client accepts an answer will have.

References
----------
DICOM PS3.18 section 8.7 (media types), RFC 9110 section 12.5.1 (Accept).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.uid import ExplicitVRLittleEndian

from service.core.errors import InvalidRequest
from service.core.identifiers import is_uid
from service.core.multipart import media_type

AS_STORED: Final = "*"
EXPLICIT: Final = str(ExplicitVRLittleEndian)
MULTIPART: Final = "multipart/related"
_LIMIT: Final = 4096
_RANGES: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')


@dataclass(frozen=True)
class Accepted:
    """A media type that the client takes.

    ``name`` is the type of the content itself, also where it comes in parts;
    ``transfer_syntax_uid`` is empty where the client names none, `AS_STORED` where it takes any.
    """

    name: str
    multipart: bool
    transfer_syntax_uid: str
    quality: float

    def takes(self, name: str) -> bool:
        """Return whether a media type is among those meant."""
        kind = name.partition("/")[0]
        return self.name in {name, "*/*", f"{kind}/*"}


def accepted(header: str) -> list[Accepted]:
    """Return what an Accept header takes, most wanted first; an absent one takes everything.

    Types may stand with or without quotes, as clients write both.

    Raises
    ------
    InvalidRequest
        ``NOT_ACCEPTABLE`` when the header is too long.

    >>> [(one.name, one.multipart) for one in accepted("text/html;q=0.1, */*")]
    [('*/*', False), ('text/html', False)]
    """
    if len(header) > _LIMIT:
        raise InvalidRequest("NOT_ACCEPTABLE", f"an Accept header has up to {_LIMIT} characters")
    found = [_accepted(part) for part in _RANGES.findall(header or "*/*")]
    return sorted((one for one in found if one.quality > 0), key=lambda one: -one.quality)


def choose(header: str, names: Sequence[str], *, multipart: bool | None = None) -> Accepted:
    """Return the first accepted range that one of these media types lies in.

    `multipart` says that the answer is always in parts, or never; None leaves it to the client.

    Raises
    ------
    InvalidRequest
        ``NOT_ACCEPTABLE`` when there is none; the message says what there is.
    """
    for one in accepted(header):
        if multipart is not None and one.multipart != multipart and one.name != "*/*":
            continue
        if any(one.takes(name) for name in names):
            return one
    form = f"{MULTIPART} of " if multipart else ""
    raise not_acceptable(f"available: {form}{', '.join(names)}")


def chosen_name(one: Accepted, names: Iterable[str]) -> str:
    """Return the first media type that lies in an accepted range."""
    return next(name for name in names if one.takes(name))


def not_acceptable(message: str) -> InvalidRequest:
    """Return the error that becomes 406."""
    return InvalidRequest("NOT_ACCEPTABLE", message)


def _accepted(text: str) -> Accepted:
    found = media_type(text.strip())
    multipart = found.name == MULTIPART
    name = found.parameters.get("type", "*/*").lower() if multipart else found.name
    syntax = found.parameters.get("transfer-syntax", "")
    known = syntax in {"", AS_STORED} or is_uid(syntax)
    return Accepted(
        name=name,
        multipart=multipart,
        transfer_syntax_uid=syntax,
        quality=_quality(found.parameters.get("q", "1")) if known else 0.0,
    )


def _quality(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0
