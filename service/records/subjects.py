"""Which study a job, finding, delivery or call belongs to, and who sent it."""

from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import Connection, Select, select

from service.records.tables import deliveries, findings, jobs, studies, webhook_calls

_OF: Final = MappingProxyType({"job": jobs, "finding": findings, "delivery": deliveries})


def study_of(connection: Connection, subject: str) -> str:
    """Return the Study Instance UID that a subject such as ``job:1f3a…`` leads to, or nothing."""
    kind, _, key = subject.partition(":")
    query = _query(kind, key)
    return "" if query is None else connection.execute(query).scalar() or ""


def sender_of(connection: Connection, study_id: int) -> tuple[str, int]:
    """Return the AE title that a study came from and how many instances it has."""
    query = select(studies.c.source_ae_title, studies.c.instances_count)
    row = connection.execute(query.where(studies.c.id == study_id)).one()
    return row.source_ae_title, row.instances_count


def _query(kind: str, key: str) -> Select[Any] | None:
    if kind in ("delivery", "call") and not (key.isdecimal() and len(key) < 10):
        return None
    if kind == "call":
        return select(webhook_calls.c.study_instance_uid).where(webhook_calls.c.id == int(key))
    table = _OF.get(kind)
    if table is None:
        return None
    value: str | int = int(key) if kind == "delivery" else key
    return select(studies.c.study_instance_uid).join_from(table, studies).where(table.c.id == value)
