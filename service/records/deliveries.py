"""Deliveries: one row per result and destination, claimed and repeated like jobs.

At least once with the same bytes under the same UID, so that the destination shows one copy.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, insert, or_, select, update

from service.core.errors import InvalidRequest, LostClaim, NotFound
from service.core.states import (
    DELIVERY_TRANSITIONS,
    CommitmentState,
    DeliveryState,
    Priority,
    ResultState,
)
from service.records import commitments, controls, events, outbox
from service.records.events import EventKind
from service.records.tables import deliveries, results, studies
from service.records.topics import Topic

# A destination that was away for a day is a person's matter.
GIVE_UP_AFTER = timedelta(hours=24)
_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 300.0


@dataclass(frozen=True)
class Sent:
    """A delivery; ``has_left`` once the destination may have the result, answered or not."""

    delivery_id: int
    result_id: int
    destination: str
    has_left: bool


@dataclass(frozen=True)
class DeliveryClaim:
    """A delivery that this process may attempt while its lease lasts."""

    delivery_id: int
    result_id: int
    fence: int
    attempt: int
    destination: str
    give_up_at: datetime
    study_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    path: str
    sha256: str


def schedule(
    connection: Connection,
    *,
    result_id: int,
    study_id: int,
    destination: str,
    priority: Priority,
    at: datetime,
) -> None:
    """Write a delivery and its doorbell, unless this result already goes to this destination."""
    known = and_(deliveries.c.result_id == result_id, deliveries.c.destination == destination)
    if connection.execute(select(deliveries.c.id).where(known)).first() is not None:
        return
    delivery_id = connection.execute(
        insert(deliveries)
        .values(
            result_id=result_id,
            study_id=study_id,
            destination=destination,
            state=DeliveryState.SCHEDULED,
            priority=priority,
            due_at=at,
            give_up_at=at + GIVE_UP_AFTER,
            created_at=at,
        )
        .returning(deliveries.c.id)
    ).scalar_one()
    outbox.append(connection, Topic.DELIVER, str(delivery_id), at=at)
    _tell(connection, delivery_id, DeliveryState.SCHEDULED, "", at)


def claim(
    connection: Connection, delivery_id: int, *, at: datetime, lease: timedelta
) -> DeliveryClaim | None:
    """Take the delivery for this process, or return None when it is not there to be taken.

    One whose result was superseded while an attempt was under way is canceled here.
    """
    if _is_superseded(connection, delivery_id):
        cancel(connection, [delivery_id], reason="SUPERSEDED", at=at)
        return None
    free = and_(
        deliveries.c.state == DeliveryState.SCHEDULED,
        deliveries.c.due_at <= at,
        ~controls.paused(Topic.DELIVER),
    )
    taken = connection.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery_id, free)
        .values(
            state=DeliveryState.IN_PROGRESS,
            fence=deliveries.c.fence + 1,
            attempts=deliveries.c.attempts + 1,
            lease_until=at + lease,
        )
    )
    if taken.rowcount == 0:
        return None
    query = (
        select(
            deliveries,
            studies.c.study_instance_uid,
            results.c.sop_class_uid,
            results.c.sop_instance_uid,
            results.c.transfer_syntax_uid,
            results.c.path,
            results.c.sha256,
        )
        .join_from(deliveries, studies)
        .join(results, results.c.id == deliveries.c.result_id)
        .where(deliveries.c.id == delivery_id)
    )
    row = connection.execute(query).one()
    return DeliveryClaim(
        delivery_id=row.id,
        result_id=row.result_id,
        fence=row.fence,
        attempt=row.attempts,
        destination=row.destination,
        give_up_at=row.give_up_at,
        study_instance_uid=row.study_instance_uid,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        path=row.path,
        sha256=row.sha256,
    )


def destination_of(connection: Connection, delivery_id: int) -> str | None:
    """Return the name of the destination, None when there is no such delivery."""
    query = select(deliveries.c.destination).where(deliveries.c.id == delivery_id)
    name: str | None = connection.execute(query).scalar()
    return name


def extend(connection: Connection, held: DeliveryClaim, *, until: datetime) -> bool:
    """Prolong the lease; return False when the delivery is not this process's any more."""
    done = connection.execute(update(deliveries).where(_held(held)).values(lease_until=until))
    return done.rowcount == 1


