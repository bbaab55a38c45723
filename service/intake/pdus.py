"""The upper layer's messages in bytes: association request in, accept, reject, abort out.

References
----------
DICOM PS3.8 section 9.3 (structure of PDUs), annex D (user information), PS3.7 annex D.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from service.core.errors import InvalidRequest
from service.core.identifiers import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
MAX_REQUEST_BYTES: Final = 1 << 20
MAX_PDU_BYTES: Final = 1 << 20  # what we tell a peer it may send in one P-DATA-TF
MAX_CONTEXTS: Final = 128
RELEASE_REPLY: Final = struct.pack(">BBLL", 6, 0, 4, 0)


class PduType(IntEnum):
    """Kind of a PDU (PS3.8 9.3.1)."""

    ASSOCIATE_REQUEST = 1
    ASSOCIATE_ACCEPT = 2
    ASSOCIATE_REJECT = 3
    DATA = 4
    RELEASE_REQUEST = 5
    RELEASE_REPLY = 6
    ABORT = 7


class ContextResult(IntEnum):
    """Answer to one presentation context (PS3.8 table 9-18)."""

    ACCEPTED = 0
    ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
    TRANSFER_SYNTAXES_NOT_SUPPORTED = 4


class PeerFault(InvalidRequest):
    """A peer broke the protocol; the association ends with A-ABORT and this diagnostic."""

    def __init__(self, message: str, *, diagnostic: int = 6) -> None:
        super().__init__("PROTOCOL_VIOLATION", message)
        self.diagnostic = diagnostic  # PS3.8 table 9-26: 6 is "invalid PDU parameter value"


@dataclass(frozen=True)
class ProposedContext:
    """A presentation context as the requestor proposes it."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True)
class AnsweredContext:
    """A presentation context as it is answered; the transfer syntax counts when accepted."""

    id: int
    abstract_syntax: str
    result: ContextResult
    transfer_syntax: str


@dataclass(frozen=True)
class RoleSelection:
    """Which roles a requestor wants for an abstract syntax (PS3.7 D.3.3.4)."""

    abstract_syntax: str
    scu: bool
    scp: bool


@dataclass(frozen=True)
class AssociateRequest:
    """An A-ASSOCIATE-RQ; ``max_pdu_bytes`` is what the requestor can take, 0 for any length."""

    called_ae_title: str
    calling_ae_title: str
    raw_titles: bytes
    application_context: str
    contexts: tuple[ProposedContext, ...]
    max_pdu_bytes: int
    roles: tuple[RoleSelection, ...] = ()


def decode_request(body: bytes) -> AssociateRequest:
    """Read an A-ASSOCIATE-RQ from what follows its type and length.

    Raises
    ------
    PeerFault
        When a length leads out of the PDU, a presentation context has no syntax, an even or a
        repeated id, or there are none or too many of them.
    """
    if len(body) < 68:
        raise PeerFault("an association request is too short")
    application_context, max_pdu_bytes, contexts = "", 0, []
    roles: tuple[RoleSelection, ...] = ()
    for kind, value in _items(body[68:]):
        if kind == 0x10:
            application_context = _uid(value)
        elif kind == 0x20:
            contexts.append(_context(value))
        elif kind == 0x50:
            max_pdu_bytes, roles = _max_length(value), _roles(value)
    ids = {context.id for context in contexts}
    if not contexts or len(contexts) > MAX_CONTEXTS or len(ids) != len(contexts):
        raise PeerFault("presentation contexts are missing, repeated or too many")
    return AssociateRequest(
        called_ae_title=body[4:20].decode("latin_1").strip(" \0"),
        calling_ae_title=body[20:36].decode("latin_1").strip(" \0"),
        raw_titles=body[4:36],
        application_context=application_context,
        contexts=tuple(contexts),
        max_pdu_bytes=max_pdu_bytes,
        roles=roles,
    )


