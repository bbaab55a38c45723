"""C-STORE senders that cost next to nothing: everything is encoded before the clock starts.

One process an association. Each associates, encodes its instances for the PDU length that the
receiver takes, waits for the start, then sends and reads one answer after the other.
"""

import multiprocessing
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

_CONTEXT_ID = 1
_OUR_LARGEST_PDU = 1 << 20


@dataclass(frozen=True)
class Message:
    """One instance as it is sent: an explicit VR little endian data set and its identity."""

    sop_class_uid: str
    sop_instance_uid: str
    data_set: Sequence[bytes]  # parts, so that many messages may share the same pixels


class Refused(Exception):
    """A receiver did not answer as it should."""


def send(
    messages: Sequence[Message], *, associations: int, port: int, called_ae_title: str
) -> float:
    """Send the messages spread over associations; return the seconds from first to last byte.

    Raises
    ------
    Refused
        When any instance was not answered with success.
    """
    context = multiprocessing.get_context("fork")  # the messages are shared, not copied
    shares = [messages[number::associations] for number in range(associations)]
    pipes, children = [], []
    for share in shares:
        ours, theirs = context.Pipe()
        child = context.Process(target=_send_share, args=(share, port, called_ae_title, theirs))
        child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    for pipe in pipes:
        pipe.recv()
    started = time.monotonic()
    for pipe in pipes:
        pipe.send(True)
    try:
        ended = max(float(pipe.recv()) for pipe in pipes)
    except EOFError:
        raise Refused("a sender ended early") from None
    for child in children:
        child.join()
    return ended - started


def _send_share(share: Sequence[Message], port: int, called: str, pipe: Connection) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(_association_request(called, share[0].sop_class_uid))
        largest = _largest_pdu(_pdu(connection, 2))
        encoded = [_request(number, message, largest) for number, message in enumerate(share)]
        pipe.send(True)
        pipe.recv()
        for request in encoded:
            connection.sendall(request)
            # An answer in two parts would wait for our delayed acknowledgement of the first.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            answer = _pdu(connection, 4)
            if _status(answer) != 0:
                raise Refused(f"status {_status(answer):04x}")
        ended = time.monotonic()
        connection.sendall(struct.pack(">BBLL", 5, 0, 4, 0))
        _pdu(connection, 6)
        pipe.send(ended)


def _association_request(called: str, sop_class_uid: str) -> bytes:
    syntaxes = _item(0x30, sop_class_uid.encode()) + _item(0x40, b"1.2.840.10008.1.2.1")
    user = _item(0x51, struct.pack(">L", _OUR_LARGEST_PDU)) + _item(0x52, b"2.25.1")
    body = (
        struct.pack(">HH", 1, 0)
        + called.ljust(16).encode()
        + b"BENCHMARK".ljust(16)
        + bytes(32)
        + _item(0x10, b"1.2.840.10008.3.1.1.1")
        + _item(0x20, bytes((_CONTEXT_ID, 0, 0, 0)) + syntaxes)
        + _item(0x50, user)
    )
    return struct.pack(">BBL", 1, 0, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def _largest_pdu(accept: bytes) -> int:
    at = accept.rindex(b"\x51\0\0\4")
    return struct.unpack_from(">L", accept, at + 4)[0] or _OUR_LARGEST_PDU


def _request(number: int, message: Message, largest: int) -> bytes:
    body = b"".join(
        (
            _element(0x0002, _even(message.sop_class_uid)),
            _element(0x0100, struct.pack("<H", 1)),
            _element(0x0110, struct.pack("<H", number & 0xFFFF)),
            _element(0x0700, struct.pack("<H", 0)),
            _element(0x0800, struct.pack("<H", 0)),
            _element(0x1000, _even(message.sop_instance_uid)),
        )
    )
    command = _element(0x0000, struct.pack("<L", len(body))) + body
    data_set = b"".join(message.data_set)
    room = min(largest, _OUR_LARGEST_PDU) - 6
    parts = [_fragment(command, 3)]
    for start in range(0, len(data_set), room):
        is_last = start + room >= len(data_set)
        parts.append(_fragment(data_set[start : start + room], 2 if is_last else 0))
    return b"".join(parts)


def _fragment(data: bytes, control: int) -> bytes:
    head = struct.pack(">BBLLBB", 4, 0, len(data) + 6, len(data) + 2, _CONTEXT_ID, control)
    return head + data


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value


def _even(text: str) -> bytes:
    return (text + "\0" * (len(text) % 2)).encode()


def _pdu(connection: socket.socket, wanted: int) -> bytes:
    head = _exactly(connection, 6)
    body = _exactly(connection, struct.unpack_from(">L", head, 2)[0])
    if head[0] != wanted:
        raise Refused(f"PDU type {head[0]} where {wanted} was due")
    return body


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = connection.recv(count)
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            raise Refused("the receiver closed the connection")
        data += more
    return data


def _status(answer: bytes) -> int:
    at = answer.index(b"\0\0\0\x09\2\0\0\0")
    return struct.unpack_from("<H", answer, at + 8)[0]
