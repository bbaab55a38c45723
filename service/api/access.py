"""The gate: who may ask, how much may be sent, what every answer carries, and what is noted of it.

One piece of plain ASGI around the whole application, so that no route can be added outside it.
"""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from typing import Final, Protocol
from urllib.parse import urlsplit

import anyio.to_thread
from fastapi import Response
from fastapi.responses import HTMLResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.identity import Identities, Offered
from service.api.policy import SAFE_METHODS, is_door, is_open, may
from service.api.problems import of_error, of_unexpected, problem, route_of
from service.api.throttle import WINDOW_S, Throttle
from service.core.access import LOCAL, NOBODY, Principal, asking
from service.core.errors import OverreadError
from service.core.settings import HttpSettings, is_loopback

JSON_LIMIT_BYTES: Final = 1 << 20
FORM_LIMIT_BYTES: Final = 16 << 10
_CHALLENGE: Final = 'Bearer realm="overread", Basic realm="overread", charset="UTF-8"'
# Without Basic: a browser would open its own window over the login page.
_PAGE_CHALLENGE: Final = 'Bearer realm="overread"'

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
_HSTS: Final = "max-age=31536000"


class Witness(Protocol):
    """Notes what was answered to whom."""

    def answered(self, scope: Scope, principal: Principal, address: str, status: int) -> None:
        """Note an answer of the application."""
        ...

    def refused(self, scope: Scope, principal: Principal | None, address: str, why: str) -> None:
        """Note that the gate let somebody not in."""
        ...


