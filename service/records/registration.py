"""The rows of one batch of received instances, written in as few statements as possible.

A batch is what arrived at one process within the time of one commit: mostly one instance, at
times one from each of many associations. `service.records.studies` is how others call this.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import BindParameter, Connection, Table, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from service.core.headers import InstanceHeader
from service.core.received import RESULT_SOP_CLASSES, StudyAttributes
from service.core.states import StudyState
from service.records import events
from service.records.archive import ArchivedFile
from service.records.driver import Prepared
from service.records.events import EventKind
from service.records.tables import instances, results, series, studies

# Attribute, column and the length that the schema gives it; None is any length.
_DESCRIPTION: Final = (
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
_STUDY_PROGRESS: Final = (
    "last_received_at", "revision", "state", "series_count", "instances_count", "modalities",
)  # fmt: skip
_SERIES_PROGRESS: Final = ("last_received_at", "revision", "instances_count")
_MAX_INTEGER: Final = 2**31 - 1

# Statements are built once: building one costs more than running it.
_UIDS: BindParameter[str] = bindparam("uids", expanding=True)
_STUDIES: Final = Prepared(
    select(
        studies.c.id, studies.c.study_instance_uid, studies.c.completed_revision,
        *(studies.c[name] for name in _STUDY_PROGRESS),
        *(studies.c[column] for _, column, _ in _DESCRIPTION),
    )
    .where(studies.c.study_instance_uid.in_(_UIDS))
    .order_by(studies.c.study_instance_uid)
    .with_for_update()
)  # fmt: skip
_SERIES: Final = Prepared(
    select(
        series.c.id, series.c.study_id, series.c.series_instance_uid, series.c.completed_revision,
        *(series.c[name] for name in _SERIES_PROGRESS),
    ).where(
        series.c.study_id.in_(bindparam("study_ids", expanding=True)),
        series.c.series_instance_uid.in_(_UIDS),
    )
)  # fmt: skip
_CURRENT: Final = Prepared(
    select(
        instances.c.id, instances.c.sop_instance_uid, instances.c.version, instances.c.sha256,
        instances.c.study_id, instances.c.series_id, instances.c.is_result,
    ).where(instances.c.sop_instance_uid.in_(_UIDS), instances.c.current)
)  # fmt: skip
_RESULTS: Final = Prepared(
    select(results.c.sop_instance_uid).where(results.c.sop_instance_uid.in_(_UIDS))
)
_INSERT: Final = Prepared(
    insert(instances).inline(), columns=[each.key for each in instances.c if each.key != "id"]
)
_SUPERSEDE: Final = (
    update(instances)
    .where(instances.c.id.in_(bindparam("row_ids", expanding=True)))
    .values(current=False)
)


def _writing(table: Table, columns: Iterable[str]) -> Prepared:
    new = {name: bindparam(f"new_{name}", type_=table.c[name].type) for name in columns}
    return Prepared(update(table).where(table.c.id == bindparam("row_id")).values(new))


_PROGRESS: Final = {
    "studies": _writing(studies, _STUDY_PROGRESS),
    "series": _writing(series, _SERIES_PROGRESS),
}
_UNCOUNT: Final = {
    table.name: update(table)
    .where(table.c.id == bindparam("row_id"))
    .values(instances_count=table.c.instances_count - 1)
    for table in (studies, series)
}


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


@dataclass
class _Growth:
    """What a batch changes on the row of one study or series."""

    row: Any  # of the table
    progress: dict[str, Any] = field(default_factory=dict)
    description: dict[str, str] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        """Return a column as it will be."""
        if name in self.progress:
            return self.progress[name]
        return self.description.get(name, getattr(self.row, name))

    def touch(self, at: datetime) -> None:
        """Open the next revision unless one is open, and start the quiet time anew."""
        if self.row.completed_revision >= self.value("revision"):
            self.progress["revision"] = self.value("revision") + 1
        self.progress["last_received_at"] = max(at, self.value("last_received_at"))

    def count(self, name: str, more: int) -> None:
        """Add to a count."""
        self.progress[name] = self.value(name) + more


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


class Batch:
    """One transaction's work on received instances."""

    def __init__(
        self, connection: Connection, received: Sequence[ReceivedInstance], at: datetime
    ) -> None:
        self._connection = connection
        self._received = received
        self._at = at
        self._studies: dict[str, _Growth] = {}
        self._series: dict[tuple[int, str], _Growth] = {}
        self._current: dict[str, _Current] = {}
        self._rows: list[dict[str, Any]] = []
        self._superseded: list[int] = []
        self._moved: list[_Current] = []
        self._reopened: list[str] = []

    def register(self) -> list[Registration]:
        """Write everything and say what became of each instance, in their order."""
        self._lock_studies()
        self._read_current()
        self._mark_results()
        self._read_series()
        outcome = [self._register(received) for received in self._received]
        self._write()
        return outcome

    def _lock_studies(self) -> None:
        by_uid = {r.header.study_instance_uid: r for r in reversed(self._received)}
        wanted = sorted(by_uid)
        rows = _STUDIES.rows(self._connection, uids=wanted)
        missing = sorted(by_uid.keys() - {row.study_instance_uid for row in rows})
        if missing:
            self._insert_unless_there(studies, [self._new_study(by_uid[uid]) for uid in missing])
            rows = _STUDIES.rows(self._connection, uids=wanted)
        self._studies = {row.study_instance_uid: _Growth(row) for row in rows}

    def _new_study(self, received: ReceivedInstance) -> dict[str, Any]:
        # Complete as it stands: the first image opens revision 1, and a result of ours does not.
        return {
            "study_instance_uid": received.header.study_instance_uid,
            "received_at": self._at,
            "last_received_at": self._at,
            "revision": 0,
            "state": StudyState.NOT_ANALYSED,
            "source_ae_title": received.calling_ae_title,
        }

    def _read_current(self) -> None:
        for row in _CURRENT.rows(self._connection, uids=_uids(self._received)):
            self._current[row.sop_instance_uid] = _Current(
                row.study_id, row.series_id, row.version, row.sha256, row.is_result, row.id
            )

    def _mark_results(self) -> None:
        """Recognise results of ours that a PACS sends back, whatever it changed in them."""
        doubtful = [r for r in self._received if r.header.sop_class_uid in RESULT_SOP_CLASSES]
        if not doubtful:
            return
        found = _RESULTS.rows(self._connection, uids=_uids(doubtful))
        ours = {row.sop_instance_uid for row in found}
        self._received = [
            replace(r, is_result=r.is_result or r.sop_instance_uid in ours) for r in self._received
        ]

    def _read_series(self) -> None:
        by_key = {self._series_key(received): received for received in reversed(self._received)}
        study_ids = sorted({study_id for study_id, _ in by_key})
        uids = sorted({uid for _, uid in by_key})
        rows = _SERIES.rows(self._connection, study_ids=study_ids, uids=uids)
        missing = sorted(by_key.keys() - {(r.study_id, r.series_instance_uid) for r in rows})
        if missing:
            new = [self._new_series(study_id, by_key[study_id, uid]) for study_id, uid in missing]
            self._insert_unless_there(series, new)
            rows = _SERIES.rows(self._connection, study_ids=study_ids, uids=uids)
        self._series = {(row.study_id, row.series_instance_uid): _Growth(row) for row in rows}

    def _new_series(self, study_id: int, received: ReceivedInstance) -> dict[str, Any]:
        header = received.header
        if not received.is_result:
            self._studies[header.study_instance_uid].count("series_count", 1)
        return {
            "study_id": study_id,
            "series_instance_uid": header.series_instance_uid,
            "modality": header.modality[:16],
            "series_number": _small(header.series_number),
            "series_description": header.series_description,
            "body_part_examined": header.body_part_examined,
            "received_at": self._at,
            "last_received_at": self._at,
            "revision": 0,
            "is_result": received.is_result,
        }

    def _register(self, received: ReceivedInstance) -> Registration:
        known = self._current.get(received.sop_instance_uid)
        if known is not None and known.sha256 == received.file.sha256:
            return Registration.DUPLICATE
        study = self._studies[received.header.study_instance_uid]
        in_series = self._series[self._series_key(received)]
        _describe(study, received, corrected=known is not None)
        if not received.is_result:
            self._open(study, in_series)
        if known is None or (known.study_id, known.series_id) != (study.row.id, in_series.row.id):
            in_series.count("instances_count", 1)
            study.count("instances_count", 0 if received.is_result else 1)
            if known is not None:
                self._moved.append(known)
        if known is not None:
            self._supersede(known)
        self._insert(received, study, in_series, version=1 if known is None else known.version + 1)
        return Registration.NEW if known is None else Registration.NEW_VERSION

    def _open(self, study: _Growth, in_series: _Growth) -> None:
        study.touch(self._at)
        in_series.touch(self._at)
        if study.value("state") != StudyState.RECEIVING:
            study.progress["state"] = StudyState.RECEIVING
            self._reopened.append(study.row.study_instance_uid)

    def _supersede(self, known: _Current) -> None:
        if known.id is None:
            known.row["current"] = False
        else:
            self._superseded.append(known.id)

    def _insert(
        self, received: ReceivedInstance, study: _Growth, in_series: _Growth, *, version: int
    ) -> None:
        row = _instance_row(received, self._at)
        row.update(study_id=study.row.id, series_id=in_series.row.id, version=version)
        self._rows.append(row)
        self._current[received.sop_instance_uid] = _Current(
            study.row.id,
            in_series.row.id,
            version,
            received.file.sha256,
            received.is_result,
            row=row,
        )

    def _write(self) -> None:
        if self._superseded:
            self._connection.execute(_SUPERSEDE, {"row_ids": self._superseded})
        if self._rows:
            _INSERT.run(self._connection, self._rows)
        self._write_progress(series, _SERIES_PROGRESS, self._series.values())
        self._write_progress(studies, _STUDY_PROGRESS, self._studies.values())
        for growth in self._studies.values():
            if growth.description:
                row = studies.c.id == growth.row.id
                self._connection.execute(update(studies).where(row).values(growth.description))
        for known in self._moved:
            self._uncount(known)
        for uid in self._reopened:
            events.append(
                self._connection,
                kind=EventKind.STUDY,
                study_instance_uid=uid,
                state=StudyState.RECEIVING,
                at=self._at,
            )

    def _write_progress(
        self, table: Table, columns: Iterable[str], grown: Iterable[_Growth]
    ) -> None:
        changed = [
            {"row_id": growth.row.id, **{f"new_{name}": growth.value(name) for name in columns}}
            for growth in grown
            if growth.progress
        ]
        if changed:
            _PROGRESS[table.name].run(self._connection, changed)

    def _uncount(self, known: _Current) -> None:
        """Take an instance that moved to another series off the counts of its old one."""
        self._connection.execute(_UNCOUNT["series"], {"row_id": known.series_id})
        if not known.is_result:
            self._connection.execute(_UNCOUNT["studies"], {"row_id": known.study_id})

    def _insert_unless_there(self, table: Table, rows: Sequence[dict[str, Any]]) -> None:
        dialect = sqlite if self._connection.dialect.name == "sqlite" else postgresql
        self._connection.execute(dialect.insert(table).on_conflict_do_nothing(), list(rows))

    def _series_key(self, received: ReceivedInstance) -> tuple[int, str]:
        study = self._studies[received.header.study_instance_uid]
        return study.row.id, received.header.series_instance_uid


def _describe(study: _Growth, received: ReceivedInstance, *, corrected: bool) -> None:
    """Take over what the study's row lacks; a corrected instance also overwrites."""
    overwrites = corrected and not received.is_result
    for attribute, column, length in _DESCRIPTION:
        value = getattr(received.study, attribute)[:length]
        if value:
            stored = study.value(column)
            if value != stored and (overwrites or not stored):
                study.description[column] = value
    modality = received.header.modality[:16]
    if modality and not received.is_result:
        known = [name for name in study.value("modalities").split(",") if name]
        if modality not in known:
            study.progress["modalities"] = ",".join(sorted([*known, modality]))


def _instance_row(received: ReceivedInstance, at: datetime) -> dict[str, Any]:
    header = received.header
    return {
        "sop_instance_uid": header.sop_instance_uid,
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


def _uids(received: Iterable[ReceivedInstance]) -> list[str]:
    return sorted({each.sop_instance_uid for each in received})


def _small(number: int | None) -> int | None:
    """Return a number that an INTEGER column takes; others were garbled on the way."""
    return number if number is not None and abs(number) <= _MAX_INTEGER else None
