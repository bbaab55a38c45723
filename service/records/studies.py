"""Instances become rows: the study, series and instance that each received one belongs to.

A study's ``revision`` counts the states of its content: an instance that arrives after the study
was completed opens the next one. Duplicates change nothing at all. Our own results coming back are
kept, and never touch a revision, so that they can never start a job.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, Row, Table, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import StatementError

from service.core.errors import RefusedInstance
from service.core.headers import InstanceHeader
from service.core.received import RESULT_SOP_CLASSES, StudyAttributes
from service.core.states import StudyState
from service.records import events
from service.records.archive import ArchivedFile
from service.records.database import Records
from service.records.events import EventKind
from service.records.tables import instances, results, series, studies

# Attribute, column and the length that the schema gives it; None is any length.
_STUDY_COLUMNS: Final = (
    ("patient_id", "patient_id", None),
    ("issuer_of_patient_id", "issuer_of_patient_id", None),
    ("patient_name", "patient_name", None),
    ("patient_birth_date", "patient_birth_date", 8),
    ("patient_sex", "patient_sex", 16),
    ("accession_number", "accession_number", None),
    ("study_id", "study_id_text", None),
    ("study_date", "study_date", 8),
    ("study_time", "study_time", 16),
    ("study_description", "study_description", None),
    ("referring_physician_name", "referring_physician_name", None),
)
_MAX_INTEGER: Final = 2**31 - 1


class Registration(StrEnum):
    """What became of a received instance."""

    NEW = "NEW"
    DUPLICATE = "DUPLICATE"  # the same bytes again; nothing changed
    NEW_VERSION = "NEW_VERSION"  # other bytes under a known UID; the old ones are kept too


@dataclass(frozen=True)
class ReceivedInstance:
    """An instance whose file is in the archive and whose row is to be written."""

    header: InstanceHeader
    study: StudyAttributes
    file: ArchivedFile
    header_bytes: bytes  # a DICOM file without Pixel Data and other big elements
    calling_ae_title: str = ""
    is_result: bool = False

    @property
    def sop_instance_uid(self) -> str:
        """SOP Instance UID (0008,0018)."""
        return self.header.sop_instance_uid


def known_instances(
    connection: Connection, received: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """Return which pairs of SOP Instance UID and digest are current already, with their path."""
    wanted = dict.fromkeys(received)
    uids = sorted({uid for uid, _ in wanted})
    rows = connection.execute(
        select(instances.c.sop_instance_uid, instances.c.sha256, instances.c.path).where(
            instances.c.sop_instance_uid.in_(uids), instances.c.current
        )
    )
    found = {(row.sop_instance_uid, row.sha256): row.path for row in rows}
    return {key: path for key, path in found.items() if key in wanted}


def register_instance(
    connection: Connection, received: ReceivedInstance, *, at: datetime
) -> Registration:
    """Write the rows of one received instance in the caller's transaction."""
    return register_instances(connection, [received], at=at)[0]


def register_result(connection: Connection, result: ReceivedInstance, *, at: datetime) -> None:
    """Write the rows of an object that this product made, beside the images of its study."""
    register_instances(connection, [replace(result, is_result=True)], at=at)


def register_each(
    records: Records, received: Sequence[ReceivedInstance], *, at: datetime
) -> list[Registration | RefusedInstance]:
    """Write the rows of received instances in one transaction; if one spoils it, one by one.

    Raises
    ------
    OutOfResources
        ``DATABASE_AWAY``; whether anything was written is not known then, and writing it again
        does no harm.
    """
    try:
        with records.writing() as connection:
            return list(register_instances(connection, received, at=at))
    except StatementError:
        return [_register_alone(records, each, at) for each in received]


def _register_alone(
    records: Records, received: ReceivedInstance, at: datetime
) -> Registration | RefusedInstance:
    for _ in range(2):  # two receivers of one UID in different studies can collide once
        try:
            with records.writing() as connection:
                return register_instance(connection, received, at=at)
        except StatementError:
            continue
    return RefusedInstance("UNSTORABLE", "the database cannot hold this instance")


def register_instances(
    connection: Connection, received: Sequence[ReceivedInstance], *, at: datetime
) -> list[Registration]:
    """Write the rows of received instances in the caller's transaction, in their order.

    Concurrent receivers of one study wait for each other on the study's row; each transaction
    takes those rows in the order of their UIDs, so that none waits for the other in a circle.
    """
    return _Round(connection, received, at).registered()


@dataclass
class _Growth:
    """What a round changes on the row of one study or series."""

    row: Row[Any]
    values: dict[str, Any] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        """Return a column as it will be."""
        return self.values[name] if name in self.values else getattr(self.row, name)

    def touch(self, at: datetime) -> None:
        """Open the next revision unless one is open, and start the quiet time anew."""
        if self.value("completed_revision") >= self.value("revision"):
            self.values["revision"] = self.value("revision") + 1
        self.values["last_received_at"] = max(at, self.value("last_received_at"))

    def count(self, name: str, more: int) -> None:
        """Add to a count."""
        self.values[name] = self.value(name) + more


