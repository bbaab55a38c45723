"""A small STOW-RS server on loopback that keeps what it is sent and misbehaves on demand."""

import json
import threading
import time
from dataclasses import dataclass
from email.message import EmailMessage
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from types import TracebackType
from typing import Any, Self

from pydicom import dcmread
from pydicom.dataset import FileDataset

from tests.peers.ports import free_port

OUT_OF_RESOURCES = 0xA700  # as Failure Reason, PS3.18 table I.2-2


class Answer(StrEnum):
    """How the server answers a request."""

    STORED = "stored"
    UNAVAILABLE = "unavailable"  # 503
    CONFLICT = "conflict"  # 409: every instance is refused
    PARTIAL = "partial"  # 202: the first instance of the request is refused
    NOT_DICOM_JSON = "not dicom json"  # 200 with a page for people
    SLOW = "slow"  # stores, but answers after `delay_s`
    HANG_UP = "hang up"  # stores, then closes without an answer
    UNAUTHORIZED = "unauthorized"  # 401


@dataclass(frozen=True)
class Posted:
    """One instance that the server kept, with the request's credentials."""

    sop_instance_uid: str
    study_path: str
    authorization: str
    content: bytes

    def read(self) -> FileDataset:
        """Parse the kept file."""
        return dcmread(BytesIO(self.content))


class StowServer:
    """A STOW-RS origin server; everything it kept is in ``received``, oldest first."""

    def __init__(self) -> None:
        self.port = free_port()
        self.requests = 0
        self._lock = threading.Lock()
        self._received: list[Posted] = []
        self._answer = Answer.STORED
        self._times: int | None = None
        self._delay_s = 0.0
        handler = type("Handler", (_Handler,), {"stow": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Return the running server."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The root to which `/studies` is added."""
        return f"http://127.0.0.1:{self.port}/dicom-web"

    @property
    def received(self) -> tuple[Posted, ...]:
        """What was kept, each arrival by itself, oldest first."""
        with self._lock:
            return tuple(self._received)

    def behave(self, answer: Answer, *, times: int | None = None, delay_s: float = 5.0) -> None:
        """Answer the next requests so, for ever or a number of times; then store again."""
        with self._lock:
            self._answer, self._times, self._delay_s = answer, times, delay_s

    def take(self, path: str, authorization: str, parts: list[bytes]) -> tuple[Answer, list[Any]]:
        """Keep what this request's turn allows; return the turn and (UID, kept) of each part."""
        with self._lock:
            self.requests += 1
            turn, delay_s = self._turn(), self._delay_s
            outcomes = []
            for index, content in enumerate(parts):
                dataset = dcmread(BytesIO(content), stop_before_pixels=True)
                kept = _keeps(turn, index)
                outcomes.append((dataset, kept))
                if kept:
                    uid = str(dataset.SOPInstanceUID)
                    self._received.append(Posted(uid, path, authorization, content))
        if turn is Answer.SLOW:
            time.sleep(delay_s)
        return turn, outcomes

    def _turn(self) -> Answer:
        turn = self._answer
        if self._times is not None:
            self._times -= 1
            if self._times <= 0:
                self._answer, self._times = Answer.STORED, None
        return turn


def _keeps(turn: Answer, index: int) -> bool:
    if turn is Answer.PARTIAL:
        return index > 0
    return turn in (Answer.STORED, Answer.SLOW, Answer.HANG_UP, Answer.NOT_DICOM_JSON)


class _Handler(BaseHTTPRequestHandler):
    """Reads one multipart request and answers in the DICOM JSON model (PS3.18 section 10.5)."""

    stow: StowServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = _parts(self.headers["Content-Type"], body)
        authorization = self.headers.get("Authorization", "")
        turn, outcomes = self.stow.take(self.path, authorization, parts)
        if turn is Answer.HANG_UP:
            self.close_connection = True
            return
        status = {
            Answer.UNAVAILABLE: 503,
            Answer.CONFLICT: 409,
            Answer.PARTIAL: 202,
            Answer.UNAUTHORIZED: 401,
        }.get(turn, 200)
        if turn is Answer.NOT_DICOM_JSON:
            self._send(status, "text/html", b"<p>Welcome</p>")
        else:
            answer = json.dumps(_store_instances_response(outcomes)).encode()
            self._send(status, "application/dicom+json", answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _parts(content_type: str, body: bytes) -> list[bytes]:
    """Return the payloads of a multipart/related body (RFC 2387)."""
    message = EmailMessage()
    message["Content-Type"] = content_type
    boundary = message.get_boundary()
    assert message.get_content_type() == "multipart/related", content_type
    assert boundary, content_type
    delimiter = b"\r\n--" + boundary.encode()
    sections = (b"\r\n" + body).split(delimiter)[1:-1]
    return [section.partition(b"\r\n\r\n")[2] for section in sections]


def _store_instances_response(outcomes: list[Any]) -> dict[str, Any]:
    """Return the response's data set: which instances are stored, which are refused."""
    response: dict[str, Any] = {}
    for dataset, kept in outcomes:
        item = {
            "00081150": {"vr": "UI", "Value": [str(dataset.SOPClassUID)]},
            "00081155": {"vr": "UI", "Value": [str(dataset.SOPInstanceUID)]},
        }
        if not kept:
            item["00081197"] = {"vr": "US", "Value": [OUT_OF_RESOURCES]}  # type: ignore[list-item]
        tag = "00081199" if kept else "00081198"  # Referenced, Failed SOP Sequence
        response.setdefault(tag, {"vr": "SQ", "Value": []})["Value"].append(item)
    return response
