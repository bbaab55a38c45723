"""The upper layer from the other end of a socket pair: what a peer may do, and what ends it."""

import itertools
import socket
import struct
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from service.core.part10 import read_file_meta
from service.intake import association
from service.intake.association import Association, Host
from service.intake.commitment import Commitment
from service.intake.contexts import VERIFICATION, Offer
from service.intake.pdus import MAX_PDU_BYTES
from service.intake.wire import Wire
from service.records.tables import instances
from tests.builders.dicom import ct_series, part10
from tests.peers.raw import (
    ABORT,
    ACCEPT,
    CT,
    DATA,
    REJECT,
    RELEASE_REPLY,
    RELEASE_REQUEST,
    command,
    context,
    pdu,
    request,
    value,
)


class Peer:
    """The far end of an association that runs in a thread."""

    def __init__(self, host: Host) -> None:
        near, self.socket = socket.socketpair()
        self.socket.settimeout(10)
        self.thread = threading.Thread(target=self._serve, args=(near, host))
        self.thread.start()

    @staticmethod
    def _serve(near: socket.socket, host: Host) -> None:
        with near:
            Association(Wire(near), host, "127.0.0.1").run()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> tuple[int, bytes]:
        """Return type and body of the next PDU; type 0 at the end of the connection."""
        head = self._exactly(6)
        if len(head) < 6:
            return 0, b""
        return head[0], self._exactly(struct.unpack(">L", head[2:])[0])

    def status(self) -> int:
        """Return the status of the response that comes next."""
        kind, body = self.receive()
        assert kind == DATA
        assert body[5] == 3
        position = 6
        while position < len(body):
            _, number, length = struct.unpack_from("<HHL", body, position)
            if number == 0x0900:
                return struct.unpack_from("<H", body, position + 8)[0]
            position += 8 + length
        raise AssertionError("no status")

    def associate(self, *contexts: bytes, **more) -> None:
        self.send(request(*contexts or [context(1, VERIFICATION, ImplicitVRLittleEndian)], **more))
        assert self.receive()[0] == ACCEPT

    def close(self) -> None:
        self.socket.close()
        self.thread.join(10)
        assert not self.thread.is_alive()

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                break
            data += part
        return data


@pytest.fixture
def floor(house) -> Iterator[SimpleNamespace]:
    """A function that connects peers, and the counter of admitted associations."""
    peers: list[Peer] = []
    counts = SimpleNamespace(admitted=0, left=0)

    def admit(_request, _address):
        counts.admitted += 1

    def leave():
        counts.left += 1

    host = Host(
        ae_title="OVERREAD",
        ingest=house.ingest,
        commitment=Commitment(house.records, house.archive),
        offer=Offer(accept_deflated=False),
        admit=admit,
        leave=leave,
        stopping=threading.Event(),
    )

    def connect() -> Peer:
        peers.append(Peer(host))
        return peers[-1]

    yield SimpleNamespace(connect=connect, counts=counts, host=host, house=house)
    for peer in peers:
        peer.close()
    assert counts.admitted == counts.left


def test_echo_is_answered_and_release_confirmed(floor):
    peer = floor.connect()
    peer.associate()
    peer.send(pdu(value(1, 3, command(0x30, data=False))))
    assert peer.status() == 0
    peer.send(struct.pack(">BBLL", RELEASE_REQUEST, 0, 4, 0))
    assert peer.receive()[0] == RELEASE_REPLY
    assert peer.receive()[0] == 0


def test_accept_answers_each_context_by_its_id(floor):
    peer = floor.connect()
    peer.send(
        request(
            context(1, CT, ImplicitVRLittleEndian, ExplicitVRLittleEndian),
            context(3, "1.2.840.10008.5.1.4.1.2.1.1", ImplicitVRLittleEndian),
            context(5, CT, "1.2.3.4"),
        )
    )
    kind, body = peer.receive()
    assert kind == ACCEPT
    answers, position = {}, 68
    while position < len(body):
        sort, _, length = struct.unpack_from(">BBH", body, position)
        if sort == 0x21:
            answers[body[position + 4]] = body[position + 6], body[position + 12 :][: length - 8]
        position += 4 + length
    assert answers[1] == (0, ExplicitVRLittleEndian.encode())
    assert answers[3][0] == 3
    assert answers[5][0] == 4


