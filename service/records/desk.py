"""What the administrator's desk shows: queues, destinations, and how long what is kept stays."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import Field
from sqlalchemy import Connection, func, select

from service.core.states import DeliveryState, JobState, StudyState
from service.records import controls, jobs
from service.records.controls import Pause
from service.records.tables import deliveries, studies
from service.records.tables import jobs as job_rows
from service.records.topics import Topic

RETRY_AT_ONCE: Final = 500
_AT_WORK: Final = (StudyState.RECEIVING, StudyState.QUEUED, StudyState.ANALYSING)
_ON_ITS_WAY: Final = (DeliveryState.SCHEDULED, DeliveryState.IN_PROGRESS, DeliveryState.PARKED)


@dataclass(frozen=True, slots=True)
class QueueLine:
    """One queue: how much waits, since when, how much runs, and what needs a person."""

    topic: Topic
    depth: Annotated[int, Field(description="Due now or later")]
    oldest_due_at: datetime | None
    running: int
    failed: Annotated[int, Field(description="Failed jobs, or deliveries given up")]
    pause: Annotated[Pause | None, Field(description="Set while it hands out nothing")]


@dataclass(frozen=True, slots=True)
class LastError:
    """Why the newest try that failed did."""

    reason: str
    message: str
    study_instance_uid: str
    due_at: Annotated[datetime, Field(description="Of that try, or of the next one")]


@dataclass(frozen=True, slots=True)
class DestinationTraffic:
    """What went to a destination and what did not."""

    deliveries: Annotated[Mapping[str, int], Field(description="By state")]
    last_delivered_at: datetime | None
    last_error: LastError | None


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept, and when it goes."""

    studies: int
    instances: int
    oldest_received_at: datetime | None
    expired: Annotated[int, Field(description="Older than the settings keep them")]
    expiring: Annotated[int, Field(description="Within the day that follows")]
    held_back: Annotated[
        int, Field(description="Expired, and kept for work or deliveries that are not over")
    ]


def queue_lines(connection: Connection) -> Sequence[QueueLine]:
    """Return the queues as they stand."""
    paused = controls.pauses(connection)
    return [
        _line(connection, Topic.INFER, job_rows, JobState.FAILED, paused),
        _line(connection, Topic.DELIVER, deliveries, DeliveryState.PARKED, paused),
    ]


def retry_failed(connection: Connection, *, at: datetime) -> int:
    """Put the failed jobs that are still current back in the queue; return how many.

    The oldest first, and no more than `RETRY_AT_ONCE`.
    """
    query = (
        select(job_rows.c.id)
        .where(job_rows.c.state == JobState.FAILED, job_rows.c.current)
        .order_by(job_rows.c.due_at)
        .limit(RETRY_AT_ONCE)
    )
    failed = list(connection.execute(query).scalars())
    for job_id in failed:
        jobs.retry(connection, job_id, at=at)
    return len(failed)


def traffic(connection: Connection) -> Mapping[str, DestinationTraffic]:
    """Return what went to each destination that anything was ever meant for."""
    counted: defaultdict[str, dict[str, int]] = defaultdict(dict)
    latest: dict[str, datetime | None] = {}
    query = select(
        deliveries.c.destination,
        deliveries.c.state,
        func.count(),
        func.max(deliveries.c.delivered_at),
    ).group_by(deliveries.c.destination, deliveries.c.state)
    for name, state, number, delivered_at in connection.execute(query):
        counted[name][state] = number
        known = latest.get(name)
        latest[name] = max(filter(None, (known, delivered_at)), default=None)
    return {
        name: DestinationTraffic(states, latest.get(name), _last_error(connection, name))
        for name, states in counted.items()
    }


def kept(connection: Connection, *, at: datetime, keep: timedelta) -> Kept:
    """Return what is kept, and what goes when after `keep`."""
    expired = studies.c.last_received_at < at - keep
    soon = studies.c.last_received_at < at - keep + timedelta(days=1)
    unfinished = select(deliveries.c.study_id).where(deliveries.c.state.in_(_ON_ITS_WAY))
    busy = studies.c.state.in_(_AT_WORK) | studies.c.id.in_(unfinished)
    totals = connection.execute(
        select(
            func.count(),
            func.sum(studies.c.instances_count),
            func.min(studies.c.received_at),
        )
    ).one()
    return Kept(
        studies=totals[0],
        instances=int(totals[1] or 0),
        oldest_received_at=totals[2],
        expired=_number(connection, expired),
        expiring=_number(connection, soon & ~expired),
        held_back=_number(connection, expired & busy),
    )


def _line(
    connection: Connection, topic: Topic, table: Any, failed: str, paused: Mapping[Topic, Pause]
) -> QueueLine:
    waiting = JobState.SCHEDULED.value  # the same word for jobs and deliveries
    running = JobState.IN_PROGRESS.value
    query = (
        select(table.c.state, func.count(), func.min(table.c.due_at))
        .where(table.c.state.in_((waiting, running, failed)))
        .group_by(table.c.state)
    )
    if topic is Topic.INFER:  # what a newer run replaced needs nobody
        query = query.where(table.c.current)
    found = {state: (number, due_at) for state, number, due_at in connection.execute(query)}
    depth, oldest = found.get(waiting, (0, None))
    return QueueLine(
        topic=topic,
        depth=depth,
        oldest_due_at=oldest,
        running=found.get(running, (0, None))[0],
        failed=found.get(failed, (0, None))[0],
        pause=paused.get(topic),
    )


def _last_error(connection: Connection, destination: str) -> LastError | None:
    query = (
        select(
            deliveries.c.reason,
            deliveries.c.message,
            deliveries.c.due_at,
            studies.c.study_instance_uid,
        )
        .join_from(deliveries, studies)
        .where(deliveries.c.destination == destination, deliveries.c.reason != "")
        .order_by(deliveries.c.id.desc())
        .limit(1)
    )
    row = connection.execute(query).first()
    if row is None:
        return None
    return LastError(row.reason, row.message, row.study_instance_uid, row.due_at)


def _number(connection: Connection, condition: Any) -> int:
    query = select(func.count()).select_from(studies).where(condition)
    return int(connection.execute(query).scalar_one())
