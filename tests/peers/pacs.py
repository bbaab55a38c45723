"""A small archive on loopback that keeps what it is sent and misbehaves on demand."""

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from pynetdicom import AE, StoragePresentationContexts, build_context, build_role, evt
from pynetdicom._globals import DEFAULT_TRANSFER_SYNTAXES
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    Verification,
)

from tests.peers.ports import free_port
from tests.peers.process import wait_for

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700  # PS3.4 table B.2-1
CANNOT_UNDERSTAND = 0xC000
NO_SUCH_INSTANCE = 0x0112
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"

_TRANSFER_SYNTAXES = [*DEFAULT_TRANSFER_SYNTAXES, JPEG2000Lossless, JPEGLSLossless, RLELossless]


class Behaviour(StrEnum):
    """What the archive does with a C-STORE request or an association."""

    ACCEPT = "accept"
    REFUSE_ASSOCIATION = "refuse association"
    ABORT = "abort"  # ends the association before the instance is kept
    LOSE_ACK = "lose ack"  # keeps the instance, then ends the association without an answer
    SLOW = "slow"  # answers after `delay_s`
    OUT_OF_RESOURCES = "out of resources"
    CANNOT_UNDERSTAND = "cannot understand"
    ANSWER_STATUS = "answer status"  # refuses with the status that `behave` was given


class Commits(StrEnum):
    """What the archive says when it is asked to commit to instances (PS3.4 annex J)."""

    KEPT = "kept"  # on an association of its own to the requestor's listener
    LOST = "lost"  # the same, but it has none of them
    SILENT = "silent"  # takes the question and never reports


@dataclass(frozen=True)
class Received:
    """One instance that the archive kept, as it arrived."""

    sop_class_uid: str
    sop_instance_uid: str
    calling_ae_title: str
    path: Path
    received_at_s: float

    def read(self) -> FileDataset:
        """Parse the kept file."""
        return dcmread(self.path)


