"""Earlier studies by C-FIND and C-MOVE (PS3.4 annex C, Study Root); what moves comes as C-STORE."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association

from service.core.errors import ContractViolation, PeerRefused, PeerUnavailable
from service.core.identifiers import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from service.core.priors import PatientIdentity, StudySummary
from service.core.settings import PriorsSettings, PriorsSource
from workers.delivery.dimse import tls_of
from workers.priors.source import SERIES_KEYS, STUDY_KEYS, FoundSeries, series_of, study_of

STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
_CONNECT_TIMEOUT_S: Final = 5.0
_PENDING: Final = (0xFF00, 0xFF01)
_SUCCESS: Final = 0x0000
_MOVE_DESTINATION_UNKNOWN: Final = 0xA801
_MOST_ANSWERS: Final = 500
# A PACS need not say anything while it sends a series (PS3.4 C.4.2.2.2): it gets longer for that.
_MOVE_PATIENCE: Final = 4


@dataclass(frozen=True)
class DimseSource:
    """A PACS spoken to by DIMSE; it must know our AE title and where we listen."""

    peer: PriorsSource
    settings: PriorsSettings
    our_ae_title: str

    def studies_of(self, patient: PatientIdentity) -> Sequence[StudySummary]:
        """Ask for the patient's studies by C-FIND."""
        query = _keys("STUDY", STUDY_KEYS)
        query.PatientID = patient.patient_id
        # The issuer is asked back and judged here: many archives do not match on it.
        return [study_of(answer, patient) for answer in self._find(query)]

    def series_of(self, study_instance_uid: str) -> Sequence[FoundSeries]:
        """Ask for a study's series by C-FIND."""
        query = _keys("SERIES", SERIES_KEYS)
        query.StudyInstanceUID = study_instance_uid
        return [series_of(answer, study_instance_uid) for answer in self._find(query)]

    def fetch(self, series: FoundSeries, *, max_bytes: int) -> None:
        """Have a series sent to us by C-MOVE; `max_bytes` is the caller's to watch.

        Raises
        ------
        PeerUnavailable, PeerRefused
            ``CONNECT``, ``NO_ANSWER``, ``MOVE_FAILED``; ``MOVE_DESTINATION`` when the PACS does
            not know where we listen.
        """
        del max_bytes  # the PACS sends what it sends; series are chosen by their size
        query = _keys("SERIES", ())
        query.StudyInstanceUID = series.study_instance_uid
        query.SeriesInstanceUID = series.series_instance_uid
        limit_s = _MOVE_PATIENCE * self.settings.timeout_s
        with self._associated(STUDY_ROOT_MOVE, limit_s=limit_s) as association:
            last = None
            for status, _ in association.send_c_move(query, self.our_ae_title, STUDY_ROOT_MOVE):
                last = getattr(status, "Status", None)
            _judge_move(last)

    def _find(self, query: Dataset) -> Iterator[Dataset]:
        with self._associated(STUDY_ROOT_FIND) as association:
            count = 0
            for status, answer in association.send_c_find(query, STUDY_ROOT_FIND):
                code = getattr(status, "Status", None)
                if code is None:
                    raise PeerUnavailable("NO_ANSWER", "the PACS did not answer C-FIND in time")
                if code in _PENDING and answer is not None and count < _MOST_ANSWERS:
                    count += 1
                    yield answer
                elif code not in (*_PENDING, _SUCCESS):
                    raise PeerUnavailable("FIND_FAILED", f"C-FIND status 0x{code:04X}")

    @contextmanager
    def _associated(
        self, sop_class_uid: str, *, limit_s: float | None = None
    ) -> Iterator[Association]:
        peer = self.peer
        if peer.host is None or peer.port is None or peer.ae_title is None:
            raise ContractViolation("PRIORS_SOURCE", "priors.source has no DICOM address")
        entity = AE(self.our_ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.connection_timeout = _CONNECT_TIMEOUT_S
        entity.acse_timeout = self.settings.timeout_s
        entity.dimse_timeout = entity.network_timeout = limit_s or self.settings.timeout_s
        entity.add_requested_context(sop_class_uid)
        association = entity.associate(
            peer.host, peer.port, ae_title=peer.ae_title, tls_args=tls_of(peer.tls, peer.host)
        )
        try:
            if not association.is_established:
                raise PeerUnavailable("CONNECT", "the PACS for priors took no association")
            if not association.accepted_contexts:
                raise PeerRefused("NO_CONTEXT", "the PACS for priors does not offer this query")
            yield association
        except (ValueError, RuntimeError) as error:
            raise PeerUnavailable("NO_ANSWER", f"the PACS for priors: {error}") from error
        finally:
            if association.is_established:
                association.release()


def _keys(level: str, keywords: Sequence[str]) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword in keywords:
        setattr(query, keyword, None)
    return query


def _judge_move(status: int | None) -> None:
    """Raise unless the move succeeded; a warning (0xB000) left some instances behind.

    References
    ----------
    DICOM PS3.4 table C.4-2.
    """
    if status is None:
        raise PeerUnavailable("NO_ANSWER", "the PACS did not answer C-MOVE in time")
    if status == _MOVE_DESTINATION_UNKNOWN:
        raise PeerRefused("MOVE_DESTINATION", "the PACS does not know our AE title to move to")
    if status != _SUCCESS and status >> 12 != 0xB:
        raise PeerUnavailable("MOVE_FAILED", f"C-MOVE status 0x{status:04X}")