def fragments(data: bytes, sizes: Iterator[int], control: int) -> list[bytes]:
    """Cut a message into presentation data values of the given sizes."""
    parts = []
    while len(data) > (size := next(sizes)):
        parts.append(value(1, control, data[:size]))
        data = data[size:]
    return [*parts, value(1, control | 2, data)]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(1, 700), min_size=1, max_size=20),
    st.lists(st.integers(1, 5), min_size=1, max_size=10),
    st.integers(0, 2**31),
)
def test_an_instance_arrives_however_it_is_cut(floor, sizes, together, number):
    dataset = ct_series(slices=1, rows=8, columns=8, name=f"cut {number} {sizes} {together}")[0]
    file = part10(dataset)
    body = file[read_file_meta(file).length :]
    each = itertools.cycle(sizes)
    store = command(1, data=True, instance=dataset.SOPInstanceUID, sop_class=CT)
    values = fragments(store, each, 1) + fragments(body, each, 0)
    peer = floor.connect()
    peer.associate(context(1, CT, ExplicitVRLittleEndian))
    counts = itertools.cycle(together)
    while values:
        count = next(counts)
        peer.send(pdu(*values[:count]))
        del values[:count]
    assert peer.status() == 0
    stored = floor.house.rows(instances)[-1]
    assert stored.sop_instance_uid == dataset.SOPInstanceUID
    kept = floor.house.archive.read(stored.path)
    assert kept[read_file_meta(kept).length :] == body
    peer.close()


def test_requests_sent_ahead_are_answered_in_order(floor):
    peer = floor.connect()
    peer.associate()
    peer.send(pdu(value(1, 3, command(0x30, data=False))) * 5)
    assert [peer.status() for _ in range(5)] == [0] * 5


def test_an_unknown_service_gets_a_status_and_the_association_lives(floor):
    peer = floor.connect()
    peer.associate()
    peer.send(pdu(value(1, 3, command(0x20, data=True)), value(1, 2, b"\0" * 10)))
    assert peer.status() == 0x0211
    peer.send(pdu(value(1, 3, command(0x30, data=False))))
    assert peer.status() == 0


@pytest.mark.faults(number=6)
@pytest.mark.faults(number=7)
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (request(context(1, VERIFICATION, "1.2"), called="OTHER"), (1, 1, 7)),
        (request(context(1, VERIFICATION, "1.2"), name="1.2.3"), (1, 1, 2)),
        (request(context(1, VERIFICATION, "1.2"), name=""), (1, 1, 2)),
    ],
)
def test_requests_that_are_not_for_us_are_rejected_by_name(floor, sent, expected):
    peer = floor.connect()
    peer.send(sent)
    kind, body = peer.receive()
    assert (kind, tuple(body[1:])) == (REJECT, expected)


@pytest.mark.faults(number=5)
@pytest.mark.faults(number=7)
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(request(), id="no context"),
        pytest.param(request(context(2, VERIFICATION, "1.2")), id="even id"),
        pytest.param(request(context(0, VERIFICATION, "1.2")), id="id zero"),
        pytest.param(request(context(1, VERIFICATION)), id="no transfer syntax"),
        pytest.param(request(context(1, "", "1.2")), id="no abstract syntax"),
        pytest.param(request(*[context(1, VERIFICATION, "1.2")] * 2), id="repeated id"),
        pytest.param(request()[:-4] + b"\x50\0\xff\xff", id="item beyond the PDU"),
        pytest.param(struct.pack(">BBL", 1, 0, 10) + bytes(10), id="too short"),
        pytest.param(struct.pack(">BBL", 1, 0, 0xFFFFFFFF), id="4 GiB"),
        pytest.param(pdu(value(1, 3, b"")), id="data first"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="a browser"),
        pytest.param(struct.pack(">BBL", 0x99, 0, 4) + bytes(4), id="unknown type"),
    ],
)
def test_a_broken_request_is_aborted_at_once(floor, sent):
    peer = floor.connect()
    peer.send(sent)
    assert peer.receive()[0] in (ABORT, 0)
    peer.thread.join(5)
    assert not peer.thread.is_alive()
    assert floor.counts.admitted == 0


STORE = command(1, data=True, instance="1.2.3", sop_class=CT)


