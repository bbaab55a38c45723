"""What a finished job leaves: findings, what its masks were, result objects.

Result objects of a job are seen until a newer job's take their place; what they are a part of then,
a delivery or a viewer's list, is told by `service.records.succession`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from service.core.findings import Finding
from service.core.states import ResultState
from service.records.jobs import Claim
from service.records.tables import analyses, findings, results, series


@dataclass(frozen=True)
class StoredResult:
    """A SR, SEG or other object of a job, already in the archive at `path`."""

    role: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    path: str
    sha256: str
    size_bytes: int
    state: ResultState = ResultState.VALID
    reason: str = ""
    message: str = ""
    form: str = ""  # key of `service.core.profiles.Profile.form_of`
    reviewed: bool = False


@dataclass(frozen=True)
class StoredAnalysis:
    """The masks and maps of a run, encoded, and the frames that they lie on, in their order."""

    frames: Sequence[tuple[str, int]]  # SOP Instance UID and frame number
    evidence: bytes


def write_findings(connection: Connection, held: Claim, found: Sequence[Finding]) -> None:
    """Write a job's findings, in the transaction that completes it."""
    connection.execute(delete(findings).where(findings.c.job_id == held.job_id))
    if not found:
        return
    connection.execute(
        insert(findings),
        [
            {
                "id": finding.id,
                "job_id": held.job_id,
                "study_id": held.study_id,
                "rank": rank,
                "class_name": finding.class_name,
                "probability": finding.probability,
                "qualifier": finding.qualifier.value,
                "content": finding.model_dump(mode="json"),
            }
            for rank, finding in enumerate(found)
        ],
    )


def write_analysis(connection: Connection, job_id: str, analysis: StoredAnalysis) -> None:
    """Keep what results can be made of anew, in the transaction that completes the job."""
    connection.execute(delete(analyses).where(analyses.c.job_id == job_id))
    connection.execute(
        insert(analyses).values(
            job_id=job_id,
            frames=[list(frame) for frame in analysis.frames],
            evidence=analysis.evidence,
        )
    )


def analysis_of(connection: Connection, job_id: str) -> StoredAnalysis | None:
    """Return what was kept of a run, None for one that kept nothing."""
    row = connection.execute(select(analyses).where(analyses.c.job_id == job_id)).first()
    if row is None:
        return None
    return StoredAnalysis([(str(uid), int(n)) for uid, n in row.frames], bytes(row.evidence))


def write_result(
    connection: Connection, held: Claim, stored: StoredResult, *, document: str, at: datetime
) -> int:
    """Write a result's row and return its id; a valid result again keeps its row.

    `document` is the job whose results it is one of; reports made anew in another form belong to
    the job that made the first.
    """
    known = select(results.c.id, results.c.state).where(
        results.c.sop_instance_uid == stored.sop_instance_uid
    )
    row = connection.execute(known).first()
    values = {
        "path": stored.path,
        "sha256": stored.sha256,
        "size_bytes": stored.size_bytes,
        "state": stored.state,
        "reason": stored.reason,
        "message": stored.message,
    }
    if row is not None:
        if row.state == ResultState.QUARANTINED:
            connection.execute(update(results).where(results.c.id == row.id).values(values))
        return int(row.id)
    result_id: int = connection.execute(
        insert(results)
        .values(
            job_id=document,
            study_id=held.study_id,
            role=stored.role,
            sop_class_uid=stored.sop_class_uid,
            sop_instance_uid=stored.sop_instance_uid,
            series_instance_uid=stored.series_instance_uid,
            transfer_syntax_uid=stored.transfer_syntax_uid,
            form=stored.form,
            reviewed=stored.reviewed,
            created_at=at,
            **values,
        )
        .returning(results.c.id)
    ).scalar_one()
    return result_id


def hide_series(connection: Connection, study_id: int, series_uids: Sequence[str]) -> None:
    """Leave these series out of searches; whoever knows their UIDs still gets them."""
    connection.execute(
        update(series)
        .where(series.c.study_id == study_id, series.c.series_instance_uid.in_(series_uids))
        .values(hidden=True)
    )


@dataclass(frozen=True)
class ValidResult:
    """An object that may be seen and sent."""

    result_id: int
    role: str
    form: str
    sop_instance_uid: str


def valid_of(connection: Connection, document: str) -> Sequence[ValidResult]:
    """Return a document's objects that may be seen and sent."""
    query = select(results).where(
        results.c.job_id == document, results.c.state == ResultState.VALID
    )
    return [
        ValidResult(row.id, row.role, row.form, row.sop_instance_uid)
        for row in connection.execute(query.order_by(results.c.id))
    ]


def quarantined(connection: Connection, job_id: str) -> bool:
    """Return whether any object of a job is held back, and nothing took its place since."""
    query = select(results.c.id).where(
        results.c.job_id == job_id,
        results.c.state == ResultState.QUARANTINED,
        results.c.superseded_at.is_(None),
    )
    return connection.execute(query).first() is not None


def of_job(connection: Connection, job_id: str) -> Sequence[Finding]:
    """Return a job's findings in the order of their rank."""
    query = select(findings.c.content).where(findings.c.job_id == job_id).order_by(findings.c.rank)
    return [Finding.model_validate(content) for (content,) in connection.execute(query)]
