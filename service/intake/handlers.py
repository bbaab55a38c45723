"""What the listener does for each request: verify, store, commit. The broad handlers stand here."""

from collections.abc import Iterable
from typing import Final

from service.core.errors import OverreadError
from service.core.logs import get_logger
from service.intake.commitment import (
    COMMITMENT,
    COMMITMENT_INSTANCE,
    MAX_REQUEST_BYTES,
    REQUEST_COMMITMENT,
    Commitment,
    Report,
    read_answer,
    read_request,
)
from service.intake.contexts import VERIFICATION
from service.intake.dimse import Command
from service.intake.ingest import Arrival, Ingest
from service.intake.statuses import Status, status_of

log: Final = get_logger()


def store(
    ingest: Ingest, arrival: Arrival, abstract_syntax: str, data: Iterable[memoryview]
) -> tuple[int, str]:
    """Take an instance in and return the status, with the reason where it is a failure.

    `data` is read to its end whatever happens, unless reading itself fails: the sender listens
    for an answer only then.

    Raises
    ------
    PeerUnavailable, PeerFault
        When the sender goes away or breaks the protocol; nothing was kept then.
    RefusedInstance
        ``TOO_LARGE``: the association must end, the data set may have no end.
    """
    if arrival.sop_class_uid != abstract_syntax or abstract_syntax in {VERIFICATION, COMMITMENT}:
        for _ in data:
            pass
        return Status.SOP_CLASS_NOT_SUPPORTED, "SOP_CLASS_NOT_SUPPORTED"
    with ingest.begin(arrival) as reception:
        for part in data:
            reception.write(part)
        try:
            reception.finish()
        except OverreadError as error:
            log.warning(
                "instance_refused",
                reason=error.reason,
                detail=error.message,
                sop_instance_uid=arrival.sop_instance_uid,
                calling_ae_title=arrival.calling_ae_title,
            )
            return status_of(error), error.reason
        except Exception:  # the boundary: whatever happens, the sender gets an answer
            log.exception("instance_failed", sop_instance_uid=arrival.sop_instance_uid)
            return Status.PROCESSING_FAILURE, "INTERNAL"
    return Status.SUCCESS, ""


def echo(command: Command, abstract_syntax: str) -> tuple[int, str]:
    """Answer a verification request (PS3.4 annex A)."""
    if abstract_syntax != VERIFICATION:
        return Status.SOP_CLASS_NOT_SUPPORTED, "SOP_CLASS_NOT_SUPPORTED"
    return Status.SUCCESS, ""


def commit(
    commitment: Commitment,
    command: Command,
    transfer_syntax: str,
    data: Iterable[memoryview],
    *,
    calling_ae_title: str,
) -> tuple[int, str, Report | None]:
    """Take a commitment request and return the status and the report that must follow it.

    Raises
    ------
    PeerUnavailable, PeerFault
        When the sender goes away or breaks the protocol.
    """
    information = _bounded(data)
    if (command.sop_class_uid, command.sop_instance_uid) != (COMMITMENT, COMMITMENT_INSTANCE):
        return Status.NO_SUCH_INSTANCE, "NO_SUCH_INSTANCE", None
    if command.action_type != REQUEST_COMMITMENT:
        return Status.NO_SUCH_ACTION, "NO_SUCH_ACTION", None
    if len(information) > MAX_REQUEST_BYTES:
        return Status.PROCESSING_FAILURE, "TOO_LARGE", None
    try:
        request = read_request(information, transfer_syntax)
        report = commitment.report(request, calling_ae_title)
    except OverreadError as error:
        log.warning("commitment_refused", reason=error.reason, detail=error.message)
        return Status.PROCESSING_FAILURE, error.reason, None
    except Exception:  # the boundary: whatever happens, the sender gets an answer
        log.exception("commitment_failed")
        return Status.PROCESSING_FAILURE, "INTERNAL", None
    return Status.SUCCESS, "", report


def take_report(
    commitment: Commitment, command: Command, transfer_syntax: str, data: Iterable[memoryview]
) -> tuple[int, str]:
    """Take what a destination says of results that we asked about, and return the status.

    A report on a transaction that nobody waits for is success too: it would be told for ever.

    Raises
    ------
    PeerUnavailable, PeerFault
        When the sender goes away or breaks the protocol.
    """
    information = _bounded(data)
    if (command.sop_class_uid, command.sop_instance_uid) != (COMMITMENT, COMMITMENT_INSTANCE):
        return Status.NO_SUCH_INSTANCE, "NO_SUCH_INSTANCE"
    try:
        commitment.take(read_answer(information, transfer_syntax))
    except OverreadError as error:
        log.warning("commitment_answer_refused", reason=error.reason, detail=error.message)
        return Status.PROCESSING_FAILURE, error.reason
    except Exception:  # the boundary: whatever happens, the sender gets an answer
        log.exception("commitment_answer_failed")
        return Status.PROCESSING_FAILURE, "INTERNAL"
    return Status.SUCCESS, ""


def _bounded(data: Iterable[memoryview]) -> bytes:
    """Read a data set to its end and keep what a request may hold, and a little more."""
    information = bytearray()
    for part in data:
        if len(information) <= MAX_REQUEST_BYTES:
            information += part
    return bytes(information)
