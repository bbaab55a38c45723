"""`overread doctor`: one screen that says what is set, what answers, and what is down."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.table import Table

from service.core.clock import SystemClock
from service.core.errors import OverreadError
from service.core.settings import Destination, Settings, origins
from service.embedded_redis import redis_binary
from service.records import heartbeats, queues
from service.records.database import Records
from service.records.schema import require_current_schema

_ALIVE_WITHIN = timedelta(seconds=20)
_CHECK_TIMEOUT_S = 600


@dataclass(frozen=True)
class Sign:
    """One thing examined; a thing that is not needed may be down without alarm."""

    name: str
    healthy: bool
    detail: str
    needed: bool = True


def examine(settings: Settings) -> bool:
    """Print the settings in force and every sign; return whether all that is needed is up."""
    console = Console()
    table = Table("setting", "value", "from", title="settings in force", title_justify="left")
    for key, value, source in origins(settings):
        table.add_row(key, value, source)
    console.print(table)
    signs = Table("", "what", "found", title="signs", title_justify="left")
    healthy = True
    for sign in _signs(settings):
        word = "ok" if sign.healthy else ("DOWN" if sign.needed else "--")
        signs.add_row(word, sign.name, sign.detail)
        healthy = healthy and (sign.healthy or not sign.needed)
    console.print(signs)
    return healthy


def _signs(settings: Settings) -> Iterator[Sign]:
    yield _sign("database", lambda: _database(settings))
    yield _sign("redis", lambda: _redis(settings))
    yield _sign("disk", lambda: _disk(settings))
    if settings.http.auth == "oidc":
        yield _sign("sign-in", lambda: _provider(settings))
    yield from _processes(settings)
    for destination in settings.destinations:
        yield _destination(destination)
    yield _models()


def _sign(name: str, look: Callable[[], str]) -> Sign:
    try:
        return Sign(name, healthy=True, detail=look())
    except OverreadError as error:
        return Sign(name, healthy=False, detail=str(error))


def _database(settings: Settings) -> str:
    records = Records(settings.database_url)
    try:
        if records.is_sqlite and not settings.data_dir.exists():
            return "SQLite, made at the first start"
        require_current_schema(records)
        return f"{records.engine.dialect.name} answers, schema is current"
    finally:
        records.close()


def _redis(settings: Settings) -> str:
    if settings.redis.url is None and not settings.embedded_redis_socket.exists():
        return f"embedded, started by `overread serve` from {redis_binary()}"
    queues.ping(settings.redis_url)
    return "answers"


def _disk(settings: Settings) -> str:
    folder = settings.data_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < settings.retention.min_free_bytes:
        raise OverreadError(
            "DISK_LOW", f"{free >> 20} MiB free; {settings.retention.min_free_bytes >> 20} needed"
        )
    return f"{free >> 20} MiB free"


def _provider(settings: Settings) -> str:
    """Ask the OpenID provider for its addresses."""
    from service.api.oidc import Provider  # noqa: PLC0415  loads what most looks do not need

    return f"{Provider(settings.http.oidc, SystemClock()).endpoints().issuer} answers"


def _processes(settings: Settings) -> Iterator[Sign]:
    records = Records(settings.database_url)
    try:
        with records.reading() as connection:
            alive = heartbeats.seen_since(connection, datetime.now(UTC) - _ALIVE_WITHIN)
    except OverreadError:
        alive = ()
    except Exception:  # noqa: BLE001  no schema yet: nothing has been started
        alive = ()
    finally:
        records.close()
    for beat in alive:
        yield Sign(beat.process, healthy=True, detail=f"alive {beat.device}", needed=False)
    if not alive:
        yield Sign("processes", healthy=False, detail="none is running", needed=False)


def _destination(destination: Destination) -> Sign:
    name = f"destination {destination.name}"
    if importlib.util.find_spec("workers") is None:
        return Sign(name, healthy=False, detail="not examined: no workers here", needed=False)
    return _command(name, "destinations", "check", destination.name)


def _models() -> Sign:
    """Examine devices and packages, which only the workers' half of the product can judge."""
    if importlib.util.find_spec("workers") is None:
        return Sign("models", healthy=False, detail="not examined: no workers here", needed=False)
    return _command("models", "models", "check")


def _command(name: str, *arguments: str) -> Sign:
    command = [sys.executable, "-m", "service.cli", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_CHECK_TIMEOUT_S, check=False
    )
    lines = (done.stdout + done.stderr).strip()
    return Sign(name, healthy=done.returncode == 0, detail=lines or f"exit {done.returncode}")
