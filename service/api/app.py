"""The HTTP application: every route and the gate around all of them, put together in one place."""

import importlib.metadata
import threading
from typing import Any, Final

from fastapi import FastAPI

from service.api import (
    audit,
    deliveries,
    desk,
    docs,
    events,
    exports,
    findings,
    health,
    jobs,
    keys,
    metrics,
    models,
    problems,
    statistics,
    studies,
    uploads,
    webhook_calls,
    worklist,
)
from service.api.access_control import access_control, add_doors, add_gate
from service.api.context import Context, PackageShelf
from service.api.metrics import HttpMetrics, Measured
from service.core.clock import Clock, SystemClock
from service.core.settings import Settings
from service.dicomweb import routes as dicomweb
from service.fhir import routes as fhir
from service.records.audit_trail import AuditTrail
from service.records.database import Records
from service.web import pages, viewer
from service.web.environment import Desk, environment

_ROOMS: Final = (
    worklist,
    studies,
    findings,
    exports,
    jobs,
    deliveries,
    desk,
    models,
    events,
    statistics,
    uploads,
    health,
    audit,
    webhook_calls,
)


def create_app(
    settings: Settings,
    records: Records,
    *,
    clock: Clock | None = None,
    stop: threading.Event | None = None,
) -> FastAPI:
    """Return the application; `stop` ends its event streams when the process is to end."""
    context = Context(
        settings=settings,
        records=records,
        clock=clock or SystemClock(),
        shelf=PackageShelf(settings.models.dir),
        stop=stop or threading.Event(),
    )
    app = FastAPI(
        title="overread",
        version=importlib.metadata.version("overread"),
        description=docs.DESCRIPTION,
        openapi_tags=docs.TAGS,
        openapi_url=docs.OPENAPI_PATH,
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)
    _describe(app, needs_key=settings.http.auth != "none")
    registry = metrics.new_registry(context)
    app.state.trail = AuditTrail(
        records, context.clock, "api", same_again_s=settings.audit.same_again_s
    )
    control = app.state.access = access_control(context, app.state.trail)
    for router in (
        *(room.router(context) for room in _ROOMS),
        keys.router(context, control.identities),
        metrics.router(registry),
        docs.router(Desk(settings, records, context.clock, context.shelf.packages, environment())),
        dicomweb.router(settings, records),
        fhir.router(records, clock=context.clock, public_url=settings.http.public_url),
        pages.router(settings, records, clock=context.clock, packages=context.shelf.packages),
    ):
        app.include_router(router)
    app.mount("/static", pages.Assets())
    viewer.mount(app, settings, records)
    add_doors(app, context, control)
    # The last one added is the outermost: what the gate answers is measured too.
    add_gate(app, context, control)
    app.add_middleware(Measured, http=HttpMetrics(registry))
    return app


def _describe(app: FastAPI, *, needs_key: bool) -> None:
    """Build the description when it is first asked for: that takes longer than a start should."""
    built: dict[str, Any] = {}

    def described() -> dict[str, Any]:
        if not built:
            built.update(docs.openapi(app, needs_key=needs_key))
        return built

    app.openapi = described  # type: ignore[method-assign]
