"""Storage commitment in rows: the reports that we owe, and what destinations committed to.

Both survive whatever process dies. A report that we owe is a row until its requestor has taken it;
a delivery that a destination was asked about stays open until its report came in.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, insert, select, update

from service.core.states import CommitmentState, DeliveryState
from service.records import outbox
from service.records.tables import commitment_reports, deliveries, results
from service.records.topics import Topic

GIVE_UP_AFTER = timedelta(hours=24)
# Archives answer when their own storage is safe, which takes some of them minutes.
REPORT_WITHIN = timedelta(minutes=10)
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 300.0


@dataclass(frozen=True)
class OwedReport:
    """A report that a requestor has not taken yet; instances as (class, instance) UIDs."""

    id: int
    transaction_uid: str
    calling_ae_title: str
    instances: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Question:
    """A delivered result whose destination is to be asked whether it keeps it."""

    delivery_id: int
    destination: str
    attempt: int
    give_up_at: datetime
    transaction_uid: str
    sop_class_uid: str
    sop_instance_uid: str


def owe(
    connection: Connection,
    *,
    transaction_uid: str,
    calling_ae_title: str,
    instances: Sequence[tuple[str, str]],
    due_at: datetime,
    at: datetime,
) -> int:
    """Write down a report that is owed from now on, to be told again at `due_at`."""
    statement = insert(commitment_reports).values(
        transaction_uid=transaction_uid,
        calling_ae_title=calling_ae_title,
        instances=[list(pair) for pair in instances],
        due_at=due_at,
        give_up_at=at + GIVE_UP_AFTER,
        created_at=at,
    )
    key: int = connection.execute(statement.returning(commitment_reports.c.id)).scalar_one()
    return key


def tell_at(connection: Connection, report_id: int, *, due_at: datetime) -> None:
    """Have a report told at this time."""
    one = commitment_reports.c.id == report_id
    connection.execute(update(commitment_reports).where(one).values(due_at=due_at))


def settle(connection: Connection, report_id: int) -> None:
    """Forget a report: it was taken, or there is nobody to tell it to."""
    connection.execute(delete(commitment_reports).where(commitment_reports.c.id == report_id))


def is_any_owed(connection: Connection, *, at: datetime) -> bool:
    """Return whether a report is due; looking costs no lock."""
    due = select(commitment_reports.c.id).where(commitment_reports.c.due_at <= at).limit(1)
    return connection.execute(due).first() is not None


def take_owed(connection: Connection, *, at: datetime) -> OwedReport | None:
    """Return a report that is due, and put its next attempt off by a growing pause."""
    table = commitment_reports
    due = select(table).where(table.c.due_at <= at).order_by(table.c.due_at).limit(1)
    row = connection.execute(due).first()
    if row is None:
        return None
    mine = and_(table.c.id == row.id, table.c.attempts == row.attempts)
    taken = connection.execute(
        update(table)
        .where(mine)
        .values(attempts=row.attempts + 1, due_at=at + _pause(2 * row.attempts + 2))
    )
    if taken.rowcount == 0:  # another process of the listener was quicker
        return None
    instances = tuple((class_uid, instance_uid) for class_uid, instance_uid in row.instances)
    return OwedReport(row.id, row.transaction_uid, row.calling_ae_title, instances)


def forget_old(connection: Connection, *, at: datetime) -> int:
    """Give up reports whose requestor was away for a day; return how many."""
    late = commitment_reports.c.give_up_at < at
    return connection.execute(delete(commitment_reports).where(late)).rowcount


def is_open() -> ColumnElement[bool]:
    """Return the condition of deliveries whose destination has still to commit."""
    waiting = (CommitmentState.DUE, CommitmentState.REQUESTED)
    return and_(deliveries.c.state == DeliveryState.DELIVERED, deliveries.c.commitment.in_(waiting))


def is_due(at: datetime) -> ColumnElement[bool]:
    """Return the condition of deliveries whose destination is to be asked now."""
    return and_(is_open(), deliveries.c.commitment_due_at <= at)


def want(connection: Connection, delivery_id: int, *, at: datetime) -> None:
    """Have the destination asked, in the transaction that says that the result is delivered."""
    values = {"commitment": CommitmentState.DUE, "commitment_due_at": at, "commitment_uid": None}
    one = deliveries.c.id == delivery_id
    connection.execute(update(deliveries).where(one).values(values))
    outbox.append(connection, Topic.DELIVER, str(delivery_id), at=at)


def claim(
    connection: Connection, delivery_id: int, *, transaction_uid: str, at: datetime, until: datetime
) -> Question | None:
    """Take the question for this process until a time, or return None when none is due.

    The transaction is new each time, so that a late answer to an earlier one changes nothing.
    """
    taken = connection.execute(
        update(deliveries)
        .where(deliveries.c.id == delivery_id, is_due(at))
        .values(
            commitment_uid=transaction_uid,
            commitment_due_at=until,
            commitment_attempts=deliveries.c.commitment_attempts + 1,
        )
    )
    if taken.rowcount == 0:
        return None
    query = (
        select(deliveries, results.c.sop_class_uid, results.c.sop_instance_uid)
        .join_from(deliveries, results, results.c.id == deliveries.c.result_id)
        .where(deliveries.c.id == delivery_id)
    )
    row = connection.execute(query).one()
    return Question(
        delivery_id=row.id,
        destination=row.destination,
        attempt=row.commitment_attempts,
        give_up_at=row.give_up_at,
        transaction_uid=transaction_uid,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
    )


def requested(connection: Connection, question: Question, *, at: datetime) -> None:
    """Write that the destination took the question; it is asked anew when no report comes."""
    values = {"commitment": CommitmentState.REQUESTED, "commitment_due_at": at + REPORT_WITHIN}
    connection.execute(update(deliveries).where(_of(question.transaction_uid)).values(values))


def ask_later(
    connection: Connection, question: Question, *, reason: str, message: str, at: datetime
) -> CommitmentState:
    """Ask again after a growing pause, or give up when the delivery's day is over."""
    due_at = at + _pause(question.attempt)
    if due_at > question.give_up_at:
        give_up(connection, question, reason=reason, message=message)
        return CommitmentState.FAILED
    values = {"commitment_due_at": due_at, "reason": reason, "message": message}
    connection.execute(update(deliveries).where(_of(question.transaction_uid)).values(values))
    return CommitmentState.DUE


