"""Doorbells that have still to be rung: written with the row they are about, removed when rung.

The row and its doorbell are one transaction. A scheduler that dies between ringing and removing
rings twice, which the claim on the row makes harmless; one that dies before ringing leaves the
doorbell for the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select

from service.records.tables import outbox
from service.records.topics import Topic


@dataclass(frozen=True)
class Doorbell:
    """A message that has not been sent to the queue yet."""

    id: int
    topic: Topic
    subject_id: str


def append(connection: Connection, topic: Topic, subject_id: str, *, at: datetime) -> None:
    """Ask for a message about this row, in the transaction that makes the row due."""
    connection.execute(insert(outbox).values(topic=topic, subject_id=subject_id, created_at=at))


def pending(connection: Connection, *, limit: int = 500) -> Sequence[Doorbell]:
    """Return the oldest doorbells."""
    query = select(outbox.c.id, outbox.c.topic, outbox.c.subject_id).order_by(outbox.c.id)
    rows = connection.execute(query.limit(limit))
    return [Doorbell(row.id, Topic(row.topic), row.subject_id) for row in rows]


def remove(connection: Connection, doorbells: Sequence[Doorbell]) -> None:
    """Remove doorbells that were rung."""
    identifiers = [doorbell.id for doorbell in doorbells]
    connection.execute(delete(outbox).where(outbox.c.id.in_(identifiers)))


def count(connection: Connection) -> int:
    """Return how many doorbells wait."""
    return connection.execute(select(func.count()).select_from(outbox)).scalar_one()
