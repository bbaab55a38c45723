"""Reviewed findings with the images they lie on: what a site keeps to train and measure by."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from service.core.findings import Finding
from service.core.headers import InstanceHeader
from service.records.reviews import Review, newest_of
from service.records.tables import findings, instances, jobs, reviews


@dataclass(frozen=True)
class ReviewedFinding:
    """A finding, its newest verdict, and the network that found it."""

    finding: Finding
    review: Review
    model: str
    version: str


def reviewed(
    connection: Connection, since: datetime, until: datetime, *, limit: int
) -> Sequence[ReviewedFinding]:
    """Return findings that were reviewed in a stretch of time, by id; no more than `limit`."""
    judged = select(reviews.c.finding_id).where(
        reviews.c.reviewed_at >= since, reviews.c.reviewed_at < until
    )
    query = (
        select(
            findings.c.content,
            findings.c.id,
            jobs.c.model_name,
            jobs.c.model_version,
        )
        .join_from(findings, jobs)
        .where(findings.c.id.in_(judged))
        .order_by(findings.c.id)
        .limit(limit)
    )
    rows = connection.execute(query).all()
    newest = newest_of(connection, [row.id for row in rows])
    return [
        ReviewedFinding(
            Finding.model_validate(row.content),
            newest[row.id],
            row.model_name,
            row.model_version,
        )
        for row in rows
    ]


def images(connection: Connection, wanted: Iterable[str]) -> Mapping[str, InstanceHeader]:
    """Return headers of images by SOP Instance UID."""
    found: dict[str, InstanceHeader] = {}
    uids = sorted(set(wanted))
    for start in range(0, len(uids), 500):  # SQLite bounds the variables of a statement
        query = select(instances.c.sop_instance_uid, instances.c.header).where(
            instances.c.sop_instance_uid.in_(uids[start : start + 500]), instances.c.current
        )
        for row in connection.execute(query):
            found[row.sop_instance_uid] = InstanceHeader.model_validate(row.header)
    return found
