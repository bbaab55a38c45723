"""The receiver role: one or several processes that listen on one port.

The parent binds the port and hands the socket to its children, so that any of them takes the next
connection and none of those waiting is lost when a child dies. The parent starts a dead child
again; children end when their parent is gone.
"""

import gc
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, Protocol

from setproctitle import setproctitle

from service.core.clock import SystemClock
from service.core.errors import OutOfResources
from service.core.logs import configure_logs, get_logger
from service.core.settings import Destination, DicomSettings, Settings
from service.intake.commitment import Commitment
from service.intake.doors import Alarm
from service.intake.ingest import Ingest
from service.intake.reporter import Reporter
from service.intake.scp import STOP_S, Listener, LocalPlaces, Places, bind
from service.records import heartbeats
from service.records.archive import Archive
from service.records.audit import AuditKind, AuditOutcome
from service.records.audit_trail import AuditTrail
from service.records.database import Records
from service.records.heartbeats import Heartbeat
from service.records.orphans import set_aside
from service.records.schema import require_current_schema

ROLE: Final = "receiver"
_BEAT_S: Final = 5.0
_WATCH_S: Final = 0.25
_RESTART_PAUSE_S: Final = 1.0
_OBJECTS_BETWEEN_COLLECTIONS: Final = 50_000

log: Final = get_logger()


class Stop(Protocol):
    """Something that tells when to stop: a `threading.Event` or one of multiprocessing."""

    def is_set(self) -> bool:
        """Return whether to stop."""
        ...


@dataclass(frozen=True)
class _Work:
    """What a listening process needs of the settings, fit to be sent to a child."""

    database_url: str
    pool_size: int
    data_dir: Path
    min_free_bytes: int
    dicom: DicomSettings
    destinations: tuple[Destination, ...]
    log_form: str
    log_level: str

    @classmethod
    def of(cls, settings: Settings) -> "_Work":
        return cls(
            database_url=settings.database_url,
            pool_size=settings.database.pool_size,
            data_dir=settings.data_dir,
            min_free_bytes=settings.retention.min_free_bytes,
            dicom=settings.dicom,
            destinations=settings.destinations,
            log_form="console" if settings.log.format == "console" else "json",
            log_level=settings.log.level,
        )


@dataclass(frozen=True)
class _Shared:
    """Memory that the listener's processes share, without locks that a dead one could hold."""

    stop: Any  # of ctypes: not zero when everybody is to stop
    taken: Any  # of ctypes: the associations of each process