class Gate:
    """Lets a request in or answers it, and dresses every answer."""

    def __init__(
        self,
        app: ASGIApp,
        settings: HttpSettings,
        *,
        identities: Identities | None = None,
        throttle: Throttle | None = None,
        witness: Witness | None = None,
        login_page: Callable[[str], str] | None = None,
    ) -> None:
        self._app = app
        self._identities = identities or Identities(settings)
        self._throttle = throttle or Throttle()
        self._witness = witness
        self._login_page = login_page
        # Where anybody who reaches the port may ask, a page of another site must not be able to
        # reach it under a name of its own (DNS rebinding).
        self._checks_host = not self._identities.asks and is_loopback(settings.host)
        self._upload_limit_bytes = settings.max_upload_bytes
        self._proxies = settings.trusted_proxies
        self._origin = urlsplit(settings.public_url or "").netloc
        self._more_headers = {"strict-transport-security": _HSTS} if settings.is_encrypted else {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        dressed = _Dressed(send, self._more_headers)
        headers = Headers(scope=scope)
        address = client_address(scope, headers, self._proxies)
        scope["client_address"] = address
        refusal = self._stranger_refusal(scope, headers) or self._body_refusal(scope, headers)
        principal = NOBODY if self._identities.asks else LOCAL
        if refusal is None and self._identities.asks and not is_open(scope["path"]):
            principal, refusal = await self._known(scope, headers, address)
        if refusal is not None:
            await refusal(scope, receive, dressed)
            return
        scope["principal"] = principal
        asking.set(principal)
        try:
            await self._app(scope, _limited(receive, self._limit_bytes(scope)), dressed)
        except Exception as error:  # noqa: BLE001  the boundary of HTTP
            answer = of_unexpected(error, path=route_of(scope))
            if not dressed.started:
                await answer(scope, receive, dressed)
        if self._witness is not None:
            self._witness.answered(scope, principal, address, dressed.status)

    async def _known(
        self, scope: Scope, headers: Headers, address: str
    ) -> tuple[Principal, Response | None]:
        """Return who asks, and the refusal when it is nobody or nobody who may."""
        offered = self._identities.offered(headers)
        if offered is None:
            return NOBODY, self._unknown(scope, headers, "this needs an API key or a sign-in")
        try:
            principal = await self._identified(offered, address)
        except OverreadError as error:
            return NOBODY, of_error(error, path="gate")
        if principal is None:
            return NOBODY, self._wrong(scope, headers, offered, address)
        why = self._misuse(scope, headers, principal, offered)
        if why is None:
            return principal, None
        self._note_refusal(scope, principal, address, why)
        return principal, problem(403, why, _MISUSES[why])

    async def _identified(self, offered: Offered, address: str) -> Principal | None:
        guessable = self._identities.is_guessable(offered)
        if guessable and not self._throttle.admits(offered.value, address):
            return None
        known = self._identities.remembered(offered)
        if known is None:
            known = await anyio.to_thread.run_sync(self._identities.found, offered)
        if known is not None and guessable:
            self._throttle.welcome(offered.value, address)
        return known

    def _misuse(
        self, scope: Scope, headers: Headers, principal: Principal, offered: Offered
    ) -> str | None:
        if scope["method"] not in SAFE_METHODS and offered.is_cookie and not _is_own(headers):
            # A browser sends the cookie by itself; it also says from which page.
            return "ORIGIN"
        if not may(principal, scope["method"], scope["path"], scope.get("query_string", b"")):
            return "ROLE"
        return None

    def _unknown(self, scope: Scope, headers: Headers, detail: str) -> Response:
        if self._login_page is not None and _wants_page(scope, headers):
            return HTMLResponse(
                self._login_page(_asked_address(scope)),
                status_code=401,
                headers={"WWW-Authenticate": _PAGE_CHALLENGE},
            )
        return problem(401, "UNAUTHORIZED", detail, headers={"WWW-Authenticate": _CHALLENGE})

    def _wrong(self, scope: Scope, headers: Headers, offered: Offered, address: str) -> Response:
        if offered.is_cookie:  # a session that is over is no attack
            return self._unknown(scope, headers, "this sign-in is over")
        self._note_refusal(scope, None, address, "UNAUTHORIZED")
        if self._throttle.note(offered.value, address):
            pause = {"Retry-After": str(int(WINDOW_S))}
            return problem(429, "TOO_MANY_REQUESTS", "too many wrong keys", headers=pause)
        return self._unknown(scope, headers, "this key is not known")

    def _note_refusal(
        self, scope: Scope, principal: Principal | None, address: str, why: str
    ) -> None:
        if self._witness is not None:
            self._witness.refused(scope, principal, address, why)

    def _stranger_refusal(self, scope: Scope, headers: Headers) -> Response | None:
        if scope["path"] in ("/healthz", "/readyz"):
            return None
        if self._checks_host and not is_loopback(_host_name(headers.get("host", ""))):
            detail = "open this page by a loopback name, such as http://127.0.0.1"
            return problem(421, "HOST", detail)
        if scope["method"] not in SAFE_METHODS and self._is_foreign(headers):
            return problem(403, "ORIGIN", _MISUSES["ORIGIN"])
        return None

    def _is_foreign(self, headers: Headers) -> bool:
        """Return whether a browser says that a page of another origin sends this request."""
        site = headers.get("sec-fetch-site")
        if site is not None:
            return site not in ("same-origin", "none")
        origin = headers.get("origin")
        if origin is None:
            return False
        try:
            return urlsplit(origin).netloc not in {headers.get("host"), self._origin} - {""}
        except ValueError:
            return True

    def _body_refusal(self, scope: Scope, headers: Headers) -> Response | None:
        if scope["path"] in ("/healthz", "/readyz"):
            return None
        if headers.get("content-encoding", "identity") != "identity":
            return problem(415, "CONTENT_ENCODING", "compressed bodies are not taken")
        if _announced_bytes(headers) > self._limit_bytes(scope):
            return problem(413, "TOO_LARGE", "the body is larger than this route takes")
        return None

    def _limit_bytes(self, scope: Scope) -> int:
        path = scope["path"]
        if is_door(path):
            return FORM_LIMIT_BYTES
        uploads = path in _UPLOADS or path.startswith("/dicom-web/studies")
        return self._upload_limit_bytes if uploads else JSON_LIMIT_BYTES


_UPLOADS: Final = frozenset({"/api/v1/studies", "/api/v1/routing/try-file"})
_MISUSES: Final = MappingProxyType(
    {
        "ORIGIN": "the request comes from a page of another site",
        "ROLE": "your role does not allow this",
    }
)


class _Dressed:
    """A `send` that adds the headers an answer lacks and knows whether it has begun."""

    def __init__(self, send: Send, more: Mapping[str, str]) -> None:
        self._send = send
        self._more = more
        self.started = False
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            _dress(message, self._more)
        await self._send(message)


def _dress(message: MutableMapping[str, object], more: Mapping[str, str]) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in (*HEADERS.items(), *more.items()):
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


def client_address(scope: Scope, headers: Mapping[str, str], proxies: Sequence[str]) -> str:
    """Return who is at the other end; behind trusted proxies, what they say.

    The list in ``X-Forwarded-For`` is read from its end: what stands before the first address
    that is no proxy of ours was written by the client itself.
    """
    client = scope.get("client")
    address = str(client[0]) if client else ""
    if not proxies or not _is_in(address, proxies):
        return address
    for hop in reversed(headers.get("x-forwarded-for", "").split(",")):
        named = hop.strip()
        if not named:
            break
        address = named[:64]
        if not _is_in(named, proxies):
            break
    return address


def _is_in(address: str, networks: Sequence[str]) -> bool:
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None) or found
    return any(mapped in ip_network(network, strict=False) for network in networks)


def _host_name(host: str) -> str:
    """Return the name in a Host header without its port.

    >>> _host_name("127.0.0.1:8080"), _host_name("[::1]:8080"), _host_name("")
    ('127.0.0.1', '::1', '')
    """
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_own(headers: Mapping[str, str]) -> bool:
    """Return whether a browser says of itself that our own page sends this request.

    That it does not come from elsewhere has been checked; here something must have been said.
    """
    return "sec-fetch-site" in headers or "origin" in headers


def _wants_page(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Return whether a person looks at a browser, and not a script of a page at its answer."""
    is_navigation = headers.get("sec-fetch-dest", "document") == "document"
    asked_by_htmx = "hx-request" in headers
    accepts = "text/html" in headers.get("accept", "")
    return scope["method"] == "GET" and accepts and is_navigation and not asked_by_htmx


def _asked_address(scope: Scope) -> str:
    query = scope.get("query_string", b"").decode("latin-1")
    path = str(scope["path"])
    return f"{path}?{query}" if query else path
