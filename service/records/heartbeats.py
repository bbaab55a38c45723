"""Which processes are alive: each writes a row every few seconds and removes it when it ends."""

import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from service.core.clock import Clock
from service.core.errors import OverreadError
from service.core.logs import get_logger
from service.records.database import Records
from service.records.tables import heartbeats

_BEAT_EVERY_S = 5.0

log = get_logger()


@dataclass(frozen=True)
class Heartbeat:
    """One process: its role, device, and when it was last seen."""

    process: str
    role: str
    device: str
    detail: Mapping[str, Any]
    started_at: datetime
    seen_at: datetime


def beat(connection: Connection, heartbeat: Heartbeat) -> None:
    """Write that a process is alive at ``seen_at``."""
    values = {
        "role": heartbeat.role,
        "device": heartbeat.device,
        "detail": dict(heartbeat.detail),
        "started_at": heartbeat.started_at,
        "seen_at": heartbeat.seen_at,
    }
    known = heartbeats.c.process == heartbeat.process
    if connection.execute(update(heartbeats).where(known).values(values)).rowcount == 0:
        connection.execute(insert(heartbeats).values(process=heartbeat.process, **values))


def forget(connection: Connection, process: str) -> None:
    """Remove the row of a process that ends."""
    connection.execute(delete(heartbeats).where(heartbeats.c.process == process))


def forget_silent(connection: Connection, *, before: datetime) -> None:
    """Remove the rows of processes that were last seen before this time."""
    connection.execute(delete(heartbeats).where(heartbeats.c.seen_at < before))


def seen_since(connection: Connection, since: datetime) -> Sequence[Heartbeat]:
    """Return the processes seen since this time, by role."""
    query = select(heartbeats).where(heartbeats.c.seen_at >= since)
    rows = connection.execute(query.order_by(heartbeats.c.role, heartbeats.c.process)).mappings()
    return [Heartbeat(**dict(row)) for row in rows]


def process_name(role: str) -> str:
    """Return the name by which this process is known in rows and logs."""
    return f"{role}@{socket.gethostname()}:{os.getpid()}"


@contextmanager
def beating(
    records: Records,
    clock: Clock,
    role: str,
    *,
    device: str = "",
    detail: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Write this process's row every few seconds while the body runs; remove it after."""
    now = clock.now()
    mine = Heartbeat(process_name(role), role, device, detail or {}, now, now)
    done = threading.Event()

    def loop() -> None:
        while True:
            try:
                with records.writing() as connection:
                    beat(connection, replace(mine, seen_at=clock.now()))
            except OverreadError as error:
                log.warning("heartbeat_missed", reason=error.reason)
            if done.wait(_BEAT_EVERY_S):
                return

    thread = threading.Thread(target=loop, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        try:
            with records.writing() as connection:
                forget(connection, mine.process)
        except OverreadError as error:
            log.warning("heartbeat_left", reason=error.reason)
