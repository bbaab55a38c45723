"""Series and studies on their way to complete: what is quiet, what a study holds, closing it.

A revision is the content of a series or study between two closings. Every accepted instance that
changes a closed one opens the next revision; closing writes ``completed_revision``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, exists, func, select, update

from service.core.headers import InstanceHeader
from service.records import events
from service.records.events import EventKind
from service.records.tables import instances, series, studies


@dataclass(frozen=True)
class OpenStudy:
    """A study whose quiet time is over and whose content has not been assessed yet."""

    id: int
    study_instance_uid: str
    revision: int


@dataclass(frozen=True)
class SeriesContent:
    """A series with the current version of each of its instances, by instance id."""

    id: int
    series_instance_uid: str
    modality: str
    is_result: bool
    instance_ids: tuple[int, ...]
    digests: tuple[str, ...]
    headers: tuple[InstanceHeader, ...]


@dataclass(frozen=True)
class StudyContent:
    """A study's row and its series."""

    id: int
    study_instance_uid: str
    source_ae_title: str
    row: Mapping[str, Any]
    series: tuple[SeriesContent, ...]


def has_quiet_series(connection: Connection, *, at: datetime, quiet: timedelta) -> bool:
    """Return whether there is a series to close; asking costs no write lock."""
    query = select(series.c.id).where(_open_and_quiet(at, quiet)).limit(1)
    return connection.execute(query).first() is not None


def close_quiet_series(connection: Connection, *, at: datetime, quiet: timedelta) -> int:
    """Close every series that got nothing new for `quiet`; return how many."""
    open_and_quiet = _open_and_quiet(at, quiet)
    query = select(series.c.series_instance_uid, series.c.is_result, studies.c.study_instance_uid)
    closing = connection.execute(query.join_from(series, studies).where(open_and_quiet)).all()
    if not closing:
        return 0
    connection.execute(
        update(series)
        .where(open_and_quiet)
        .values(completed_revision=series.c.revision, completed_at=at)
    )
    for row in closing:
        if not row.is_result:
            events.append(
                connection,
                kind=EventKind.SERIES,
                study_instance_uid=row.study_instance_uid,
                subject_id=row.series_instance_uid,
                state="COMPLETE",
                at=at,
            )
    return len(closing)


def _open_and_quiet(at: datetime, quiet: timedelta) -> ColumnElement[bool]:
    return and_(
        series.c.completed_revision < series.c.revision,
        series.c.last_received_at <= at - quiet,
    )


def close_at_once(connection: Connection, study_id: int, *, at: datetime) -> OpenStudy | None:
    """Close every series of a study without waiting, and return the study for closing.

    None when the study is closed already.
    """
    still_open = and_(
        series.c.study_id == study_id, series.c.completed_revision < series.c.revision
    )
    connection.execute(
        update(series)
        .where(still_open)
        .values(completed_revision=series.c.revision, completed_at=at)
    )
    query = select(studies.c.id, studies.c.study_instance_uid, studies.c.revision)
    row = connection.execute(
        query.where(studies.c.id == study_id, studies.c.completed_revision < studies.c.revision)
    ).first()
    return None if row is None else OpenStudy(*row)


def quiet_studies(
    connection: Connection, *, at: datetime, quiet: timedelta, limit: int = 50
) -> Sequence[OpenStudy]:
    """Return studies that are ready to be assessed: quiet, and with every series closed."""
    open_series = exists().where(
        series.c.study_id == studies.c.id, series.c.completed_revision < series.c.revision
    )
    query = (
        select(studies.c.id, studies.c.study_instance_uid, studies.c.revision)
        .where(
            studies.c.completed_revision < studies.c.revision,
            studies.c.last_received_at <= at - quiet,
            ~open_series,
        )
        .order_by(studies.c.last_received_at)
        .limit(limit)
    )
    return [OpenStudy(*row) for row in connection.execute(query)]


def close_study(connection: Connection, study: OpenStudy, *, at: datetime) -> bool:
    """Close the revision that was seen; return False when a late instance opened the next.

    The row stays locked to the end of the transaction, so that what is read of the study after
    this is what was closed.
    """
    closed = connection.execute(
        update(studies)
        .where(
            studies.c.id == study.id,
            studies.c.revision == study.revision,
            studies.c.completed_revision < study.revision,
        )
        .values(completed_revision=study.revision, completed_at=at)
    )
    return closed.rowcount == 1


def study_content(connection: Connection, study_id: int) -> StudyContent:
    """Return a study with the headers of everything in it."""
    row = connection.execute(select(studies).where(studies.c.id == study_id)).mappings().one()
    held = connection.execute(
        select(
            instances.c.series_id,
            instances.c.id,
            instances.c.sha256,
            instances.c.header,
        )
        .where(instances.c.study_id == study_id, instances.c.current)
        .order_by(instances.c.series_id, instances.c.instance_number, instances.c.id)
    ).all()
    by_series: dict[int, list[Any]] = {}
    for instance in held:
        by_series.setdefault(instance.series_id, []).append(instance)
    content = tuple(
        SeriesContent(
            id=item.id,
            series_instance_uid=item.series_instance_uid,
            modality=item.modality,
            is_result=item.is_result,
            instance_ids=tuple(each.id for each in by_series.get(item.id, [])),
            digests=tuple(each.sha256 for each in by_series.get(item.id, [])),
            headers=tuple(
                InstanceHeader.model_validate(each.header) for each in by_series.get(item.id, [])
            ),
        )
        for item in connection.execute(select(series).where(series.c.study_id == study_id))
    )
    return StudyContent(
        study_id, row["study_instance_uid"], row["source_ae_title"], {**row}, content
    )


def sample_header_bytes(connection: Connection, series_id: int) -> bytes:
    """Return the received header of one instance of a series, without its pixels."""
    query = select(instances.c.header_bytes).where(
        instances.c.series_id == series_id, instances.c.current
    )
    found: bytes = connection.execute(query.order_by(instances.c.id).limit(1)).scalar_one()
    return found


def count_by_state(connection: Connection) -> dict[str, int]:
    """Return how many studies are in each state."""
    query = select(studies.c.state, func.count()).group_by(studies.c.state)
    return {state: number for state, number in connection.execute(query)}
