"""Which series suits which model, and why not: written when a study is complete."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert

from service.records.tables import assessments


@dataclass(frozen=True)
class Assessment:
    """What one model makes of one series, or of the study as a whole (`series_id` None)."""

    series_id: int | None
    model_name: str
    model_version: str
    task: str
    eligible: bool
    chosen: bool
    score: float = 0.0
    reason: str = ""
    message: str = ""


def replace(
    connection: Connection, study_id: int, assessed: Sequence[Assessment], *, at: datetime
) -> None:
    """Write a study's assessments in place of earlier ones."""
    connection.execute(delete(assessments).where(assessments.c.study_id == study_id))
    if assessed:
        connection.execute(
            insert(assessments),
            [{**vars(item), "study_id": study_id, "assessed_at": at} for item in assessed],
        )