class PlayingPacs:
    """A C-STORE and C-ECHO SCP; everything it kept is in ``received``, oldest first.

    ``behave`` decides about the requests that follow. ``stop`` and ``start`` take it away and
    bring it back on the same port. No SOP class in ``refuses`` is negotiated.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        ae_title: str = "PLAYINGPACS",
        refuses: Collection[str] = (),
    ) -> None:
        self.port = port or free_port()
        self._refuses = frozenset(refuses)
        self.ae_title = ae_title
        self.requests = 0
        self._folder = folder
        self._lock = threading.Lock()
        self._received: list[Received] = []
        self._behaviour = Behaviour.ACCEPT
        self._times: int | None = None
        self._delay_s = 0.0
        self._status = SUCCESS
        self.commits = Commits.KEPT
        self.reports_to: tuple[str, int] = ("OVERREAD", 0)  # AE title and port of the requestor
        self.questions: list[str] = []  # transactions that were asked, oldest first
        folder.mkdir(parents=True, exist_ok=True)
        self.start()

    def __enter__(self) -> Self:
        """Return the running archive."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening."""
        self.stop()

    def start(self) -> None:
        """Listen on the archive's port."""
        entity = AE(ae_title=self.ae_title)
        entity.maximum_pdu_size = 131_072
        entity.add_supported_context(Verification)
        for context in StoragePresentationContexts:
            if str(context.abstract_syntax) not in self._refuses:
                entity.add_supported_context(str(context.abstract_syntax), _TRANSFER_SYNTAXES)
        entity.add_supported_context(StorageCommitmentPushModel)
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_REQUESTED, self._associate),
            (evt.EVT_N_ACTION, self._commit),
        ]
        address = ("127.0.0.1", self.port)
        server = entity.start_server(address, block=False, evt_handlers=handlers)
        assert server is not None
        self._server = server

    def stop(self) -> None:
        """Close the port and every association."""
        self._server.shutdown()

    def behave(
        self,
        behaviour: Behaviour,
        *,
        times: int | None = None,
        delay_s: float = 5.0,
        status: int = CANNOT_UNDERSTAND,
    ) -> None:
        """Treat the next requests so, for ever or a number of times; then accept again."""
        with self._lock:
            self._behaviour, self._times, self._delay_s = behaviour, times, delay_s
            self._status = status

    @property
    def received(self) -> tuple[Received, ...]:
        """What was kept, each arrival by itself, oldest first."""
        with self._lock:
            return tuple(self._received)

    def of_class(self, sop_class_uid: str) -> list[Received]:
        """Return what was kept of one SOP class."""
        return [item for item in self.received if item.sop_class_uid == sop_class_uid]

    def wait_for_instances(self, count: int, *, limit_s: float = 60) -> tuple[Received, ...]:
        """Return what was kept as soon as it has that many different instances."""
        wait_for(
            lambda: len({item.sop_instance_uid for item in self.received}) >= count,
            limit_s=limit_s,
        )
        return self.received

    def _turn(self, *, association: bool) -> Behaviour:
        """Return the behaviour for this request and count it down."""
        with self._lock:
            wanted = self._behaviour
            if (wanted is Behaviour.REFUSE_ASSOCIATION) != association:
                return Behaviour.ACCEPT
            if self._times is not None and wanted is not Behaviour.ACCEPT:
                self._times -= 1
                if self._times <= 0:
                    self._behaviour, self._times = Behaviour.ACCEPT, None
            return wanted

    def _associate(self, event: evt.Event) -> None:
        if self._turn(association=True) is Behaviour.REFUSE_ASSOCIATION:
            # 2, 3, 2: transient, by the presentation layer, local limit exceeded (PS3.8 9.3.4)
            event.assoc.acse.send_reject(0x02, 0x03, 0x02)
            event.assoc.kill()

    def _store(self, event: evt.Event) -> int:
        self.requests += 1
        behaviour = self._turn(association=False)
        if behaviour is Behaviour.OUT_OF_RESOURCES:
            return OUT_OF_RESOURCES
        if behaviour is Behaviour.CANNOT_UNDERSTAND:
            return CANNOT_UNDERSTAND
        if behaviour is Behaviour.ANSWER_STATUS:
            return self._status
        if behaviour is Behaviour.SLOW:
            time.sleep(self._delay_s)
        if behaviour is not Behaviour.ABORT:
            self._keep(event)
        if behaviour in (Behaviour.ABORT, Behaviour.LOSE_ACK):
            event.assoc.abort()
        return SUCCESS

    def _commit(self, event: evt.Event) -> tuple[int, None]:
        information = event.action_information
        self.questions.append(str(information.TransactionUID))
        if self.commits is not Commits.SILENT:
            threading.Thread(target=self._report, args=(information,), daemon=True).start()
        return SUCCESS, None

    def _report(self, information: Dataset) -> None:
        """Send the N-EVENT-REPORT as provider on an association that the archive opens."""
        report = Dataset()
        report.TransactionUID = information.TransactionUID
        references = list(information.ReferencedSOPSequence)
        if self.commits is Commits.KEPT:
            report.ReferencedSOPSequence = references
        else:
            for item in references:
                item.FailureReason = NO_SUCH_INSTANCE
            report.FailedSOPSequence = references
        ae_title, port = self.reports_to
        entity = AE(self.ae_title)
        association = entity.associate(
            "127.0.0.1",
            port,
            contexts=[build_context(StorageCommitmentPushModel)],
            ae_title=ae_title,
            ext_neg=[build_role(StorageCommitmentPushModel, scp_role=True)],
        )
        if association.is_established:
            event_type = 1 if self.commits is Commits.KEPT else 2
            association.send_n_event_report(
                report, event_type, StorageCommitmentPushModel, COMMITMENT_INSTANCE
            )
            association.release()

    def _keep(self, event: evt.Event) -> None:
        request = event.request
        assert isinstance(request, C_STORE)
        uid = str(request.AffectedSOPInstanceUID)
        with self._lock:
            path = self._folder / f"{len(self._received):05d}-{uid}.dcm"
            path.write_bytes(event.encoded_dataset(include_meta=True))
            self._received.append(
                Received(
                    sop_class_uid=str(request.AffectedSOPClassUID),
                    sop_instance_uid=uid,
                    calling_ae_title=event.assoc.requestor.ae_title.strip(),
                    path=path,
                    received_at_s=time.monotonic(),
                )
            )
