"""The `api` role: uvicorn on one socket, bounded waits for slow clients, a clean end."""

import contextlib
import socket
import threading
from asyncio import TimerHandle
from collections.abc import Iterator
from typing import Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.api.app import create_app
from service.core.clock import SystemClock
from service.core.errors import InvalidSettings
from service.core.logs import get_logger
from service.core.settings import HttpSettings, Settings
from service.records.audit import AuditKind
from service.records.audit_trail import AuditTrail
from service.records.database import Records
from service.records.heartbeats import beating, process_name
from service.records.schema import require_current_schema

ROLE: Final = "api"
_BACKLOG: Final = 512
_KEEP_ALIVE_S: Final = 30
_HEADERS_WITHIN_S: Final = 15.0
_HEADER_BYTES_LIMIT: Final = 64 * 1024
_CONNECTIONS_LIMIT: Final = 1000
_STOP_WITHIN_S: Final = 8

log = get_logger()


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that waits for a request's header, but not for ever.

    uvicorn bounds the pause between requests only: a client that sends its header byte by byte
    would hold its connection for as long as it likes.
    """

    _deadline: TimerHandle | None = None

    def connection_made(self, transport: object) -> None:
        """Begin to wait for the first header."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take bytes; begin to wait with the first of a header, stop when it is whole."""
        self._wait()
        super().data_received(data)
        if self._is_answering:
            self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._rest()
        super().connection_lost(exc)

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        if self._deadline is None and not self._is_answering:
            self._deadline = self.loop.call_later(_HEADERS_WITHIN_S, self._give_up)

    def _rest(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self._is_answering and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the entry point decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def run(settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set.

    Raises
    ------
    InvalidSettings
        ``SETTINGS`` when the port is taken; ``OLD_SCHEMA`` before `overread migrate`.
    """
    records = Records(settings.database_url, pool_size=settings.database.pool_size)
    try:
        require_current_schema(records)
        with listener(settings.http) as opened, beating(records, SystemClock(), ROLE):
            serve(settings, records, opened, stop)
    finally:
        records.close()


def serve(
    settings: Settings, records: Records, opened: socket.socket, stop: threading.Event
) -> None:
    """Serve on an open socket until `stop` is set; requests under way get a few seconds."""
    app = create_app(settings, records, stop=stop)
    server = Server(
        uvicorn.Config(
            app,
            http=PatientProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_STOP_WITHIN_S,
            h11_max_incomplete_event_size=_HEADER_BYTES_LIMIT,
            limit_concurrency=_CONNECTIONS_LIMIT,
        )
    )
    watcher = threading.Thread(target=_stop_with, args=(server, stop), daemon=True)
    watcher.start()
    host, port = opened.getsockname()[:2]
    log.info("http_listening", host=host, port=port)
    trail: AuditTrail = app.state.trail
    trail.note(AuditKind.START, ROLE, actor=process_name(ROLE))
    server.run(sockets=[opened])
    trail.note(AuditKind.STOP, ROLE, actor=process_name(ROLE))
    trail.close()
    log.info("http_stopped")


def listener(http: HttpSettings) -> socket.socket:
    """Return the listening socket.

    Raises
    ------
    InvalidSettings
        ``SETTINGS`` when the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where a socket names its protocol; with it on,
    # an answer of two packets waits 40 ms for the client's delayed acknowledgement.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((http.host, http.port))
        opened.listen(_BACKLOG)
        return opened
    except OSError as error:
        opened.close()
        raise InvalidSettings(
            "SETTINGS",
            f"http.port: found {http.host}:{http.port} ({error.strerror}); "
            "allowed: a free port of this machine",
        ) from error


def _stop_with(server: uvicorn.Server, stop: threading.Event) -> None:
    stop.wait()
    server.should_exit = True
