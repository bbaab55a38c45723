"""One association from its request to its end: a loop that reads P-DATA straight to the disk.

The upper layer's state machine (PS3.8 section 9.2) collapses into straight code for an acceptor
that answers one request after the other: request, answer, messages, release. A peer that pipelines
its requests is answered in order. Whatever a peer does, it cannot hold this thread longer than the
deadlines say.
"""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from service.core.errors import PeerUnavailable, RefusedInstance
from service.core.logs import get_logger
from service.intake import handlers
from service.intake.commitment import COMMITMENT, COMMITMENT_INSTANCE, Commitment, Report
from service.intake.contexts import Offer
from service.intake.dimse import (
    MAX_COMMAND_BYTES,
    Command,
    CommandField,
    decode_command,
    encode_event_report,
    encode_response,
)
from service.intake.doors import Alarm, no_alarm
from service.intake.ingest import Arrival, Ingest
from service.intake.pdus import (
    APPLICATION_CONTEXT,
    MAX_PDU_BYTES,
    MAX_REQUEST_BYTES,
    RELEASE_REPLY,
    AnsweredContext,
    AssociateRequest,
    ContextResult,
    PduType,
    PeerFault,
    decode_request,
    encode_abort,
    encode_accept,
    encode_message,
    encode_reject,
)
from service.intake.statuses import Status
from service.intake.wire import Wire

HELLO_S: Final = 10.0  # from connection to association request
PDU_S: Final = 25.0  # for each PDU, and until the next one of a message
IDLE_S: Final = 30.0  # between messages
_STOP_CHECK_S: Final = 0.5

_REFUSED_BY_USER: Final = 1
_REFUSED_BY_PRESENTATION: Final = 3
_PERMANENT: Final = 1
_WRONG_TITLES: Final = frozenset({3, 7})  # calling, called AE title not recognized
_TRANSIENT: Final = 2

log: Final = get_logger()


@dataclass(frozen=True)
class Host:
    """What every association of a listener shares."""

    ae_title: str
    ingest: Ingest
    commitment: Commitment
    offer: Offer
    admit: Callable[[AssociateRequest, str], tuple[int, int, int] | None]
    leave: Callable[[], None]
    stopping: threading.Event
    alarm: Alarm = no_alarm


@dataclass(frozen=True)
class _Fragment:
    context_id: int
    is_command: bool
    is_last: bool
    length: int


