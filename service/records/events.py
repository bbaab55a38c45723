"""What happened to studies, jobs and deliveries, in order: the event stream and the timeline."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, insert, select

from service.records.tables import events

# Ids are given before rows are committed: a missing one may still come. It is waited for this
# long, about as long as a transaction lasts, so that nobody who follows skips it.
_GAP_WAIT: Final = timedelta(seconds=5)


class EventKind(StrEnum):
    """What an event is about."""

    STUDY = "study"
    SERIES = "series"
    JOB = "job"
    RESULT = "result"
    DELIVERY = "delivery"
    REVIEW = "review"


@dataclass(frozen=True)
class Event:
    """One entry of the stream; `id` grows and is the cursor."""

    id: int
    at: datetime
    kind: EventKind
    study_instance_uid: str
    subject_id: str
    state: str
    reason: str


def append(
    connection: Connection,
    *,
    kind: EventKind,
    study_instance_uid: str,
    at: datetime,
    subject_id: str = "",
    state: str = "",
    reason: str = "",
) -> None:
    """Append an event in the caller's transaction, so that it is told only if it happened."""
    connection.execute(
        insert(events).values(
            kind=kind,
            study_instance_uid=study_instance_uid,
            at=at,
            subject_id=subject_id,
            state=state,
            reason=reason,
        )
    )


def after(connection: Connection, event_id: int, *, limit: int = 500) -> Sequence[Event]:
    """Return the events that follow the one with this id."""
    query = select(events).where(events.c.id > event_id).order_by(events.c.id).limit(limit)
    return [_event(row) for row in connection.execute(query).mappings()]


def of_study(connection: Connection, study_instance_uid: str) -> Sequence[Event]:
    """Return every event of one study, oldest first."""
    query = select(events).where(events.c.study_instance_uid == study_instance_uid)
    return [_event(row) for row in connection.execute(query.order_by(events.c.id)).mappings()]


def newest_id(connection: Connection) -> int:
    """Return the id of the newest event, 0 when there is none."""
    newest = connection.execute(select(events.c.id).order_by(events.c.id.desc()).limit(1)).scalar()
    return newest or 0


def settled(found: Sequence[Event], place: int, *, now: datetime) -> Sequence[Event]:
    """Return the events up to the first gap that may still be filled."""
    for index, event in enumerate(found):
        if event.id != place + 1 and now - event.at < _GAP_WAIT:
            return found[:index]
        place = event.id
    return found


def _event(row: object) -> Event:
    values = dict(row)  # type: ignore[call-overload]
    return Event(**{**values, "kind": EventKind(values["kind"])})
