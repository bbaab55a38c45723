"""Jobs: schedule, claim, extend, finish, release. The database is the truth; Redis only rings.

A claim is one UPDATE that raises the job's fence. Whoever holds an older fence (a worker that was
frozen and thawed) can change nothing any more.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, insert, select, update

from service.core.errors import InvalidRequest, LostClaim, NotFound
from service.core.states import JOB_TRANSITIONS, JobState, Priority
from service.records import controls, events, outbox, progress
from service.records.events import EventKind
from service.records.tables import jobs, studies
from service.records.topics import Topic


@dataclass(frozen=True)
class NewJob:
    """One model to run on one series; `id` is derived from all that decides its outcome."""

    id: str
    study_id: int
    series_id: int
    task: str
    model_name: str
    model_version: str
    model_sha256: str
    parameters: Mapping[str, Any]
    inputs: Sequence[Mapping[str, Any]]
    priority: Priority
    destinations: Sequence[str] | None = None
    shadow: bool = False
    report_of: str | None = None  # the run whose results are made anew; no network runs then


@dataclass(frozen=True)
class Claim:
    """A job that this process may work on while its lease lasts."""

    job_id: str
    fence: int
    attempt: int
    study_id: int
    series_id: int
    study_instance_uid: str
    model_name: str
    model_version: str
    model_sha256: str
    task: str
    priority: Priority
    parameters: Mapping[str, Any]
    inputs: Sequence[Mapping[str, Any]]
    destinations: Sequence[str] | None
    shadow: bool
    created_at: datetime
    report_of: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    state: JobState
    reason: str = ""
    message: str = ""
    device: str = ""
    timings_s: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


def schedule(connection: Connection, job: NewJob, *, at: datetime) -> bool:
    """Write the job and its doorbell, unless the very same job exists; return whether it is new."""
    is_analysis = job.report_of is None
    if connection.execute(select(jobs.c.id).where(jobs.c.id == job.id)).first() is not None:
        connection.execute(update(jobs).where(jobs.c.id == job.id).values(current=is_analysis))
        progress.refresh(connection, job.study_id, at=at)
        return False
    connection.execute(
        insert(jobs).values(
            id=job.id,
            study_id=job.study_id,
            series_id=job.series_id,
            task=job.task,
            model_name=job.model_name,
            model_version=job.model_version,
            model_sha256=job.model_sha256,
            parameters=dict(job.parameters),
            inputs=[dict(item) for item in job.inputs],
            current=is_analysis,
            shadow=job.shadow,
            report_of=job.report_of,
            destinations=None if job.destinations is None else list(job.destinations),
            state=JobState.SCHEDULED,
            priority=job.priority,
            due_at=at,
            timings_s={},
            scores={},
            created_at=at,
        )
    )
    outbox.append(connection, Topic.INFER, job.id, at=at)
    _tell(connection, job.id, JobState.SCHEDULED, "", at)
    return True


def supersede(
    connection: Connection,
    study_id: int,
    model_name: str,
    *,
    keep: Collection[str],
    at: datetime,
) -> None:
    """End the reign of a model's earlier jobs on a study, all but those named in `keep`.

    Their findings give way to the newer jobs'; those that have not started are canceled.
    """
    earlier = and_(
        jobs.c.study_id == study_id,
        jobs.c.model_name == model_name,
        jobs.c.id.not_in(keep),
        jobs.c.current,
    )
    reports = jobs.c.report_of.in_(select(jobs.c.id).where(earlier).scalar_subquery())
    for condition in (reports, earlier):
        cancel_waiting(connection, condition, at=at)
    connection.execute(update(jobs).where(earlier).values(current=False))


def cancel_waiting(connection: Connection, condition: ColumnElement[bool], *, at: datetime) -> None:
    """Cancel the jobs of a condition that have not started, since others take their place."""
    waiting = select(jobs.c.id).where(condition, jobs.c.state == JobState.SCHEDULED)
    for (job_id,) in connection.execute(waiting).all():
        _move(connection, job_id, JobState.CANCELED, {"ended_at": at, "reason": "SUPERSEDED"})
        _tell(connection, job_id, JobState.CANCELED, "SUPERSEDED", at)


def count_runs(connection: Connection, series_id: int, model_name: str) -> int:
    """Return how many jobs of a model a series has had."""
    query = select(func.count()).select_from(jobs)
    runs: int = connection.execute(
        query.where(jobs.c.series_id == series_id, jobs.c.model_name == model_name)
    ).scalar_one()
    return runs


def claim(
    connection: Connection, job_id: str, *, worker: str, at: datetime, lease: timedelta
) -> Claim | None:
    """Take the job for this worker, or return None when it is not there to be taken."""
    free = and_(
        jobs.c.state == JobState.SCHEDULED, jobs.c.due_at <= at, ~controls.paused(Topic.INFER)
    )
    taken = connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, free)
        .values(
            state=JobState.IN_PROGRESS,
            fence=jobs.c.fence + 1,
            attempts=jobs.c.attempts + 1,
            lease_until=at + lease,
            worker=worker,
            started_at=func.coalesce(jobs.c.started_at, at),
        )
    )
    if taken.rowcount == 0:
        return None
    _tell(connection, job_id, JobState.IN_PROGRESS, "", at)
    return recorded(connection, job_id)


def recorded(connection: Connection, job_id: str) -> Claim:
    """Return a job as it was recorded, held or not.

    Raises
    ------
    NotFound
        ``JOB_UNKNOWN``.
    """
    query = select(jobs, studies.c.study_instance_uid).join_from(jobs, studies)
    row = connection.execute(query.where(jobs.c.id == job_id)).first()
    if row is None:
        raise NotFound("JOB_UNKNOWN", f"no job {job_id}")
    return Claim(
        job_id=row.id,
        fence=row.fence,
        attempt=row.attempts,
        study_id=row.study_id,
        series_id=row.series_id,
        study_instance_uid=row.study_instance_uid,
        model_name=row.model_name,
        model_version=row.model_version,
        model_sha256=row.model_sha256,
        task=row.task,
        priority=Priority(row.priority),
        parameters=row.parameters,
        inputs=row.inputs,
        destinations=row.destinations,
        shadow=row.shadow,
        created_at=row.created_at,
        report_of=row.report_of,
    )


def state_of(connection: Connection, job_id: str) -> JobState:
    """Return the state of a job that exists."""
    state = connection.execute(select(jobs.c.state).where(jobs.c.id == job_id)).scalar_one()
    return JobState(state)


def extend(connection: Connection, held: Claim, *, until: datetime) -> bool:
    """Prolong the lease; return False when the job is not this worker's any more."""
    done = connection.execute(update(jobs).where(_held(held)).values(lease_until=until))
    return done.rowcount == 1


