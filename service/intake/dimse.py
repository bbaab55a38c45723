"""Command sets in bytes (PS3.7 annex E): requests in, responses out."""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from service.intake.pdus import PeerFault

MAX_COMMAND_BYTES: Final = 1 << 14
NO_DATA_SET: Final = 0x0101
_RESPONSE: Final = 0x8000


class CommandField(IntEnum):
    """The messages that a storage provider can meet (PS3.7 E.1-1)."""

    C_STORE = 0x0001
    C_ECHO = 0x0030
    N_EVENT_REPORT = 0x0100
    N_ACTION = 0x0130
    C_CANCEL = 0x0FFF
    N_EVENT_REPORT_RESPONSE = 0x8100


@dataclass(frozen=True)
class Command:
    """A request; UIDs are empty where the peer left them out.

    In the answer to an event report of ours, ``message_id`` is that of the report, and ``status``
    says whether the peer took it.
    """

    field: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool
    action_type: int = 0
    status: int = 0


def decode_command(data: bytes) -> Command:
    """Read a command set, which is always implicit VR little endian.

    Raises
    ------
    PeerFault
        When it cannot be read, or lacks what every request has.
    """
    values = _values(data)
    field = _number(values, 0x0100)
    is_report_answer = field == CommandField.N_EVENT_REPORT_RESPONSE
    if field is None or (field & _RESPONSE and not is_report_answer):
        raise PeerFault("a command set that is no request")
    message_id = _number(values, 0x0120 if is_report_answer else 0x0110)
    if message_id is None:
        if field != CommandField.C_CANCEL:
            raise PeerFault("a request without Message ID")
        message_id = 0
    return Command(
        field=field,
        message_id=message_id,
        sop_class_uid=_uid(values.get(0x0002) or values.get(0x0003, b"")),
        sop_instance_uid=_uid(values.get(0x1000) or values.get(0x1001, b"")),
        has_data_set=_number(values, 0x0800) != NO_DATA_SET,
        action_type=_number(values, 0x1008) or 0,
        status=_number(values, 0x0900) or 0,
    )


def encode_response(command: Command, status: int, comment: str = "") -> bytes:
    """Return the command set that answers a request (PS3.7 9.3.1.2, 9.3.5.2)."""
    body = b"".join(
        (
            _text(0x0002, command.sop_class_uid),
            _element(0x0100, struct.pack("<H", command.field | _RESPONSE)),
            _element(0x0120, struct.pack("<H", command.message_id)),
            _element(0x0800, struct.pack("<H", NO_DATA_SET)),
            _element(0x0900, struct.pack("<H", status)),
            _text(0x0902, comment[:64], padding=b" ") if comment else b"",
            _text(0x1000, command.sop_instance_uid) if command.sop_instance_uid else b"",
        )
    )
    return _element(0x0000, struct.pack("<L", len(body))) + body


def encode_event_report(
    message_id: int, *, sop_class_uid: str, sop_instance_uid: str, event_type: int
) -> bytes:
    """Return the command set of an N-EVENT-REPORT-RQ that a data set follows (PS3.7 10.3.1)."""
    body = b"".join(
        (
            _text(0x0002, sop_class_uid),
            _element(0x0100, struct.pack("<H", CommandField.N_EVENT_REPORT)),
            _element(0x0110, struct.pack("<H", message_id)),
            _element(0x0800, b"\0\0"),
            _text(0x1000, sop_instance_uid),
            _element(0x1002, struct.pack("<H", event_type)),
        )
    )
    return _element(0x0000, struct.pack("<L", len(body))) + body


def _values(data: bytes) -> dict[int, bytes]:
    values, position = {}, 0
    while position < len(data):
        if position + 8 > len(data):
            raise PeerFault("a command set is cut off")
        group, number, length = struct.unpack_from("<HHL", data, position)
        position += 8
        if group != 0 or position + length > len(data):
            raise PeerFault("a command set is garbled")
        values[number] = data[position : position + length]
        position += length
    return values


def _number(values: dict[int, bytes], number: int) -> int | None:
    value = values.get(number, b"")
    return int(struct.unpack("<H", value)[0]) if len(value) == 2 else None


def _uid(value: bytes) -> str:
    return value.decode("latin_1").rstrip("\0 ")


def _text(number: int, text: str, *, padding: bytes = b"\0") -> bytes:
    value = text.encode("latin_1", "replace")
    return _element(number, value + padding * (len(value) % 2))


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value
