"""The doors: signing in with a key or at the provider, links to one study, signing out.

Every door checks what it is given itself; the gate lets anybody come this far.
"""

import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Final
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from service.api.identity import Identities, Offered, cookie_value
from service.api.oidc import Attempt, Provider
from service.api.signed import Purpose, Signer
from service.api.throttle import WINDOW_S, Throttle
from service.core.access import Means, Principal, Role
from service.core.clock import Clock
from service.core.errors import InvalidRequest, OverreadError
from service.core.settings import HttpSettings
from service.records import keys, sessions
from service.records.audit import AuditKind, AuditOutcome
from service.records.audit_trail import AuditTrail
from service.records.database import Records
from service.web.access_pages import LoginPage

_SIGN_IN_WITHIN: Final = timedelta(minutes=10)
_LOCAL_ADDRESS: Final = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")
_TEXT: Final = {
    "WRONG": "This key is not known, or it has expired.",
    "HELD_OFF": "Too many wrong keys from here. Wait a minute.",
    "LINK": "This link is over. Ask whoever sent it for a new one.",
    "SIGN_IN": "The sign-in was not finished. Try again.",
    "NO_ROLE": "You are known, but have no role here. Ask your administrator.",
    "PROVIDER": "The sign-in service does not answer. Try again later.",
}


class Doors:
    """Opens sessions."""

    def __init__(
        self,
        http: HttpSettings,
        records: Records,
        clock: Clock,
        *,
        identities: Identities,
        throttle: Throttle,
        trail: AuditTrail,
        provider: Provider | None,
        page: LoginPage,
    ) -> None:
        self._http = http
        self._records = records
        self._clock = clock
        self._identities = identities
        self._throttle = throttle
        self._trail = trail
        self._provider = provider
        self._signer = Signer(records, clock)
        self._page = page

    def show(self, request: Request) -> Response:
        """Show the form; where nobody is asked, go on."""
        following = local_address(request.query_params.get("next", "/"))
        if not self._identities.asks:
            return RedirectResponse(following, 303)
        return HTMLResponse(self._page.render(following))

    def by_key(self, request: Request, form: dict[str, str]) -> Response:
        """Take a key from the form and open a session for whom it belongs to."""
        following = local_address(form.get("next", "/"))
        address, offered = _address(request), Offered(form.get("key", "").strip())
        guessable = self._identities.is_guessable(offered)
        if guessable and self._throttle.holds_off(address):
            return self._refused(request, "HELD_OFF", 429, following)
        try:
            known = self._identities.found(offered)
        except OverreadError:
            return self._refused(request, "PROVIDER", 503, following)
        if known is None or not self._identities.asks:
            held_off = self._throttle.note(offered.value, address)
            status = 429 if held_off else 401
            return self._refused(request, "HELD_OFF" if held_off else "WRONG", status, following)
        self._throttle.welcome(offered.value, address)
        until = self._clock.now() + timedelta(seconds=self._http.session_s)
        if offered.value.startswith(keys.PREFIX):
            until = min(until, self._end_of(offered.value, until))
        principal = Principal(known.name, known.role, Means.LOGIN, known.source)
        return self._opened(request, principal, following, until)

    def at_provider(self, request: Request) -> Response:
        """Send the browser to the provider, with a cookie that remembers the attempt."""
        following = local_address(request.query_params.get("next", "/"))
        if self._provider is None:
            return RedirectResponse("/login", 303)
        try:
            address, attempt = self._provider.start(self._redirect_uri(request))
        except OverreadError:
            return self._refused(request, "PROVIDER", 503, following)
        claims = {
            "state": attempt.state,
            "nonce": attempt.nonce,
            "verifier": attempt.verifier,
            "next": following,
        }
        remembered = self._signer.sign(
            Purpose.SIGN_IN, claims, until=self._clock.now() + _SIGN_IN_WITHIN
        )
        answer = RedirectResponse(address, 303)
        self._set(answer, self._attempt_cookie, remembered, _SIGN_IN_WITHIN)
        return answer

    def back(self, request: Request) -> Response:
        """Take the browser back from the provider."""
        asked = request.query_params
        cookie = cookie_value(request.headers.get("cookie", ""), self._attempt_cookie)
        claims = None if cookie is None else self._signer.read(Purpose.SIGN_IN, cookie)
        if self._provider is None or claims is None or claims["state"] != asked.get("state"):
            return self._refused(request, "SIGN_IN", 400, "/")
        following = local_address(str(claims["next"]))
        if "code" not in asked:
            return self._refused(request, "SIGN_IN", 401, following)
        attempt = Attempt(*(str(claims[name]) for name in ("state", "nonce", "verifier")))
        try:
            principal = self._provider.finish(asked["code"], attempt, self._redirect_uri(request))
        except InvalidRequest as error:
            no_role = error.reason == "NO_ROLE"
            return self._refused(request, "NO_ROLE" if no_role else "SIGN_IN", 403, following)
        except OverreadError:
            return self._refused(request, "PROVIDER", 503, following)
        until = self._clock.now() + timedelta(seconds=self._http.session_s)
        answer = self._opened(request, principal, following, until)
        answer.delete_cookie(self._attempt_cookie, path="/")
        return answer

    def by_link(self, request: Request, token: str) -> Response:
        """Open a session that sees one study, for whoever holds a signed link to it."""
        claims = self._signer.read(Purpose.LINK, token)
        if claims is None:
            return self._refused(request, "LINK", 401, "/")
        uid = str(claims["study"])
        ends_at = datetime.fromtimestamp(float(claims["exp"]), self._clock.now().tzinfo)
        until = min(ends_at, self._clock.now() + timedelta(seconds=self._http.session_s))
        name = f"link {claims['jti']}"
        principal = Principal(name, Role.READER, Means.LINK, str(claims["jti"]), uid)
        return self._opened(request, principal, f"/studies/{uid}", until)

    def out(self, request: Request) -> Response:
        """End the session."""
        cookie = cookie_value(request.headers.get("cookie", ""), self._identities.cookie)
        if cookie is not None:
            with self._records.writing() as connection:
                sessions.close(connection, keys.digest(cookie))
            self._identities.forget()
            who: Principal = request.scope["principal"]
            self._note(request, AuditKind.LOGOUT, who, AuditOutcome.SUCCESS)
        answer = HTMLResponse(self._page.render("/", signed_out=True, leave=self._leave()))
        answer.delete_cookie(self._identities.cookie, path="/")
        return answer

    @property
    def _attempt_cookie(self) -> str:
        return f"{self._identities.cookie}-sign-in"

    def _opened(
        self, request: Request, principal: Principal, following: str, until: datetime
    ) -> Response:
        now = self._clock.now()
        with self._records.writing() as connection:
            cookie = sessions.open_session(connection, principal, until=until, at=now)
        self._note(request, AuditKind.LOGIN, principal, AuditOutcome.SUCCESS)
        answer = RedirectResponse(following, 303)
        self._set(answer, self._identities.cookie, cookie, until - now)
        return answer

    def _refused(self, request: Request, why: str, status: int, following: str) -> Response:
        self._note(request, AuditKind.LOGIN, None, AuditOutcome.FAILURE, why)
        headers = {"Retry-After": str(int(WINDOW_S))} if status == 429 else None
        text = self._page.render(following, error=_TEXT[why])
        return HTMLResponse(text, status_code=status, headers=headers)

    def _note(
        self,
        request: Request,
        kind: AuditKind,
        principal: Principal | None,
        outcome: AuditOutcome,
        detail: str = "",
    ) -> None:
        address = _address(request)
        self._trail.note(
            kind,
            "session",
            actor=address if principal is None else principal.name,
            means="" if principal is None else principal.means,
            role="" if principal is None else principal.role,
            address=address,
            study_instance_uid=(principal.study_instance_uid or "") if principal else "",
            outcome=outcome,
            detail=detail,
        )

    def _set(self, answer: Response, name: str, value: str, age: timedelta) -> None:
        # Lax, not Strict: the way back from the provider begins on its page.
        answer.set_cookie(
            name,
            value,
            max_age=max(1, int(age.total_seconds())),
            path="/",
            secure=self._http.is_encrypted,
            httponly=True,
            samesite="lax",
        )

    def _end_of(self, key: str, default: datetime) -> datetime:
        with self._records.reading() as connection:
            found = keys.valid(connection, keys.digest(key), at=self._clock.now())
        return default if found is None or found.expires_at is None else found.expires_at

    def _redirect_uri(self, request: Request) -> str:
        base = self._http.public_url or str(request.base_url).rstrip("/")
        return f"{base}/login/back"

    def _leave(self) -> str | None:
        """Return where the provider's own session is ended."""
        if self._provider is None:
            return None
        try:
            address = self._provider.endpoints().end_session
        except OverreadError:
            return None
        return None if address is None else f"{address}?{urlencode({'client_id': self.client_id})}"

    @property
    def client_id(self) -> str:
        """What the provider knows this service as."""
        return self._http.oidc.client_id


