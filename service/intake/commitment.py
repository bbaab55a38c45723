"""Storage commitment: a sender asks whether we keep its instances, and is told one by one.

An instance counts as kept when its row is committed and its file lies in the archive in full
length. The answer goes out at once, on the association that asked; when the sender hangs up
first, on one of our own to the destination that has its AE title, where one is configured.

References
----------
DICOM PS3.4 annex J (storage commitment push model).
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID
from pynetdicom import AE, build_context, build_role

from service.core.elements import Encoding, walk
from service.core.errors import RefusedInstance
from service.core.identifiers import is_uid
from service.core.logs import get_logger
from service.core.settings import Destination
from service.core.values import Values
from service.records.archive import Archive
from service.records.database import Records
from service.records.holdings import Holding, held

COMMITMENT: Final = "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
REQUEST_COMMITMENT: Final = 1  # action type (PS3.4 J.3.2)
MAX_REQUEST_BYTES: Final = 1 << 23
MAX_INSTANCES: Final = 50_000
_ALL_KEPT: Final = 1
_SOME_FAILED: Final = 2
_NO_SUCH_INSTANCE: Final = 0x0112
_CLASS_CONFLICT: Final = 0x0119
_PAUSES_S: Final = (1.0, 15.0, 60.0)
_TIMEOUT_S: Final = 15.0

log: Final = get_logger()


@dataclass(frozen=True)
class Reference:
    """One instance that a sender asks about."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class CommitmentRequest:
    """What a sender wants to know, under the transaction UID that it chose."""

    transaction_uid: str
    references: tuple[Reference, ...]


@dataclass(frozen=True)
class Report:
    """The answer: what is kept, and why the rest is not."""

    transaction_uid: str
    kept: tuple[Reference, ...]
    failed: tuple[tuple[Reference, int], ...]

    @property
    def event_type(self) -> int:
        """Event Type ID (PS3.4 table J.3-2)."""
        return _SOME_FAILED if self.failed else _ALL_KEPT

    def encoded(self, transfer_syntax_uid: str) -> bytes:
        """Return the report's data set in bytes."""
        syntax = UID(transfer_syntax_uid)
        buffer = DicomBytesIO()
        buffer.is_little_endian = syntax.is_little_endian
        buffer.is_implicit_VR = syntax.is_implicit_VR
        write_dataset(buffer, self.dataset())
        return buffer.getvalue()

    def dataset(self) -> Dataset:
        """Return the report's data set."""
        dataset = Dataset()
        dataset.TransactionUID = self.transaction_uid
        if self.kept:
            dataset.ReferencedSOPSequence = [_item(reference) for reference in self.kept]
        if self.failed:
            dataset.FailedSOPSequence = [_item(reference, why) for reference, why in self.failed]
        return dataset


def read_request(data: bytes, transfer_syntax_uid: str) -> CommitmentRequest:
    """Read the action information of a request.

    Raises
    ------
    RefusedInstance
        When it cannot be read, names no instance, too many, or no transaction.
    """
    encoding = Encoding.of(transfer_syntax_uid)
    values = Values(data, encoding, walk(data, encoding))
    transaction_uid = values.text(0x00081195)
    references = tuple(
        Reference(item.text(0x00081150), item.text(0x00081155)) for item in values.items(0x00081199)
    )
    if not is_uid(transaction_uid) or not 0 < len(references) <= MAX_INSTANCES:
        raise RefusedInstance("NO_COMMITMENT_REQUEST", "no transaction, or no instances")
    return CommitmentRequest(transaction_uid, references)


class Commitment:
    """Answers commitment requests; one per process."""

    def __init__(
        self, records: Records, archive: Archive, destinations: Sequence[Destination] = ()
    ) -> None:
        self._records = records
        self._archive = archive
        self._destinations: Mapping[str, Destination] = {
            each.ae_title.strip(): each for each in destinations if each.ae_title is not None
        }

    def report(self, request: CommitmentRequest) -> Report:
        """Look at rows and files and return the answer.

        Raises
        ------
        OutOfResources
            ``DATABASE_AWAY`` when the rows cannot be looked at.
        """
        with self._records.reading() as connection:
            here = held(connection, (each.sop_instance_uid for each in request.references))
        reasons = [
            (each, self._reason(each, here.get(each.sop_instance_uid)))
            for each in request.references
        ]
        return Report(
            transaction_uid=request.transaction_uid,
            kept=tuple(each for each, why in reasons if why is None),
            failed=tuple((each, why) for each, why in reasons if why is not None),
        )

    def report_later(self, calling_ae_title: str, report: Report) -> None:
        """Tell a sender that hung up, on an association of our own, if we know where it is."""
        destination = self._destinations.get(calling_ae_title)
        if destination is None:
            log.warning("commitment_not_told", calling_ae_title=calling_ae_title)
            return
        threading.Thread(target=_tell, args=(destination, report), daemon=True).start()

    def _reason(self, reference: Reference, holding: Holding | None) -> int | None:
        if holding is None or self._archive.size_bytes(holding.path) != holding.size_bytes:
            return _NO_SUCH_INSTANCE
        return None if holding.sop_class_uid == reference.sop_class_uid else _CLASS_CONFLICT


def _tell(destination: Destination, report: Report) -> None:
    for pause_s in _PAUSES_S:
        time.sleep(pause_s)
        if _told(destination, report):
            return
    log.warning("commitment_not_told", destination=destination.name)


def _told(destination: Destination, report: Report) -> bool:
    """Send one N-EVENT-REPORT; we remain the provider though we open the association."""
    entity = AE()
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _TIMEOUT_S
    association = entity.associate(
        destination.host or "",
        destination.port or 0,
        contexts=[build_context(COMMITMENT)],
        ae_title=destination.ae_title or "",
        ext_neg=[build_role(COMMITMENT, scp_role=True)],
    )
    if not association.is_established:
        return False
    try:
        status, _ = association.send_n_event_report(
            report.dataset(), report.event_type, COMMITMENT, COMMITMENT_INSTANCE
        )
        return bool(status.get("Status") == 0)
    except (RuntimeError, ValueError):  # aborted under way, or the context was not accepted
        return False
    finally:
        association.release()


def _item(reference: Reference, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    if reason is not None:
        item.FailureReason = reason
    return item
