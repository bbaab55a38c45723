"""Deleting what has been kept for long enough: whole studies, and never what is still wanted."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, delete, exists, or_, select

from service.core.states import DeliveryState, StudyState
from service.records import commitments
from service.records.tables import deliveries, instances, results, studies

_AT_WORK = (StudyState.RECEIVING, StudyState.QUEUED, StudyState.ANALYSING)
_UNDELIVERED = (DeliveryState.SCHEDULED, DeliveryState.IN_PROGRESS, DeliveryState.PARKED)


def expired_studies(connection: Connection, *, before: datetime, limit: int) -> Sequence[int]:
    """Return studies whose last instance came before a time, the oldest first.

    Studies that are being worked on, or whose results have not all arrived where they belong,
    are left out however old they are.
    """
    waiting = exists().where(
        deliveries.c.study_id == studies.c.id,
        or_(deliveries.c.state.in_(_UNDELIVERED), commitments.is_open()),
    )
    query = (
        select(studies.c.id)
        .where(studies.c.last_received_at < before, studies.c.state.not_in(_AT_WORK), ~waiting)
        .order_by(studies.c.last_received_at)
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def delete_study(connection: Connection, study_id: int) -> Sequence[str]:
    """Delete a study's rows and return the paths of its files, to be removed after the commit."""
    paths = [
        *connection.execute(select(instances.c.path).where(instances.c.study_id == study_id)),
        *connection.execute(select(results.c.path).where(results.c.study_id == study_id)),
    ]
    connection.execute(delete(studies).where(studies.c.id == study_id))
    return sorted({path for (path,) in paths})
