"""The whole story of one delivery: claim, send, write down what the destination said.

Where a destination commits to storage it is asked to, once the result is delivered. What classes
it takes is remembered; for one that it refuses another form goes out, by `service.core.profiles`.
"""

import hashlib
import threading
from collections import defaultdict
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from service.core.clock import Clock
from service.core.errors import (
    ContractViolation,
    Disposition,
    LostClaim,
    NotFound,
    OverreadError,
)
from service.core.logs import get_logger
from service.core.part10 import read_file_meta
from service.core.profiles import adapted
from service.core.settings import Destination, Settings
from service.records import audit, deliveries, destinations, report_content, reports
from service.records.archive import Archive
from service.records.audit import AuditEntry, AuditKind
from service.records.database import Records, Transaction
from service.records.deliveries import DeliveryClaim
from service.records.destinations import SeenClass
from service.records.heartbeats import process_name
from workers.commitment_job import seek_commitment
from workers.delivery import dimse, mllp, stow
from workers.keep_alive import kept_alive

# What says that a class is not taken, whatever is in the object: no context, or PS3.7 C.5.6.
_CLASS_REFUSED = frozenset({"NO_CONTEXT", "STATUS_0122", "FAILED_0122"})

log = get_logger()


@dataclass
class DeliveryContext:
    """What a delivery process holds from message to message."""

    settings: Settings
    records: Records
    archive: Archive
    clock: Clock
    # One association at a time for each destination: a slow one must not take every thread.
    busy: dict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))

    def destination(self, name: str) -> Destination | None:
        """Return the configured destination of that name."""
        return next((item for item in self.settings.destinations if item.name == name), None)


_context: DeliveryContext | None = None


def use(context: DeliveryContext) -> None:
    """Set what the messages that this process takes are handled with."""
    global _context  # noqa: PLW0603  RQ calls `run` by name with the message's id alone
    _context = context


def run(delivery_id: str) -> None:
    """Handle one message; the entry point that the queue names."""
    if _context is None:
        raise ContractViolation("NOT_PREPARED", "this process takes no deliveries")
    if not delivery_id.isdecimal():
        raise ContractViolation("QUEUE_MESSAGE", "a delivery id is a number")
    deliver(_context, int(delivery_id))


def deliver(context: DeliveryContext, delivery_id: int) -> None:
    """Attempt a delivery once, if it is there to be taken.

    When the destination is being served by another thread the delivery stays due, and the
    scheduler rings for it again.
    """
    with context.records.reading() as connection:
        name = deliveries.destination_of(connection, delivery_id)
    if name is None:
        return
    lock = context.busy[name]
    if not lock.acquire(blocking=False):
        return
    try:
        lease = timedelta(seconds=context.settings.jobs.lease_s)
        with context.records.writing() as connection:
            held = deliveries.claim(connection, delivery_id, at=context.clock.now(), lease=lease)
        if held is not None:
            with _claim_kept(context, held, lease):
                _attempt(context, held)
        seek_commitment(
            context.records,
            context.clock,
            context.destination(name),
            delivery_id,
            calling_ae_title=context.settings.dicom.ae_title,
        )
    finally:
        lock.release()


def _claim_kept(
    context: DeliveryContext, held: DeliveryClaim, lease: timedelta
) -> AbstractContextManager[object]:
    """Extend the lease while the body runs: a slow destination is no lost process."""

    def extend() -> bool:
        with context.records.writing() as connection:
            until = context.clock.now() + lease
            return deliveries.extend(connection, held, until=until)

    return kept_alive(extend, every_s=lease.total_seconds() / 3)


