"""A DICOM peer by the byte: messages as they stand on the wire, well-formed or not.

What a library would refuse to send can be sent with these.
"""

import socket
import struct
from types import TracebackType
from typing import Self

from service.intake.contexts import VERIFICATION
from service.intake.pdus import APPLICATION_CONTEXT

ACCEPT, REJECT, DATA, RELEASE_REQUEST, RELEASE_REPLY, ABORT = 2, 3, 4, 5, 6, 7
RELEASE = struct.pack(">BBLL", RELEASE_REQUEST, 0, 4, 0)
ABORTING = struct.pack(">BBLL", ABORT, 0, 4, 0)
CT = "1.2.840.10008.5.1.4.1.1.2"


def item(kind: int, value: bytes) -> bytes:
    """Return an item of a PDU."""
    return struct.pack(">BBH", kind, 0, len(value)) + value


def context(number: int, abstract: str, *transfer: str) -> bytes:
    """Return a proposed presentation context."""
    names = item(0x30, abstract.encode()) + b"".join(item(0x40, t.encode()) for t in transfer)
    return item(0x20, bytes([number, 0, 0, 0]) + names)


def request(
    *contexts: bytes,
    called: str = "OVERREAD",
    calling: str = "MODALITY",
    name: str = APPLICATION_CONTEXT,
    max_pdu: int = 16384,
) -> bytes:
    """Return an A-ASSOCIATE-RQ."""
    titles = (called.ljust(16) + calling.ljust(16)).encode()
    user = item(0x50, item(0x51, struct.pack(">L", max_pdu)) + item(0x52, b"1.2.3"))
    body = struct.pack(">HH", 1, 0) + titles + bytes(32) + item(0x10, name.encode())
    body += b"".join(contexts) + user
    return struct.pack(">BBL", 1, 0, len(body)) + body


def command(field: int, *, data: bool, instance: str = "", sop_class: str = VERIFICATION) -> bytes:
    """Return a command set."""

    def element(number: int, value: bytes) -> bytes:
        return struct.pack("<HHL", 0, number, len(value)) + value

    def even(text: str) -> bytes:
        return (text + "\0" * (len(text) % 2)).encode()

    body = element(0x0002, even(sop_class)) + element(0x0100, struct.pack("<H", field))
    body += element(0x0110, b"\7\0") + element(0x0800, b"\0\0" if data else b"\1\1")
    if instance:
        body += element(0x1000, even(instance))
    return element(0, struct.pack("<L", len(body))) + body


def value(number: int, control: int, data: bytes) -> bytes:
    """Return a presentation data value; control 1 is a command, 2 the last."""
    return struct.pack(">LBB", len(data) + 2, number, control) + data


def pdu(*values: bytes) -> bytes:
    """Return a P-DATA-TF."""
    body = b"".join(values)
    return struct.pack(">BBL", DATA, 0, len(body)) + body


class RawPeer:
    """A connection to a listener, read and written PDU by PDU."""

    def __init__(self, port: int, *, timeout_s: float = 15) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)

    def __enter__(self) -> Self:
        """Return the connected peer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hang up."""
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def receive(self) -> tuple[int, bytes]:
        """Return type and body of the next PDU; type 0 at the end of the connection."""
        head = self._exactly(6)
        if len(head) < 6:
            return 0, b""
        return head[0], self._exactly(struct.unpack(">L", head[2:])[0])

    def associate(
        self,
        *contexts: bytes,
        called: str = "OVERREAD",
        calling: str = "MODALITY",
        name: str = APPLICATION_CONTEXT,
    ) -> tuple[int, bytes]:
        """Request an association; return type and body of the answer."""
        proposed = contexts or (context(1, VERIFICATION, "1.2.840.10008.1.2"),)
        self.send(request(*proposed, called=called, calling=calling, name=name))
        return self.receive()

    def echoes(self) -> bool:
        """Return whether a C-ECHO on context 1 is answered with success."""
        self.send(pdu(value(1, 3, command(0x30, data=False))))
        return self.status() == 0

    def store(self, body: bytes, *, instance: str, sop_class: str = CT) -> int:
        """Send a data set on context 1 and return the status."""
        self.begin_store(instance=instance, sop_class=sop_class)
        for at in range(0, len(body), 1 << 16):
            part = body[at : at + (1 << 16)]
            self.send(pdu(value(1, 2 if at + len(part) == len(body) else 0, part)))
        if not body:
            self.send(pdu(value(1, 2, b"")))
        return self.status()

    def begin_store(self, *, instance: str, sop_class: str = CT) -> None:
        """Announce an instance on context 1."""
        self.send(pdu(value(1, 3, command(1, data=True, instance=instance, sop_class=sop_class))))

    def status(self) -> int:
        """Return the status of the response that comes next."""
        kind, body = self.receive()
        assert kind == DATA, f"PDU type {kind} instead of a response"
        position = 6
        while position < len(body):
            _, number, length = struct.unpack_from("<HHL", body, position)
            if number == 0x0900:
                return int(struct.unpack_from("<H", body, position + 8)[0])
            position += 8 + length
        raise AssertionError("no status")

    def ended(self) -> bool:
        """Return whether the listener aborts or closes; waits for it."""
        try:
            return self.receive()[0] in (ABORT, 0)
        except OSError:
            return True

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                break
            data += part
        return data
