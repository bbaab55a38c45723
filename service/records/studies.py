"""Instances become rows: the study, series and instance that each received one belongs to.

A study's ``revision`` counts the states of its content: an instance that arrives after the study
was completed opens the next one. Duplicates change nothing at all. Our own results coming back are
kept, and never touch a revision, so that they can never start a job.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from typing import Final, Protocol

from sqlalchemy import Connection, select
from sqlalchemy.exc import StatementError

from service.core.errors import OutOfResources, RefusedInstance
from service.records.registration import Batch, ReceivedInstance, Registration
from service.records.tables import instances

__all__ = [
    "ReceivedInstance",
    "Registration",
    "has_version",
    "register_each",
    "register_instance",
    "register_instances",
    "register_result",
]

_QUICK_S: Final = 2.0
_UNSTORABLE: Final = (StatementError, OverflowError)  # the second: what SQLite's driver raises


def has_version(connection: Connection, *, sop_instance_uid: str, sha256: str) -> bool:
    """Return whether an instance with exactly these bytes has a row, current or not."""
    query = select(instances.c.id).where(
        instances.c.sop_instance_uid == sop_instance_uid, instances.c.sha256 == sha256
    )
    return connection.execute(query).first() is not None


def register_instance(
    connection: Connection, received: ReceivedInstance, *, at: datetime
) -> Registration:
    """Write the rows of one received instance in the caller's transaction."""
    return register_instances(connection, [received], at=at)[0]


def register_result(connection: Connection, result: ReceivedInstance, *, at: datetime) -> None:
    """Write the rows of an object that this product made, beside the images of its study."""
    register_instances(connection, [replace(result, is_result=True)], at=at)


def register_instances(
    connection: Connection, received: Sequence[ReceivedInstance], *, at: datetime
) -> list[Registration]:
    """Write the rows of received instances in the caller's transaction, in their order.

    Concurrent receivers of one study wait for each other on the study's row; each transaction
    takes those rows in the order of their UIDs, so that none waits for the other in a circle.
    """
    return Batch(connection, received, at).register()


class Writes(Protocol):
    """What opens a transaction that may write: `Records` or a writer of it."""

    def writing(self) -> AbstractContextManager[Connection]:
        """Open a transaction."""
        ...


def register_each(
    records: Writes, received: Sequence[ReceivedInstance], *, at: datetime
) -> list[Registration | RefusedInstance]:
    """Write the rows of received instances in one transaction; if one spoils it, one by one.

    Raises
    ------
    OutOfResources
        ``DATABASE_AWAY``; whether anything was written is not known then, and writing it again
        does no harm.
    """
    started = time.monotonic()
    try:
        return list(_register_together(records, received, at))
    except OutOfResources:
        # A deadlock with whoever else writes, or a connection that had gone stale, is told at
        # once and passes with a second try; a database that is away takes longer to say so.
        if time.monotonic() - started > _QUICK_S:
            raise
        return list(_register_together(records, received, at))
    except _UNSTORABLE:
        return [_register_alone(records, each, at) for each in received]


def _register_together(
    records: Writes, received: Sequence[ReceivedInstance], at: datetime
) -> list[Registration]:
    with records.writing() as connection:
        return register_instances(connection, received, at=at)


def _register_alone(
    records: Writes, received: ReceivedInstance, at: datetime
) -> Registration | RefusedInstance:
    for _ in range(2):  # two receivers of one UID in different studies can collide once
        try:
            with records.writing() as connection:
                return register_instance(connection, received, at=at)
        except _UNSTORABLE:
            continue
    return RefusedInstance("UNSTORABLE", "the database cannot hold this instance")