def local_address(asked: str) -> str:
    """Return an address of our own pages; anything else leads to the worklist.

    >>> local_address("/studies/1.2?x=1"), local_address("//evil.example"), local_address("/a b")
    ('/studies/1.2?x=1', '/', '/')
    """
    is_ours = _LOCAL_ADDRESS.fullmatch(asked) is not None and not asked.startswith("/log")
    return asked if is_ours else "/"


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a small form; the gate has bounded its size."""
    fields = parse_qs((await request.body()).decode("utf-8", "replace"))
    return {name: values[-1] for name, values in fields.items()}


def router(doors: Doors) -> APIRouter:
    """Return the routes of the doors."""
    routes = APIRouter(include_in_schema=False)

    @routes.post("/login")
    def by_key(request: Request, form: Annotated[dict[str, str], Depends(_form)]) -> Response:
        return doors.by_key(request, form)

    @routes.get("/shared/{token}")
    def by_link(request: Request, token: str) -> Response:
        return doors.by_link(request, token)

    opened: list[tuple[str, str, Any]] = [
        ("GET", "/login", doors.show),
        ("GET", "/login/provider", doors.at_provider),
        ("GET", "/login/back", doors.back),
        ("POST", "/logout", doors.out),
    ]
    for method, path, handler in opened:
        routes.add_api_route(path, handler, methods=[method])
    return routes


def _address(request: Request) -> str:
    return str(request.scope.get("client_address", ""))
