"""What destinations were seen to take and to refuse, by SOP class, and when."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, and_, delete, insert, select

from service.records.tables import destination_classes

# A PACS that was updated must not be kept on its old fallback for ever.
REFUSAL_HOLDS: Final = timedelta(days=7)
# Every delivery says again that a class is taken; once a day is often enough to write it down.
_FRESH: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class SeenClass:
    """Whether a destination takes a SOP class, as it was last seen."""

    destination: str
    sop_class_uid: str
    accepted: bool
    reason: str
    seen_at: datetime


def learn(connection: Connection, seen: SeenClass) -> bool:
    """Remember what a destination did with a class; return whether that is news."""
    mine = and_(
        destination_classes.c.destination == seen.destination,
        destination_classes.c.sop_class_uid == seen.sop_class_uid,
    )
    row = connection.execute(select(destination_classes).where(mine)).first()
    is_news = row is None or bool(row.accepted) is not seen.accepted
    if row is not None and not is_news and seen.seen_at - row.seen_at < _FRESH:
        return False
    connection.execute(delete(destination_classes).where(mine))
    connection.execute(
        insert(destination_classes).values(
            destination=seen.destination,
            sop_class_uid=seen.sop_class_uid,
            accepted=seen.accepted,
            reason=seen.reason,
            seen_at=seen.seen_at,
        )
    )
    return is_news


def refused(connection: Connection, *, at: datetime) -> Mapping[str, frozenset[str]]:
    """Return the SOP classes that each destination refused lately."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for row in connection.execute(
        select(destination_classes).where(
            ~destination_classes.c.accepted, destination_classes.c.seen_at > at - REFUSAL_HOLDS
        )
    ):
        found[row.destination].add(row.sop_class_uid)
    return {name: frozenset(classes) for name, classes in found.items()}


def seen(connection: Connection, name: str | None = None) -> Sequence[SeenClass]:
    """Return what was seen of a destination, or of all."""
    query = select(destination_classes).order_by(
        destination_classes.c.destination, destination_classes.c.sop_class_uid
    )
    if name is not None:
        query = query.where(destination_classes.c.destination == name)
    return [
        SeenClass(row.destination, row.sop_class_uid, row.accepted, row.reason, row.seen_at)
        for row in connection.execute(query)
    ]


def forget(connection: Connection, name: str) -> None:
    """Forget what was seen of a destination, so that every class is tried again."""
    connection.execute(delete(destination_classes).where(destination_classes.c.destination == name))
