"""One instance from its first byte to its committed row, whatever protocol brought it.

The bytes go to disk as they arrive, so memory does not grow with the instance. Before success they
have been walked to the last one, matched with what the sender announced, made durable, and
registered. Until then they lie under a temporary name and vanish when anything goes wrong.
"""

import mmap
import zlib
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from service.core.clock import Clock
from service.core.elements import Buffer, Encoding, walk
from service.core.errors import OverreadError, RefusedInstance
from service.core.headers import InstanceHeader
from service.core.identifiers import MANUFACTURER, is_uid
from service.core.part10 import file_meta, header_only
from service.core.received import RESULT_SOP_CLASSES, read_instance
from service.intake.commit import GroupCommit
from service.records.archive import Archive, ArchivedFile, Spool
from service.records.database import Records
from service.records.studies import ReceivedInstance, Registration

MAX_INFLATED_BYTES: Final = 1 << 28
_DEFLATED: Final = str(DeflatedExplicitVRLittleEndian)


@dataclass(frozen=True)
class Arrival:
    """What the sender says of an instance before its first byte."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str = ""
    study_instance_uid: str = ""  # empty where the sender does not announce it


@dataclass(frozen=True)
class Outcome:
    """An instance that is on the disk and in the database."""

    registration: Registration
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    size_bytes: int


class Ingest:
    """Takes instances in; one per process, shared by its threads."""

    def __init__(
        self, records: Records, archive: Archive, clock: Clock, *, max_instance_bytes: int
    ) -> None:
        self._archive = archive
        self._commit = GroupCommit(records, archive, clock)
        self._max_instance_bytes = max_instance_bytes

    def begin(self, arrival: Arrival) -> "Reception":
        """Open the way for one instance; a reason to refuse it is kept until its end."""
        return Reception(self._archive, self._commit, arrival, self._max_instance_bytes)


class Reception:
    """One instance on its way in; a context manager that leaves nothing behind on failure."""

    def __init__(
        self, archive: Archive, commit: GroupCommit, arrival: Arrival, max_bytes: int
    ) -> None:
        self._archive = archive
        self._commit = commit
        self._arrival = arrival
        self._max_bytes = max_bytes
        self._failure: OverreadError | None = None
        self._spool: Spool | None = None
        self._meta = b""
        try:
            self._open()
        except OverreadError as error:
            self._fail(error)

    def __enter__(self) -> Self:
        """Return the reception."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what was not archived."""
        self.drop()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the data set.

        A full disk is told at the end, when the sender listens again; the bytes until then are
        let go.

        Raises
        ------
        RefusedInstance
            ``TOO_LARGE`` beyond the limit; a data set without end must not be listened to.
        """
        if self._spool is None:
            return
        if self._spool.size_bytes + len(data) > self._max_bytes:
            self.drop()
            raise RefusedInstance("TOO_LARGE", f"more than {self._max_bytes} bytes")
        try:
            self._spool.write(data)
        except OverreadError as error:
            self._fail(error)

    def finish(self) -> Outcome:
        """Check, keep and register the instance; returns when it cannot be lost any more.

        Raises
        ------
        RefusedInstance
            When the data set cannot be read or is not what was announced.
        OutOfResources
            When disk or database did not take it.
        """
        if self._failure is not None:
            raise self._failure
        assert self._spool is not None
        received = self._received(self._spool)
        registration = self._commit.commit(self._spool, received)
        self.drop()
        return Outcome(
            registration=registration,
            study_instance_uid=received.header.study_instance_uid,
            series_instance_uid=received.header.series_instance_uid,
            sop_class_uid=received.header.sop_class_uid,
            sop_instance_uid=received.header.sop_instance_uid,
            size_bytes=received.file.size_bytes,
        )

    def _open(self) -> None:
        arrival = self._arrival
        for uid in (arrival.sop_class_uid, arrival.sop_instance_uid, arrival.transfer_syntax_uid):
            if not is_uid(uid):
                raise RefusedInstance("INVALID_UID", "an announced UID is missing or invalid")
        self._archive.require_space()
        self._meta = file_meta(
            sop_class_uid=arrival.sop_class_uid,
            sop_instance_uid=arrival.sop_instance_uid,
            transfer_syntax_uid=arrival.transfer_syntax_uid,
        )
        self._spool = self._archive.spool()
        self._spool.write_header(self._meta)

    def _received(self, spool: Spool) -> ReceivedInstance:
        if spool.size_bytes <= len(self._meta):
            raise RefusedInstance("EMPTY_DATA_SET", "there is no data set")
        with mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            if self._arrival.transfer_syntax_uid == _DEFLATED:
                return self._read(spool, _inflated(mapped, len(self._meta)), start=0)
            return self._read(spool, mapped, start=len(self._meta))

    def _read(self, spool: Spool, buffer: Buffer, *, start: int) -> ReceivedInstance:
        arrival = self._arrival
        is_deflated = arrival.transfer_syntax_uid == _DEFLATED
        encoding = Encoding.of(arrival.transfer_syntax_uid)
        elements = walk(buffer, encoding, start=start)
        header, study = read_instance(
            buffer, encoding, elements, transfer_syntax_uid=arrival.transfer_syntax_uid
        )
        meta = self._meta
        if is_deflated:
            header = header.model_copy(
                update={"pixel_data_offset": None, "pixel_data_length": None}
            )
            meta = file_meta(
                sop_class_uid=header.sop_class_uid,
                sop_instance_uid=header.sop_instance_uid,
                transfer_syntax_uid=ExplicitVRLittleEndian,
            )
        self._match(header)
        path = self._archive.place(
            spool,
            study_instance_uid=header.study_instance_uid,
            sop_instance_uid=header.sop_instance_uid,
        )
        return ReceivedInstance(
            header=header,
            study=study,
            file=ArchivedFile(path, spool.sha256, spool.size_bytes),
            header_bytes=header_only(buffer, elements, meta=meta),
            calling_ae_title=arrival.calling_ae_title,
            is_result=is_own_result(header),
        )

    def _match(self, header: InstanceHeader) -> None:
        if header.sop_class_uid != self._arrival.sop_class_uid:
            raise RefusedInstance("SOP_CLASS_MISMATCH", "another class than announced")
        if header.sop_instance_uid != self._arrival.sop_instance_uid:
            raise RefusedInstance("SOP_INSTANCE_MISMATCH", "another instance than announced")
        if self._arrival.study_instance_uid not in {"", header.study_instance_uid}:
            raise RefusedInstance("STUDY_MISMATCH", "another study than announced")

    def _fail(self, error: OverreadError) -> None:
        self.drop()
        self._failure = error

    def drop(self) -> None:
        """Remove what was not archived; may be called again."""
        if self._spool is not None:
            self._spool.discard()
            self._spool = None


def is_own_result(header: InstanceHeader) -> bool:
    """Return whether an instance carries the marks of this product's own results."""
    return header.manufacturer == MANUFACTURER and header.sop_class_uid in RESULT_SOP_CLASSES


def _inflated(mapped: mmap.mmap, start: int) -> bytes:
    """Return the inflated data set, up to a limit that a bomb passes and an instance does not."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflater.decompress(mapped[start:], MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise RefusedInstance("NOT_DEFLATED", "the data set cannot be inflated") from error
    if inflater.unconsumed_tail:
        raise RefusedInstance("TOO_LARGE", f"inflates beyond {MAX_INFLATED_BYTES} bytes")
    return data
