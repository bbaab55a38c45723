"""What a finished job leaves: findings, result objects, and their deliveries."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from service.core.findings import Finding
from service.core.states import ResultState
from service.records.jobs import Claim
from service.records.tables import findings, results


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


def write_result(connection: Connection, held: Claim, stored: StoredResult, *, at: datetime) -> int:
    """Write a result's row and return its id; the same result again keeps its row."""
    known = select(results.c.id).where(results.c.sop_instance_uid == stored.sop_instance_uid)
    row = connection.execute(known).first()
    if row is not None:
        return int(row.id)
    result_id: int = connection.execute(
        insert(results)
        .values(
            job_id=held.job_id,
            study_id=held.study_id,
            role=stored.role,
            sop_class_uid=stored.sop_class_uid,
            sop_instance_uid=stored.sop_instance_uid,
            series_instance_uid=stored.series_instance_uid,
            transfer_syntax_uid=stored.transfer_syntax_uid,
            path=stored.path,
            sha256=stored.sha256,
            size_bytes=stored.size_bytes,
            state=stored.state,
            reason=stored.reason,
            message=stored.message,
            created_at=at,
        )
        .returning(results.c.id)
    ).scalar_one()
    return result_id


def of_job(connection: Connection, job_id: str) -> Sequence[Finding]:
    """Return a job's findings in the order of their rank."""
    query = select(findings.c.content).where(findings.c.job_id == job_id).order_by(findings.c.rank)
    return [Finding.model_validate(content) for (content,) in connection.execute(query)]
