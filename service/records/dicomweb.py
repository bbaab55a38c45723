"""What DICOMweb asks of the records: searches at three levels, and instances with their headers.

A search names keys by their DICOM keyword; which there are at each level is in `KEYS`. Only the
newest version of an instance is seen here, and results that gave way to newer ones, or that a
shadow run made, only by whoever names their series: they must not be read as current ones.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    exists,
    func,
    or_,
    select,
)

from service.core.headers import InstanceHeader
from service.records.tables import instances, results, series, studies


class Level(StrEnum):
    """What a search returns."""

    STUDY = "study"
    SERIES = "series"
    INSTANCE = "instance"


@dataclass(frozen=True)
class OneOf:
    """The attribute is one of these values."""

    values: tuple[str | int, ...]


@dataclass(frozen=True)
class Like:
    """The attribute is like one of these patterns: ``*`` any text, ``?`` any character.

    Small and capital letters are the same.
    """

    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Between:
    """The attribute, a date or a time, lies in a range that may be open; empty ones do not."""

    low: str
    high: str


Criterion: TypeAlias = OneOf | Like | Between

MODALITIES_IN_STUDY: Final = "ModalitiesInStudy"
_STUDY_KEYS: Final[dict[str, Column[Any]]] = {
    "StudyInstanceUID": studies.c.study_instance_uid,
    "StudyDate": studies.c.study_date,
    "StudyTime": studies.c.study_time,
    "AccessionNumber": studies.c.accession_number,
    "ReferringPhysicianName": studies.c.referring_physician_name,
    "PatientName": studies.c.patient_name,
    "PatientID": studies.c.patient_id,
    "IssuerOfPatientID": studies.c.issuer_of_patient_id,
    "PatientBirthDate": studies.c.patient_birth_date,
    "PatientSex": studies.c.patient_sex,
    "StudyID": studies.c.study_id_text,
    "StudyDescription": studies.c.study_description,
    MODALITIES_IN_STUDY: studies.c.modalities,
}
_SERIES_KEYS: Final[dict[str, Column[Any]]] = {
    "SeriesInstanceUID": series.c.series_instance_uid,
    "Modality": series.c.modality,
    "SeriesNumber": series.c.series_number,
    "SeriesDescription": series.c.series_description,
    "BodyPartExamined": series.c.body_part_examined,
}
_INSTANCE_KEYS: Final[dict[str, Column[Any]]] = {
    "SOPInstanceUID": instances.c.sop_instance_uid,
    "SOPClassUID": instances.c.sop_class_uid,
    "InstanceNumber": instances.c.instance_number,
}
# A search that names one of these wants that very series.
_BY_NAME: Final = frozenset({"SeriesInstanceUID", "SOPInstanceUID"})
_COLUMNS: Final = MappingProxyType(_STUDY_KEYS | _SERIES_KEYS | _INSTANCE_KEYS)
KEYS: Final[Mapping[Level, frozenset[str]]] = MappingProxyType(
    {
        Level.STUDY: frozenset(_STUDY_KEYS),
        Level.SERIES: frozenset(_STUDY_KEYS | _SERIES_KEYS),
        Level.INSTANCE: frozenset(_COLUMNS),
    }
)


# Other forms of a result are for destinations; one of them may send its copy back here.
_OTHER_FORM: Final = exists().where(
    results.c.study_id == series.c.study_id,
    results.c.series_instance_uid == series.c.series_instance_uid,
    results.c.form != "",
)
_SHOWN: Final = and_(~series.c.hidden, or_(~series.c.is_result, ~_OTHER_FORM))


@dataclass(frozen=True)
class Search:
    """What to find: every key must match, a key may be there more than once."""

    level: Level
    keys: Sequence[tuple[str, Criterion]]
    limit: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class StudyEntry:
    """A study as searches show it; counts and modalities hold our own results too."""

    study_instance_uid: str
    patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    accession_number: str
    study_id: str
    study_date: str
    study_time: str
    study_description: str
    referring_physician_name: str
    modalities: tuple[str, ...]
    series_count: int
    instances_count: int


@dataclass(frozen=True, slots=True)
class SeriesEntry:
    """A series as searches show it."""

    series_instance_uid: str
    modality: str
    series_number: int | None
    series_description: str
    body_part_examined: str
    instances_count: int


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """The newest version of an instance: its header, and where in the archive its file lies."""

    row_id: int
    header: InstanceHeader
    path: str
    sha256: str
    size_bytes: int

    @property
    def key(self) -> tuple[int, str]:
        """What tells these bytes from all others, for caches."""
        return self.row_id, self.sha256


@dataclass(frozen=True, slots=True)
class Entry:
    """One match: a study, with a series and an instance of it where those were asked for.

    ``instance_row_id`` is an instance of the match, for attributes that the rows do not have.
    """

    study: StudyEntry
    series: SeriesEntry | None
    instance: StoredInstance | None
    instance_row_id: int | None


@dataclass(frozen=True)
class Found:
    """A page of matches, and how many there are altogether."""

    entries: Sequence[Entry]
    total: int


def find(connection: Connection, search: Search) -> Found:
    """Return the matches, newest studies first, series and instances by their numbers."""
    query = _joined(search.level).where(*(_condition(*key) for key in search.keys))
    if search.level is not Level.STUDY and not any(key in _BY_NAME for key, _ in search.keys):
        query = query.where(_SHOWN)
    counted = query.with_only_columns(func.count(), maintain_column_froms=True)
    total = connection.execute(counted).scalar_one()
    rows = connection.execute(
        query.order_by(*_order(search.level)).limit(search.limit).offset(search.offset)
    ).all()
    related = _related(connection, sorted({row.study_row_id for row in rows}))
    some = _some_instances(connection, search.level, rows)
    return Found([_entry(row, search.level, related, some) for row in rows], total)


def instances_of(
    connection: Connection,
    *,
    study_instance_uid: str,
    series_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    sop_class_uid: str | None = None,
) -> Sequence[StoredInstance]:
    """Return the instances of a study, of a series of it, or the one; empty where there is none."""
    query = (
        _joined(Level.INSTANCE)
        .where(studies.c.study_instance_uid == study_instance_uid)
        .order_by(*_order(Level.INSTANCE))
    )
    if series_instance_uid is not None:
        query = query.where(series.c.series_instance_uid == series_instance_uid)
    elif sop_instance_uid is None:
        query = query.where(_SHOWN)
    if sop_instance_uid is not None:
        query = query.where(instances.c.sop_instance_uid == sop_instance_uid)
    if sop_class_uid is not None:
        query = query.where(instances.c.sop_class_uid == sop_class_uid)
    return [_stored(row) for row in connection.execute(query)]


def header_bytes_of(connection: Connection, row_ids: Iterable[int]) -> Mapping[int, bytes]:
    """Return the received headers of instances, DICOM files without pixels, by row id."""
    wanted, found = sorted(row_ids), {}
    for start in range(0, len(wanted), 500):  # SQLite bounds the variables of a statement
        query = select(instances.c.id, instances.c.header_bytes).where(
            instances.c.id.in_(wanted[start : start + 500])
        )
        found.update({row.id: bytes(row.header_bytes) for row in connection.execute(query)})
    return found


def _joined(level: Level) -> Select[Any]:
    columns: list[Any] = [studies.c.id.label("study_row_id"), *_STUDY_KEYS.values()]
    source: Any = studies
    if level is not Level.STUDY:
        columns += [series.c.id.label("series_row_id"), *_SERIES_KEYS.values()]
        columns += [series.c.instances_count]
        source = source.join(series, series.c.study_id == studies.c.id)
    if level is Level.INSTANCE:
        columns += [
            instances.c.id.label("instance_row_id"), instances.c.header, instances.c.path,
            instances.c.sha256, instances.c.size_bytes,
        ]  # fmt: skip
        source = source.join(
            instances, and_(instances.c.series_id == series.c.id, instances.c.current)
        )
    return select(*columns).select_from(source)


def _order(level: Level) -> list[ColumnElement[Any]]:
    order: list[ColumnElement[Any]] = [studies.c.received_at.desc(), studies.c.id.desc()]
    if level is not Level.STUDY:
        order += [series.c.series_number, series.c.id]
    if level is Level.INSTANCE:
        order += [instances.c.instance_number, instances.c.id]
    return order


def _condition(name: str, criterion: Criterion) -> ColumnElement[bool]:
    if name == MODALITIES_IN_STUDY:
        inner = series.alias("any_series")
        return (
            select(inner.c.id)
            .where(inner.c.study_id == studies.c.id, _compared(inner.c.modality, criterion))
            .correlate(studies)
            .exists()
        )
    return _compared(_COLUMNS[name], criterion)


def _compared(column: ColumnElement[Any], criterion: Criterion) -> ColumnElement[bool]:
    if isinstance(criterion, OneOf):
        return column.in_(criterion.values)
    if isinstance(criterion, Like):
        patterns = [_sql_pattern(pattern) for pattern in criterion.patterns]
        # SQLite's own lower() knows ASCII alone, so what is beyond it must also match as it is.
        return or_(
            *(func.lower(column).like(pattern.lower(), escape="\\") for pattern in patterns),
            *(column.like(pattern, escape="\\") for pattern in patterns if not pattern.isascii()),
        )
    bounds = [column != ""]
    if criterion.low:
        bounds.append(column >= criterion.low)
    if criterion.high:
        # 1015 means until the end of that minute: nothing that begins so sorts behind the nines.
        bounds.append(column <= criterion.high + "99999999")
    return and_(*bounds)


def _sql_pattern(pattern: str) -> str:
    r"""Return a DICOM pattern as SQL writes it.

    >>> _sql_pattern("50%_*?")
    '50\\%\\_%_'
    """
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%").replace("?", "_")


@dataclass
class _Related:
    """What a study holds altogether."""

    modalities: set[str]
    series_count: int = 0
    instances_count: int = 0


def _related(connection: Connection, study_row_ids: Sequence[int]) -> Mapping[int, _Related]:
    found: defaultdict[int, _Related] = defaultdict(lambda: _Related(set()))
    for start in range(0, len(study_row_ids), 500):
        query = select(series.c.study_id, series.c.modality, series.c.instances_count).where(
            series.c.study_id.in_(study_row_ids[start : start + 500]),
            series.c.instances_count > 0,
            _SHOWN,
        )
        for row in connection.execute(query):
            related = found[row.study_id]
            related.modalities |= {row.modality} - {""}
            related.series_count += 1
            related.instances_count += row.instances_count
    return found


def _some_instances(
    connection: Connection, level: Level, rows: Sequence[Row[Any]]
) -> Mapping[int, int]:
    """Return an instance of each matching study or series, by the row id of that."""
    if level is Level.INSTANCE:
        return {}
    parent = instances.c.study_id if level is Level.STUDY else instances.c.series_id
    wanted = [row.study_row_id if level is Level.STUDY else row.series_row_id for row in rows]
    found: dict[int, int] = {}
    for start in range(0, len(wanted), 500):
        query = (
            select(parent, func.min(instances.c.id))
            .where(parent.in_(wanted[start : start + 500]), instances.c.current)
            .group_by(parent)
        )
        found.update({row[0]: row[1] for row in connection.execute(query)})
    return found


def _entry(
    row: Row[Any], level: Level, related: Mapping[int, _Related], some: Mapping[int, int]
) -> Entry:
    study = _study(row, related.get(row.study_row_id) or _Related(set()))
    if level is Level.STUDY:
        return Entry(study, None, None, some.get(row.study_row_id))
    of_series = SeriesEntry(
        series_instance_uid=row.series_instance_uid,
        modality=row.modality,
        series_number=row.series_number,
        series_description=row.series_description,
        body_part_examined=row.body_part_examined,
        instances_count=row.instances_count,
    )
    if level is Level.SERIES:
        return Entry(study, of_series, None, some.get(row.series_row_id))
    return Entry(study, of_series, _stored(row), row.instance_row_id)


def _study(row: Row[Any], related: _Related) -> StudyEntry:
    return StudyEntry(
        study_instance_uid=row.study_instance_uid,
        patient_id=row.patient_id,
        issuer_of_patient_id=row.issuer_of_patient_id,
        patient_name=row.patient_name,
        patient_birth_date=row.patient_birth_date,
        patient_sex=row.patient_sex,
        accession_number=row.accession_number,
        study_id=row.study_id_text,
        study_date=row.study_date,
        study_time=row.study_time,
        study_description=row.study_description,
        referring_physician_name=row.referring_physician_name,
        modalities=tuple(sorted(related.modalities)),
        series_count=related.series_count,
        instances_count=related.instances_count,
    )


def _stored(row: Row[Any]) -> StoredInstance:
    return StoredInstance(
        row_id=row.instance_row_id,
        header=InstanceHeader.model_validate(row.header),
        path=row.path,
        sha256=row.sha256,
        size_bytes=row.size_bytes,
    )
