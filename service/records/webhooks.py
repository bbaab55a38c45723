"""Calls of webhooks: one row per webhook and event, claimed and repeated like deliveries.

At least once with the same id, so that a receiver can tell a repeat from news.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import Field
from sqlalchemy import ColumnElement, Connection, Row, and_, func, insert, select, update

from service.core.errors import InvalidRequest, LostClaim, NotFound
from service.core.states import DELIVERY_TRANSITIONS, DeliveryState, Priority
from service.records import controls, outbox
from service.records.paging import Order
from service.records.tables import webhook_calls
from service.records.topics import Topic

GIVE_UP_AFTER: Final = timedelta(hours=24)
_FIRST_PAUSE_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Call:
    """What a webhook is told, without what it is told of: that may name a patient."""

    id: int
    message_id: Annotated[str, Field(description="The same in every attempt")]
    webhook: str
    event: Annotated[str, Field(examples=["finding.urgent"])]
    study_instance_uid: str
    state: DeliveryState
    attempts: int
    reason: str
    message: str
    created_at: datetime
    due_at: Annotated[datetime, Field(description="Of the next attempt while SCHEDULED")]
    give_up_at: datetime
    delivered_at: datetime | None


@dataclass(frozen=True, slots=True)
class CallPage:
    """Calls, newest first."""

    items: list[Call]
    next: str | None


@dataclass(frozen=True)
class CallClaim:
    """A call that this process may make while its lease lasts."""

    call_id: int
    fence: int
    attempt: int
    webhook: str
    event: str
    message_id: str
    content: Mapping[str, Any]
    give_up_at: datetime


_NEWEST: Final = Order("webhook-calls", (webhook_calls.c.id,), descending=True)


def schedule(
    connection: Connection,
    *,
    webhook: str,
    event: str,
    message_id: str,
    study_instance_uid: str,
    content: Mapping[str, Any],
    at: datetime,
) -> bool:
    """Write a call and its doorbell, unless it is known; return whether it is new."""
    known = select(webhook_calls.c.id).where(webhook_calls.c.message_id == message_id)
    if connection.execute(known).first() is not None:
        return False
    call_id = connection.execute(
        insert(webhook_calls)
        .values(
            message_id=message_id,
            webhook=webhook,
            event=event,
            study_instance_uid=study_instance_uid,
            content=dict(content),
            state=DeliveryState.SCHEDULED,
            due_at=at,
            give_up_at=at + GIVE_UP_AFTER,
            created_at=at,
        )
        .returning(webhook_calls.c.id)
    ).scalar_one()
    outbox.append(connection, Topic.WEBHOOK, str(call_id), at=at)
    return True


def claim(
    connection: Connection, call_id: int, *, at: datetime, lease: timedelta
) -> CallClaim | None:
    """Take a call for this process, or return None when it is not there to be taken."""
    free = and_(
        webhook_calls.c.id == call_id,
        webhook_calls.c.state == DeliveryState.SCHEDULED,
        webhook_calls.c.due_at <= at,
        ~controls.paused(Topic.WEBHOOK),
    )
    taken = connection.execute(
        update(webhook_calls)
        .where(free)
        .values(
            state=DeliveryState.IN_PROGRESS,
            fence=webhook_calls.c.fence + 1,
            attempts=webhook_calls.c.attempts + 1,
            lease_until=at + lease,
        )
    )
    if taken.rowcount == 0:
        return None
    row = connection.execute(select(webhook_calls).where(webhook_calls.c.id == call_id)).one()
    return CallClaim(
        call_id=row.id,
        fence=row.fence,
        attempt=row.attempts,
        webhook=row.webhook,
        event=row.event,
        message_id=row.message_id,
        content=row.content,
        give_up_at=row.give_up_at,
    )


def delivered(connection: Connection, held: CallClaim, *, at: datetime) -> None:
    """Write that the webhook took the call."""
    values = {"delivered_at": at, "reason": "", "message": ""}
    _end(connection, held, DeliveryState.DELIVERED, values)


def park(connection: Connection, held: CallClaim, *, reason: str, message: str) -> None:
    """Leave the call to a person, with the reason."""
    _end(connection, held, DeliveryState.PARKED, {"reason": reason, "message": message})


def try_later(
    connection: Connection, held: CallClaim, *, reason: str, message: str, at: datetime
) -> DeliveryState:
    """Put the call back with a growing pause, or park it when its time is over."""
    pause = timedelta(
        seconds=min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(held.attempt - 1, 12))
    )
    if at + pause > held.give_up_at:
        park(connection, held, reason=reason, message=message)
        return DeliveryState.PARKED
    values = {"reason": reason, "message": message, "due_at": at + pause}
    _end(connection, held, DeliveryState.SCHEDULED, values)
    return DeliveryState.SCHEDULED


def release_lost(connection: Connection, *, at: datetime) -> int:
    """Give back the calls whose process went silent; return how many."""
    lost = and_(
        webhook_calls.c.state == DeliveryState.IN_PROGRESS, webhook_calls.c.lease_until < at
    )
    released = connection.execute(
        update(webhook_calls)
        .where(lost)
        .values(
            state=DeliveryState.SCHEDULED,
            fence=webhook_calls.c.fence + 1,
            lease_until=None,
            due_at=at,
            reason="DELIVERER_LOST",
        )
    )
    return released.rowcount


def due(
    connection: Connection, *, at: datetime, limit: int = 500
) -> Sequence[tuple[str, Priority]]:
    """Return the calls that wait for an attempt, oldest first."""
    query = (
        select(webhook_calls.c.id)
        .where(
            webhook_calls.c.state == DeliveryState.SCHEDULED,
            webhook_calls.c.due_at <= at,
            ~controls.paused(Topic.WEBHOOK),
        )
        .order_by(webhook_calls.c.due_at)
        .limit(limit)
    )
    return [(str(row.id), Priority.ROUTINE) for row in connection.execute(query)]


def priorities(connection: Connection, call_ids: Sequence[str]) -> dict[str, Priority]:
    """Return the priority of each of these calls that there is."""
    numbers = [int(call_id) for call_id in call_ids]
    query = select(webhook_calls.c.id).where(webhook_calls.c.id.in_(numbers))
    return {str(row.id): Priority.ROUTINE for row in connection.execute(query)}


def call_again(connection: Connection, call_id: int, *, at: datetime) -> None:
    """Make a call once more, under its old id, with a day of attempts ahead.

    Raises
    ------
    NotFound, InvalidRequest
        ``CALL_UNKNOWN``; ``CALL_STATE`` while it is still on its way.
    """
    found = select(webhook_calls.c.state).where(webhook_calls.c.id == call_id)
    state = connection.execute(found).scalar()
    if state is None:
        raise NotFound("CALL_UNKNOWN", f"no call {call_id}")
    again = DeliveryState.SCHEDULED in DELIVERY_TRANSITIONS[DeliveryState(state)]
    if not again or state == DeliveryState.IN_PROGRESS:
        raise InvalidRequest("CALL_STATE", f"the call is {state}; allowed: DELIVERED, PARKED")
    connection.execute(
        update(webhook_calls)
        .where(webhook_calls.c.id == call_id)
        .values(
            state=DeliveryState.SCHEDULED,
            attempts=0,
            fence=webhook_calls.c.fence + 1,
            due_at=at,
            give_up_at=at + GIVE_UP_AFTER,
            reason="",
            message="",
        )
    )
    outbox.append(connection, Topic.WEBHOOK, str(call_id), at=at)


def page(
    connection: Connection,
    *,
    webhook: str | None,
    states: Sequence[DeliveryState],
    limit: int,
    cursor: str | None,
) -> CallPage:
    """Return calls, newest first.

    Raises
    ------
    InvalidRequest
        ``CURSOR``.
    """
    query = select(webhook_calls)
    if webhook is not None:
        query = query.where(webhook_calls.c.webhook == webhook)
    if states:
        query = query.where(webhook_calls.c.state.in_(states))
    rows = connection.execute(_NEWEST.page(query, limit=limit, cursor=cursor)).all()
    following = _NEWEST.cursor(rows[limit - 1]) if len(rows) > limit else None
    return CallPage([_call(row) for row in rows[:limit]], following)


def call(connection: Connection, call_id: int) -> Call:
    """Return one call.

    Raises
    ------
    NotFound
        ``CALL_UNKNOWN``.
    """
    row = connection.execute(select(webhook_calls).where(webhook_calls.c.id == call_id)).first()
    if row is None:
        raise NotFound("CALL_UNKNOWN", f"no call {call_id}")
    return _call(row)


def count_by_state(connection: Connection) -> dict[tuple[str, str], int]:
    """Return how many calls of each webhook are in each state."""
    query = select(webhook_calls.c.webhook, webhook_calls.c.state, func.count())
    grouped = query.group_by(webhook_calls.c.webhook, webhook_calls.c.state)
    return {(webhook, state): number for webhook, state, number in connection.execute(grouped)}


def _end(
    connection: Connection, held: CallClaim, state: DeliveryState, values: Mapping[str, Any]
) -> None:
    done = connection.execute(
        update(webhook_calls).where(_held(held)).values(state=state, lease_until=None, **values)
    )
    if done.rowcount == 0:
        raise LostClaim("FENCED", f"call {held.call_id} was taken over")


def _held(held: CallClaim) -> ColumnElement[bool]:
    return and_(
        webhook_calls.c.id == held.call_id,
        webhook_calls.c.fence == held.fence,
        webhook_calls.c.state == DeliveryState.IN_PROGRESS,
    )


def _call(row: Row[Any]) -> Call:
    return Call(
        id=row.id,
        message_id=row.message_id,
        webhook=row.webhook,
        event=row.event,
        study_instance_uid=row.study_instance_uid,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        reason=row.reason,
        message=row.message,
        created_at=row.created_at,
        due_at=row.due_at,
        give_up_at=row.give_up_at,
        delivered_at=row.delivered_at,
    )
