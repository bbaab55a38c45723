"""Which results take the place of which: the newer ones of a study, never those of other models.

A run gives way to a newer run of its model on the same images; the results of one run give way to
a report that was made anew from it. What gave way is marked, is left out of searches, and is not
sent any more; what a destination may already have is named by its successor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, func, select, update

from service.core.findings import Finding
from service.core.states import JobState, ResultState
from service.records import deliveries, results
from service.records.jobs import Claim
from service.records.tables import findings, instances, jobs
from service.records.tables import results as result_rows

_RUN = jobs.alias("run")  # the run that an object rests on, whichever job wrote the object


@dataclass(frozen=True)
class Predecessor:
    """A result that gives way, and the destinations that may have it."""

    result_id: int
    role: str
    form: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    has_left: bool
    destinations: tuple[str, ...]


def predecessors(connection: Connection, held: Claim, *, document: str) -> list[Predecessor]:
    """Return the results that this job's will take the place of, the same until they have.

    `document` is the job that the new objects belong to; its own give way to nothing.
    """
    return _before(connection, held, document, ResultState.VALID)


def held_back_before(connection: Connection, held: Claim, *, document: str) -> list[Predecessor]:
    """Return the objects in quarantine that this job's make a matter of the past."""
    return _before(connection, held, document, ResultState.QUARANTINED)


def replaced_by(connection: Connection, document: str) -> list[Predecessor]:
    """Return the results that a job's took the place of."""
    return _found(connection, result_rows.c.superseded_by == document)


def _before(
    connection: Connection, held: Claim, document: str, state: ResultState
) -> list[Predecessor]:
    belongs = _of_run(held.report_of) if held.report_of else _of_earlier_runs(connection, held)
    if belongs is None:
        return []
    return _found(
        connection,
        belongs,
        result_rows.c.job_id != document,
        result_rows.c.state == state,
        result_rows.c.superseded_at.is_(None),
        ~_RUN.c.shadow,
    )


def _found(connection: Connection, *conditions: ColumnElement[bool]) -> list[Predecessor]:
    rows = connection.execute(
        select(result_rows, _RUN.c.destinations)
        .join_from(result_rows, jobs, jobs.c.id == result_rows.c.job_id)
        .join(_RUN, _RUN.c.id == func.coalesce(jobs.c.report_of, jobs.c.id))
        .where(*conditions, result_rows.c.role != "rejection")
        .order_by(result_rows.c.id)
    ).all()
    sent = deliveries.of_results(connection, [row.id for row in rows])
    left = {(one.result_id, one.destination) for one in sent if one.has_left}
    return [
        Predecessor(
            result_id=row.id,
            role=row.role,
            form=row.form,
            sop_class_uid=row.sop_class_uid,
            sop_instance_uid=row.sop_instance_uid,
            series_instance_uid=row.series_instance_uid,
            # Without destinations it is this archive that people read results from.
            has_left=not row.destinations or any(number == row.id for number, _ in left),
            destinations=tuple(sorted(name for number, name in left if number == row.id)),
        )
        for row in rows
    ]


def hold_back(connection: Connection, giving_way: Sequence[Predecessor], *, at: datetime) -> None:
    """Cancel what has not been sent of results that are about to be superseded."""
    unsent = deliveries.of_results(connection, [one.result_id for one in giving_way])
    numbers = [one.delivery_id for one in unsent if not one.has_left]
    deliveries.cancel(connection, numbers, reason="SUPERSEDED", at=at)


def supersede(
    connection: Connection,
    study_id: int,
    giving_way: Sequence[Predecessor],
    *,
    by: str | None,
    at: datetime,
) -> None:
    """Mark results as superseded by a job's, cancel every attempt at them, hide their series."""
    numbers = [one.result_id for one in giving_way]
    connection.execute(
        update(result_rows)
        .where(result_rows.c.id.in_(numbers))
        .values(state=ResultState.SUPERSEDED, superseded_at=at, superseded_by=by)
    )
    attempts = deliveries.of_results(connection, numbers)
    deliveries.cancel(connection, [one.delivery_id for one in attempts], reason="SUPERSEDED", at=at)
    uids = [one.series_instance_uid for one in giving_way]
    results.hide_series(connection, study_id, uids)


