"""Whether the process is up, and whether the system can take and analyse studies."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Response
from pydantic import Field

from service.api.answers import answer
from service.api.context import Context
from service.api.problems import MEDIA_TYPE
from service.api.routes import add
from service.core.errors import OutOfResources, OverreadError, PeerUnavailable
from service.records import heartbeats, queues

ALIVE_WITHIN: Final = timedelta(seconds=20)
WORKER: Final = "worker"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that has to be there."""

    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether everything needed is there; with 503, `missing` names what is not."""

    status: Annotated[str, Field(examples=["ready"])]
    reason: Annotated[str, Field(description="NOT_READY, or empty")]
    missing: list[str]
    checks: Mapping[str, Check]


@dataclass(frozen=True, slots=True)
class Health:
    """The process answers."""

    status: str


class HealthRoutes:
    """Answers about the process and what it needs."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def get_health(self) -> Response:
        """Say that the process is up.

        Whatever the database or Redis do.
        """
        return answer(Health("ok"))

    def get_readiness(self) -> Response:
        """Say whether studies can be taken and analysed.

        Database, Redis and disk are there and at least one worker is alive; else 503, and
        `missing` names what is not.
        """
        found = readiness(self._context)
        if not found.missing:
            return answer(found)
        refusal = answer(found, status=503)
        refusal.headers["content-type"] = MEDIA_TYPE
        return refusal


def router(context: Context) -> APIRouter:
    """Return the routes of health and readiness; they need no key."""
    routes, handlers = APIRouter(tags=["health"]), HealthRoutes(context)
    add(routes, "GET /healthz", handlers.get_health, gives=Health)
    add(routes, "GET /readyz", handlers.get_readiness, gives=Readiness, away=Readiness)
    return routes


def readiness(context: Context) -> Readiness:
    """Check everything that is needed; each check stands for itself."""
    wanted: Mapping[str, Callable[[], str]] = {
        "database": lambda: _database(context),
        "redis": lambda: _redis(context),
        "disk": lambda: _disk(context),
        "worker": lambda: _worker(context),
    }
    checks = {name: _checked(check) for name, check in wanted.items()}
    missing = [name for name, check in checks.items() if not check.ok]
    if missing:
        return Readiness("not ready", "NOT_READY", missing, checks)
    return Readiness("ready", "", [], checks)


def _checked(check: Callable[[], str]) -> Check:
    try:
        return Check(True, check())
    except OverreadError as error:
        return Check(False, error.message)
    except OSError as error:
        return Check(False, error.strerror or type(error).__name__)


def _database(context: Context) -> str:
    context.records.ping()
    return "answers"


def _redis(context: Context) -> str:
    queues.ping(context.settings.redis_url)
    return "answers"


def _disk(context: Context) -> str:
    free = shutil.disk_usage(context.settings.data_dir).free
    least = context.settings.retention.min_free_bytes
    if free < least:
        raise OutOfResources("DISK", f"{free} bytes free, {least} needed")
    return f"{free} bytes free"


def _worker(context: Context) -> str:
    since = context.clock.now() - ALIVE_WITHIN
    with context.records.reading() as connection:
        alive = [beat for beat in heartbeats.seen_since(connection, since) if beat.role == WORKER]
    if not alive:
        raise PeerUnavailable("NO_WORKER", "no worker is alive")
    return ", ".join(sorted({beat.device or "unknown device" for beat in alive}))