def delivered(
    connection: Connection, held: DeliveryClaim, *, at: datetime, with_commitment: bool = False
) -> None:
    """Write that the destination has the result, and whether to ask it to commit to it."""
    values = {"delivered_at": at, "reason": "", "message": ""}
    _end(connection, held, DeliveryState.DELIVERED, values, at)
    if with_commitment:
        commitments.want(connection, held.delivery_id, at=at)


def park(
    connection: Connection, held: DeliveryClaim, *, reason: str, message: str, at: datetime
) -> None:
    """Leave the delivery to a person, with the reason."""
    _end(connection, held, DeliveryState.PARKED, {"reason": reason, "message": message}, at)


def try_later(
    connection: Connection, held: DeliveryClaim, *, reason: str, message: str, at: datetime
) -> DeliveryState:
    """Put the delivery back with a growing pause, or park it when its time is over."""
    pause = timedelta(
        seconds=min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(held.attempt - 1, 12))
    )
    if at + pause > held.give_up_at:
        park(connection, held, reason=reason, message=message, at=at)
        return DeliveryState.PARKED
    values = {"reason": reason, "message": message, "due_at": at + pause}
    _end(connection, held, DeliveryState.SCHEDULED, values, at)
    return DeliveryState.SCHEDULED


def cancel(
    connection: Connection, delivery_ids: Sequence[int], *, reason: str, at: datetime
) -> None:
    """Cancel those of these deliveries that are not under way, nor done."""
    for delivery_id in delivery_ids:
        changed = connection.execute(
            update(deliveries)
            .where(
                deliveries.c.id == delivery_id,
                deliveries.c.state.in_((DeliveryState.SCHEDULED, DeliveryState.PARKED)),
            )
            .values(state=DeliveryState.CANCELED, fence=deliveries.c.fence + 1, reason=reason)
        )
        if changed.rowcount:
            _tell(connection, delivery_id, DeliveryState.CANCELED, reason, at)


def replace(
    connection: Connection, held: DeliveryClaim, *, reason: str, message: str, at: datetime
) -> None:
    """End a delivery that the destination refused, because another form goes out instead."""
    values = {"reason": reason, "message": message}
    _end(connection, held, DeliveryState.CANCELED, values, at)


def of_results(connection: Connection, result_ids: Sequence[int]) -> Sequence[Sent]:
    """Return the deliveries of these results, and which of them may have arrived."""
    query = select(
        deliveries.c.id, deliveries.c.result_id, deliveries.c.destination,
        deliveries.c.state, deliveries.c.attempts,
    ).where(deliveries.c.result_id.in_(result_ids))  # fmt: skip
    return [
        Sent(
            delivery_id=row.id,
            result_id=row.result_id,
            destination=row.destination,
            has_left=row.attempts > 0 or row.state == DeliveryState.DELIVERED,
        )
        for row in connection.execute(query)
    ]


def leases(connection: Connection) -> Sequence[tuple[str, int, datetime]]:
    """Return id, fence and end of the lease of every delivery that is being attempted."""
    query = select(deliveries.c.id, deliveries.c.fence, deliveries.c.lease_until)
    rows = connection.execute(query.where(deliveries.c.state == DeliveryState.IN_PROGRESS))
    held = [row for row in rows if row.lease_until is not None]
    return [(str(row.id), row.fence, row.lease_until) for row in held]


def release_lost(
    connection: Connection, *, at: datetime, among: Collection[tuple[str, int]] | None = None
) -> int:
    """Give back the deliveries whose process went silent; return how many.

    `among` names the lost ones by id and fence; without it, those whose lease is over by the
    clock.
    """
    if among is not None:
        return sum(_release(connection, _named(one), at=at) for one in among)
    return _release(connection, deliveries.c.lease_until < at, at=at)


def _named(one: tuple[str, int]) -> ColumnElement[bool]:
    return and_(deliveries.c.id == int(one[0]), deliveries.c.fence == one[1])


def _release(connection: Connection, condition: ColumnElement[bool], *, at: datetime) -> int:
    lost = and_(deliveries.c.state == DeliveryState.IN_PROGRESS, condition)
    released = connection.execute(
        update(deliveries)
        .where(lost)
        .values(
            state=DeliveryState.SCHEDULED,
            fence=deliveries.c.fence + 1,
            lease_until=None,
            due_at=at,
            reason="DELIVERER_LOST",
        )
    )
    return released.rowcount