def lay_aside(
    connection: Connection, in_quarantine: Sequence[Predecessor], *, by: str | None, at: datetime
) -> None:
    """Mark objects in quarantine as a matter of the past; there they stay."""
    numbers = [one.result_id for one in in_quarantine]
    connection.execute(
        update(result_rows)
        .where(result_rows.c.id.in_(numbers))
        .values(superseded_at=at, superseded_by=by)
    )


def earlier_findings(connection: Connection, held: Claim) -> list[Finding]:
    """Return what the newest earlier run of the task on these images found; empty without one.

    Runs of the same instant do not count, so that a repeat of the job sees the same.
    """
    query = (
        select(jobs.c.id)
        .where(
            jobs.c.study_id == held.study_id,
            jobs.c.task == held.task,
            jobs.c.id != held.job_id,
            jobs.c.created_at < held.created_at,
            jobs.c.state == JobState.COMPLETED,
            jobs.c.report_of.is_(None),
            ~jobs.c.shadow,
            ~jobs.c.current,
        )
        .order_by(jobs.c.created_at.desc(), jobs.c.id)
    )
    for (job_id,) in connection.execute(query):
        if not _share_images(connection, held.job_id, job_id):
            continue
        content = select(findings.c.content).where(findings.c.job_id == job_id)
        found = connection.execute(content.order_by(findings.c.rank)).scalars()
        return [Finding.model_validate(one) for one in found]
    return []


def document_in_force(connection: Connection, run_id: str) -> str:
    """Return the job whose results stand for a run: the run itself, or its newest report."""
    query = (
        select(result_rows.c.job_id)
        .join_from(result_rows, jobs, jobs.c.id == result_rows.c.job_id)
        .where(jobs.c.report_of == run_id, result_rows.c.state == ResultState.VALID)
        .order_by(jobs.c.created_at.desc())
    )
    return str(connection.execute(query).scalar() or run_id)


def is_current(connection: Connection, job_id: str) -> bool:
    """Return whether a run's findings are the study's current ones."""
    query = select(jobs.c.current).where(jobs.c.id == job_id)
    return bool(connection.execute(query).scalar_one())


def has_valid_results(connection: Connection, run_id: str) -> bool:
    """Return whether anything that rests on a run may be seen and sent."""
    return bool(_found(connection, _of_run(run_id), result_rows.c.state == ResultState.VALID))


def has_newer_report(connection: Connection, held: Claim) -> bool:
    """Return whether a later report of the same run is there already."""
    query = select(jobs.c.id).where(
        jobs.c.report_of == held.report_of,
        jobs.c.id != held.job_id,
        jobs.c.created_at > held.created_at,
        jobs.c.state == JobState.COMPLETED,
    )
    return connection.execute(query).first() is not None


def _of_run(run_id: str | None) -> ColumnElement[bool]:
    return _RUN.c.id == run_id


def _of_earlier_runs(connection: Connection, held: Claim) -> ColumnElement[bool] | None:
    """Return the condition of the runs that this one takes the place of."""
    of_model = and_(
        jobs.c.study_id == held.study_id,
        jobs.c.model_name == held.model_name,
        jobs.c.report_of.is_(None),
        jobs.c.id != held.job_id,
    )
    rivals = connection.execute(select(jobs.c.id).where(of_model, jobs.c.current)).all()
    earlier = connection.execute(
        select(jobs.c.id).where(of_model, ~jobs.c.current, jobs.c.created_at <= held.created_at)
    ).scalars()
    # Where each image has a run of its own, only runs on the same image follow each other.
    chosen = [
        job_id
        for job_id in list(earlier)
        if not rivals or _share_images(connection, held.job_id, job_id)
    ]
    return _RUN.c.id.in_(chosen) if chosen else None


def _share_images(connection: Connection, one: str, other: str) -> bool:
    return bool(_images(connection, one) & _images(connection, other))


def _images(connection: Connection, job_id: str) -> frozenset[str]:
    """Return the SOP Instance UIDs that a job was run on, whatever version of them."""
    inputs = connection.execute(select(jobs.c.inputs).where(jobs.c.id == job_id)).scalar_one()
    numbers = [item["instance_id"] for item in inputs]
    found: set[str] = set()
    for start in range(0, len(numbers), 500):  # SQLite bounds the variables of a statement
        some = instances.c.id.in_(numbers[start : start + 500])
        query = select(instances.c.sop_instance_uid).where(some)
        found.update(connection.execute(query).scalars())
    return frozenset(found)