@pytest.mark.faults(number=7)
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(request(context(1, CT, "1.2")), id="second request"),
        pytest.param(pdu(value(9, 3, STORE)), id="context not accepted"),
        pytest.param(pdu(value(1, 0, b"data first")), id="data without command"),
        pytest.param(pdu(value(1, 3, STORE), value(1, 3, STORE)), id="command for data"),
        pytest.param(pdu(value(1, 3, STORE), value(3, 0, b"x")), id="data in another context"),
        pytest.param(pdu(value(1, 3, STORE)) + pdu(value(1, 0, b"")), id="empty fragment"),
        pytest.param(pdu(struct.pack(">LBB", 1, 1, 3)), id="length below its head"),
        pytest.param(pdu(struct.pack(">LBB", 5000, 1, 3) + STORE), id="value beyond the PDU"),
        pytest.param(pdu(b"\0\0\0"), id="head cut off"),
        pytest.param(struct.pack(">BBL", DATA, 0, MAX_PDU_BYTES + 1), id="PDU beyond agreement"),
        pytest.param(struct.pack(">BBL", DATA, 0, 0xFFFFFFFF), id="PDU of 4 GiB"),
        pytest.param(pdu(value(1, 3, b"\0\0\0\1\0\0\0\xff")), id="command beyond its end"),
        pytest.param(pdu(value(1, 1, bytes(1 << 14))) * 2, id="command without end"),
        pytest.param(pdu(value(1, 3, command(0x8001, data=False))), id="a response"),
        pytest.param(
            pdu(value(1, 3, STORE)) + struct.pack(">BBLL", RELEASE_REQUEST, 0, 4, 0),
            id="release inside a message",
        ),
    ],
)
def test_a_broken_message_ends_the_association_and_leaves_nothing(floor, sent):
    peer = floor.connect()
    peer.associate(context(1, CT, ExplicitVRLittleEndian), context(3, CT, ExplicitVRLittleEndian))
    peer.send(sent)
    assert peer.receive()[0] == ABORT
    peer.thread.join(5)
    assert not peer.thread.is_alive()
    assert floor.house.unfinished() == []
    assert floor.house.files() == []


@pytest.mark.faults(number=8)
@pytest.mark.parametrize("ending", ["abort", "close"])
def test_a_peer_that_goes_away_inside_an_instance_leaves_nothing(floor, ending):
    peer = floor.connect()
    peer.associate(context(1, CT, ExplicitVRLittleEndian))
    peer.send(pdu(value(1, 3, STORE)) + pdu(value(1, 0, bytes(1000))))
    if ending == "abort":
        peer.send(struct.pack(">BBLL", ABORT, 0, 4, 0))
    else:
        peer.socket.shutdown(socket.SHUT_WR)
    peer.thread.join(5)
    assert not peer.thread.is_alive()
    assert floor.house.unfinished() == []


@pytest.mark.faults(number=5)
def test_an_instance_beyond_the_limit_ends_the_association(floor):
    peer = floor.connect()
    peer.associate(context(1, CT, ExplicitVRLittleEndian))
    peer.send(pdu(value(1, 3, STORE)))
    too_much = pdu(value(1, 0, bytes(1 << 17))) * 100
    with pytest.raises(OSError, match=r"(Broken pipe|reset)"):
        peer.send(too_much)
    assert floor.house.unfinished() == []


@pytest.mark.parametrize(
    ("stage", "limit"), [("hello", "HELLO_S"), ("pdu", "PDU_S"), ("idle", "IDLE_S")]
)
def test_a_silent_peer_is_dropped_at_the_deadline(floor, monkeypatch, stage, limit):
    monkeypatch.setattr(association, limit, 0.2)
    peer = floor.connect()
    if stage == "hello":
        peer.send(b"\1\0\0\0")
    else:
        peer.associate(context(1, CT, ExplicitVRLittleEndian))
    if stage == "pdu":
        peer.send(pdu(value(1, 3, STORE))[:20])
    assert peer.receive()[0] == ABORT
    peer.thread.join(5)
    assert not peer.thread.is_alive()


def test_a_peer_that_drips_bytes_is_dropped_at_the_deadline(floor, monkeypatch):
    monkeypatch.setattr(association, "HELLO_S", 0.3)
    peer = floor.connect()
    stopped = threading.Event()

    def drip() -> None:
        for byte in request(context(1, VERIFICATION, "1.2")):
            if stopped.wait(0.02):
                return
            try:
                peer.send(bytes([byte]))
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    peer.thread.join(5)
    stopped.set()
    dripping.join()
    assert not peer.thread.is_alive()


def test_a_stop_ends_an_idle_association_with_an_abort(floor):
    peer = floor.connect()
    peer.associate()
    floor.host.stopping.set()
    assert peer.receive()[0] == ABORT


def test_a_response_is_cut_to_what_the_peer_takes(floor):
    peer = floor.connect()
    peer.associate(max_pdu=50)
    peer.send(pdu(value(1, 3, command(0x30, data=False))))
    controls = []
    while not controls or controls[-1] != 3:
        kind, body = peer.receive()
        assert kind == DATA
        assert len(body) <= 50
        controls.append(body[5])
    assert len(controls) > 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_no_bytes_of_a_peer_raise_out_of_an_association(floor, data):
    peer = floor.connect()
    peer.associate(context(1, CT, ExplicitVRLittleEndian))
    peer.send(data)
    peer.socket.shutdown(socket.SHUT_WR)
    peer.thread.join(10)
    assert not peer.thread.is_alive()
    peer.close()
