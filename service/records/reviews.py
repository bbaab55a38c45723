"""What readers say of findings: every verdict is kept, the newest counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Connection, Row, func, insert, select

from service.core.errors import NotFound
from service.records import events
from service.records.events import EventKind
from service.records.tables import findings, reviews, studies


class Verdict(StrEnum):
    """What a reader makes of a finding."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    EDITED = "edited"


@dataclass(frozen=True, slots=True)
class Review:
    """One verdict on one finding."""

    finding_id: str
    verdict: Verdict
    comment: str
    reviewer: str
    changes: Annotated[Mapping[str, Any], Field(description="What the reader changed")]
    reviewed_at: datetime


def write(connection: Connection, review: Review) -> None:
    """Add a verdict; earlier ones of the finding stay as its history.

    Raises
    ------
    NotFound
        ``FINDING_UNKNOWN``.
    """
    query = select(studies.c.study_instance_uid).join_from(findings, studies)
    study_uid = connection.execute(query.where(findings.c.id == review.finding_id)).scalar()
    if study_uid is None:
        raise NotFound("FINDING_UNKNOWN", f"no finding {review.finding_id}")
    connection.execute(
        insert(reviews).values(
            finding_id=review.finding_id,
            verdict=review.verdict,
            comment=review.comment,
            reviewer=review.reviewer,
            changes=dict(review.changes),
            reviewed_at=review.reviewed_at,
        )
    )
    events.append(
        connection,
        kind=EventKind.REVIEW,
        study_instance_uid=study_uid,
        subject_id=review.finding_id,
        state=review.verdict,
        at=review.reviewed_at,
    )


def history(connection: Connection, finding_id: str) -> Sequence[Review]:
    """Return every verdict on a finding, oldest first."""
    query = select(reviews).where(reviews.c.finding_id == finding_id).order_by(reviews.c.id)
    return [_review(row) for row in connection.execute(query)]


def newest_of(connection: Connection, finding_ids: Sequence[str]) -> Mapping[str, Review]:
    """Return the newest verdict on each of these findings that has one."""
    if not finding_ids:
        return {}
    query = select(reviews).where(reviews.c.finding_id.in_(finding_ids)).order_by(reviews.c.id)
    return {row.finding_id: _review(row) for row in connection.execute(query)}


def newest_rows(connection: Connection, finding_ids: Sequence[str]) -> Sequence[int]:
    """Return the row of the newest verdict on each of these findings that has one."""
    if not finding_ids:
        return []
    query = (
        select(func.max(reviews.c.id))
        .where(reviews.c.finding_id.in_(finding_ids))
        .group_by(reviews.c.finding_id)
    )
    return sorted(connection.execute(query).scalars())


def of_rows(connection: Connection, rows: Sequence[int]) -> Sequence[Review]:
    """Return these verdicts, oldest first."""
    query = select(reviews).where(reviews.c.id.in_(list(rows))).order_by(reviews.c.id)
    return [_review(row) for row in connection.execute(query)]


def _review(row: Row[Any]) -> Review:
    return Review(
        finding_id=row.finding_id,
        verdict=Verdict(row.verdict),
        comment=row.comment,
        reviewer=row.reviewer,
        changes=row.changes,
        reviewed_at=row.reviewed_at,
    )
