"""Who may ask: host and origin checks, API keys, limits, and the headers every answer carries.

One piece of plain ASGI around the whole application, so that no route can be added outside it.
"""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Iterable, Mapping, MutableMapping
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from fastapi import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import of_unexpected, problem, route_of
from service.core.settings import HttpSettings, is_loopback

JSON_LIMIT_BYTES: Final = 1 << 20
OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# Many different keys are a guess; one key over and over is a program with an old one.
_GUESSES_LIMIT: Final = 20
_WRONG_KEYS_LIMIT: Final = 100
_WRONG_KEYS_WINDOW_S: Final = 60.0
_ADDRESSES_LIMIT: Final = 10_000
_CHALLENGE: Final = 'Bearer realm="overread", Basic realm="overread", charset="UTF-8"'

HEADERS: Final = MappingProxyType(
    {
        "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
        "img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), microphone=(), geolocation=()",
        "cache-control": "no-store",
    }
)


class Keys:
    """The API keys, kept as digests; wrong ones are counted by address."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = tuple(_digest(key) for key in keys)
        self._wrong: dict[str, list[tuple[float, bytes]]] = {}

    def fits(self, offered: str) -> bool:
        """Return whether a key is one of ours, in a time that does not tell how close it was."""
        digest = _digest(offered)
        return any([hmac.compare_digest(digest, known) for known in self._digests])

    def note_wrong(self, offered: str, address: str) -> bool:
        """Count a wrong key; return whether the address has offered too many lately."""
        since = time.monotonic() - _WRONG_KEYS_WINDOW_S
        if len(self._wrong) >= _ADDRESSES_LIMIT:
            self._wrong = {name: seen for name, seen in self._wrong.items() if seen[-1][0] > since}
        recent = [one for one in self._wrong.get(address, []) if one[0] > since]
        guesses = {digest for _, digest in recent}
        self._wrong[address] = [*recent[-_WRONG_KEYS_LIMIT:], (time.monotonic(), _digest(offered))]
        return len(guesses) >= _GUESSES_LIMIT or len(recent) >= _WRONG_KEYS_LIMIT


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class Gate:
    """Lets a request in or answers it, and dresses every answer."""

    def __init__(self, app: ASGIApp, settings: HttpSettings) -> None:
        self._app = app
        self._keys = Keys(key.get_secret_value() for key in settings.api_keys)
        self._needs_key = settings.auth != "none"
        # Where anybody who reaches the port may ask, a page of another site must not be able to
        # reach it under a name of its own (DNS rebinding).
        self._checks_host = not self._needs_key and is_loopback(settings.host)
        self._upload_limit_bytes = settings.max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        dressed = _Dressed(send)
        refusal = self._refusal(scope, Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, dressed)
            return
        limited = _limited(receive, self._limit_bytes(scope))
        try:
            await self._app(scope, limited, dressed)
        except Exception as error:  # noqa: BLE001  the boundary of HTTP
            answer = of_unexpected(error, path=route_of(scope))
            if not dressed.started:
                await answer(scope, receive, dressed)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        if scope["path"] in OPEN_PATHS:
            return None
        return (
            self._stranger_refusal(scope, headers)
            or (self._key_refusal(scope, headers) if self._needs_key else None)
            or self._body_refusal(scope, headers)
        )

    def _stranger_refusal(self, scope: Scope, headers: Headers) -> Response | None:
        if self._checks_host and not is_loopback(_host_name(headers.get("host", ""))):
            detail = "open this page by a loopback name, such as http://127.0.0.1"
            return problem(421, "HOST", detail)
        if scope["method"] not in _SAFE_METHODS and _is_foreign(headers):
            return problem(403, "ORIGIN", "the request comes from a page of another site")
        return None

    def _body_refusal(self, scope: Scope, headers: Headers) -> Response | None:
        if headers.get("content-encoding", "identity") != "identity":
            return problem(415, "CONTENT_ENCODING", "compressed bodies are not taken")
        if _announced_bytes(headers) > self._limit_bytes(scope):
            return problem(413, "TOO_LARGE", "the body is larger than this route takes")
        return None

    def _key_refusal(self, scope: Scope, headers: Headers) -> Response | None:
        offered = _offered_key(headers)
        if offered is not None and self._keys.fits(offered):
            return None
        challenge = {"WWW-Authenticate": _CHALLENGE}
        if offered is None:
            return problem(401, "UNAUTHORIZED", "this needs an API key", headers=challenge)
        client = scope.get("client")
        if self._keys.note_wrong(offered, client[0] if client else ""):
            pause = {"Retry-After": str(int(_WRONG_KEYS_WINDOW_S))}
            return problem(429, "TOO_MANY_REQUESTS", "too many wrong keys", headers=pause)
        return problem(401, "UNAUTHORIZED", "this key is not known", headers=challenge)

    def _limit_bytes(self, scope: Scope) -> int:
        path = scope["path"]
        uploads = path == "/api/v1/studies" or path.startswith("/dicom-web/studies")
        return self._upload_limit_bytes if uploads else JSON_LIMIT_BYTES


class _Dressed:
    """A `send` that adds the headers an answer lacks and knows whether it has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            _dress(message)
        await self._send(message)


def _dress(message: MutableMapping[str, object]) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        headers.setdefault(name, value)


def _limited(receive: Receive, limit_bytes: int) -> Receive:
    """Return a `receive` that stops a body which announced no length, or a false one."""
    received_bytes = 0

    async def limited() -> Message:
        nonlocal received_bytes
        message = await receive()
        if message["type"] == "http.request":
            received_bytes += len(message.get("body", b""))
            if received_bytes > limit_bytes:
                raise HTTPException(413, headers={"Connection": "close"})
        return message

    return limited


def _announced_bytes(headers: Mapping[str, str]) -> int:
    length = headers.get("content-length", "0")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 0


def _offered_key(headers: Mapping[str, str]) -> str | None:
    """Return the key of a request: a header of its own, a bearer token, or Basic's password.

    Basic lets a browser ask for the key and send it with pages, scripts and event streams alike.
    """
    if "x-api-key" in headers:
        return headers["x-api-key"]
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _host_name(host: str) -> str:
    """Return the name in a Host header without its port.

    >>> _host_name("127.0.0.1:8080"), _host_name("[::1]:8080"), _host_name("")
    ('127.0.0.1', '::1', '')
    """
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_foreign(headers: Mapping[str, str]) -> bool:
    """Return whether a browser says that a page of another origin sends this request."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return False
    try:
        return urlsplit(origin).netloc != headers.get("host")
    except ValueError:
        return True
