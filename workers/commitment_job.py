"""Ask a destination to commit to one delivered result: claim the question, ask, write it down."""

import uuid
from datetime import timedelta

from service.core.clock import Clock
from service.core.errors import ContractViolation, Disposition, OverreadError
from service.core.logs import get_logger
from service.core.settings import Destination
from service.records import commitments
from service.records.commitments import Question
from service.records.database import Records
from workers.delivery import commitment

# Longer than any association with a destination lasts.
_HELD = timedelta(seconds=120)

log = get_logger()


def seek_commitment(
    records: Records,
    clock: Clock,
    destination: Destination | None,
    delivery_id: int,
    *,
    calling_ae_title: str,
) -> None:
    """Ask about a delivery, if it is due to be asked about; every error ends here."""
    now = clock.now()
    with records.writing() as connection:
        question = commitments.claim(
            connection,
            delivery_id,
            transaction_uid=f"2.25.{uuid.uuid4().int}",
            at=now,
            until=now + _HELD,
        )
    if question is None:
        return
    bound = log.bind(delivery_id=delivery_id, destination=question.destination)
    try:
        _ask(records, clock, destination, question, calling_ae_title=calling_ae_title)
    except OverreadError as error:
        bound.warning("commitment_not_asked", reason=error.reason, message=error.message)
        _write_failure(records, clock, question, error)
    except Exception as error:  # noqa: BLE001  the boundary: whatever a library raised
        bound.exception("commitment_not_asked", reason="UNEXPECTED")
        unexpected = ContractViolation("UNEXPECTED", type(error).__name__)
        _write_failure(records, clock, question, unexpected, again=True)


def _ask(
    records: Records,
    clock: Clock,
    destination: Destination | None,
    question: Question,
    *,
    calling_ae_title: str,
) -> None:
    if destination is None or not destination.storage_commitment:
        raise ContractViolation("NOT_ASKED", "the settings no longer ask for commitment")
    report = commitment.ask(
        destination,
        calling_ae_title=calling_ae_title,
        transaction_uid=question.transaction_uid,
        sop_class_uid=question.sop_class_uid,
        sop_instance_uid=question.sop_instance_uid,
    )
    with records.writing() as connection:
        if report is None:
            commitments.requested(connection, question, at=clock.now())
            return
        kept, failed = commitment.read_report(report)
        commitments.take_report(
            connection, question.transaction_uid, kept=kept, failed=failed, at=clock.now()
        )


def _write_failure(
    records: Records,
    clock: Clock,
    question: Question,
    error: OverreadError,
    *,
    again: bool = False,
) -> None:
    reason, message = error.reason, error.message
    with records.writing() as connection:
        if again or error.disposition is Disposition.RETRY:
            commitments.ask_later(
                connection, question, reason=reason, message=message, at=clock.now()
            )
        else:
            commitments.give_up(connection, question, reason=reason, message=message)
