"""Earlier studies by QIDO-RS and WADO-RS (PS3.18 10.6, 10.4); what comes goes to our own listener.

An instance that was fetched is sent to our C-STORE listener like any other, so that there is one
way in with one set of checks.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import httpx
from pydicom.dataset import Dataset

from service.core.errors import ContractViolation, InvalidRequest, PeerRefused, PeerUnavailable
from service.core.multipart import MultipartReader, PartBegin, PartData, PartEnd, media_type
from service.core.part10 import read_file_meta
from service.core.priors import PatientIdentity, StudySummary
from service.core.settings import Destination, PriorsSettings, PriorsSource
from workers.delivery import dimse
from workers.priors.source import SERIES_KEYS, STUDY_KEYS, FoundSeries, series_of, study_of

_CONNECT_TIMEOUT_S: Final = 5.0
_MOST_ANSWERS: Final = 500
_MOST_JSON_BYTES: Final = 16 << 20
_HEAD_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class DicomwebSource:
    """A PACS spoken to by DICOMweb, and our own listener."""

    peer: PriorsSource
    settings: PriorsSettings
    listener: Destination
    our_ae_title: str

    def studies_of(self, patient: PatientIdentity) -> Sequence[StudySummary]:
        """Ask for the patient's studies by QIDO-RS."""
        query = {"PatientID": patient.patient_id}
        return [study_of(answer, patient) for answer in self._search("/studies", query, STUDY_KEYS)]

    def series_of(self, study_instance_uid: str) -> Sequence[FoundSeries]:
        """Ask for a study's series by QIDO-RS."""
        found = self._search(f"/studies/{study_instance_uid}/series", {}, SERIES_KEYS)
        return [series_of(answer, study_instance_uid) for answer in found]

    def fetch(self, series: FoundSeries, *, max_bytes: int) -> None:
        """Fetch a series by WADO-RS and pass its instances on to our listener one by one.

        Raises
        ------
        PeerUnavailable, PeerRefused
            ``CONNECT``, ``HTTP_nnn``; ``MALFORMED_MULTIPART``; ``SIZE_LIMIT`` beyond `max_bytes`.
        """
        path = f"/studies/{series.study_instance_uid}/series/{series.series_instance_uid}"
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        with (
            tempfile.TemporaryDirectory(prefix="overread-prior-") as folder,
            self._client() as web,
            _translated(),
            web.stream("GET", self._url(path), headers={"Accept": accept}) as answer,
        ):
            _judge(answer)
            boundary = media_type(answer.headers.get("content-type", "")).parameters.get("boundary")
            if boundary is None:
                raise PeerRefused("MALFORMED_MULTIPART", "the PACS sent no multipart answer")
            pieces = answer.iter_bytes(1 << 20)
            for file in _parts(pieces, boundary, Path(folder), max_bytes):
                self._pass_on(file)

    def _pass_on(self, file: Path) -> None:
        with file.open("rb") as opened:
            meta = read_file_meta(opened.read(_HEAD_BYTES))
        if meta is None:
            raise PeerRefused("NOT_DICOM", "the PACS sent a part that is no DICOM file")
        dimse.send(
            self.listener,
            calling_ae_title=self.our_ae_title,
            file=file,
            sop_class_uid=meta.sop_class_uid,
            transfer_syntax_uid=meta.transfer_syntax_uid,
        )

    def _search(
        self, path: str, query: Mapping[str, str], keys: Sequence[str]
    ) -> Iterator[Dataset]:
        asked: list[tuple[str, str | int | float | bool | None]] = [
            *query.items(),
            ("limit", _MOST_ANSWERS),
        ]
        asked += [("includefield", key) for key in keys]
        with self._client() as web, _translated():
            answer = web.get(
                self._url(path), params=asked, headers={"Accept": "application/dicom+json"}
            )
        if answer.status_code == httpx.codes.NO_CONTENT:
            return
        _judge(answer)
        if len(answer.content) > _MOST_JSON_BYTES:
            raise PeerRefused("SIZE_LIMIT", "the PACS answered a search with too much")
        try:
            found = [Dataset.from_json(one) for one in answer.json()]
        except Exception as error:
            raise PeerRefused("NO_DICOM_JSON", "the PACS answered without DICOM JSON") from error
        yield from found

    def _client(self) -> httpx.Client:
        peer = self.peer
        headers: dict[str, str] = {}
        auth = None
        if peer.bearer_token is not None:
            headers["Authorization"] = f"Bearer {peer.bearer_token.get_secret_value()}"
        elif peer.username is not None and peer.password is not None:
            auth = httpx.BasicAuth(peer.username, peer.password.get_secret_value())
        timeout = httpx.Timeout(self.settings.timeout_s, connect=_CONNECT_TIMEOUT_S)
        # Redirects are not followed: credentials must not travel to an address nobody configured.
        return httpx.Client(timeout=timeout, follow_redirects=False, headers=headers, auth=auth)

    def _url(self, path: str) -> str:
        if self.peer.dicomweb_url is None:
            raise ContractViolation("PRIORS_SOURCE", "priors.source has no dicomweb_url")
        return self.peer.dicomweb_url.rstrip("/") + path


def _parts(pieces: Iterator[bytes], boundary: str, folder: Path, max_bytes: int) -> Iterator[Path]:
    """Yield each part as a file that is gone when the next one is asked for."""
    reader, path, taken = MultipartReader(boundary), folder / "instance.dcm", 0
    file: BinaryIO | None = None
    try:
        for piece in pieces:
            taken += len(piece)
            if taken > max_bytes:
                raise PeerRefused("SIZE_LIMIT", f"the series has more than {max_bytes} bytes")
            for event in reader.feed(piece):
                if isinstance(event, PartBegin):
                    file = path.open("wb")
                elif isinstance(event, PartData) and file is not None:
                    file.write(event.data)
                elif isinstance(event, PartEnd) and file is not None:
                    file.close()
                    yield path
        reader.finish()
    except InvalidRequest as error:
        raise PeerUnavailable("MALFORMED_MULTIPART", error.message) from error
    finally:
        if file is not None:
            file.close()


def _judge(answer: httpx.Response) -> None:
    status = answer.status_code
    if status >= httpx.codes.INTERNAL_SERVER_ERROR or status in (408, 425, 429):
        raise PeerUnavailable(f"HTTP_{status}", f"the PACS for priors answered HTTP {status}")
    if status != httpx.codes.OK:
        raise PeerRefused(f"HTTP_{status}", f"the PACS for priors answered HTTP {status}")


@contextmanager
def _translated() -> Iterator[Any]:
    try:
        yield
    except httpx.HTTPError as error:
        raise PeerUnavailable("CONNECT", f"the PACS for priors: {type(error).__name__}") from error