@dataclass
class _Current:
    """The newest version of an instance: in the database, or about to be inserted."""

    study_id: int
    series_id: int
    version: int
    sha256: str
    is_result: bool
    id: int | None = None
    row: dict[str, Any] = field(default_factory=dict)


class _Round:
    """One transaction's work on a batch of instances."""

    def __init__(
        self, connection: Connection, received: Sequence[ReceivedInstance], at: datetime
    ) -> None:
        self.connection = connection
        self.received = received
        self.at = at
        self.studies: dict[str, _Growth] = {}
        self.series: dict[tuple[int, str], _Growth] = {}
        self.current: dict[str, _Current] = {}
        self.rows: list[dict[str, Any]] = []
        self.superseded: list[int] = []
        self.moved: list[_Current] = []
        self.reopened: list[str] = []

    def registered(self) -> list[Registration]:
        """Do all of it and say what became of each instance."""
        self._lock_studies()
        self._read_current()
        self._mark_results()
        self._read_series()
        outcome = [self._register(received) for received in self.received]
        self._write()
        return outcome

    def _lock_studies(self) -> None:
        by_uid = {r.header.study_instance_uid: r for r in reversed(self.received)}
        query = (
            select(studies)
            .where(studies.c.study_instance_uid.in_(sorted(by_uid)))
            .order_by(studies.c.study_instance_uid)
            .with_for_update()
        )
        rows = self.connection.execute(query).all()
        missing = sorted(by_uid.keys() - {row.study_instance_uid for row in rows})
        if missing:
            self._insert_unless_there(studies, [self._new_study(by_uid[uid]) for uid in missing])
            rows = self.connection.execute(query).all()
        self.studies = {row.study_instance_uid: _Growth(row) for row in rows}

    def _new_study(self, received: ReceivedInstance) -> dict[str, Any]:
        # Complete as it stands: the first image opens revision 1, and a result of ours does not.
        return {
            "study_instance_uid": received.header.study_instance_uid,
            "received_at": self.at,
            "last_received_at": self.at,
            "revision": 0,
            "state": StudyState.NOT_ANALYSED,
            "source_ae_title": received.calling_ae_title,
        }

    def _read_current(self) -> None:
        known = instances.c
        query = select(
            known.id, known.sop_instance_uid, known.version, known.sha256, known.study_id,
            known.series_id, known.is_result,
        ).where(known.sop_instance_uid.in_(self._uids(self.received)), known.current)  # fmt: skip
        for row in self.connection.execute(query):
            self.current[row.sop_instance_uid] = _Current(
                row.study_id, row.series_id, row.version, row.sha256, row.is_result, row.id
            )

    def _mark_results(self) -> None:
        """Recognise results of ours that a PACS sends back, whatever it changed in them."""
        doubtful = [r for r in self.received if r.header.sop_class_uid in RESULT_SOP_CLASSES]
        if not doubtful:
            return
        column = results.c.sop_instance_uid
        query = select(column).where(column.in_(self._uids(doubtful)))
        ours = set(self.connection.execute(query).scalars())
        self.received = [
            replace(r, is_result=r.is_result or r.sop_instance_uid in ours) for r in self.received
        ]

    def _read_series(self) -> None:
        wanted = {self._series_key(received): received for received in reversed(self.received)}
        query = select(series).where(
            series.c.study_id.in_(sorted({study_id for study_id, _ in wanted})),
            series.c.series_instance_uid.in_(sorted({uid for _, uid in wanted})),
        )
        rows = self.connection.execute(query).all()
        missing = sorted(wanted.keys() - {(r.study_id, r.series_instance_uid) for r in rows})
        if missing:
            new = [self._new_series(study_id, wanted[study_id, uid]) for study_id, uid in missing]
            self._insert_unless_there(series, new)
            rows = self.connection.execute(query).all()
        self.series = {(row.study_id, row.series_instance_uid): _Growth(row) for row in rows}

    def _new_series(self, study_id: int, received: ReceivedInstance) -> dict[str, Any]:
        header = received.header
        if not received.is_result:
            self.studies[header.study_instance_uid].count("series_count", 1)
        return {
            "study_id": study_id,
            "series_instance_uid": header.series_instance_uid,
            "modality": header.modality[:16],
            "series_number": _small(header.series_number),
            "series_description": header.series_description,
            "body_part_examined": header.body_part_examined,
            "received_at": self.at,
            "last_received_at": self.at,
            "revision": 0,
            "is_result": received.is_result,
        }

    def _register(self, received: ReceivedInstance) -> Registration:
        known = self.current.get(received.sop_instance_uid)
        if known is not None and known.sha256 == received.file.sha256:
            return Registration.DUPLICATE
        study = self.studies[received.header.study_instance_uid]
        in_series = self.series[self._series_key(received)]
        _describe(study, received, corrected=known is not None)
        if not received.is_result:
            self._open(study, in_series)
        if known is None or (known.study_id, known.series_id) != (study.row.id, in_series.row.id):
            in_series.count("instances_count", 1)
            study.count("instances_count", 0 if received.is_result else 1)
            if known is not None:
                self.moved.append(known)
        if known is not None:
            self._supersede(known)
        version = 1 if known is None else known.version + 1
        row = _instance_row(received, study.row.id, in_series.row.id, version=version, at=self.at)
        self.rows.append(row)
        self.current[received.sop_instance_uid] = _Current(
            study.row.id,
            in_series.row.id,
            version,
            received.file.sha256,
            received.is_result,
            row=row,
        )
        return Registration.NEW if known is None else Registration.NEW_VERSION

    def _open(self, study: _Growth, in_series: _Growth) -> None:
        study.touch(self.at)
        in_series.touch(self.at)
        if study.value("state") != StudyState.RECEIVING:
            study.values["state"] = StudyState.RECEIVING
            self.reopened.append(study.row.study_instance_uid)

    def _supersede(self, known: _Current) -> None:
        if known.id is None:
            known.row["current"] = False
        else:
            self.superseded.append(known.id)

    def _write(self) -> None:
        if self.superseded:
            old = instances.c.id.in_(self.superseded)
            self.connection.execute(update(instances).where(old).values(current=False))
        if self.rows:
            self.connection.execute(insert(instances), self.rows)
        for table, grown in ((series, self.series.values()), (studies, self.studies.values())):
            for growth in grown:
                if growth.values:
                    row = table.c.id == growth.row.id
                    self.connection.execute(update(table).where(row).values(growth.values))
        for known in self.moved:
            self._uncount(known)
        for uid in self.reopened:
            events.append(
                self.connection,
                kind=EventKind.STUDY,
                study_instance_uid=uid,
                state=StudyState.RECEIVING,
                at=self.at,
            )

    def _uncount(self, known: _Current) -> None:
        """Take an instance that moved to another series off the counts of its old one."""
        parents = [(series, known.series_id), (studies, known.study_id)]
        for table, row_id in parents[: 1 if known.is_result else 2]:
            self.connection.execute(
                update(table)
                .where(table.c.id == row_id)
                .values(instances_count=table.c.instances_count - 1)
            )

    def _insert_unless_there(self, table: Table, rows: Sequence[dict[str, Any]]) -> None:
        dialect = sqlite if self.connection.dialect.name == "sqlite" else postgresql
        self.connection.execute(dialect.insert(table).on_conflict_do_nothing(), list(rows))

    def _series_key(self, received: ReceivedInstance) -> tuple[int, str]:
        study = self.studies[received.header.study_instance_uid]
        return study.row.id, received.header.series_instance_uid

    @staticmethod
    def _uids(received: Iterable[ReceivedInstance]) -> list[str]:
        return sorted({each.sop_instance_uid for each in received})


