"""Storage commitment: a sender asks whether we keep its instances, and is told one by one.

An instance counts as kept when its row is committed and its file lies in the archive in full
length. The answer goes out at once, on the association that asked; when the sender hangs up
first, on one of our own to the destination that has its AE title, where one is configured (see
`service.intake.reporter`). The other way round, destinations report here on our results.

References
----------
DICOM PS3.4 annex J (storage commitment push model).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID

from service.core.clock import Clock, SystemClock
from service.core.elements import Encoding, walk
from service.core.errors import OutOfResources, RefusedInstance
from service.core.identifiers import is_uid
from service.core.logs import get_logger
from service.core.values import Values
from service.records import commitments
from service.records.archive import Archive
from service.records.commitments import OwedReport
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
# A process that dies in between leaves the report to another, this much later.
_ON_THE_SAME_ASSOCIATION: Final = timedelta(seconds=20)

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
    owed_id: int = 0

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


@dataclass(frozen=True)
class CommitmentAnswer:
    """What a destination says of results of ours: instance UIDs, those it lacks with the reason."""

    transaction_uid: str
    kept: frozenset[str]
    failed: Mapping[str, int]


def read_answer(data: bytes, transfer_syntax_uid: str) -> CommitmentAnswer:
    """Read the event information of a report (PS3.4 table J.3-2).

    Raises
    ------
    RefusedInstance
        When it cannot be read.
    """
    encoding = Encoding.of(transfer_syntax_uid)
    values = Values(data, encoding, walk(data, encoding))
    return CommitmentAnswer(
        transaction_uid=values.text(0x00081195),
        kept=frozenset(item.text(0x00081155) for item in values.items(0x00081199)),
        failed={
            item.text(0x00081155): item.integer(0x00081197, vr="US") or 0
            for item in values.items(0x00081198)
        },
    )


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
    """Answers commitment requests, and takes the answers to our own; one per process."""

    def __init__(self, records: Records, archive: Archive, *, clock: Clock | None = None) -> None:
        self._records = records
        self._archive = archive
        self._clock = clock or SystemClock()

    def report(self, request: CommitmentRequest, calling_ae_title: str) -> Report:
        """Look at rows and files and return the answer, which is owed until `told`.

        Raises
        ------
        OutOfResources
            ``DATABASE_AWAY`` when the rows cannot be looked at.
        """
        now = self._clock.now()
        with self._records.writing() as connection:
            owed_id = commitments.owe(
                connection,
                transaction_uid=request.transaction_uid,
                calling_ae_title=calling_ae_title,
                instances=[(i.sop_class_uid, i.sop_instance_uid) for i in request.references],
                due_at=now + _ON_THE_SAME_ASSOCIATION,
                at=now,
            )
        return self._judged(request, owed_id)

    def again(self, owed: OwedReport) -> Report:
        """Return the answer as it is now to a report that is still owed."""
        references = tuple(Reference(*pair) for pair in owed.instances)
        return self._judged(CommitmentRequest(owed.transaction_uid, references), owed.id)

    def told(self, report: Report) -> None:
        """Forget a report that its requestor took; one told twice does no harm."""
        try:
            with self._records.writing() as connection:
                commitments.settle(connection, report.owed_id)
        except OutOfResources as error:
            log.warning("commitment_not_settled", reason=error.reason)

    def report_later(self, report: Report) -> None:
        """Have a requestor told that hung up, on an association of our own."""
        try:
            with self._records.writing() as connection:
                commitments.tell_at(connection, report.owed_id, due_at=self._clock.now())
        except OutOfResources as error:  # it is due by itself a little later
            log.warning("commitment_not_hurried", reason=error.reason)

    def take(self, answer: CommitmentAnswer) -> None:
        """Write down what a destination said of results that we asked about.

        Raises
        ------
        OutOfResources
            ``DATABASE_AWAY``: the destination must tell it again.
        """
        with self._records.writing() as connection:
            state = commitments.take_report(
                connection,
                answer.transaction_uid,
                kept=answer.kept,
                failed=answer.failed,
                at=self._clock.now(),
            )
        log.info("commitment_answered", state=state or "unknown", count=len(answer.failed))

    def _judged(self, request: CommitmentRequest, owed_id: int) -> Report:
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
            owed_id=owed_id,
        )

    def _reason(self, reference: Reference, holding: Holding | None) -> int | None:
        if holding is None or self._archive.size_bytes(holding.path) != holding.size_bytes:
            return _NO_SUCH_INSTANCE
        return None if holding.sop_class_uid == reference.sop_class_uid else _CLASS_CONFLICT


def _item(reference: Reference, reason: int | None = None) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    if reason is not None:
        item.FailureReason = reason
    return item