def _attempt(context: DeliveryContext, held: DeliveryClaim) -> None:
    """Send, and write the outcome; the delivery's boundary: every error ends here."""
    bound = log.bind(
        delivery_id=held.delivery_id,
        destination=held.destination,
        attempt=held.attempt,
        sop_instance_uid=held.sop_instance_uid,
    )
    try:
        try:
            _send(context, held)
        except OverreadError as error:
            _write_failure(context, held, error)
            bound.warning("delivery_failed", reason=error.reason, message=error.message)
        except Exception as error:  # noqa: BLE001  the boundary: whatever a library raised
            _write_failure(
                context, held, ContractViolation("UNEXPECTED", type(error).__name__), again=True
            )
            bound.exception("delivery_failed", reason="UNEXPECTED")
        else:
            destination = context.destination(held.destination)
            asked = destination is not None and destination.storage_commitment
            with context.records.writing() as connection:
                deliveries.delivered(
                    connection, held, at=context.clock.now(), with_commitment=asked
                )
                destinations.learn(connection, _seen(context, held, accepted=True))
                audit.append(
                    connection, [_export(context, held)], process=process_name("deliverer")
                )
            bound.info("delivered")
    except LostClaim as lost:
        bound.warning("claim_lost", reason=lost.reason)


def _send(context: DeliveryContext, held: DeliveryClaim) -> None:
    destination = context.destination(held.destination)
    if destination is None:
        raise ContractViolation("DESTINATION_UNKNOWN", "the settings name no such destination")
    if destination.mllp_host is not None:
        with context.records.reading() as connection:
            content = report_content.of_result(connection, held.sop_instance_uid)
        mllp.send(destination, content, at=context.clock.now())
        return
    file = context.archive.path_of(held.path)
    if not file.is_file():
        raise NotFound("FILE_MISSING", "the result's file is not in the archive")
    _require_unchanged(file, held.sha256)
    if destination.stow_url is not None:
        stow.send(destination, file=file, sop_instance_uid=held.sop_instance_uid)
        return
    dimse.send(
        destination,
        calling_ae_title=context.settings.dicom.ae_title,
        file=file,
        sop_class_uid=held.sop_class_uid,
        transfer_syntax_uid=held.transfer_syntax_uid,
    )


def _require_unchanged(file: Path, sha256: str) -> None:
    """Refuse to send other bytes than were written; the digest covers the data set."""
    content = file.read_bytes()
    meta = read_file_meta(content)
    begins = 0 if meta is None else meta.length
    if hashlib.sha256(memoryview(content)[begins:]).hexdigest() != sha256:
        raise ContractViolation("DIGEST", "the result's file was changed in the archive")


def _export(context: DeliveryContext, held: DeliveryClaim) -> AuditEntry:
    """Return the audit trail's entry: what went where."""
    return AuditEntry(
        at=context.clock.now(),
        kind=AuditKind.EXPORT,
        operation="deliver",
        actor=held.destination,
        study_instance_uid=held.study_instance_uid,
        subject_id=f"instance:{held.sop_instance_uid}",
    )


def _write_failure(
    context: DeliveryContext, held: DeliveryClaim, error: OverreadError, *, again: bool = False
) -> None:
    now = context.clock.now()
    repeat = again or error.disposition is Disposition.RETRY
    with context.records.writing() as connection:
        if repeat:
            deliveries.try_later(
                connection, held, reason=error.reason, message=error.message, at=now
            )
            return
        if error.reason in _CLASS_REFUSED:
            destinations.learn(
                connection, _seen(context, held, accepted=False, reason=error.reason)
            )
            instead = _instead(context, connection, held)
            if instead:
                message = f"{error.message}: {instead}"
                deliveries.replace(
                    connection, held, reason="CLASS_REFUSED", message=message, at=now
                )
                return
        deliveries.park(connection, held, reason=error.reason, message=error.message, at=now)


def _seen(
    context: DeliveryContext, held: DeliveryClaim, *, accepted: bool, reason: str = ""
) -> SeenClass:
    return SeenClass(held.destination, held.sop_class_uid, accepted, reason, context.clock.now())


def _instead(context: DeliveryContext, connection: Transaction, held: DeliveryClaim) -> str:
    """Have another form made for a destination that refused a class; return in words which.

    Empty when there is none to offer.
    """
    destination = context.destination(held.destination)
    if destination is None:
        return ""
    at = context.clock.now()
    refused = destinations.refused(connection, at=at)[held.destination]
    before = adapted(destination.profile, refused - {held.sop_class_uid})
    after = adapted(destination.profile, refused)
    if before.profile == after.profile or not after.profile.objects:
        return ""
    if reports.add_form(connection, held.result_id, at=at) is None:
        return ""
    return "; ".join(str(change) for change in after.changes)
