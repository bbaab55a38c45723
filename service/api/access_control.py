"""What decides who comes in, put together: identities, doors, the gate and its witness."""

from dataclasses import dataclass

from fastapi import FastAPI

from service.api import login
from service.api.access import Gate
from service.api.context import Context
from service.api.identity import Identities
from service.api.login import Doors
from service.api.oidc import Provider
from service.api.throttle import Throttle
from service.api.witness import Witness
from service.records.audit_trail import AuditTrail
from service.web import access_pages
from service.web.access_pages import LoginPage
from service.web.environment import Desk, environment


@dataclass(frozen=True)
class AccessControl:
    """What the gate and the doors share."""

    identities: Identities
    throttle: Throttle
    trail: AuditTrail
    provider: Provider | None
    page: LoginPage
    desk: Desk


def access_control(context: Context, trail: AuditTrail) -> AccessControl:
    """Return the parts for an application."""
    settings = context.settings
    http = settings.http
    provider = Provider(http.oidc, context.clock) if http.auth == "oidc" else None
    templates = environment()
    return AccessControl(
        identities=Identities(http, context.records, clock=context.clock, provider=provider),
        throttle=Throttle(),
        trail=trail,
        provider=provider,
        page=LoginPage(templates, by_key=True, by_provider=provider is not None),
        desk=Desk(settings, context.records, context.clock, context.shelf.packages, templates),
    )


def add_doors(app: FastAPI, context: Context, control: AccessControl) -> None:
    """Add the doors and the pages about access."""
    doors = Doors(
        context.settings.http,
        context.records,
        context.clock,
        identities=control.identities,
        throttle=control.throttle,
        trail=control.trail,
        provider=control.provider,
        page=control.page,
    )
    app.include_router(login.router(doors))
    app.include_router(access_pages.router(control.desk))


def add_gate(app: FastAPI, context: Context, control: AccessControl) -> None:
    """Put the gate around everything that the application has."""
    app.add_middleware(
        Gate,
        settings=context.settings.http,
        identities=control.identities,
        throttle=control.throttle,
        witness=Witness(control.trail),
        login_page=control.page.render,
    )
