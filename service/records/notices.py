"""What an event was about, in rows: the study, the job, its findings, the delivery."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import Connection, select

from service.core.findings import Finding, Qualifier
from service.records import assembly
from service.records.events import Event, EventKind
from service.records.progress import urgency_of
from service.records.tables import deliveries, findings, jobs, results, series, studies

_IDENTITY: Final = (
    "patient_id", "issuer_of_patient_id", "patient_name", "patient_birth_date", "patient_sex",
    "accession_number",
)  # fmt: skip


@dataclass(frozen=True)
class Happening:
    """What an event was about; ``identity`` says who the patient is and is kept apart."""

    study_id: int
    source_ae_title: str
    urgency: float
    urgency_reason: str
    identity: Mapping[str, str]
    task: str | None = None
    job: Mapping[str, Any] | None = None
    delivery: Mapping[str, Any] | None = None
    findings: Sequence[Mapping[str, Any]] = ()


def happening(connection: Connection, event: Event) -> Happening | None:
    """Return what an event was about; None when its study is gone or nobody is to be told."""
    known = studies.c.study_instance_uid == event.study_instance_uid
    study = connection.execute(select(studies).where(known)).first()
    if study is None:
        return None
    about = {
        "study_id": study.id,
        "source_ae_title": study.source_ae_title,
        "urgency": study.urgency,
        "urgency_reason": study.urgency_reason,
        "identity": MappingProxyType({name: getattr(study, name) for name in _IDENTITY}),
    }
    if event.kind is EventKind.JOB:
        return _of_job(connection, event, about)
    if event.kind is EventKind.REVIEW:
        return _of_review(connection, event, about)
    if event.kind is EventKind.DELIVERY:
        return Happening(**about, delivery=_delivery(connection, int(event.subject_id)))
    return Happening(**about)


def header_bytes(connection: Connection, study_id: int) -> bytes:
    """Return the header of an instance of the study, for rules; empty when there is none."""
    query = select(series.c.id).where(series.c.study_id == study_id, ~series.c.is_result)
    key = connection.execute(query.order_by(series.c.id).limit(1)).scalar()
    return b"" if key is None else assembly.sample_header_bytes(connection, key)


def _of_job(connection: Connection, event: Event, about: Mapping[str, Any]) -> Happening | None:
    job = connection.execute(select(jobs).where(jobs.c.id == event.subject_id)).first()
    if job is None or job.shadow or not job.current:
        return None
    query = select(findings.c.content).where(findings.c.job_id == job.id)
    found = [
        Finding.model_validate(content)
        for (content,) in connection.execute(query.order_by(findings.c.rank))
    ]
    told = {
        "id": job.id,
        "task": job.task,
        "model": job.model_name,
        "version": job.model_version,
        "state": job.state,
        "reason": job.reason,
    }
    present = [_finding(one) for one in found if one.qualifier is Qualifier.PRESENT]
    return Happening(**about, task=job.task, job=told, findings=present)


def _of_review(connection: Connection, event: Event, about: Mapping[str, Any]) -> Happening:
    query = (
        select(findings.c.content, jobs.c.task)
        .join_from(findings, jobs)
        .where(findings.c.id == event.subject_id)
    )
    row = connection.execute(query).first()
    if row is None:
        return Happening(**about)
    told = _finding(Finding.model_validate(row.content))
    return Happening(**about, task=row.task, findings=[{**told, "verdict": event.state}])


def _delivery(connection: Connection, delivery_id: int) -> Mapping[str, Any] | None:
    query = (
        select(deliveries, results.c.sop_instance_uid, results.c.role)
        .join_from(deliveries, results)
        .where(deliveries.c.id == delivery_id)
    )
    row = connection.execute(query).first()
    if row is None:
        return None
    return {
        "id": row.id,
        "destination": row.destination,
        "state": row.state,
        "reason": row.reason,
        "role": row.role,
        "sop_instance_uid": row.sop_instance_uid,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.id,
        "label": finding.label.model_dump(),
        "probability": finding.probability,
        "qualifier": finding.qualifier.value,
        "urgency": urgency_of(finding),
        "measurements": [
            {"name": one.name, "value": one.value, "unit": one.unit} for one in finding.measurements
        ],
        "tracking_uid": finding.tracking_uid,
    }