def give_up(connection: Connection, question: Question, *, reason: str, message: str) -> None:
    """Leave it at the delivery: the destination does not commit to anything."""
    values = {"commitment": CommitmentState.FAILED, "reason": reason, "message": message}
    connection.execute(update(deliveries).where(_of(question.transaction_uid)).values(values))


def take_report(
    connection: Connection,
    transaction_uid: str,
    *,
    kept: Collection[str],
    failed: Mapping[str, int],
    at: datetime,
) -> DeliveryState | None:
    """Write what a destination said: committed, or the result is sent again.

    Returns the delivery's state after it, None when nobody asked under this transaction, or the
    report does not speak of what was asked.
    """
    query = (
        select(deliveries, results.c.sop_instance_uid)
        .join_from(deliveries, results, results.c.id == deliveries.c.result_id)
        .where(_of(transaction_uid))
    )
    row = connection.execute(query).first()
    if row is None or not (row.sop_instance_uid in kept or row.sop_instance_uid in failed):
        return None
    if row.sop_instance_uid in failed:
        return _refused(connection, row, failed[row.sop_instance_uid], at)
    values = {"commitment": CommitmentState.COMMITTED, "committed_at": at, "commitment_uid": None}
    values |= {"reason": "", "message": ""}
    connection.execute(update(deliveries).where(deliveries.c.id == row.id).values(values))
    return DeliveryState.DELIVERED


def _refused(connection: Connection, row: Row[Any], why: int, at: datetime) -> DeliveryState:
    """Send a result again that the destination does not keep, for as long as an undelivered one."""
    due_at = at + _pause(row.attempts)
    state = DeliveryState.SCHEDULED if due_at <= row.give_up_at else DeliveryState.PARKED
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id == row.id)
        .values(
            state=state,
            due_at=due_at,
            fence=deliveries.c.fence + 1,
            commitment=CommitmentState.REFUSED,
            commitment_uid=None,
            commitment_due_at=None,
            reason="NOT_COMMITTED",
            message=f"the destination does not keep the result: failure reason 0x{why:04X}",
        )
    )
    return state


def _pause(attempts: int) -> timedelta:
    return timedelta(seconds=min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(attempts, 12)))


def _of(transaction_uid: str) -> ColumnElement[bool]:
    return and_(deliveries.c.commitment_uid == transaction_uid, is_open())
