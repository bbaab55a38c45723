"""How far a growing list has been passed on: one holder at a time, by a lease."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, delete, insert, or_, select, update

from service.records.tables import relays


@dataclass(frozen=True, slots=True)
class Relay:
    """Where a list stands; `reason` says why it does not move."""

    name: str
    position: int
    reason: str
    changed_at: datetime


def take(
    connection: Connection, name: str, holder: str, *, at: datetime, lease: timedelta, start: int
) -> int | None:
    """Take or keep the relay and return its position, None when another process holds it.

    A relay that is new begins at `start`.
    """
    row = connection.execute(select(relays.c.position).where(relays.c.name == name)).first()
    if row is None:
        connection.execute(
            insert(relays).values(
                name=name, position=start, holder=holder, lease_until=at + lease, changed_at=at
            )
        )
        return start
    free = or_(relays.c.holder == holder, relays.c.lease_until.is_(None), relays.c.lease_until < at)
    taken = connection.execute(
        update(relays)
        .where(relays.c.name == name, free)
        .values(holder=holder, lease_until=at + lease)
    )
    return int(row.position) if taken.rowcount else None


def advance(connection: Connection, name: str, holder: str, *, position: int, at: datetime) -> bool:
    """Write that everything up to a position has been passed on; False when it was taken away."""
    done = connection.execute(
        update(relays)
        .where(and_(relays.c.name == name, relays.c.holder == holder))
        .values(position=position, reason="", changed_at=at)
    )
    return done.rowcount == 1


def stuck(connection: Connection, name: str, holder: str, *, reason: str) -> None:
    """Write why the list does not move."""
    mine = and_(relays.c.name == name, relays.c.holder == holder)
    connection.execute(update(relays).where(mine).values(reason=reason))


def state(connection: Connection, name: str) -> Relay | None:
    """Return where a list stands, None when nothing was ever passed on."""
    row = connection.execute(select(relays).where(relays.c.name == name)).first()
    return None if row is None else Relay(row.name, row.position, row.reason, row.changed_at)


def forget(connection: Connection, name: str) -> None:
    """Forget where a list stood: who follows it next begins with what comes then."""
    connection.execute(delete(relays).where(relays.c.name == name))
