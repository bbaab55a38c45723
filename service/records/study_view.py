"""One study for reading: its series and what suits whom, its findings, results and deliveries."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Connection, Row, Select, and_, func, select

from service.core.errors import NotFound
from service.core.findings import Finding
from service.core.headers import InstanceHeader
from service.core.states import CommitmentState, DeliveryState, ResultState
from service.records import worklist
from service.records.listings import JobItem, job_items
from service.records.reviews import Review, newest_of
from service.records.tables import (
    assessments,
    deliveries,
    findings,
    instances,
    jobs,
    results,
    series,
    studies,
)


@dataclass(frozen=True, slots=True)
class Eligibility:
    """What one model makes of one series, or of the study as a whole."""

    task: str
    model: str
    version: str
    eligible: bool
    chosen: Annotated[bool, Field(description="The series that the model was run on")]
    score: float
    reason: Annotated[str, Field(examples=["SLICE_GAP"])]
    message: Annotated[str, Field(examples=["a gap of 12.5 mm after slice 84"])]


@dataclass(frozen=True, slots=True)
class SeriesItem:
    """A series and which models it suits."""

    series_instance_uid: str
    modality: str
    series_number: int | None
    series_description: str
    body_part_examined: str
    instances_count: int
    received_at: datetime
    completed_at: datetime | None
    revision: int
    is_result: Annotated[bool, Field(description="Written by this product")]
    eligibility: list[Eligibility]


@dataclass(frozen=True, slots=True)
class StudyDetail(worklist.WorklistItem):
    """A study, its series, and what was eligible for which model."""

    referring_physician_name: str
    study_id: str
    revision: Annotated[int, Field(description="Of its content; a late instance opens the next")]
    completed_at: datetime | None
    series: list[SeriesItem]
    eligibility: Annotated[
        list[Eligibility], Field(description="What holds for the study as a whole")
    ]
    jobs: Annotated[list[JobItem], Field(description="Newest first")]


@dataclass(frozen=True, slots=True)
class StoredFinding:
    """A finding with the run that made it."""

    finding: Finding
    job_id: str
    series_instance_uid: str
    task: str
    model_name: str
    model_version: str
    model_sha256: str
    operating_point: str | None
    segmentation_uid: str | None
    review: Review | None


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """Where one result is on its way to one destination."""

    id: int
    destination: str
    state: DeliveryState
    attempts: int
    reason: str
    message: str
    created_at: datetime
    due_at: datetime
    delivered_at: datetime | None
    commitment: CommitmentState
    committed_at: datetime | None


@dataclass(frozen=True, slots=True)
class ResultItem:
    """A written SR, SEG or other object, and its deliveries."""

    role: Annotated[str, Field(examples=["sr"])]
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    state: ResultState
    reason: str
    message: str
    size_bytes: int
    created_at: datetime
    job_id: str
    task: str
    model: str
    version: str
    form: Annotated[
        str, Field(description="Empty for the usual form; others are for destinations alone")
    ]
    reviewed: Annotated[bool, Field(description="It rests on a reader's review")]
    shadow: Annotated[bool, Field(description="Of a shadow run: never sent nor searched")]
    superseded_at: datetime | None
    superseded_by: Annotated[
        str | None, Field(description="Job whose results took its place; null where none did")
    ]
    current: Annotated[bool, Field(description="False once a newer run or report replaced it")]
    deliveries: list[DeliveryStatus]


def study_key(connection: Connection, study_instance_uid: str) -> int:
    """Return a study's row id.

    Raises
    ------
    NotFound
        ``STUDY_UNKNOWN``.
    """
    wanted = studies.c.study_instance_uid == study_instance_uid
    key = connection.execute(select(studies.c.id).where(wanted)).scalar()
    if key is None:
        raise NotFound("STUDY_UNKNOWN", f"no study {study_instance_uid}")
    return int(key)


def detail(connection: Connection, study_instance_uid: str) -> StudyDetail:
    """Return a study with its series, assessments and jobs.

    Raises
    ------
    NotFound
        ``STUDY_UNKNOWN``.
    """
    study_id = study_key(connection, study_instance_uid)
    item = worklist.item(connection, study_instance_uid)
    row = connection.execute(select(studies).where(studies.c.id == study_id)).one()
    assessed = _eligibility(connection, study_id)
    listed = connection.execute(
        select(series)
        .where(series.c.study_id == study_id)
        .order_by(series.c.is_result, series.c.series_number, series.c.id)
    )
    assert item is not None
    return StudyDetail(
        **{field.name: getattr(item, field.name) for field in fields(item)},
        referring_physician_name=row.referring_physician_name,
        study_id=row.study_id_text,
        revision=row.revision,
        completed_at=row.completed_at,
        series=[_series_item(one, assessed.get(one.id, [])) for one in listed],
        eligibility=assessed.get(None, []),
        jobs=job_items(connection, jobs.c.study_id == study_id),
    )


def current_findings(connection: Connection, study_instance_uid: str) -> Sequence[StoredFinding]:
    """Return the findings of the study's current runs, by task, the most probable first.

    Raises
    ------
    NotFound
        ``STUDY_UNKNOWN``.
    """
    study_id = study_key(connection, study_instance_uid)
    condition = and_(findings.c.study_id == study_id, jobs.c.current, ~jobs.c.shadow)
    rows = connection.execute(_findings().where(condition)).all()
    return _stored(connection, rows)


def finding(connection: Connection, finding_id: str) -> StoredFinding:
    """Return one finding.

    Raises
    ------
    NotFound
        ``FINDING_UNKNOWN``.
    """
    rows = connection.execute(_findings().where(findings.c.id == finding_id)).all()
    if not rows:
        raise NotFound("FINDING_UNKNOWN", f"no finding {finding_id}")
    return _stored(connection, rows)[0]


def result_items(connection: Connection, study_instance_uid: str) -> Sequence[ResultItem]:
    """Return the study's result objects, newest first, each with its deliveries.

    Raises
    ------
    NotFound
        ``STUDY_UNKNOWN``.
    """
    study_id = study_key(connection, study_instance_uid)
    sent = defaultdict(list)
    for row in connection.execute(
        select(deliveries).where(deliveries.c.study_id == study_id).order_by(deliveries.c.id)
    ):
        sent[row.result_id].append(_delivery_status(row))
    run = jobs.alias("run")  # a report made anew stands and falls with its run
    query = (
        select(
            results,
            jobs.c.task,
            jobs.c.model_name,
            jobs.c.model_version,
            jobs.c.shadow,
            run.c.current,
        )
        .join_from(results, jobs)
        .join(run, run.c.id == func.coalesce(jobs.c.report_of, jobs.c.id))
        .where(results.c.study_id == study_id)
        .order_by(results.c.created_at.desc(), results.c.id)
    )
    return [_result_item(row, sent[row.id]) for row in connection.execute(query)]


def source_header(
    connection: Connection, finding_id: str, sop_instance_uid: str
) -> InstanceHeader | None:
    """Return the header of an image of the series that a finding was found in."""
    query = (
        select(instances.c.header)
        .join_from(findings, jobs)
        .join(instances, instances.c.series_id == jobs.c.series_id)
        .where(
            findings.c.id == finding_id,
            instances.c.sop_instance_uid == sop_instance_uid,
            instances.c.current,
        )
    )
    header = connection.execute(query).scalar()
    return None if header is None else InstanceHeader.model_validate(header)


def image_sizes(connection: Connection, uids: Sequence[str]) -> Mapping[str, tuple[int, int]]:
    """Return (rows, columns) of these instances, by SOP Instance UID, where they are images."""
    query = select(instances.c.sop_instance_uid, instances.c.header).where(
        instances.c.sop_instance_uid.in_(uids), instances.c.current
    )
    return {
        row.sop_instance_uid: (row.header["rows"], row.header["columns"])
        for row in connection.execute(query)
        if row.header.get("rows") and row.header.get("columns")
    }


def _eligibility(connection: Connection, study_id: int) -> dict[int | None, list[Eligibility]]:
    gathered: defaultdict[int | None, list[Eligibility]] = defaultdict(list)
    query = select(assessments).where(assessments.c.study_id == study_id)
    for row in connection.execute(query.order_by(assessments.c.task, assessments.c.model_name)):
        gathered[row.series_id].append(
            Eligibility(
                task=row.task,
                model=row.model_name,
                version=row.model_version,
                eligible=row.eligible,
                chosen=row.chosen,
                score=row.score,
                reason=row.reason,
                message=row.message,
            )
        )
    return gathered


def _series_item(row: Row[Any], eligibility: list[Eligibility]) -> SeriesItem:
    return SeriesItem(
        series_instance_uid=row.series_instance_uid,
        modality=row.modality,
        series_number=row.series_number,
        series_description=row.series_description,
        body_part_examined=row.body_part_examined,
        instances_count=row.instances_count,
        received_at=row.received_at,
        completed_at=row.completed_at,
        revision=row.revision,
        is_result=row.is_result,
        eligibility=eligibility,
    )


def _findings() -> Select[Any]:
    # One SEG of the usual form holds the regions of all findings of a run, unless a report made
    # anew took its place: that one numbers its segments otherwise.
    segmentation = (
        select(func.min(results.c.sop_instance_uid))
        .where(
            results.c.job_id == jobs.c.id,
            results.c.role == "seg",
            results.c.form == "",
            results.c.state != ResultState.QUARANTINED,
        )
        .scalar_subquery()
    )
    return (
        select(
            findings.c.content,
            jobs.c.id,
            jobs.c.task,
            jobs.c.model_name,
            jobs.c.model_version,
            jobs.c.model_sha256,
            jobs.c.parameters,
            series.c.series_instance_uid,
            segmentation.label("segmentation_uid"),
        )
        .join_from(findings, jobs)
        .join(series, series.c.id == jobs.c.series_id)
        .order_by(jobs.c.task, jobs.c.model_name, findings.c.rank, findings.c.id)
    )


def _stored(connection: Connection, rows: Sequence[Row[Any]]) -> list[StoredFinding]:
    reviewed = newest_of(connection, [row.content["id"] for row in rows])
    return [
        StoredFinding(
            finding=Finding.model_validate(row.content),
            job_id=row.id,
            series_instance_uid=row.series_instance_uid,
            task=row.task,
            model_name=row.model_name,
            model_version=row.model_version,
            model_sha256=row.model_sha256,
            operating_point=row.parameters.get("operating_point"),
            segmentation_uid=row.segmentation_uid,
            review=reviewed.get(row.content["id"]),
        )
        for row in rows
    ]


def _delivery_status(row: Row[Any]) -> DeliveryStatus:
    return DeliveryStatus(
        id=row.id,
        destination=row.destination,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        reason=row.reason,
        message=row.message,
        created_at=row.created_at,
        due_at=row.due_at,
        delivered_at=row.delivered_at,
        commitment=CommitmentState(row.commitment),
        committed_at=row.committed_at,
    )


def _result_item(row: Row[Any], sent: list[DeliveryStatus]) -> ResultItem:
    return ResultItem(
        role=row.role,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        series_instance_uid=row.series_instance_uid,
        state=ResultState(row.state),
        reason=row.reason,
        message=row.message,
        size_bytes=row.size_bytes,
        created_at=row.created_at,
        job_id=row.job_id,
        task=row.task,
        model=row.model_name,
        version=row.model_version,
        form=row.form,
        reviewed=row.reviewed,
        shadow=row.shadow,
        superseded_at=row.superseded_at,
        superseded_by=row.superseded_by,
        current=row.current and row.state != ResultState.SUPERSEDED and row.superseded_at is None,
        deliveries=sent,
    )
