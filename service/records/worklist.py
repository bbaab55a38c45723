"""The worklist: one item a study, read from the studies' own rows in the order of an index.

A page costs a handful of statements however many studies there are: one walks an index from the
cursor on, the others fetch what models and people say of the studies on the page.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import Field
from sqlalchemy import (
    Connection,
    Float,
    Integer,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    union_all,
)

from service.core.findings import Qualifier
from service.core.states import JobState, Priority, ReadingState, StudyState
from service.records import marks, search
from service.records.driver import Prepared
from service.records.marks import Marks, Reading
from service.records.paging import Order
from service.records.tables import (
    assessments,
    findings,
    jobs,
    labels,
    readings,
    series,
    studies,
)
from service.records.worklist_query import WorklistQuery, WorklistSort

# Looked up for every row: several times cheaper than calling the enumeration.
_STUDY_STATES: Final = {state.value: state for state in StudyState}
_JOB_STATES: Final = {state.value: state for state in JobState}
_PRIORITIES: Final = {priority.value: priority for priority in Priority}

_STUDY: Final = studies.c
_COLUMNS: Final = (
    _STUDY.id,
    _STUDY.study_instance_uid,
    _STUDY.patient_id,
    _STUDY.patient_name,
    _STUDY.patient_birth_date,
    _STUDY.patient_sex,
    _STUDY.accession_number,
    _STUDY.study_date,
    _STUDY.study_description,
    _STUDY.modalities,
    _STUDY.received_at,
    _STUDY.last_received_at,
    _STUDY.state,
    _STUDY.priority,
    _STUDY.urgency,
    _STUDY.urgency_reason,
    _STUDY.series_count,
    _STUDY.instances_count,
    _STUDY.source_ae_title,
)


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """What one model has to say of one study so far."""

    task: Annotated[str, Field(examples=["lung_nodule_detection"])]
    model: str
    version: str
    state: Annotated[
        JobState, Field(description="NOT_APPLICABLE also when no series suits the model")
    ]
    reason: Annotated[str, Field(description="Stable code, empty when there is nothing to say")]
    message: Annotated[str, Field(description="The reason in plain words")]
    job_id: Annotated[str | None, Field(description="None when no job was made")]
    findings_count: Annotated[int, Field(description="Present and indeterminate findings")]
    top_probability: Annotated[float | None, Field(description="Of all candidates of the task")]


@dataclass(frozen=True, slots=True)
class WorklistItem:
    """One study as the worklist shows it."""

    study_instance_uid: str
    patient_id: str
    patient_name: Annotated[str, Field(description="As in DICOM: family^given^…, groups by =")]
    patient_birth_date: Annotated[str | None, Field(examples=["1961-04-30"])]
    patient_sex: str
    accession_number: str
    study_date: Annotated[str | None, Field(examples=["2026-11-20"])]
    study_description: str
    modalities: list[str]
    received_at: datetime
    last_received_at: datetime
    state: StudyState
    priority: Priority
    urgency: Annotated[float, Field(ge=0, le=1)]
    urgency_reason: Annotated[str, Field(examples=["Lung nodule 14 mm, p 0.93"])]
    series_count: int
    instances_count: int
    source_ae_title: Annotated[str, Field(description="Of the first sender")]
    body_parts: Annotated[Sequence[str], Field(examples=[["CHEST"]])]
    labels: Annotated[Sequence[str], Field(description="Put on by people")]
    reading: Annotated[Reading, Field(description="How far a person is with it")]
    tasks: list[TaskStatus]


@dataclass(frozen=True, slots=True)
class WorklistPage:
    """Studies in the order asked for; `next` is the cursor of the page that follows."""

    items: list[WorklistItem]
    next: str | None


def _order(sort: WorklistSort, *columns: Any, descending: bool) -> tuple[WorklistSort, Order]:
    return sort, Order(sort.value, (*columns, _STUDY.id), descending)


ORDERS: Final = MappingProxyType(
    dict(
        (
            _order(WorklistSort.URGENCY, _STUDY.urgency, _STUDY.received_at, descending=True),
            _order(WorklistSort.LEAST_URGENT, _STUDY.urgency, _STUDY.received_at, descending=False),
            _order(WorklistSort.RECEIVED, _STUDY.received_at, descending=False),
            _order(WorklistSort.NEWEST_RECEIVED, _STUDY.received_at, descending=True),
            _order(WorklistSort.STUDY_DATE, _STUDY.study_date, descending=False),
            _order(WorklistSort.NEWEST_STUDY, _STUDY.study_date, descending=True),
            _order(WorklistSort.PATIENT_NAME, _STUDY.patient_name, descending=False),
            _order(WorklistSort.PATIENT_NAME_DOWN, _STUDY.patient_name, descending=True),
            _order(WorklistSort.PATIENT_ID, _STUDY.patient_id, descending=False),
            _order(WorklistSort.PATIENT_ID_DOWN, _STUDY.patient_id, descending=True),
            _order(WorklistSort.ACCESSION_NUMBER, _STUDY.accession_number, descending=False),
            _order(WorklistSort.ACCESSION_NUMBER_DOWN, _STUDY.accession_number, descending=True),
        )
    )
)


def page(connection: Connection, query: WorklistQuery) -> WorklistPage:
    """Return the studies that a query asks for.

    Raises
    ------
    InvalidRequest
        ``CURSOR`` when the cursor is not one of this sort.
    """
    order = ORDERS[query.sort]
    wanted = select(*_COLUMNS).where(*_conditions(connection, query))
    rows = connection.execute(order.page(wanted, limit=query.limit, cursor=query.cursor)).all()
    shown = rows[: query.limit]
    following = None
    if len(rows) > query.limit:
        following = order.cursor(shown[-1])
    return WorklistPage(_items(connection, shown), following)


def item(connection: Connection, study_instance_uid: str) -> WorklistItem | None:
    """Return one study as the worklist shows it."""
    query = select(*_COLUMNS).where(_STUDY.study_instance_uid == study_instance_uid)
    return next(iter(_items(connection, connection.execute(query).all())), None)


def _items(connection: Connection, rows: Sequence[Any]) -> list[WorklistItem]:
    """Return studies with what lies in other tables, fetched for all of them at once."""
    keys = [row.id for row in rows]
    tasks = tasks_of(connection, keys)
    marked = marks.of_studies(connection, keys)
    body_parts = _body_parts(connection, keys)
    return [
        _item(
            row,
            tasks.get(row.id, []),
            marked.get(row.id, marks.NOTHING),
            body_parts.get(row.id, ()),
        )
        for row in rows
    ]


def _body_parts(connection: Connection, study_ids: Sequence[int]) -> dict[int, Sequence[str]]:
    """Return Body Part Examined of the images, by study."""
    if not study_ids:
        return {}
    gathered: defaultdict[int, dict[str, None]] = defaultdict(dict)
    for study_id, body_part in _BODY_PARTS.rows(connection, study_ids=list(study_ids)):
        gathered[study_id][body_part] = None
    return {study_id: list(parts) for study_id, parts in gathered.items()}


def tasks_of(connection: Connection, study_ids: Sequence[int]) -> dict[int, list[TaskStatus]]:
    """Return what the models say of these studies, by study, in one statement."""
    if not study_ids:
        return {}
    gathered: defaultdict[int, dict[str, TaskStatus]] = defaultdict(dict)
    for row in _TASKS.rows(connection, study_ids=list(study_ids)):
        # A run comes before a refusal of the same model, which a person has overruled.
        known = gathered[row.study_id].get(row.model)
        if known is None:
            gathered[row.study_id][row.model] = TaskStatus(
                task=row.task,
                model=row.model,
                version=row.version,
                state=_JOB_STATES[row.state],
                reason=row.reason,
                message=row.message,
                job_id=row.job_id,
                findings_count=row.findings_count or 0,
                top_probability=row.top_probability,
            )
    return {
        study: sorted(models.values(), key=lambda status: (status.task, status.model))
        for study, models in gathered.items()
    }


def _jobs_and_refusals() -> Any:
    """Return the statement for `tasks_of`; building it costs as much as asking, so it is kept."""
    study_ids: Any = bindparam("study_ids", expanding=True)
    counted = (
        select(
            findings.c.job_id,
            func.sum(case((findings.c.qualifier == Qualifier.ABSENT, 0), else_=1)).label("shown"),
            func.max(findings.c.probability).label("top"),
        )
        .where(findings.c.study_id.in_(study_ids))
        .group_by(findings.c.job_id)
        .subquery()
    )
    runs = (
        select(
            literal(0).label("place"),
            jobs.c.study_id,
            jobs.c.task,
            jobs.c.model_name.label("model"),
            jobs.c.model_version.label("version"),
            jobs.c.state,
            jobs.c.reason,
            jobs.c.message,
            jobs.c.id.label("job_id"),
            counted.c.shown.label("findings_count"),
            counted.c.top.label("top_probability"),
            jobs.c.created_at.label("at"),
        )
        .join_from(jobs, counted, counted.c.job_id == jobs.c.id, isouter=True)
        .where(jobs.c.study_id.in_(study_ids), jobs.c.current, ~jobs.c.shadow)
    )
    # The row without a series is a model's word on the study as a whole: none suits it.
    refusals = select(
        literal(1),
        assessments.c.study_id,
        assessments.c.task,
        assessments.c.model_name,
        assessments.c.model_version,
        literal(JobState.NOT_APPLICABLE.value),
        assessments.c.reason,
        assessments.c.message,
        null().cast(jobs.c.id.type),
        literal(0, Integer),
        null().cast(Float),
        assessments.c.assessed_at,
    ).where(assessments.c.study_id.in_(study_ids), assessments.c.series_id.is_(None))
    return union_all(runs, refusals).order_by("place", "at")


_TASKS: Final = Prepared(_jobs_and_refusals())
_BODY_PARTS: Final = Prepared(
    select(series.c.study_id, series.c.body_part_examined)
    .where(
        series.c.study_id.in_(bindparam("study_ids", expanding=True)),
        ~series.c.is_result,
        series.c.body_part_examined != "",
    )
    .order_by(series.c.id)
)


def _conditions(connection: Connection, query: WorklistQuery) -> Iterator[Any]:
    yield from _text_conditions(query)
    for word in (query.q or "").split():
        yield search.contains(connection, word)
    if query.modality:
        listed = "," + _STUDY.modalities + ","
        yield or_(*(listed.contains(f",{name},", autoescape=True) for name in query.modality))
    if query.state:
        yield _STUDY.state.in_(query.state)
    if query.priority:
        yield _STUDY.priority.in_(query.priority)
    yield from _mark_conditions(query)
    if query.task:
        yield exists().where(
            and_(jobs.c.study_id == _STUDY.id, jobs.c.current, jobs.c.task == query.task)
        )
    if query.received_from:
        yield _STUDY.received_at >= query.received_from
    if query.received_to:
        yield _STUDY.received_at < query.received_to
    if query.study_date_from:
        yield _STUDY.study_date >= query.study_date_from.strftime("%Y%m%d")
    if query.study_date_to:
        yield _STUDY.study_date <= query.study_date_to.strftime("%Y%m%d")
        yield _STUDY.study_date != ""
    if query.min_urgency is not None:
        yield _STUDY.urgency >= query.min_urgency


def _mark_conditions(query: WorklistQuery) -> Iterator[Any]:
    for label in query.label:
        yield exists().where(labels.c.study_id == _STUDY.id, labels.c.label == label)
    if query.reading:
        states = [state for state in query.reading if state is not ReadingState.UNREAD]
        mine = exists().where(readings.c.study_id == _STUDY.id)
        chosen = mine.where(readings.c.state.in_(states))
        yield or_(~mine, chosen) if ReadingState.UNREAD in query.reading else chosen
    if query.source_ae_title:
        yield _matches(_STUDY.source_ae_title, query.source_ae_title)
    if query.study_description:
        yield _STUDY.study_description.icontains(query.study_description, autoescape=True)


def _text_conditions(query: WorklistQuery) -> Iterator[Any]:
    for column, text in (
        (_STUDY.patient_id, query.patient_id),
        (_STUDY.accession_number, query.accession_number),
    ):
        if text is not None:
            yield _matches(column, text)
    for word in (query.patient_name or "").replace("^", " ").split():
        yield _STUDY.patient_name.icontains(word, autoescape=True)


def _matches(column: Any, text: str) -> Any:
    if "*" not in text:
        return column == text
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return column.like(escaped.replace("*", "%"), escape="\\")


def _item(
    row: Any, tasks: list[TaskStatus], marked: Marks, body_parts: Sequence[str]
) -> WorklistItem:
    return WorklistItem(
        study_instance_uid=row.study_instance_uid,
        patient_id=row.patient_id,
        patient_name=row.patient_name,
        patient_birth_date=iso_date(row.patient_birth_date),
        patient_sex=row.patient_sex,
        accession_number=row.accession_number,
        study_date=iso_date(row.study_date),
        study_description=row.study_description,
        modalities=[name for name in row.modalities.split(",") if name],
        received_at=row.received_at,
        last_received_at=row.last_received_at,
        state=_STUDY_STATES[row.state],
        priority=_PRIORITIES[row.priority],
        urgency=row.urgency,
        urgency_reason=row.urgency_reason,
        series_count=row.series_count,
        instances_count=row.instances_count,
        source_ae_title=row.source_ae_title,
        body_parts=body_parts,
        labels=marked.labels,
        reading=marked.reading,
        tasks=tasks,
    )


def iso_date(dicom_date: str) -> str | None:
    """Return a DICOM date as RFC 3339 writes it, or None when it is not one.

    >>> iso_date("20261120"), iso_date("")
    ('2026-11-20', None)
    """
    digits = dicom_date.replace(".", "")
    if len(digits) != 8 or not (digits.isascii() and digits.isdigit()):
        return None
    return f"{digits[:4]}-{digits[4:6]}-{digits[6:]}"
