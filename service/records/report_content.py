"""What one report says, for those who get it as a message and not as a DICOM object."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from service.core.errors import NotFound
from service.core.findings import Finding
from service.core.states import JobState
from service.records.reviews import Review, newest_of
from service.records.tables import findings, jobs, results, series, studies


@dataclass(frozen=True)
class ReportContent:
    """A run's findings with the study and patient they belong to; texts are as received."""

    study_instance_uid: str
    patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    accession_number: str
    study_date: str
    study_time: str
    study_description: str
    referring_physician_name: str
    modality: str
    series_instance_uid: str
    sop_instance_uid: str
    job_id: str
    task: str
    model_name: str
    model_version: str
    state: JobState
    reason: str
    message: str
    created_at: datetime
    clinical_use: bool
    findings: Sequence[tuple[Finding, Review | None]]


def of_result(connection: Connection, sop_instance_uid: str) -> ReportContent:
    """Return what the report with this UID says.

    Raises
    ------
    NotFound
        ``RESULT_UNKNOWN``.
    """
    query = (
        select(
            *_STUDY,
            series.c.modality,
            series.c.series_instance_uid,
            results.c.sop_instance_uid,
            results.c.created_at,
            jobs,
        )
        .join_from(results, jobs, jobs.c.id == results.c.job_id)
        .join(studies, studies.c.id == jobs.c.study_id)
        .join(series, series.c.id == jobs.c.series_id)
        .where(results.c.sop_instance_uid == sop_instance_uid)
    )
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFound("RESULT_UNKNOWN", f"no result {sop_instance_uid}")
    return ReportContent(
        **{column.key: row[column] for column in _STUDY},
        modality=row[series.c.modality],
        series_instance_uid=row[series.c.series_instance_uid],
        sop_instance_uid=row[results.c.sop_instance_uid],
        job_id=row[jobs.c.id],
        task=row[jobs.c.task],
        model_name=row[jobs.c.model_name],
        model_version=row[jobs.c.model_version],
        state=JobState(row[jobs.c.state]),
        reason=row[jobs.c.reason],
        message=row[jobs.c.message],
        created_at=row[results.c.created_at],
        clinical_use=bool(row[jobs.c.parameters].get("clinical_use", False)),
        findings=_findings(connection, row[jobs.c.id]),
    )


_STUDY: Any = (
    studies.c.study_instance_uid,
    studies.c.patient_id,
    studies.c.issuer_of_patient_id,
    studies.c.patient_name,
    studies.c.patient_birth_date,
    studies.c.patient_sex,
    studies.c.accession_number,
    studies.c.study_date,
    studies.c.study_time,
    studies.c.study_description,
    studies.c.referring_physician_name,
)


def _findings(connection: Connection, job_id: str) -> list[tuple[Finding, Review | None]]:
    query = select(findings.c.content).where(findings.c.job_id == job_id).order_by(findings.c.rank)
    found = [Finding.model_validate(content) for (content,) in connection.execute(query)]
    reviewed = newest_of(connection, [one.id for one in found])
    return [(one, reviewed.get(one.id)) for one in found]
