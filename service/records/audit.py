"""The audit trail: who saw and did what to which study. Entries are added, never changed.

Each entry's digest covers the one before it, so that a change or a gap shows; the database itself
refuses to update or delete a row. No entry holds a patient's name, id or birth date: the study's
UID leads there as long as the study is kept, and the trail is kept for longer.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

import orjson
from pydantic import Field
from sqlalchemy import Connection, Row, Select, insert, select, text

from service.core.access import Means
from service.records.paging import Order
from service.records.tables import audit_events

# Any number will do; it is ours among the advisory locks of a PostgreSQL database.
_CHAIN_LOCK: Final = 7_026_233_871
_VERIFY_AT_ONCE: Final = 2000
_DETAIL_CHARACTERS: Final = 500


class AuditKind(StrEnum):
    """What sort of thing was done, close to the messages of PS3.15 A.5.3."""

    START = "start"
    STOP = "stop"
    LOGIN = "login"
    LOGOUT = "logout"
    REFUSAL = "refusal"  # a wrong key, a missing role, an unknown caller, a bad certificate
    QUERY = "query"  # a list or search that names patients
    VIEW = "view"  # a study, its findings or results
    RETRIEVE = "retrieve"  # instances, by DICOMweb
    IMPORT = "import"  # instances received
    EXPORT = "export"  # a result sent to a destination
    CHANGE = "change"  # a review, a run, a repeat, a switch
    SECURITY = "security"  # keys and links


class AuditOutcome(StrEnum):
    """Whether it was done."""

    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One thing done or refused; ``operation`` is the route's or the step's name."""

    at: datetime
    kind: AuditKind
    operation: str
    actor: Annotated[str, Field(description="Key, person, AE title, or an address")]
    outcome: AuditOutcome = AuditOutcome.SUCCESS
    means: Annotated[str, Field(description="How the actor was known")] = Means.NONE
    role: str = ""
    address: str = ""
    study_instance_uid: str = ""
    subject_id: Annotated[str, Field(description="A job, finding, delivery, key ...")] = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AuditEvent(AuditEntry):
    """An entry as it stands in the trail."""

    id: int = 0
    process: str = ""
    sha256: Annotated[str, Field(description="Over this entry and the one before it")] = ""


@dataclass(frozen=True, slots=True)
class AuditPage:
    """Entries, newest first."""

    items: list[AuditEvent]
    next: str | None


@dataclass(frozen=True, slots=True)
class Integrity:
    """Whether the chain holds, and where it breaks first."""

    entries: int
    intact: bool
    broken_at_id: int | None
    newest_sha256: str


@dataclass(frozen=True)
class AuditFilter:
    """What the trail can be asked for."""

    study_instance_uid: str | None = None
    actor: str | None = None
    kinds: tuple[AuditKind, ...] = ()
    outcome: AuditOutcome | None = None
    since: datetime | None = None
    until: datetime | None = None


_NEWEST: Final = Order("audit", (audit_events.c.id,), descending=True)


def append(connection: Connection, entries: Sequence[AuditEntry], *, process: str) -> None:
    """Add entries behind the newest one, in the caller's transaction."""
    if not entries:
        return
    if connection.dialect.name == "postgresql":
        # Writers queue here, or two entries would follow the same one. SQLite has one writer.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _CHAIN_LOCK})
    previous = _newest_sha256(connection)
    rows = []
    for entry in entries:
        values = _values(entry) | {"process": process}
        previous = values["sha256"] = _digest(previous, values)
        rows.append(values)
    connection.execute(insert(audit_events), rows)


def page(
    connection: Connection, asked: AuditFilter, *, limit: int, cursor: str | None
) -> AuditPage:
    """Return entries, newest first.

    Raises
    ------
    InvalidRequest
        ``CURSOR``.
    """
    rows = connection.execute(_NEWEST.page(_query(asked), limit=limit, cursor=cursor)).all()
    following = _NEWEST.cursor(rows[limit - 1]) if len(rows) > limit else None
    return AuditPage([_event(row) for row in rows[:limit]], following)


def after(connection: Connection, event_id: int, *, limit: int) -> Sequence[AuditEvent]:
    """Return the entries that follow the one with this id, oldest first."""
    query = select(audit_events).where(audit_events.c.id > event_id)
    rows = connection.execute(query.order_by(audit_events.c.id).limit(limit))
    return [_event(row) for row in rows]


def newest_id(connection: Connection) -> int:
    """Return the id of the newest entry, 0 when there is none."""
    query = select(audit_events.c.id).order_by(audit_events.c.id.desc()).limit(1)
    return connection.execute(query).scalar() or 0


def verify(connection: Connection) -> Integrity:
    """Compute every digest again and say whether the chain holds."""
    previous, count, last_id, broken = "", 0, 0, None
    while True:
        query = select(audit_events).where(audit_events.c.id > last_id)
        rows = connection.execute(query.order_by(audit_events.c.id).limit(_VERIFY_AT_ONCE)).all()
        if not rows:
            return Integrity(count, broken is None, broken, previous)
        for row in rows:
            if broken is None and _digest(previous, _content(row)) != row.sha256:
                broken = int(row.id)
            previous = row.sha256
        count += len(rows)
        last_id = rows[-1].id


def _newest_sha256(connection: Connection) -> str:
    query = select(audit_events.c.sha256).order_by(audit_events.c.id.desc()).limit(1)
    return connection.execute(query).scalar() or ""


_COLUMNS: Final = (
    "at", "kind", "operation", "actor", "outcome", "means", "role", "address",
    "study_instance_uid", "subject_id", "detail",
)  # fmt: skip


def _values(entry: AuditEntry) -> dict[str, Any]:
    # astuple of the entry proper: an event handed in again is an entry like any other.
    values = dict(zip(_COLUMNS, astuple(entry), strict=False))
    cut = {"detail": _DETAIL_CHARACTERS, "subject_id": 128, "operation": 64, "address": 64}
    for name, characters in cut.items():
        values[name] = _storable(values[name])[:characters]
    values["actor"] = _storable(values["actor"])[:256]
    return values


def _storable(value: str) -> str:
    """Return text without what PostgreSQL or JSON cannot hold."""
    return value.replace("\x00", "").encode("utf-8", "replace").decode()


def _content(row: Row[Any]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in (*_COLUMNS, "process")}


def _digest(previous: str, values: dict[str, Any]) -> str:
    told = [values[name] for name in (*_COLUMNS, "process")]
    told[0] = values["at"].astimezone(UTC).isoformat(timespec="microseconds")
    return hashlib.sha256(orjson.dumps([previous, *map(str, told)])).hexdigest()


def _query(asked: AuditFilter) -> Select[Any]:
    query = select(audit_events)
    if asked.study_instance_uid is not None:
        query = query.where(audit_events.c.study_instance_uid == asked.study_instance_uid)
    if asked.actor is not None:
        query = query.where(audit_events.c.actor == asked.actor)
    if asked.kinds:
        query = query.where(audit_events.c.kind.in_(asked.kinds))
    if asked.outcome is not None:
        query = query.where(audit_events.c.outcome == asked.outcome)
    if asked.since is not None:
        query = query.where(audit_events.c.at >= asked.since)
    if asked.until is not None:
        query = query.where(audit_events.c.at < asked.until)
    return query


def _event(row: Row[Any]) -> AuditEvent:
    values = _content(row)
    return AuditEvent(
        **values
        | {
            "kind": AuditKind(row.kind),
            "outcome": AuditOutcome(row.outcome),
            "id": row.id,
            "sha256": row.sha256,
        }
    )