def _describe(study: _Growth, received: ReceivedInstance, *, corrected: bool) -> None:
    """Take over what the study's row lacks; a corrected instance also overwrites."""
    overwrites = corrected and not received.is_result
    for attribute, column, length in _STUDY_COLUMNS:
        value = getattr(received.study, attribute)[:length]
        stored = study.value(column)
        if value and value != stored and (overwrites or not stored):
            study.values[column] = value
    modality = received.header.modality[:16]
    known = [name for name in study.value("modalities").split(",") if name]
    if modality and modality not in known and not received.is_result:
        study.values["modalities"] = ",".join(sorted([*known, modality]))


def _instance_row(
    received: ReceivedInstance, study_id: int, series_id: int, *, version: int, at: datetime
) -> dict[str, Any]:
    header = received.header
    return {
        "study_id": study_id,
        "series_id": series_id,
        "sop_instance_uid": header.sop_instance_uid,
        "version": version,
        "current": True,
        "sop_class_uid": header.sop_class_uid,
        "transfer_syntax_uid": header.transfer_syntax_uid,
        "instance_number": _small(header.instance_number),
        "sha256": received.file.sha256,
        "size_bytes": received.file.size_bytes,
        "path": received.file.path,
        "header": header.model_dump(mode="json", exclude_defaults=True),
        "header_bytes": received.header_bytes,
        "received_at": at,
        "calling_ae_title": received.calling_ae_title,
        "is_result": received.is_result,
    }


def _small(number: int | None) -> int | None:
    """Return a number that an INTEGER column takes; others were garbled on the way."""
    return number if number is not None and abs(number) <= _MAX_INTEGER else None
