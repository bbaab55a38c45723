"""Jobs and deliveries as lists, newest first, page by page."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field
from sqlalchemy import ColumnElement, Connection, Row, Select, select

from service.core.errors import NotFound
from service.core.states import CommitmentState, DeliveryState, JobState, Priority
from service.records.paging import Order
from service.records.tables import deliveries, jobs, results, series, studies


@dataclass(frozen=True, slots=True)
class ModelReference:
    """Exactly which network a run used."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class JobItem:
    """One model run on one series."""

    id: str
    study_instance_uid: str
    series_instance_uid: str
    task: str
    model: ModelReference
    state: JobState
    priority: Priority
    reason: Annotated[str, Field(description="Stable code of how it ended or why it waits")]
    message: str
    attempts: int
    worker: str
    device: str
    parameters: Annotated[Mapping[str, Any], Field(description="What the run was asked to use")]
    timings_s: Annotated[
        Mapping[str, float], Field(description="Seconds by stage", examples=[{"network": 30.1}])
    ]
    scores: Annotated[Mapping[str, float], Field(description="What input checks measured")]
    current: Annotated[bool, Field(description="False once a newer run replaced it")]
    shadow: Annotated[bool, Field(description="Runs for comparison and is sent nowhere")]
    report_of: Annotated[
        str | None, Field(description="The run whose results this job makes anew; null for a run")
    ]
    created_at: datetime
    due_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    comparison: Annotated[
        Mapping[str, Any] | None,
        Field(description="With which earlier study the run was compared, or why with none"),
    ] = None


@dataclass(frozen=True, slots=True)
class JobPage:
    """Jobs, newest first."""

    items: list[JobItem]
    next: str | None


@dataclass(frozen=True, slots=True)
class DeliveryItem:
    """One result on its way to one destination."""

    id: int
    study_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    role: str
    job_id: str
    destination: str
    state: DeliveryState
    priority: Priority
    attempts: int
    reason: str
    message: str
    created_at: datetime
    due_at: Annotated[datetime, Field(description="Of the next attempt while SCHEDULED")]
    give_up_at: datetime
    delivered_at: datetime | None
    commitment: CommitmentState
    committed_at: datetime | None


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Deliveries, newest first."""

    items: list[DeliveryItem]
    next: str | None


@dataclass(frozen=True)
class Filter:
    """What both lists can be asked for; a job has no destination, a delivery no task."""

    study_instance_uid: str | None = None
    states: tuple[str, ...] = ()
    task: str | None = None
    model: str | None = None
    destination: str | None = None


_JOBS_NEWEST: Final = Order("jobs", (jobs.c.created_at, jobs.c.id), descending=True)
_DELIVERIES_NEWEST: Final = Order("deliveries", (deliveries.c.id,), descending=True)


def job_page(connection: Connection, asked: Filter, *, limit: int, cursor: str | None) -> JobPage:
    """Return jobs, newest first."""
    query = _jobs().where(*_conditions(asked, jobs))
    rows = connection.execute(_JOBS_NEWEST.page(query, limit=limit, cursor=cursor)).all()
    shown = [_job_item(row) for row in rows[:limit]]
    following = None
    if len(rows) > limit:
        following = _JOBS_NEWEST.cursor(shown[-1])
    return JobPage(shown, following)


def job_items(connection: Connection, condition: ColumnElement[bool]) -> list[JobItem]:
    """Return the jobs that meet a condition, newest first."""
    query = _jobs().where(condition).order_by(jobs.c.created_at.desc(), jobs.c.id)
    return [_job_item(row) for row in connection.execute(query)]


def job(connection: Connection, job_id: str) -> JobItem:
    """Return one job.

    Raises
    ------
    NotFound
        ``JOB_UNKNOWN``.
    """
    items = job_items(connection, jobs.c.id == job_id)
    if not items:
        raise NotFound("JOB_UNKNOWN", f"no job {job_id}")
    return items[0]


def delivery_page(
    connection: Connection, asked: Filter, *, limit: int, cursor: str | None
) -> DeliveryPage:
    """Return deliveries, newest first."""
    query = _deliveries().where(*_conditions(asked, deliveries))
    rows = connection.execute(_DELIVERIES_NEWEST.page(query, limit=limit, cursor=cursor)).all()
    shown = [_delivery_item(row) for row in rows[:limit]]
    following = _DELIVERIES_NEWEST.cursor(shown[-1]) if len(rows) > limit else None
    return DeliveryPage(shown, following)


def delivery(connection: Connection, delivery_id: int) -> DeliveryItem:
    """Return one delivery.

    Raises
    ------
    NotFound
        ``DELIVERY_UNKNOWN``.
    """
    row = connection.execute(_deliveries().where(deliveries.c.id == delivery_id)).first()
    if row is None:
        raise NotFound("DELIVERY_UNKNOWN", f"no delivery {delivery_id}")
    return _delivery_item(row)


def _conditions(asked: Filter, table: Any) -> Iterator[ColumnElement[bool]]:
    if asked.study_instance_uid is not None:
        yield studies.c.study_instance_uid == asked.study_instance_uid
    if asked.states:
        yield table.c.state.in_(asked.states)
    if asked.task is not None:
        yield table.c.task == asked.task
    if asked.model is not None:
        yield table.c.model_name == asked.model
    if asked.destination is not None:
        yield table.c.destination == asked.destination


def _jobs() -> Select[Any]:
    return (
        select(jobs, studies.c.study_instance_uid, series.c.series_instance_uid)
        .join_from(jobs, studies, studies.c.id == jobs.c.study_id)
        .join(series, series.c.id == jobs.c.series_id)
    )


def _deliveries() -> Select[Any]:
    return (
        select(
            deliveries,
            studies.c.study_instance_uid,
            results.c.sop_instance_uid,
            results.c.sop_class_uid,
            results.c.role,
            results.c.job_id,
        )
        .join_from(deliveries, studies, studies.c.id == deliveries.c.study_id)
        .join(results, results.c.id == deliveries.c.result_id)
    )


def _job_item(row: Row[Any]) -> JobItem:
    return JobItem(
        id=row.id,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        task=row.task,
        model=ModelReference(row.model_name, row.model_version, row.model_sha256),
        state=JobState(row.state),
        priority=Priority(row.priority),
        reason=row.reason,
        message=row.message,
        attempts=row.attempts,
        worker=row.worker,
        device=row.device,
        parameters=row.parameters,
        timings_s=row.timings_s,
        scores=row.scores,
        current=row.current,
        shadow=row.shadow,
        report_of=row.report_of,
        comparison=row.comparison,
        created_at=row.created_at,
        due_at=row.due_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


def _delivery_item(row: Row[Any]) -> DeliveryItem:
    return DeliveryItem(
        id=row.id,
        study_instance_uid=row.study_instance_uid,
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        role=row.role,
        job_id=row.job_id,
        destination=row.destination,
        state=DeliveryState(row.state),
        priority=Priority(row.priority),
        attempts=row.attempts,
        reason=row.reason,
        message=row.message,
        created_at=row.created_at,
        due_at=row.due_at,
        give_up_at=row.give_up_at,
        delivered_at=row.delivered_at,
        commitment=CommitmentState(row.commitment),
        committed_at=row.committed_at,
    )
