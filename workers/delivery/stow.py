"""Send one result by STOW-RS (PS3.18 section 10.5) and say what the answer means."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from service.core.errors import ContractViolation, PeerRefused, PeerUnavailable
from service.core.settings import Destination

_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
_CHUNK_BYTES = 1 << 20
_DUPLICATE = 0x0111
_REPEATABLE = frozenset({408, 425, 429})
_FAILED_SOP_SEQUENCE = "00081198"
_REFERENCED_SOP_SEQUENCE = "00081199"
_REFERENCED_SOP_INSTANCE_UID = "00081155"
_FAILURE_REASON = "00081197"


def send(destination: Destination, *, file: Path, sop_instance_uid: str) -> None:
    """Store the file at the destination; return when its answer says that it is stored.

    Redirects are not followed: credentials must not travel to an address nobody configured.

    Raises
    ------
    PeerUnavailable
        ``CONNECT``, ``HTTP_nnn``, ``NO_DICOM_JSON``, ``PEER_BUSY``: to be tried again.
    PeerRefused
        ``HTTP_nnn``, ``FAILED_nnnn``: a repeat will not help.
    """
    if destination.stow_url is None:
        raise ContractViolation("DESTINATION", f"{destination.name} has no stow_url")
    boundary = uuid.uuid4().hex
    before = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    after = f"\r\n--{boundary}--\r\n".encode()
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        # Chunked bodies, without a length, are more than some archives and proxies take.
        "Content-Length": str(len(before) + file.stat().st_size + len(after)),
        "Accept": "application/dicom+json",
        **_authorization(destination),
    }
    try:
        with httpx.Client(
            timeout=_TIMEOUT, follow_redirects=False, auth=_basic(destination)
        ) as web:
            answer = web.post(
                _studies_url(destination.stow_url),
                headers=headers,
                content=_body(before, file, after),
            )
    except httpx.HTTPError as error:
        raise PeerUnavailable("CONNECT", f"{destination.name}: {type(error).__name__}") from error
    _judge(answer, sop_instance_uid, destination.name)


def reach(destination: Destination) -> int:
    """Ask the destination's service for one study; return the HTTP status."""
    if destination.stow_url is None:
        raise ContractViolation("DESTINATION", f"{destination.name} has no stow_url")
    try:
        with httpx.Client(
            timeout=_TIMEOUT, follow_redirects=False, auth=_basic(destination)
        ) as web:
            answer = web.get(
                _studies_url(destination.stow_url),
                params={"limit": 1},
                headers={"Accept": "application/dicom+json", **_authorization(destination)},
            )
    except httpx.HTTPError as error:
        raise PeerUnavailable("CONNECT", f"{destination.name}: {type(error).__name__}") from error
    return answer.status_code


def _judge(answer: httpx.Response, sop_instance_uid: str, name: str) -> None:
    """Turn a STOW-RS response into success, an error to repeat, or one for a person."""
    code = answer.status_code
    if code >= 500 or code in _REPEATABLE:
        raise PeerUnavailable(f"HTTP_{code}", f"{name} answered HTTP {code}")
    if code not in (200, 202, 409):
        raise PeerRefused(f"HTTP_{code}", f"{name} answered HTTP {code}")
    try:
        response = answer.json()
        failed = _references(response, _FAILED_SOP_SEQUENCE)
        stored = _references(response, _REFERENCED_SOP_SEQUENCE)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PeerUnavailable("NO_DICOM_JSON", f"{name} answered without DICOM JSON") from error
    if sop_instance_uid in stored:
        return
    if sop_instance_uid not in failed:
        raise PeerUnavailable("NO_DICOM_JSON", f"{name} did not say whether it stored the result")
    reason = failed[sop_instance_uid]
    if reason == _DUPLICATE:
        return
    if reason >> 8 == 0xA7:
        raise PeerUnavailable("PEER_BUSY", f"{name} answered failure reason 0x{reason:04X}")
    raise PeerRefused(f"FAILED_{reason:04X}", f"{name} answered failure reason 0x{reason:04X}")


def _references(response: Any, sequence: str) -> dict[str, int]:
    """Return the SOP instances of a sequence with their failure reasons (0 when none)."""
    items = response.get(sequence, {}).get("Value", [])
    return {
        item[_REFERENCED_SOP_INSTANCE_UID]["Value"][0]: item.get(_FAILURE_REASON, {}).get(
            "Value", [0]
        )[0]
        for item in items
    }


def _body(before: bytes, file: Path, after: bytes) -> Iterator[bytes]:
    yield before
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk
    yield after


def _studies_url(url: str) -> str:
    base = url.rstrip("/")
    return base if base.endswith("/studies") else f"{base}/studies"


def _basic(destination: Destination) -> httpx.BasicAuth | None:
    if destination.username is None or destination.password is None:
        return None
    return httpx.BasicAuth(destination.username, destination.password.get_secret_value())


def _authorization(destination: Destination) -> dict[str, str]:
    if destination.bearer_token is None:
        return {}
    return {"Authorization": f"Bearer {destination.bearer_token.get_secret_value()}"}
