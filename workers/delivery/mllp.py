"""Send one report as an HL7 message by MLLP and say what the acknowledgement means.

References
----------
HL7 v2.5.1 implementation support guide, appendix C.4 (minimal lower layer protocol).
"""

import socket
import ssl
from datetime import datetime
from typing import Final

from service.core.errors import ContractViolation, PeerRefused, PeerUnavailable
from service.core.settings import Destination, DicomTls
from service.records.report_content import ReportContent
from workers.delivery import hl7_message
from workers.delivery.sockets import client_context, connected

_CONNECT_TIMEOUT_S: Final = 5.0
_ANSWER_TIMEOUT_S: Final = 30.0
_ANSWER_LIMIT_BYTES: Final = 1 << 20
_START, _END = b"\x0b", b"\x1c\r"
_ACCEPTED: Final = frozenset({"AA", "CA"})
_FAILED: Final = frozenset({"AE", "CE"})
_REJECTED: Final = frozenset({"AR", "CR"})


def send(destination: Destination, content: ReportContent, *, at: datetime) -> None:
    """Send the message; return when it was acknowledged with AA.

    Raises
    ------
    PeerUnavailable
        ``CONNECT``, ``NO_ANSWER``, ``ACK_AE`` (the receiver failed at it): to be tried again.
    PeerRefused
        ``ACK_AR`` (the receiver does not take such messages): a repeat will not help.
    """
    text = hl7_message.message(content, destination, at=at)
    answer = _exchange(destination, _START + text.encode() + _END)
    _judge(answer, hl7_message.control_id(content), destination.name)


def reach(destination: Destination) -> None:
    """Open and close a connection; raise as `send` does when there is none."""
    with _connected(destination):
        pass


def _exchange(destination: Destination, frame: bytes) -> str:
    with _connected(destination) as connection:
        try:
            connection.sendall(frame)
            received = b""
            while _END not in received:
                piece = connection.recv(65536)
                received += piece
                if not piece or len(received) > _ANSWER_LIMIT_BYTES:
                    raise PeerUnavailable("NO_ANSWER", f"{destination.name} did not acknowledge")
        except OSError as error:
            raise PeerUnavailable(
                "NO_ANSWER", f"{destination.name}: {type(error).__name__}"
            ) from error
    return received.partition(_START)[2].partition(_END)[0].decode("utf-8", "replace")


def _connected(destination: Destination) -> socket.socket:
    if destination.mllp_host is None or destination.port is None:
        raise ContractViolation("DESTINATION", f"{destination.name} has no MLLP address")
    try:
        connection = connected(
            destination.mllp_host,
            destination.port,
            context=_tls(destination.tls),
            timeout_s=_CONNECT_TIMEOUT_S,
        )
    except OSError as error:
        raise PeerUnavailable("CONNECT", f"{destination.name}: {type(error).__name__}") from error
    connection.settimeout(_ANSWER_TIMEOUT_S)
    return connection


def _judge(answer: str, sent_id: str, name: str) -> None:
    """Turn an acknowledgement into success, an error to repeat, or one for a person."""
    try:
        code, answered_id, _ = hl7_message.acknowledgement(answer)
    except ValueError as error:
        raise PeerUnavailable("NO_ANSWER", f"{name} answered without acknowledgement") from error
    if answered_id != sent_id:
        raise PeerUnavailable("NO_ANSWER", f"{name} acknowledged another message")
    if code in _ACCEPTED:
        return
    if code in _FAILED:
        raise PeerUnavailable("ACK_AE", f"{name} answered {code}: it failed at the message")
    if code in _REJECTED:
        raise PeerRefused("ACK_AR", f"{name} answered {code}: it does not take the message")
    raise PeerUnavailable("NO_ANSWER", f"{name} answered with an unknown acknowledgement")


def _tls(tls: DicomTls) -> ssl.SSLContext | None:
    if not tls.enabled:
        return None
    return client_context(ca=tls.ca, certificate=tls.certificate, key=tls.key)
