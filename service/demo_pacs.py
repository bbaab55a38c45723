"""A small application entity that plays the PACS in the demo: it takes results and checks them."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydicom.dataset import Dataset
from pydicom.uid import UID, ComprehensiveSRStorage, SegmentationStorage
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.transport import ThreadedAssociationServer

SR_CLASSES = frozenset(
    {
        ComprehensiveSRStorage,
        UID("1.2.840.10008.5.1.4.1.1.88.34"),
        UID("1.2.840.10008.5.1.4.1.1.88.22"),
    }
)
_SUCCESS = 0x0000
_CANNOT_UNDERSTAND = 0xC000


@dataclass
class DemoPacs:
    """Receives on loopback; ``received`` holds the results by study."""

    ae_title: str
    port: int
    received: dict[str, list[Dataset]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _server: ThreadedAssociationServer | None = None

    def start(self) -> None:
        """Listen in threads of its own."""
        entity = AE(self.ae_title)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(str(context.abstract_syntax), "1.2.840.10008.1.2.1")
        entity.add_supported_context("1.2.840.10008.1.1")
        self._server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()

    def results(self, study_instance_uid: str) -> tuple[list[Dataset], list[Dataset]]:
        """Return the SR and SEG objects received for a study."""
        with self._lock:
            held = list(self.received.get(study_instance_uid, []))
        reports = [item for item in held if item.SOPClassUID in SR_CLASSES]
        return reports, [item for item in held if item.SOPClassUID == SegmentationStorage]

    def _store(self, event: Event) -> int:
        dataset = event.dataset
        uid = str(dataset.get("StudyInstanceUID", ""))
        if not uid or not dataset.get("SOPInstanceUID"):
            return _CANNOT_UNDERSTAND
        with self._lock:
            held = self.received.setdefault(uid, [])
            if all(item.SOPInstanceUID != dataset.SOPInstanceUID for item in held):
                held.append(dataset)
        return _SUCCESS


def faults(result: Dataset, sent_uids: Iterable[str]) -> list[str]:
    """Return what is wrong with a result that came back; nothing when it is as it should be."""
    sent = set(sent_uids)
    found = []
    if result.SOPClassUID == SegmentationStorage:
        series = result.get("ReferencedSeriesSequence") or []
        evidence = {
            item.ReferencedSOPInstanceUID
            for entry in series
            for item in entry.get("ReferencedInstanceSequence") or []
        }
        if not any(result.PixelData):
            found.append("the SEG marks no pixel")
    else:
        evidence = {
            item.ReferencedSOPInstanceUID
            for study in result.get("CurrentRequestedProcedureEvidenceSequence") or []
            for entry in study.ReferencedSeriesSequence
            for item in entry.ReferencedSOPSequence
        }
        if result.get("CompletionFlag") != "COMPLETE":
            found.append("the SR is not complete")
    if not evidence & sent:
        found.append(f"{result.SOPInstanceUID} names none of the images sent as its evidence")
    return found
