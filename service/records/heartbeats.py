"""Which processes are alive: each writes a row every few seconds and removes it when it ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from service.records.tables import heartbeats


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
