"""Ask a destination whether it keeps a delivered result (PS3.4 annex J, as user).

Some archives answer on the association that asked, some on one of their own to our listener,
which then writes it down.
"""

import threading
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom import evt

from service.core.errors import PeerRefused, PeerUnavailable
from service.core.settings import Destination
from workers.delivery import dimse

COMMITMENT: Final = "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
_IMPLICIT_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
_REQUEST_COMMITMENT: Final = 1  # action type (PS3.4 J.3.2)
_SUCCESS: Final = 0x0000
# How long the association stays open for an archive that answers at once.
_LINGER_S: Final = 2.0


def ask(
    destination: Destination,
    *,
    calling_ae_title: str,
    transaction_uid: str,
    sop_class_uid: str,
    sop_instance_uid: str,
) -> Dataset | None:
    """Request commitment to one instance; return the report if it comes at once.

    Raises
    ------
    PeerUnavailable
        As `workers.delivery.dimse.send`: to be tried again.
    PeerRefused
        ``NO_CONTEXT`` when the destination offers no storage commitment, ``STATUS_xxxx``.
    """
    reports: list[Dataset] = []
    told = threading.Event()

    def on_report(event: evt.Event) -> tuple[int, Dataset | None]:
        reports.append(event.event_information)
        told.set()
        return _SUCCESS, None

    association = dimse.associate(
        destination,
        calling_ae_title=calling_ae_title,
        sop_class_uid=COMMITMENT,
        transfer_syntax_uid=_IMPLICIT_LITTLE_ENDIAN,
        handlers=[(evt.EVT_N_EVENT_REPORT, on_report)],
    )
    try:
        information = _information(transaction_uid, sop_class_uid, sop_instance_uid)
        _request(association, information, destination.name)
        told.wait(_LINGER_S)
    finally:
        if association.is_established:
            association.release()
    return reports[0] if reports else None


def _request(association: Any, information: Dataset, name: str) -> None:
    if not association.accepted_contexts:
        raise PeerRefused("NO_CONTEXT", f"{name} offers no storage commitment")
    try:
        answer, _ = association.send_n_action(
            information, _REQUEST_COMMITMENT, COMMITMENT, COMMITMENT_INSTANCE
        )
    except (ValueError, RuntimeError) as error:
        raise PeerUnavailable("NO_ANSWER", f"{name}: {error}") from error
    status = getattr(answer, "Status", None)
    if status is None:
        raise PeerUnavailable("NO_ANSWER", f"{name} did not answer in time, or aborted")
    if status != _SUCCESS:
        raise PeerUnavailable("PEER_BUSY", f"{name} answered status 0x{status:04X}")


def _information(transaction_uid: str, sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = [item]
    return information


def read_report(report: Dataset) -> tuple[frozenset[str], dict[str, int]]:
    """Return which instances are kept, and which are not with the failure reason."""
    kept = frozenset(
        str(item.get("ReferencedSOPInstanceUID", ""))
        for item in report.get("ReferencedSOPSequence") or ()
    )
    failed = {
        str(item.get("ReferencedSOPInstanceUID", "")): int(item.get("FailureReason") or 0)
        for item in report.get("FailedSOPSequence") or ()
    }
    return kept, failed
