"""What the listener does for each request: verify, store. One broad handler stands here."""

from collections.abc import Iterable
from typing import Final

from service.core.errors import OverreadError
from service.core.logs import get_logger
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
    if arrival.sop_class_uid != abstract_syntax or abstract_syntax == VERIFICATION:
        for _ in data:
            pass
        return Status.SOP_CLASS_NOT_SUPPORTED, "SOP_CLASS_NOT_SUPPORTED"
    with ingest.begin(arrival) as reception:
        for part in data:
            reception.write(part)
        try:
            outcome = reception.finish()
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
    log.debug(
        "instance_stored",
        kind=outcome.registration,
        sop_instance_uid=outcome.sop_instance_uid,
        study_instance_uid=outcome.study_instance_uid,
    )
    return Status.SUCCESS, ""


def echo(command: Command, abstract_syntax: str) -> tuple[int, str]:
    """Answer a verification request (PS3.4 annex A)."""
    if abstract_syntax != VERIFICATION:
        return Status.SOP_CLASS_NOT_SUPPORTED, "SOP_CLASS_NOT_SUPPORTED"
    return Status.SUCCESS, ""