def due(
    connection: Connection, *, at: datetime, limit: int = 5000
) -> Sequence[tuple[str, Priority]]:
    """Return the deliveries that wait for an attempt or a commitment, oldest first."""
    query = (
        select(deliveries.c.id, deliveries.c.priority)
        .where(
            or_(
                and_(deliveries.c.state == DeliveryState.SCHEDULED, deliveries.c.due_at <= at),
                commitments.is_due(at),
            ),
            ~controls.paused(Topic.DELIVER),
        )
        .order_by(deliveries.c.due_at)
        .limit(limit)
    )
    return [(str(row.id), Priority(row.priority)) for row in connection.execute(query)]


def priorities(connection: Connection, delivery_ids: Sequence[str]) -> dict[str, Priority]:
    """Return the priority of each of these deliveries."""
    numbers = [int(delivery_id) for delivery_id in delivery_ids]
    query = select(deliveries.c.id, deliveries.c.priority).where(deliveries.c.id.in_(numbers))
    return {str(row.id): Priority(row.priority) for row in connection.execute(query)}


def send_again(connection: Connection, delivery_id: int, *, at: datetime) -> None:
    """Send a delivered or parked result once more, with a day of attempts ahead.

    Raises
    ------
    NotFound, InvalidRequest
        ``DELIVERY_UNKNOWN``; ``DELIVERY_STATE`` while it is still on its way.
    """
    state = connection.execute(
        select(deliveries.c.state).where(deliveries.c.id == delivery_id)
    ).scalar()
    if state is None:
        raise NotFound("DELIVERY_UNKNOWN", f"no delivery {delivery_id}")
    if _is_superseded(connection, delivery_id):
        raise InvalidRequest("DELIVERY_STATE", "a newer result took the place of this one")
    sources = [
        source
        for source, targets in DELIVERY_TRANSITIONS.items()
        if DeliveryState.SCHEDULED in targets and source is not DeliveryState.IN_PROGRESS
    ]
    changed = connection.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery_id, deliveries.c.state.in_(sources))
        .values(
            state=DeliveryState.SCHEDULED,
            attempts=0,
            fence=deliveries.c.fence + 1,
            due_at=at,
            give_up_at=at + GIVE_UP_AFTER,
            reason="",
            message="",
            commitment=CommitmentState.NONE,
            commitment_uid=None,
            commitment_attempts=0,
        )
    )
    if changed.rowcount == 0:
        names = ", ".join(sorted(sources))
        raise InvalidRequest("DELIVERY_STATE", f"delivery is {state}; allowed from: {names}")
    outbox.append(connection, Topic.DELIVER, str(delivery_id), at=at)
    _tell(connection, delivery_id, DeliveryState.SCHEDULED, "RETRY_ASKED", at)


def count_by_state(connection: Connection) -> dict[str, int]:
    """Return how many deliveries are in each state."""
    query = select(deliveries.c.state, func.count()).group_by(deliveries.c.state)
    return {state: number for state, number in connection.execute(query)}


def _end(
    connection: Connection,
    held: DeliveryClaim,
    state: DeliveryState,
    values: dict[str, Any],
    at: datetime,
) -> None:
    done = connection.execute(
        update(deliveries).where(_held(held)).values(state=state, lease_until=None, **values)
    )
    if done.rowcount == 0:
        raise LostClaim("FENCED", f"delivery {held.delivery_id} was taken over")
    _tell(connection, held.delivery_id, state, values.get("reason", ""), at)


def _is_superseded(connection: Connection, delivery_id: int) -> bool:
    query = (
        select(results.c.state)
        .join_from(deliveries, results, results.c.id == deliveries.c.result_id)
        .where(deliveries.c.id == delivery_id)
    )
    return connection.execute(query).scalar() == ResultState.SUPERSEDED


def _held(held: DeliveryClaim) -> ColumnElement[bool]:
    return and_(
        deliveries.c.id == held.delivery_id,
        deliveries.c.fence == held.fence,
        deliveries.c.state == DeliveryState.IN_PROGRESS,
    )


def _tell(
    connection: Connection, delivery_id: int, state: DeliveryState, reason: str, at: datetime
) -> None:
    query = select(studies.c.study_instance_uid).join_from(deliveries, studies)
    events.append(
        connection,
        kind=EventKind.DELIVERY,
        study_instance_uid=connection.execute(
            query.where(deliveries.c.id == delivery_id)
        ).scalar_one(),
        subject_id=str(delivery_id),
        state=state,
        reason=reason,
        at=at,
    )