def finish(connection: Connection, held: Claim, outcome: Outcome, *, at: datetime) -> None:
    """End the job in one of its final states.

    Raises
    ------
    LostClaim
        ``FENCED``: the lease ran out and another worker took the job; write nothing.
    """
    done = connection.execute(
        update(jobs)
        .where(_held(held))
        .values(
            state=outcome.state,
            reason=outcome.reason,
            message=outcome.message,
            device=outcome.device,
            timings_s=dict(outcome.timings_s),
            scores=dict(outcome.scores),
            ended_at=at,
            lease_until=None,
        )
    )
    if done.rowcount == 0:
        raise LostClaim("FENCED", f"job {held.job_id} was taken over at fence {held.fence}")
    _tell(connection, held.job_id, outcome.state, outcome.reason, at)


def try_later(
    connection: Connection, held: Claim, outcome: Outcome, *, due_at: datetime, at: datetime
) -> None:
    """Put the job back to be tried at `due_at`, with the reason why this try ended."""
    done = connection.execute(
        update(jobs)
        .where(_held(held))
        .values(
            state=JobState.SCHEDULED,
            due_at=due_at,
            lease_until=None,
            reason=outcome.reason,
            message=outcome.message,
        )
    )
    if done.rowcount == 0:
        raise LostClaim("FENCED", f"job {held.job_id} was taken over at fence {held.fence}")
    _tell(connection, held.job_id, JobState.SCHEDULED, outcome.reason, at)


def leases(connection: Connection) -> Sequence[tuple[str, int, datetime]]:
    """Return id, fence and end of the lease of every job that a worker holds."""
    query = select(jobs.c.id, jobs.c.fence, jobs.c.lease_until)
    rows = connection.execute(query.where(jobs.c.state == JobState.IN_PROGRESS))
    return [(row.id, row.fence, row.lease_until) for row in rows if row.lease_until is not None]