def encode_accept(
    request: AssociateRequest,
    contexts: Sequence[AnsweredContext],
    *,
    roles: Sequence[RoleSelection] = (),
) -> bytes:
    """Return the A-ASSOCIATE-AC that answers a request, with the roles that are accepted."""
    user_information = (
        _item(0x51, struct.pack(">L", MAX_PDU_BYTES))
        + _item(0x52, IMPLEMENTATION_CLASS_UID.encode())
        + b"".join(_role(role) for role in roles)
        + _item(0x55, IMPLEMENTATION_VERSION_NAME.encode())
    )
    body = b"".join(
        (
            struct.pack(">HH", 1, 0),
            request.raw_titles,  # sent back unchanged (PS3.8 table 9-17)
            bytes(32),
            _item(0x10, APPLICATION_CONTEXT.encode()),
            *(_answer(context) for context in contexts),
            _item(0x50, user_information),
        )
    )
    return struct.pack(">BBL", PduType.ASSOCIATE_ACCEPT, 0, len(body)) + body


def encode_reject(result: int, source: int, reason: int) -> bytes:
    """Return an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""
    return struct.pack(">BBLBBBB", PduType.ASSOCIATE_REJECT, 0, 4, 0, result, source, reason)


def encode_abort(source: int, reason: int) -> bytes:
    """Return an A-ABORT (PS3.8 table 9-26)."""
    return struct.pack(">BBLBBBB", PduType.ABORT, 0, 4, 0, 0, source, reason)


def encode_message(
    context_id: int, message: bytes, *, max_pdu_bytes: int, is_command: bool = True
) -> bytes:
    """Return the P-DATA-TF PDUs that carry a command or data set to a peer that takes this much."""
    room = (max_pdu_bytes or MAX_PDU_BYTES) - 6
    if room < 1:
        raise PeerFault("the peer takes no P-DATA at all")
    parts = [message[i : i + room] for i in range(0, len(message), room)]
    return b"".join(
        struct.pack(
            ">BBLLBB",
            PduType.DATA,
            0,
            len(part) + 6,
            len(part) + 2,
            context_id,
            (2 if index == len(parts) - 1 else 0) | is_command,
        )
        + part
        for index, part in enumerate(parts)
    )


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(data):
        if position + 4 > len(data):
            raise PeerFault("an item of an association request is cut off")
        kind, _, length = struct.unpack_from(">BBH", data, position)
        position += 4
        if position + length > len(data):
            raise PeerFault("an item of an association request is longer than its PDU")
        yield kind, data[position : position + length]
        position += length


def _context(value: bytes) -> ProposedContext:
    if len(value) < 4 or value[0] % 2 == 0:
        raise PeerFault("a presentation context has an even id")
    abstract, transfer = [], []
    for kind, name in _items(value[4:]):
        if kind == 0x30:
            abstract.append(_uid(name))
        elif kind == 0x40:
            transfer.append(_uid(name))
    if len(abstract) != 1 or not abstract[0] or not transfer or not all(transfer):
        raise PeerFault("a presentation context lacks its syntaxes")
    return ProposedContext(value[0], abstract[0], tuple(transfer))


def _max_length(value: bytes) -> int:
    for kind, content in _items(value):
        if kind == 0x51 and len(content) == 4:
            return int(struct.unpack(">L", content)[0])
    return 0


def _roles(value: bytes) -> tuple[RoleSelection, ...]:
    found = []
    for kind, content in _items(value):
        length = int.from_bytes(content[:2], "big")
        if kind == 0x54 and len(content) == length + 4:
            scu, scp = content[-2:]
            found.append(RoleSelection(_uid(content[2:-2]), scu == 1, scp == 1))
    return tuple(found)


def _role(role: RoleSelection) -> bytes:
    uid = role.abstract_syntax.encode("latin_1")
    return _item(0x54, struct.pack(">H", len(uid)) + uid + bytes([role.scu, role.scp]))


def _uid(value: bytes) -> str:
    return value.decode("latin_1").rstrip("\0 ")[:64]


def _answer(context: AnsweredContext) -> bytes:
    head = struct.pack(">BBBB", context.id, 0, context.result, 0)
    return _item(0x21, head + _item(0x40, context.transfer_syntax.encode("latin_1")))


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value