class _SharedPlaces:
    """Places counted over all processes of the listener, one slot for each."""

    def __init__(self, shared: _Shared, slot: int, limit: int) -> None:
        self._taken = shared.taken
        self._slot = slot
        self._limit = limit
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take a place; False when there is none, give or take one in a race."""
        with self._lock:
            if sum(self._taken) >= self._limit:
                return False
            self._taken[self._slot] += 1
            return True

    def give_back(self) -> None:
        """Give one place back."""
        with self._lock:
            self._taken[self._slot] -= 1


def run(settings: Settings, stop: Stop, *, on_ready: Callable[[int], None] | None = None) -> None:
    """Receive until told to stop; then finish what is being received, 20 s at most.

    `on_ready` is told the port once connections are accepted.

    Raises
    ------
    InvalidSettings
        ``ADDRESS_IN_USE``, ``OLD_SCHEMA``, or wrong TLS files.
    """
    work = _Work.of(settings)
    _prepare(work)
    listening = bind(settings.dicom)
    port = int(listening.getsockname()[1])

    def ready() -> None:
        threading.Thread(target=_sweep, args=(work,), daemon=True).start()
        if on_ready:
            on_ready(port)

    log.info("listening", host=settings.dicom.host, port=port, count=settings.dicom.processes)
    try:
        if settings.dicom.processes == 1:
            ready()
            _listen(work, listening, LocalPlaces(settings.dicom.max_associations), stop.is_set)
        else:
            _supervise(work, listening, stop, ready)
    finally:
        listening.close()


def _prepare(work: _Work) -> None:
    Archive(work.data_dir).prepare()
    records = Records(work.database_url, pool_size=1)
    try:
        require_current_schema(records)
    finally:
        records.close()


def _sweep(work: _Work) -> None:
    """Set aside files that an earlier process left without a row."""
    records = Records(work.database_url, pool_size=1)
    try:
        count = set_aside(records, Archive(work.data_dir))
        if count:
            log.warning("orphans_set_aside", count=count)
    except (OutOfResources, OSError) as error:  # the next start sweeps again
        log.warning("sweep_failed", error=type(error).__name__)
    finally:
        records.close()


def _listen(
    work: _Work, listening: socket.socket, places: Places, should_stop: Callable[[], bool]
) -> None:
    """Serve connections in this process until told to stop."""
    clock = SystemClock()
    records = Records(work.database_url, pool_size=work.pool_size)
    archive = Archive(work.data_dir, min_free_bytes=work.min_free_bytes)
    ingest = Ingest(records, archive, clock, max_instance_bytes=work.dicom.max_instance_bytes)
    commitment = Commitment(records, archive, clock=clock)
    trail = AuditTrail(records, clock, ROLE)
    listener = Listener(
        listening, work.dicom, places, ingest=ingest, commitment=commitment, alarm=_alarm_of(trail)
    )
    beating = threading.Thread(
        target=_beat, args=(records, listener.stopping, clock.now()), daemon=True
    )
    beating.start()
    reporter = Reporter(
        records,
        commitment,
        work.destinations,
        clock=clock,
        calling_ae_title=work.dicom.ae_title,
    )
    reporting = threading.Thread(target=reporter.run, args=(listener.stopping,), daemon=True)
    reporting.start()
    listener.serve(should_stop)
    beating.join(_BEAT_S)
    reporting.join(_BEAT_S)
    trail.close()
    records.close()


def _alarm_of(trail: AuditTrail) -> Alarm:
    """Return what tells log and audit trail of everybody who was turned away."""

    def alarm(operation: str, *, actor: str, address: str, detail: str) -> None:
        log.warning("security_alert", kind=operation, address=address, detail=detail)
        trail.note(
            AuditKind.REFUSAL,
            operation,
            actor="".join(each if each.isprintable() else "?" for each in actor)[:64],
            outcome=AuditOutcome.FAILURE,
            address=address,
            detail=detail.encode("ascii", "backslashreplace").decode().replace("\0", "?"),
        )

    return alarm


def _beat(records: Records, stopping: threading.Event, started_at: datetime) -> None:
    """Write a heartbeat every few seconds; a database that is away is tried again."""
    process = f"{ROLE}-{socket.gethostname()}-{os.getpid()}"
    clock = SystemClock()
    while True:
        beat = Heartbeat(process, ROLE, "", {}, started_at, clock.now())
        try:
            with records.writing() as connection:
                heartbeats.beat(connection, beat)
        except OutOfResources as error:
            log.warning("heartbeat_failed", reason=error.reason)
        if stopping.wait(_BEAT_S):
            break
    try:
        with records.writing() as connection:
            heartbeats.forget(connection, process)
    except OutOfResources:
        pass


def _supervise(
    work: _Work, listening: socket.socket, stop: Stop, on_ready: Callable[[], object]
) -> None:
    # Whoever makes the children has everything imported, so that a dead one is replaced at once:
    # this process while it has no other thread, else a server process of the kind.
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    context = multiprocessing.get_context("fork")
    count = work.dicom.processes
    shared = _Shared(context.RawValue("i", 0), context.RawArray("i", count))

    def start(slot: int) -> BaseProcess:
        shared.taken[slot] = 0
        is_alone = threading.active_count() == 1
        maker: Any = multiprocessing.get_context("fork" if is_alone else "forkserver")
        child: BaseProcess = maker.Process(
            target=_child, args=(work, listening, shared, slot), name=f"{ROLE}-{slot}"
        )
        child.start()
        return child

    children = [start(slot) for slot in range(count)]
    on_ready()
    while not stop.is_set():
        time.sleep(_WATCH_S)
        for slot, child in enumerate(children):
            if child.exitcode is not None:
                log.error("receiver_died", pid=child.pid, exit_code=child.exitcode)
                time.sleep(_RESTART_PAUSE_S)
                children[slot] = start(slot)
    shared.stop.value = 1
    end = time.monotonic() + STOP_S + 2
    for child in children:
        child.join(max(0.0, end - time.monotonic()))
        if child.exitcode is None:
            child.kill()
            child.join()


def _child(work: _Work, listening: socket.socket, shared: _Shared, slot: int) -> None:
    """Listen in a child process until told to stop, or until the parent is gone."""
    # Signals go to the parent, which lets everybody finish in order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    setproctitle(f"overread listener {slot}")
    configure_logs(role=ROLE, form=work.log_form, level=work.log_level)
    gc.freeze()  # imports stay: collections look only at what instances leave behind
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    parent = multiprocessing.parent_process()

    def should_stop() -> bool:
        return bool(shared.stop.value) or (parent is not None and not parent.is_alive())

    places = _SharedPlaces(shared, slot, work.dicom.max_associations)
    _listen(work, listening, places, should_stop)
