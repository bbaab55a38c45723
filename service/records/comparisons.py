"""What is fetched and waited for, so that a study can be compared with earlier ones.

A comparison is one row a study: it waits for earlier studies to come (``FETCHING``) and to be
analysed (``ANALYSING``), and is over (``DONE``) when the study's runs have been let go or repeated,
or nothing more is waited for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, and_, func, insert, or_, select, update

from service.core.errors import LostClaim
from service.core.states import JobState, Priority
from service.records import outbox
from service.records.tables import comparisons, fetched_studies, jobs, studies
from service.records.topics import Topic


class ComparisonState(StrEnum):
    """What the comparison of a study waits for."""

    FETCHING = "FETCHING"
    ANALYSING = "ANALYSING"
    DONE = "DONE"


@dataclass(frozen=True)
class Comparison:
    """A study whose earlier studies are sought or analysed, and its runs that wait for them."""

    id: int
    study_id: int
    study_instance_uid: str
    state: ComparisonState
    fence: int
    attempts: int
    job_ids: tuple[str, ...]
    prior_study_uids: tuple[str, ...]
    give_up_at: datetime


def begin(
    connection: Connection,
    study_id: int,
    *,
    job_ids: Sequence[str],
    prior_study_uids: Sequence[str],
    fetch: bool,
    give_up_at: datetime,
    at: datetime,
) -> None:
    """Begin to wait for earlier studies; what was waited for before is forgotten."""
    state = ComparisonState.FETCHING if fetch else ComparisonState.ANALYSING
    values = {
        "state": state,
        "reason": "",
        "message": "",
        "job_ids": list(job_ids),
        "prior_study_uids": list(prior_study_uids),
        "attempts": 0,
        "lease_until": None,
        "due_at": at,
        "give_up_at": give_up_at,
        "opened_at": at,
        "ended_at": None,
    }
    known = connection.execute(
        select(comparisons.c.id, comparisons.c.fence).where(comparisons.c.study_id == study_id)
    ).first()
    if known is None:
        inserting = insert(comparisons).values(study_id=study_id, **values)
        comparison_id = connection.execute(inserting.returning(comparisons.c.id)).scalar_one()
    else:
        comparison_id = known.id
        mine = comparisons.c.id == comparison_id
        connection.execute(update(comparisons).where(mine).values(fence=known.fence + 1, **values))
    if fetch:
        outbox.append(connection, Topic.PRIORS, str(comparison_id), at=at)


def claim(
    connection: Connection, comparison_id: int, *, at: datetime, lease: timedelta
) -> Comparison | None:
    """Take a comparison to ask the PACS for it, or return None when it is not there to be taken."""
    free = and_(
        comparisons.c.state == ComparisonState.FETCHING,
        or_(comparisons.c.lease_until.is_(None), comparisons.c.lease_until < at),
        comparisons.c.due_at <= at,
    )
    taken = connection.execute(
        update(comparisons)
        .where(comparisons.c.id == comparison_id, free)
        .values(
            fence=comparisons.c.fence + 1,
            attempts=comparisons.c.attempts + 1,
            lease_until=at + lease,
        )
    )
    if taken.rowcount == 0:
        return None
    found = connection.execute(_comparisons().where(comparisons.c.id == comparison_id)).one()
    return _comparison(found)


def fetched(
    connection: Connection,
    held: Comparison,
    prior_study_uids: Sequence[str],
    *,
    reason: str = "",
    message: str = "",
) -> None:
    """End the asking: these studies are here, or come; `reason` says why there are no more."""
    _set(
        connection,
        held,
        state=ComparisonState.ANALYSING,
        prior_study_uids=[*dict.fromkeys((*held.prior_study_uids, *prior_study_uids))],
        reason=reason,
        message=message,
        lease_until=None,
    )


def fetch_later(connection: Connection, held: Comparison, *, reason: str, due_at: datetime) -> None:
    """Put the asking off."""
    _set(connection, held, reason=reason, due_at=due_at, lease_until=None)


def close(connection: Connection, held: Comparison, *, at: datetime) -> None:
    """End the comparison of a study: nothing is waited for any more."""
    _set(connection, held, state=ComparisonState.DONE, ended_at=at)


def all_open(connection: Connection) -> Sequence[Comparison]:
    """Return every comparison that is not over."""
    query = _comparisons().where(comparisons.c.state != ComparisonState.DONE)
    return [_comparison(row) for row in connection.execute(query.order_by(comparisons.c.id))]


def is_waiting(connection: Connection) -> bool:
    """Return whether a comparison waits that could be over by now; asking takes no write lock."""
    query = select(comparisons.c.id).where(comparisons.c.state != ComparisonState.DONE).limit(1)
    return connection.execute(query).first() is not None


def due_fetches(connection: Connection, *, at: datetime) -> Sequence[tuple[str, Priority]]:
    """Return the comparisons that a PACS is to be asked for: what Redis ought to be ringing for."""
    query = select(comparisons.c.id).where(
        comparisons.c.state == ComparisonState.FETCHING,
        comparisons.c.due_at <= at,
        or_(comparisons.c.lease_until.is_(None), comparisons.c.lease_until < at),
    )
    return [(str(found), Priority.ROUTINE) for found in connection.execute(query).scalars()]


def fetch_priorities(_connection: Connection, comparison_ids: Sequence[str]) -> dict[str, Priority]:
    """Return the priority of each of these comparisons."""
    return dict.fromkeys(comparison_ids, Priority.ROUTINE)


def hold(connection: Connection, job_ids: Sequence[str], *, until: datetime) -> None:
    """Let runs that have not begun wait for an earlier study, until a time; urgent ones never."""
    waiting = and_(
        jobs.c.id.in_(job_ids),
        jobs.c.state == JobState.SCHEDULED,
        jobs.c.priority != Priority.STAT,
    )
    connection.execute(update(jobs).where(waiting).values(due_at=until))


def let_go(connection: Connection, job_ids: Sequence[str], *, at: datetime) -> None:
    """Let runs begin that were held."""
    held = and_(jobs.c.id.in_(job_ids), jobs.c.state == JobState.SCHEDULED, jobs.c.due_at > at)
    freed = connection.execute(select(jobs.c.id).where(held)).scalars().all()
    connection.execute(update(jobs).where(jobs.c.id.in_(freed)).values(due_at=at))
    for job_id in freed:
        outbox.append(connection, Topic.INFER, job_id, at=at)


def note_fetched(
    connection: Connection, study_instance_uid: str, *, purpose: str, at: datetime
) -> None:
    """Write that a study is asked for, before it comes; `purpose` is the one that needs it."""
    mine = fetched_studies.c.study_instance_uid == study_instance_uid
    values = {"for_study_instance_uid": purpose, "asked_at": at}
    if connection.execute(update(fetched_studies).where(mine).values(values)).rowcount == 0:
        row = insert(fetched_studies).values(study_instance_uid=study_instance_uid, **values)
        connection.execute(row)


def count_fetched(connection: Connection, *, since: datetime) -> int:
    """Return how many studies were asked for since a time."""
    query = select(func.count()).select_from(fetched_studies)
    return connection.execute(query.where(fetched_studies.c.asked_at >= since)).scalar_one()


def fetched_for(connection: Connection, study_instance_uid: str) -> str | None:
    """Return the study that this one was asked for; None for one that came by itself."""
    query = select(fetched_studies.c.for_study_instance_uid)
    found: str | None = connection.execute(
        query.where(fetched_studies.c.study_instance_uid == study_instance_uid)
    ).scalar()
    return found


def is_fetched(connection: Connection, study_id: int) -> bool:
    """Return whether a study came only because another one is compared with it."""
    query = select(studies.c.study_instance_uid).where(studies.c.id == study_id)
    return fetched_for(connection, connection.execute(query).scalar_one()) is not None


def _comparisons() -> Any:
    return select(comparisons, studies.c.study_instance_uid).join_from(comparisons, studies)


def _comparison(row: Row[Any]) -> Comparison:
    return Comparison(
        id=row.id,
        study_id=row.study_id,
        study_instance_uid=row.study_instance_uid,
        state=ComparisonState(row.state),
        fence=row.fence,
        attempts=row.attempts,
        job_ids=tuple(row.job_ids),
        prior_study_uids=tuple(row.prior_study_uids),
        give_up_at=row.give_up_at,
    )


def _set(connection: Connection, held: Comparison, **values: Any) -> None:
    mine = and_(comparisons.c.id == held.id, comparisons.c.fence == held.fence)
    done = connection.execute(update(comparisons).where(mine).values(values))
    if done.rowcount == 0:
        raise LostClaim("FENCED", f"the comparison of study {held.study_id} was begun anew")
