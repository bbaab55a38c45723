"""STOW-RS without HTTP: a request's bytes in, instances kept, the response's JSON out.

The HTTP layer opens an `Upload` with the Content-Type of the request, feeds it the body as it
comes (each call may wait for the disk), and sends what `finish` returns.

References
----------
DICOM PS3.18 section 10.5 (store transaction), annex I.1.3 (response module).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from service.core.errors import InvalidRequest, OutOfResources, OverreadError, RefusedInstance
from service.core.logs import get_logger
from service.core.multipart import MultipartReader, PartBegin, PartData, media_type
from service.core.part10 import MAX_META_BYTES, read_file_meta
from service.intake.contexts import STORAGE, transfer_syntaxes
from service.intake.ingest import Arrival, Ingest, Outcome, Reception
from service.intake.statuses import status_of

DICOM: Final = "application/dicom"
# Browsers and simple clients do not know the name of the type.
_PART_TYPES: Final = frozenset({DICOM, "application/octet-stream"})
MAX_INSTANCES: Final = 20_000  # of one request
_TRANSFER_SYNTAX_NOT_SUPPORTED: Final = 0xC122  # PS3.18 table I.2-2

log: Final = get_logger()


@dataclass(frozen=True)
class Failed:
    """An instance of a request that was not kept; UIDs are empty where they were not reached."""

    error: OverreadError
    sop_class_uid: str = ""
    sop_instance_uid: str = ""

    @property
    def failure_reason(self) -> int:
        """Failure Reason (0008,1197)."""
        if self.error.reason == "TRANSFER_SYNTAX_NOT_SUPPORTED":
            return _TRANSFER_SYNTAX_NOT_SUPPORTED
        return status_of(self.error)


@dataclass(frozen=True)
class StowResponse:
    """What the sender is told: HTTP status and the body as ``application/dicom+json``."""

    status_code: int
    body: Mapping[str, Any]
    stored: Sequence[Outcome]
    failed: Sequence[Failed]


class Stow:
    """Takes store requests in; one per process."""

    def __init__(self, ingest: Ingest, *, accept_deflated: bool = False) -> None:
        self.ingest = ingest
        self.transfer_syntaxes = transfer_syntaxes(accept_deflated=accept_deflated)

    def open(
        self, content_type: str, *, sender: str = "", study_instance_uid: str = ""
    ) -> "Upload":
        """Begin a request; `study_instance_uid` is the study that its URL names, if it does.

        Raises
        ------
        InvalidRequest
            ``UNSUPPORTED_MEDIA_TYPE`` (HTTP 415) unless the body is ``application/dicom`` or a
            multipart of it; ``MALFORMED_MULTIPART`` (HTTP 400) for a wrong boundary.
        """
        kind = media_type(content_type)
        upload = Upload(self, sender, study_instance_uid)
        if kind.name == DICOM:
            upload.begin_part()
            return upload
        inner = kind.parameters.get("type", DICOM).lower()
        if kind.name not in {"multipart/related", "multipart/form-data"} or inner != DICOM:
            raise InvalidRequest(
                "UNSUPPORTED_MEDIA_TYPE",
                'allowed: application/dicom, or multipart/related; type="application/dicom"',
            )
        upload.reader = MultipartReader(kind.parameters.get("boundary", ""))
        return upload


class Upload:
    """One store request; a context manager that leaves no half instance behind."""

    def __init__(self, stow: Stow, sender: str, study_instance_uid: str) -> None:
        self.reader: MultipartReader | None = None
        self._stow = stow
        self._sender = sender
        self._study_instance_uid = study_instance_uid
        self._part: _Part | None = None
        self._stored: list[Outcome] = []
        self._failed: list[Failed] = []

    def __enter__(self) -> Self:
        """Return the upload."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of an instance that did not come to its end."""
        if self._part is not None:
            self._part.drop()

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body; instances that they complete are kept at once.

        Raises
        ------
        InvalidRequest
            ``MALFORMED_MULTIPART``, ``TOO_MANY_INSTANCES``: the request is over; what was kept
            before stays.
        """
        if self.reader is None:
            self._write(data)
            return
        for event in self.reader.feed(data):
            if isinstance(event, PartBegin):
                self.begin_part(event.headers.get("content-type", DICOM))
            elif isinstance(event, PartData):
                self._write(event.data)
            else:
                self._end_part()

    def finish(self, retrieve_url: str) -> StowResponse:
        """End the request and return the response; `retrieve_url` is that of the service.

        Raises
        ------
        InvalidRequest
            ``MALFORMED_MULTIPART`` when the body is incomplete, ``NO_INSTANCES`` when it is empty.
        """
        if self.reader is None:
            self._end_part()
        else:
            self.reader.finish()
        if not self._stored and not self._failed:
            raise InvalidRequest("NO_INSTANCES", "the request holds no instance")
        return StowResponse(
            status_code=self._status_code(),
            body=_response(self._stored, self._failed, retrieve_url.rstrip("/")),
            stored=tuple(self._stored),
            failed=tuple(self._failed),
        )

    def begin_part(self, content_type: str = DICOM) -> None:
        """Begin an instance."""
        if len(self._stored) + len(self._failed) >= MAX_INSTANCES:
            raise InvalidRequest("TOO_MANY_INSTANCES", f"allowed: {MAX_INSTANCES} in one request")
        self._part = _Part(self._stow, self._sender, self._study_instance_uid)
        if media_type(content_type).name not in _PART_TYPES:
            self._part.refuse(
                RefusedInstance("NOT_A_DICOM_FILE", f"a part is {content_type}, not {DICOM}")
            )

    def _write(self, data: bytes) -> None:
        if self._part is not None:
            self._part.write(data)

    def _end_part(self) -> None:
        if self._part is None:
            return
        ended = self._part.finish()
        self._part = None
        if isinstance(ended, Failed):
            self._failed.append(ended)
            log.warning(
                "instance_refused",
                reason=ended.error.reason,
                detail=ended.error.message,
                sop_instance_uid=ended.sop_instance_uid,
            )
        else:
            self._stored.append(ended)

    def _status_code(self) -> int:
        if not self._failed:
            return 200
        if self._stored:
            return 202
        lacking = all(isinstance(failed.error, OutOfResources) for failed in self._failed)
        return 503 if lacking else 409


class _Part:
    """One instance of a request: first its file header, then its data set."""

    def __init__(self, stow: Stow, sender: str, study_instance_uid: str) -> None:
        self._stow = stow
        self._sender = sender
        self._study_instance_uid = study_instance_uid
        self._head = bytearray()
        self._arrival: Arrival | None = None
        self._reception: Reception | None = None
        self._error: OverreadError | None = None

    def refuse(self, error: OverreadError) -> None:
        """Remember why the instance is not kept, and let go of it; the first reason stays."""
        self._error = self._error or error
        self.drop()

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._error is not None:
            return
        try:
            if self._reception is not None:
                self._reception.write(data)
                return
            self._head += data
            self._begin()
        except OverreadError as error:
            self.refuse(error)

    def finish(self) -> Outcome | Failed:
        """End the instance: kept, or the reason why not."""
        try:
            if self._error is None and self._reception is not None:
                return self._reception.finish()
        except OverreadError as error:
            self.refuse(error)
        finally:
            self.drop()
        reason = self._error or RefusedInstance("NOT_A_DICOM_FILE", "the part ends in its header")
        if self._arrival is None:
            return Failed(reason)
        return Failed(reason, self._arrival.sop_class_uid, self._arrival.sop_instance_uid)

    def drop(self) -> None:
        """Remove what was written but not kept."""
        if self._reception is not None:
            self._reception.drop()

    def _begin(self) -> None:
        meta = read_file_meta(self._head)
        if meta is None:
            if len(self._head) > MAX_META_BYTES:
                raise RefusedInstance("NOT_A_DICOM_FILE", "the file header is too long")
            return
        self._arrival = Arrival(
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=meta.sop_instance_uid,
            transfer_syntax_uid=meta.transfer_syntax_uid,
            calling_ae_title=self._sender,
            study_instance_uid=self._study_instance_uid,
        )
        if meta.sop_class_uid not in STORAGE:
            raise RefusedInstance("SOP_CLASS_NOT_SUPPORTED", "not a storage SOP class")
        if meta.transfer_syntax_uid not in self._stow.transfer_syntaxes:
            raise RefusedInstance("TRANSFER_SYNTAX_NOT_SUPPORTED", "not an accepted syntax")
        self._reception = self._stow.ingest.begin(self._arrival)
        self._reception.write(memoryview(self._head)[meta.length :])
        self._head = bytearray()


def _response(
    stored: Sequence[Outcome], failed: Sequence[Failed], retrieve_url: str
) -> dict[str, Any]:
    """Return the response's data set in the DICOM JSON model (PS3.18 annex F)."""
    body: dict[str, Any] = {}
    uids = {outcome.study_instance_uid for outcome in stored}
    if len(uids) == 1:
        body["00081190"] = _one("UR", f"{retrieve_url}/studies/{uids.pop()}")
    if stored:
        body["00081199"] = {"vr": "SQ", "Value": [_stored(each, retrieve_url) for each in stored]}
    known = [each for each in failed if each.sop_instance_uid]
    if known:
        body["00081198"] = {"vr": "SQ", "Value": [_failed(each) for each in known]}
    unknown = [each for each in failed if not each.sop_instance_uid]
    if unknown:  # Other Failures Sequence: nothing says which instance it was
        items = [{"00081197": _one("US", each.failure_reason)} for each in unknown]
        body["0008119A"] = {"vr": "SQ", "Value": items}
    return body


def _stored(outcome: Outcome, retrieve_url: str) -> dict[str, Any]:
    place = (
        f"{retrieve_url}/studies/{outcome.study_instance_uid}"
        f"/series/{outcome.series_instance_uid}/instances/{outcome.sop_instance_uid}"
    )
    return {
        "00081150": _one("UI", outcome.sop_class_uid),
        "00081155": _one("UI", outcome.sop_instance_uid),
        "00081190": _one("UR", place),
    }


def _failed(failed: Failed) -> dict[str, Any]:
    return {
        "00081150": _one("UI", failed.sop_class_uid),
        "00081155": _one("UI", failed.sop_instance_uid),
        "00081197": _one("US", failed.failure_reason),
    }


def _one(vr: str, value: str | int) -> dict[str, Any]:
    return {"vr": vr, "Value": [value]}
