"""What a job was scheduled on: the archived instances, as they were then."""

from dataclasses import dataclass

from sqlalchemy import Connection, select

from service.core.errors import ContractViolation
from service.core.headers import InstanceHeader
from service.records.jobs import Claim
from service.records.tables import instances


@dataclass(frozen=True)
class ArchivedInstance:
    """An instance's header, and where in the archive its file lies."""

    header: InstanceHeader
    path: str
    sha256: str


def instances_of(connection: Connection, held: Claim) -> tuple[ArchivedInstance, ...]:
    """Return a job's instances in the order of its inputs, whatever has arrived since.

    Raises
    ------
    ContractViolation
        ``INPUT_GONE`` when an instance is not there any more, or has another digest.
    """
    wanted = {item["instance_id"]: item["sha256"] for item in held.inputs}
    query = select(instances.c.id, instances.c.header, instances.c.path, instances.c.sha256)
    rows = {
        row.id: row
        for row in connection.execute(query.where(instances.c.id.in_(wanted)))
        if row.sha256 == wanted[row.id]
    }
    missing = [instance_id for instance_id in wanted if instance_id not in rows]
    if missing:
        raise ContractViolation("INPUT_GONE", f"{len(missing)} input instances are not there")
    return tuple(
        ArchivedInstance(
            InstanceHeader.model_validate(rows[instance_id].header),
            rows[instance_id].path,
            rows[instance_id].sha256,
        )
        for instance_id in wanted
    )


def header_bytes_of(connection: Connection, held: Claim) -> bytes:
    """Return the received header of the job's first instance, without its pixels."""
    first = held.inputs[0]["instance_id"]
    query = select(instances.c.header_bytes).where(instances.c.id == first)
    found: bytes = connection.execute(query).scalar_one()
    return found
