"""Which instances are here for good: what storage commitment answers from."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, select

from service.records.tables import instances

_AT_ONCE = 500  # below the number of variables that an old SQLite takes


@dataclass(frozen=True)
class Holding:
    """The current version of an instance: its class, and the file that must be there."""

    sop_class_uid: str
    path: str
    size_bytes: int


def held(connection: Connection, sop_instance_uids: Iterable[str]) -> dict[str, Holding]:
    """Return what is held of the named instances, by SOP Instance UID."""
    wanted = sorted(set(sop_instance_uids))
    found = {}
    columns = instances.c
    query = select(
        columns.sop_instance_uid, columns.sop_class_uid, columns.path, columns.size_bytes
    )
    for i in range(0, len(wanted), _AT_ONCE):
        some = columns.sop_instance_uid.in_(wanted[i : i + _AT_ONCE])
        for row in connection.execute(query.where(some, columns.current)):
            found[row.sop_instance_uid] = Holding(row.sop_class_uid, row.path, row.size_bytes)
    return found