def release_lost(
    connection: Connection,
    *,
    at: datetime,
    max_attempts: int,
    among: Collection[tuple[str, int]] | None = None,
) -> Sequence[str]:
    """Give back the jobs whose worker went silent; park those that used up their attempts.

    `among` names the lost ones by id and fence; without it, those whose lease is over by the
    clock. Returns the ids that changed. Safe to run in several processes at once.
    """
    lost = jobs.c.state == JobState.IN_PROGRESS
    if among is None:
        lost = and_(lost, jobs.c.lease_until < at)
    found = connection.execute(select(jobs.c.id, jobs.c.fence, jobs.c.attempts).where(lost))
    rows = [row for row in found if among is None or (row.id, row.fence) in among]
    changed = []
    for row in rows:
        poison = row.attempts >= max_attempts
        state = JobState.FAILED if poison else JobState.SCHEDULED
        message = f"the worker stopped without an answer in attempt {row.attempts}"
        values: dict[str, Any] = {
            "state": state,
            "reason": "WORKER_LOST",
            "message": message,
            "lease_until": None,
            "fence": row.fence + 1,
            "due_at": at,
        }
        if poison:
            values["ended_at"] = at
        mine = and_(jobs.c.id == row.id, jobs.c.fence == row.fence, lost)
        if connection.execute(update(jobs).where(mine).values(values)).rowcount:
            if not poison:
                outbox.append(connection, Topic.INFER, row.id, at=at)
            _tell(connection, row.id, state, "WORKER_LOST", at)
            changed.append(row.id)
    return changed


def due(
    connection: Connection, *, at: datetime, limit: int = 5000
) -> Sequence[tuple[str, Priority]]:
    """Return the jobs that wait for a worker, oldest first: what Redis ought to be ringing for."""
    query = (
        select(jobs.c.id, jobs.c.priority)
        .where(
            jobs.c.state == JobState.SCHEDULED, jobs.c.due_at <= at, ~controls.paused(Topic.INFER)
        )
        .order_by(jobs.c.due_at)
        .limit(limit)
    )
    return [(row.id, Priority(row.priority)) for row in connection.execute(query)]


def priorities(connection: Connection, job_ids: Sequence[str]) -> dict[str, Priority]:
    """Return the priority of each of these jobs."""
    query = select(jobs.c.id, jobs.c.priority).where(jobs.c.id.in_(job_ids))
    return {row.id: Priority(row.priority) for row in connection.execute(query)}


def retry(connection: Connection, job_id: str, *, at: datetime) -> None:
    """Put a failed or canceled job back in the queue with fresh attempts.

    Raises
    ------
    NotFound, InvalidRequest
        ``JOB_UNKNOWN``; ``JOB_STATE`` when the job is in a state that cannot be repeated.
    """
    _move(connection, job_id, JobState.SCHEDULED, {"attempts": 0, "due_at": at, "ended_at": None})
    outbox.append(connection, Topic.INFER, job_id, at=at)
    _tell(connection, job_id, JobState.SCHEDULED, "RETRY_ASKED", at)


def cancel(connection: Connection, job_id: str, *, at: datetime) -> None:
    """Cancel a job; a worker that runs it finds its fence gone and writes nothing.

    Raises
    ------
    NotFound, InvalidRequest
        ``JOB_UNKNOWN``; ``JOB_STATE`` when the job is over.
    """
    _move(connection, job_id, JobState.CANCELED, {"ended_at": at, "reason": "CANCEL_ASKED"})
    _tell(connection, job_id, JobState.CANCELED, "CANCEL_ASKED", at)


def _move(connection: Connection, job_id: str, state: JobState, values: dict[str, Any]) -> None:
    row = connection.execute(select(jobs.c.state).where(jobs.c.id == job_id)).first()
    if row is None:
        raise NotFound("JOB_UNKNOWN", f"no job {job_id}")
    allowed = [source for source, targets in JOB_TRANSITIONS.items() if state in targets]
    changed = connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.state.in_(allowed), jobs.c.state != state)
        .values(state=state, fence=jobs.c.fence + 1, lease_until=None, **values)
    )
    if changed.rowcount == 0:
        names = ", ".join(sorted(allowed))
        raise InvalidRequest("JOB_STATE", f"job is {row.state}; allowed from: {names}")


def _held(held: Claim) -> ColumnElement[bool]:
    return and_(
        jobs.c.id == held.job_id,
        jobs.c.fence == held.fence,
        jobs.c.state == JobState.IN_PROGRESS,
    )


def _tell(connection: Connection, job_id: str, state: JobState, reason: str, at: datetime) -> None:
    """Tell the event stream and bring the study's own state up to date."""
    query = select(jobs.c.study_id, studies.c.study_instance_uid).join_from(jobs, studies)
    row = connection.execute(query.where(jobs.c.id == job_id)).one()
    events.append(
        connection,
        kind=EventKind.JOB,
        study_instance_uid=row.study_instance_uid,
        subject_id=job_id,
        state=state,
        reason=reason,
        at=at,
    )
    progress.refresh(connection, row.study_id, at=at)
