"""The pages about access: signing in, keys, the audit trail, webhooks."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment

from service.core.access import Means, Role, asking
from service.core.errors import OverreadError
from service.core.identifiers import is_uid
from service.records import audit, keys, relays, webhooks
from service.records.audit import AuditFilter, AuditKind, AuditOutcome
from service.records.keys import NewApiKey
from service.web.environment import Desk

_ASSETS: Final = Path(__file__).resolve().parent / "static"
_ROWS: Final = 100
_CALLS: Final = 50
_KEY_ENDS: Final = {"30": "30 days", "90": "90 days", "365": "a year", "": "never"}


@dataclass(frozen=True)
class LoginPage:
    """The page that people see who are nobody yet."""

    templates: Environment
    by_key: bool
    by_provider: bool

    def render(
        self,
        following: str,
        *,
        error: str = "",
        signed_out: bool = False,
        leave: str | None = None,
    ) -> str:
        """Return the page; it leads to `following` afterwards."""
        return self.templates.get_template("login.html").render(
            following=following,
            provider_address="/login/provider?" + urlencode({"next": following}),
            by_key=self.by_key,
            by_provider=self.by_provider,
            error=error,
            signed_out=signed_out,
            leave=leave,
        )


class AccessPages:
    """Answers with the administrator's pages about access."""

    def __init__(self, here: Desk) -> None:
        self._desk = here

    def show_keys(
        self, made: NewApiKey | None = None, fault: str = "", status: int = 200
    ) -> HTMLResponse:
        """Show the keys; one just made with what opens, this once."""
        with self._desk.records.reading() as connection:
            listed = keys.listed(connection)
        return self._desk.page(
            "keys.html",
            status=status,
            keys=listed,
            made=made,
            fault=fault,
            roles=list(Role),
            ends=_KEY_ENDS,
            auth=self._desk.settings.http.auth,
            in_settings=len(self._desk.settings.http.api_keys),
        )

    def make_key(self, request: Request, form: Mapping[str, str]) -> HTMLResponse:
        """Make a key from the form."""
        at, days = self._desk.clock.now(), form.get("days", "")
        ends_at = at + timedelta(days=int(days)) if days in _KEY_ENDS and days else None
        try:
            role = Role(form.get("role", ""))
            with self._desk.records.writing() as connection:
                made = keys.add(
                    connection,
                    form.get("name", ""),
                    role,
                    expires_at=ends_at,
                    by=asking.get().name,
                    at=at,
                )
        except ValueError:
            return self.show_keys(fault="No such role.", status=422)
        except OverreadError as error:
            return self.show_keys(fault=error.message, status=422)
        request.scope["audit_subject"] = f"key:{made.key.id}"
        return self.show_keys(made)

    def revoke_key(self, key_id: str) -> Response:
        """Revoke a key."""
        with self._desk.records.writing() as connection:
            keys.revoke(connection, key_id, at=self._desk.clock.now())
        return RedirectResponse("/keys", 303)

    def show_audit(self, request: Request) -> HTMLResponse:
        """Show the audit trail that the address asks for, newest first."""
        given = {name: value for name, value in request.query_params.items() if value}
        asked, fault = _asked_of(given)
        with self._desk.records.reading() as connection:
            try:
                page = audit.page(connection, asked, limit=_ROWS, cursor=given.get("cursor"))
            except OverreadError as error:
                fault = error.message
                page = audit.page(connection, asked, limit=_ROWS, cursor=None)
            relay = relays.state(connection, "syslog")
            newest_id = audit.newest_id(connection)
        following = None
        if page.next is not None:
            following = "/audit?" + urlencode({**given, "cursor": page.next})
        return self._desk.page(
            "audit.html",
            status=422 if fault else 200,
            page=page,
            given=given,
            fault=fault,
            kinds=list(AuditKind),
            outcomes=list(AuditOutcome),
            next_address=following,
            syslog=self._desk.settings.audit.syslog,
            relay=relay,
            behind=newest_id - relay.position if relay else newest_id,
            nobody=Means.NONE,
        )

    def show_webhooks(self) -> HTMLResponse:
        """Show who is told of events, and the calls that were made or wait."""
        with self._desk.records.reading() as connection:
            counts = webhooks.count_by_state(connection)
            page = webhooks.page(connection, webhook=None, states=(), limit=_CALLS, cursor=None)
        return self._desk.page(
            "webhooks.html",
            hooks=self._desk.settings.webhooks,
            counts=counts,
            calls=page.items,
            most=_CALLS,
        )

    def call_again(self, call_id: int) -> Response:
        """Make a call once more."""
        with self._desk.records.writing() as connection:
            webhooks.call_again(connection, call_id, at=self._desk.clock.now())
        return RedirectResponse("/webhooks", 303)


def _asked_of(given: Mapping[str, str]) -> tuple[AuditFilter, str]:
    """Return what an address asks of the trail; what is wrong in it is left out and told."""
    study, kind, outcome = (given.get(name) for name in ("study", "kind", "outcome"))
    fault = ""
    if study is not None and not is_uid(study):
        study, fault = None, "study: not a UID"
    if kind is not None and kind not in set(AuditKind):
        kind, fault = None, "kind: no such kind"
    if outcome is not None and outcome not in set(AuditOutcome):
        outcome, fault = None, "outcome: success or failure"
    actor = given.get("actor")
    if actor is not None and not actor.isprintable():
        actor, fault = None, "actor: printable characters"
    return (
        AuditFilter(
            study_instance_uid=study,
            actor=actor,
            kinds=() if kind is None else (AuditKind(kind),),
            outcome=None if outcome is None else AuditOutcome(outcome),
        ),
        fault,
    )


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a form; the gate has bounded its size."""
    fields = parse_qs((await request.body()).decode("utf-8", "replace"))
    return {name: values[-1] for name, values in fields.items()}


def stylesheet() -> Response:
    """Return what the login page looks like; served before anybody is known."""
    text = "".join((_ASSETS / name).read_text() for name in ("overread.css", "access.css"))
    return Response(text, media_type="text/css", headers={"Cache-Control": "no-cache"})


def icon() -> Response:
    """Return the icon of the login page."""
    return Response((_ASSETS / "icon.svg").read_bytes(), media_type="image/svg+xml")


def router(here: Desk) -> APIRouter:
    """Return the routes of the pages about access."""
    routes = APIRouter(include_in_schema=False)
    pages = AccessPages(here)

    @routes.get("/keys")
    def show_keys() -> HTMLResponse:
        return pages.show_keys()

    @routes.post("/keys")
    def make_key(request: Request, form: Annotated[dict[str, str], Depends(_form)]) -> HTMLResponse:
        return pages.make_key(request, form)

    routes.add_api_route("/keys/{key_id}/revoke", pages.revoke_key, methods=["POST"])
    routes.add_api_route("/audit", pages.show_audit, methods=["GET"])
    routes.add_api_route("/webhooks", pages.show_webhooks, methods=["GET"])
    routes.add_api_route("/webhooks/calls/{call_id}/again", pages.call_again, methods=["POST"])
    routes.add_api_route("/login/access.css", stylesheet, methods=["GET"])
    routes.add_api_route("/login/icon.svg", icon, methods=["GET"])
    return routes