class Association:
    """Serves one connected peer; `run` returns when the association is over."""

    def __init__(self, wire: Wire, host: Host, address: str) -> None:
        self._wire = wire
        self._host = host
        self._address = address
        self._contexts: dict[int, AnsweredContext] = {}
        self._max_pdu_bytes = 0
        self._pdu_left = 0
        self._calling_ae_title = ""
        self._reports: dict[int, Report] = {}  # by message id, until the peer confirms them
        self._message_ids = itertools.count(1)
        self._stored = 0

    def run(self) -> None:
        """Serve until release, abort, fault, timeout or stop."""
        try:
            self._serve()
        except PeerFault as error:
            log.warning("association_aborted", address=self._address, detail=error.message)
            self._abort(2, error.diagnostic)
        except RefusedInstance as error:
            log.warning("association_aborted", address=self._address, reason=error.reason)
            self._abort(2, 0)
        except PeerUnavailable as error:
            log.info("association_lost", address=self._address, reason=error.reason)
            if error.reason == "TIMEOUT":
                self._abort(2, 0)
        for report in self._reports.values():
            self._host.commitment.report_later(report)

    def _serve(self) -> None:
        self._wire.within(HELLO_S)
        request = self._association_request()
        refusal = self._refusal(request)
        if refusal is not None:
            log.warning(
                "association_rejected",
                address=self._address,
                calling_ae_title=request.calling_ae_title,
                called_ae_title=request.called_ae_title,
                reason="/".join(map(str, refusal)),
            )
            if refusal[2] in _WRONG_TITLES and refusal[0] == _PERMANENT:
                self._host.alarm(
                    "associate",
                    actor=request.calling_ae_title,
                    address=self._address,
                    detail=f"{'/'.join(map(str, refusal))} calling {request.called_ae_title}",
                )
            self._wire.send(encode_reject(*refusal))
            return
        try:
            self._accept(request)
            while self._message():
                pass
        finally:
            self._host.leave()
            log.info(
                "association_ended",
                address=self._address,
                calling_ae_title=self._calling_ae_title,
                instances=self._stored,
            )

    def _association_request(self) -> AssociateRequest:
        kind, length = self._pdu_header()
        if kind != PduType.ASSOCIATE_REQUEST:
            raise PeerFault("the first PDU is no association request", diagnostic=2)
        if length > MAX_REQUEST_BYTES:
            raise PeerFault("an association request of absurd length")
        return decode_request(bytes(self._wire.read(length)))

    def _refusal(self, request: AssociateRequest) -> tuple[int, int, int] | None:
        """Return result, source and reason of a rejection, or None after admission."""
        if request.application_context != APPLICATION_CONTEXT:
            return _PERMANENT, _REFUSED_BY_USER, 2
        if request.called_ae_title != self._host.ae_title:
            return _PERMANENT, _REFUSED_BY_USER, 7
        if self._host.stopping.is_set():
            return _TRANSIENT, _REFUSED_BY_PRESENTATION, 1
        return self._host.admit(request, self._address)

    def _accept(self, request: AssociateRequest) -> None:
        answers = self._host.offer.answer(request.contexts)
        self._contexts = {a.id: a for a in answers if a.result is ContextResult.ACCEPTED}
        self._max_pdu_bytes = request.max_pdu_bytes
        self._calling_ae_title = request.calling_ae_title
        roles = [role for role in request.roles if role.abstract_syntax == COMMITMENT]
        self._wire.send(encode_accept(request, answers, roles=roles))

    def _message(self) -> bool:
        """Serve one request; False when the association was released or we stop."""
        if not self._await_message():
            return False
        self._wire.within(PDU_S)
        fragment = self._fragment()
        if fragment is None:
            self._wire.send(RELEASE_REPLY)
            return False
        command = self._command(fragment)
        context = self._contexts[fragment.context_id]
        if command.field == CommandField.N_EVENT_REPORT_RESPONSE:
            self._confirmed(command, context)
            return True
        status, comment, report = self._answer(command, context)
        if command.field != CommandField.C_CANCEL:
            self._send(context, encode_response(command, status, comment))
        if report is not None:
            self._report(context, report)
        return True

    def _await_message(self) -> bool:
        waited = 0.0
        while not self._host.stopping.is_set():
            if self._pdu_left or self._wire.waiting(_STOP_CHECK_S):
                return True
            waited += _STOP_CHECK_S
            if waited >= IDLE_S:
                raise PeerUnavailable("TIMEOUT", "the peer is idle")
        self._abort(0, 0)
        return False

    def _answer(self, command: Command, context: AnsweredContext) -> tuple[int, str, Report | None]:
        """Serve a request: its status, a comment, and a report that follows the response."""
        data = self._data_set(context.id) if command.has_data_set else iter(())
        if command.field == CommandField.C_STORE:
            arrival = Arrival(
                sop_class_uid=command.sop_class_uid,
                sop_instance_uid=command.sop_instance_uid,
                transfer_syntax_uid=context.transfer_syntax,
                calling_ae_title=self._calling_ae_title,
            )
            status, reason = handlers.store(
                self._host.ingest, arrival, context.abstract_syntax, data
            )
            self._stored += status == Status.SUCCESS
            return status, reason, None
        if command.field == CommandField.N_ACTION and context.abstract_syntax == COMMITMENT:
            return handlers.commit(
                self._host.commitment,
                command,
                context.transfer_syntax,
                data,
                calling_ae_title=self._calling_ae_title,
            )
        if (command.field, context.abstract_syntax) == (CommandField.N_EVENT_REPORT, COMMITMENT):
            syntax = context.transfer_syntax
            return *handlers.take_report(self._host.commitment, command, syntax, data), None
        for _ in data:
            pass
        if command.field == CommandField.C_ECHO:
            return *handlers.echo(command, context.abstract_syntax), None
        return Status.UNRECOGNIZED_OPERATION, "", None

    def _report(self, context: AnsweredContext, report: Report) -> None:
        """Send a commitment report on the association that asked for it."""
        message_id = next(self._message_ids) % 0x10000
        self._reports[message_id] = report
        command = encode_event_report(
            message_id,
            sop_class_uid=COMMITMENT,
            sop_instance_uid=COMMITMENT_INSTANCE,
            event_type=report.event_type,
        )
        self._send(context, command)
        self._send(context, report.encoded(context.transfer_syntax), is_command=False)

    def _confirmed(self, command: Command, context: AnsweredContext) -> None:
        if command.message_id not in self._reports:
            raise PeerFault("an answer to nothing")
        if command.status == Status.SUCCESS:  # else it is told again when the association is over
            self._host.commitment.told(self._reports.pop(command.message_id))
        if command.has_data_set:
            for _ in self._data_set(context.id):
                pass

    def _send(self, context: AnsweredContext, message: bytes, *, is_command: bool = True) -> None:
        self._wire.send(
            encode_message(
                context.id, message, max_pdu_bytes=self._max_pdu_bytes, is_command=is_command
            )
        )

    def _command(self, fragment: _Fragment) -> Command:
        """Read the rest of a command set that begins with this fragment."""
        context_id = fragment.context_id
        data = bytearray()
        while True:
            if not fragment.is_command or fragment.context_id != context_id:
                raise PeerFault("data where a command set was due")
            if len(data) + fragment.length > MAX_COMMAND_BYTES:
                raise PeerFault("a command set of absurd length")
            data += self._wire.read(fragment.length)
            if fragment.is_last:
                return decode_command(bytes(data))
            fragment = self._next_fragment()

    def _data_set(self, context_id: int) -> Iterator[memoryview]:
        """Yield the bytes of the data set that follows a command."""
        while True:
            fragment = self._next_fragment()
            if fragment.is_command or fragment.context_id != context_id:
                raise PeerFault("a command set where data was due")
            yield from self._wire.stream(fragment.length)
            if fragment.is_last:
                return

    def _next_fragment(self) -> _Fragment:
        """Return the next fragment of a message; nothing else may come in between."""
        if not self._pdu_left:
            self._wire.within(PDU_S)
        fragment = self._fragment()
        if fragment is None:
            raise PeerFault("a release inside a message", diagnostic=2)
        return fragment

    def _fragment(self) -> _Fragment | None:
        """Return the head of the next presentation data value, or None at release."""
        if not self._pdu_left:
            kind, length = self._pdu_header()
            if kind == PduType.RELEASE_REQUEST:
                self._wire.read(length)
                return None
            if kind == PduType.ABORT:
                raise PeerUnavailable("ABORTED", "the peer aborted the association")
            if kind != PduType.DATA:
                raise PeerFault("an unexpected PDU", diagnostic=2)
            if length > MAX_PDU_BYTES:
                raise PeerFault("a PDU longer than agreed")
            self._pdu_left = length
        if self._pdu_left < 6:
            raise PeerFault("a presentation data value is cut off")
        head = bytes(self._wire.read(6))
        length, context_id, control = int.from_bytes(head[:4], "big"), head[4], head[5]
        self._pdu_left -= 4 + length
        is_last = bool(control & 2)
        if length < 2 or self._pdu_left < 0 or (length == 2 and not is_last):
            raise PeerFault("a presentation data value of wrong length")
        if context_id not in self._contexts:
            raise PeerFault("a presentation context that was not accepted")
        return _Fragment(context_id, bool(control & 1), is_last, length - 2)

    def _pdu_header(self) -> tuple[int, int]:
        head = bytes(self._wire.read(6))
        kind, length = head[0], int.from_bytes(head[2:], "big")
        if kind in {PduType.RELEASE_REQUEST, PduType.ABORT} and length > 4:
            raise PeerFault("a PDU of wrong length")
        return kind, length

    def _abort(self, source: int, reason: int) -> None:
        with contextlib.suppress(PeerUnavailable):
            self._wire.send(encode_abort(source, reason))
