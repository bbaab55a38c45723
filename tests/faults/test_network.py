"""Peers that are slow, silent, hostile or too many, on real sockets with the limits in force."""

import contextlib
import itertools
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import select

from service.core.errors import PeerUnavailable
from service.core.part10 import read_file_meta
from service.core.settings import Destination
from service.intake import doors
from service.records.database import Records
from service.records.tables import audit_events, instances
from tests.builders.certificates import identities
from tests.builders.dicom import ct_series, enhanced_ct, part10
from tests.peers.process import wait_for
from tests.peers.raw import (
    ABORTING,
    ACCEPT,
    CT,
    REJECT,
    RELEASE,
    RawPeer,
    command,
    context,
    pdu,
    request,
    value,
)
from tests.peers.receiver import Receiver, ReceiverProcess
from workers.delivery import dimse

# Sockets of handshakes that failed are left to the collector by ssl and pynetdicom alike.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SUCCESS = 0x0000
STORAGE = context(1, CT, ExplicitVRLittleEndian)


def body_of(dataset) -> bytes:
    data = part10(dataset)
    meta = read_file_meta(data)
    assert meta is not None
    return data[meta.length :]


def echo(port: int) -> float:
    """Return how long connecting, associating and a C-ECHO took, in seconds."""
    began = time.monotonic()
    with RawPeer(port) as peer:
        assert peer.associate()[0] == ACCEPT
        assert peer.echoes()
        peer.send(RELEASE)
        peer.receive()
    return time.monotonic() - began


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    url = f"sqlite:///{tmp_path / 'overread.db'}"
    with Receiver(tmp_path, url, max_associations=60) as running:
        yield running


def drip(peers: list[RawPeer], ended: dict[int, float], stop: threading.Event) -> None:
    """Send each peer's request a byte at a time."""
    whole = request(STORAGE)
    for at in itertools.count():
        for number, peer in enumerate(peers):
            if number in ended:
                continue
            try:
                peer.send(whole[at % len(whole) : at % len(whole) + 1])
            except OSError:
                ended[number] = time.monotonic()
        if stop.wait(0.3) or len(ended) == len(peers):
            return


@pytest.mark.slow
@pytest.mark.faults(number=2)
@pytest.mark.faults(number=3)
@pytest.mark.faults(number=9)
def test_sixty_slow_peers_are_dropped_at_their_deadlines_and_hold_up_nobody(receiver, seen):
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        dripping = [stack.enter_context(RawPeer(receiver.port)) for _ in range(30)]
        ended: dict[int, float] = {}
        stop = threading.Event()
        thread = threading.Thread(target=drip, args=(dripping, ended, stop))
        thread.start()
        stalled = [stack.enter_context(RawPeer(receiver.port, timeout_s=60)) for _ in range(30)]
        for peer in stalled:
            assert peer.associate(STORAGE)[0] == ACCEPT
            peer.begin_store(instance="1.2.3")
            peer.send(pdu(value(1, 0, bytes(500)))[:100])
        idle = [stack.enter_context(RawPeer(receiver.port, timeout_s=60)) for _ in range(3)]
        for peer in idle:
            assert peer.associate()[0] == ACCEPT
        slowest_s = 0.0
        while time.monotonic() - began < 12 and len(ended) < 30:
            slowest_s = max(slowest_s, echo(receiver.port))
            time.sleep(0.5)
        wait_for(lambda: len(ended) == 30, limit_s=10)
        assert max(ended.values()) - began < 20
        assert all(peer.ended() for peer in stalled)
        stalled_s = time.monotonic() - began
        assert all(peer.ended() for peer in idle)
        idle_s = time.monotonic() - began
        stop.set()
        thread.join()
    assert stalled_s < 40
    assert idle_s < 45
    assert receiver.unfinished() == []
    echo(receiver.port)
    seen(
        f"C-ECHO within {slowest_s:.1f} s; dripping ones gone after "
        f"{max(ended.values()) - began:.0f} s, stalled after {stalled_s:.0f} s, "
        f"idle after {idle_s:.0f} s"
    )


@pytest.mark.faults(number=9)
def test_one_address_can_take_only_so_many_connections(tmp_path):
    url = f"sqlite:///{tmp_path / 'overread.db'}"
    with (
        Receiver(tmp_path, url, max_connections_per_address=3) as running,
        contextlib.ExitStack() as stack,
    ):
        peers = [stack.enter_context(RawPeer(running.port)) for _ in range(3)]
        assert peers[0].associate()[0] == ACCEPT
        assert stack.enter_context(RawPeer(running.port)).ended()
        assert peers[0].echoes()
        peers.pop().socket.close()
        wait_for(lambda: _associates(running.port), limit_s=15)


def _associates(port: int) -> bool:
    with RawPeer(port) as peer:
        try:
            return peer.associate()[0] == ACCEPT
        except OSError:
            return False


@pytest.mark.faults(number=9)
def test_one_address_can_open_only_so_many_associations_a_minute(tmp_path):
    url = f"sqlite:///{tmp_path / 'overread.db'}"
    with Receiver(tmp_path, url, max_associations_per_minute=5) as running:
        for _ in range(5):
            echo(running.port)
        with RawPeer(running.port) as peer:
            kind, body = peer.associate()
            assert (kind, tuple(body[1:])) == (REJECT, (2, 3, 1))


def test_addresses_of_this_machine_are_bounded_only_when_asked(tmp_path):
    settings = Receiver(tmp_path, f"sqlite:///{tmp_path / 'overread.db'}").settings.dicom
    counted = doors.Doors(settings)
    assert all(counted.enter("127.0.0.1") for _ in range(100))
    outside = [counted.enter("10.0.0.1") for _ in range(doors.CONNECTIONS_PER_ADDRESS + 1)]
    assert outside == [True] * doors.CONNECTIONS_PER_ADDRESS + [False]
    counted.leave("10.0.0.1")
    assert counted.enter("10.0.0.1")


def test_associations_come_back_as_time_goes_by(tmp_path):
    settings = Receiver(tmp_path, f"sqlite:///{tmp_path / 'overread.db'}").settings.dicom
    now = [0.0]
    counted = doors.Doors(
        settings.model_copy(update={"max_associations_per_minute": 2}), monotonic=lambda: now[0]
    )
    assert [counted.may_associate("10.0.0.1") for _ in range(3)] == [True, True, False]
    now[0] += 30
    assert [counted.may_associate("10.0.0.1") for _ in range(2)] == [True, False]


def alerts(database_url: str) -> list[tuple[str, str]]:
    records = Records(database_url)
    try:
        with records.reading() as connection:
            query = select(audit_events.c.operation, audit_events.c.actor)
            return [(row.operation, row.actor) for row in connection.execute(query)]
    finally:
        records.close()


@pytest.mark.faults(number=6)
def test_whoever_is_turned_away_is_told_to_the_audit_trail(tmp_path, database_url, seen):
    callers = [{"ae_title": "MODALITY", "addresses": ["192.0.2.0/24"]}]
    with Receiver(tmp_path, database_url, callers=callers) as running:
        for more, answer in (
            ({"called": "OTHER"}, (1, 1, 7)),
            ({"calling": "STRANGER"}, (1, 1, 3)),
            ({"calling": "MODALITY"}, (1, 1, 3)),  # from another address
            ({"calling": "A\0B\n"}, (1, 1, 3)),
        ):
            with RawPeer(running.port) as peer:
                kind, body = peer.associate(**more)
                assert (kind, tuple(body[1:])) == (REJECT, answer)
        wait_for(lambda: len(alerts(database_url)) >= 4)
    assert ("associate", "STRANGER") in alerts(database_url)
    assert ("associate", "A?B?") in alerts(database_url)
    seen("rejected by name, each in the audit trail")


def tls_client(identity=None, *, authority: Path) -> ssl.SSLContext:
    client = ssl.create_default_context(cafile=authority)
    if identity is not None:
        client.load_cert_chain(identity.certificate, identity.key)
    return client


def closed_within(connection: socket.socket, limit_s: float) -> bool:
    connection.settimeout(limit_s)
    try:
        while connection.recv(1 << 12):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


@pytest.mark.slow
@pytest.mark.faults(number=4)
def test_a_tls_port_serves_good_clients_beside_fifty_silent_and_several_bad_ones(
    tmp_path, database_url, seen
):
    ours = identities(tmp_path / "ours", "server", "modality")
    foreign = identities(tmp_path / "foreign", "stranger")["stranger"]
    server, modality = ours["server"], ours["modality"]
    tls = {
        "enabled": True,
        "certificate": server.certificate,
        "key": server.key,
        "ca": server.authority,
    }

    def echoed(context: ssl.SSLContext) -> bool:
        with RawPeer(running.port) as peer:
            try:
                peer.socket = context.wrap_socket(peer.socket, server_hostname="127.0.0.1")
                return peer.associate()[0] == ACCEPT and peer.echoes()
            except (OSError, ssl.SSLError):
                return False

    with (
        Receiver(tmp_path, database_url, tls=tls) as running,
        contextlib.ExitStack() as stack,
    ):
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
            for _ in range(50)
        ]
        began = time.monotonic()
        good = tls_client(modality, authority=server.authority)
        assert echoed(good)
        took_s = time.monotonic() - began
        with RawPeer(running.port) as plain:
            plain.send(request(STORAGE))
            assert closed_within(plain.socket, 15)
        assert not echoed(tls_client(None, authority=server.authority))
        assert not echoed(tls_client(foreign, authority=server.authority))
        old = tls_client(modality, authority=server.authority)
        old.set_ciphers("AES128-SHA256:AES256-SHA")  # no forward secrecy
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert not echoed(old)
        assert all(closed_within(each, 20) for each in silent)
        silent_s = time.monotonic() - began
        assert echoed(good)
        wait_for(lambda: ("tls_handshake", "127.0.0.1") in alerts(database_url))
    seen(f"good client served in {took_s:.1f} s, 50 silent ones gone after {silent_s:.0f} s")


@pytest.mark.faults(number=4)
def test_results_go_out_over_tls_with_our_certificate_and_to_nobody_else(tmp_path):
    ours = identities(tmp_path / "ours", "pacs", "overread")
    foreign = identities(tmp_path / "foreign", "stranger")["stranger"]
    pacs, overread = ours["pacs"], ours["overread"]
    tls = {"enabled": True, "certificate": pacs.certificate, "key": pacs.key, "ca": pacs.authority}
    url = f"sqlite:///{tmp_path / 'overread.db'}"
    with Receiver(tmp_path, url, tls=tls) as running:

        def peer(identity, authority: Path) -> Destination:
            named = {"certificate": identity.certificate, "key": identity.key, "ca": authority}
            return Destination(
                name="pacs", ae_title="OVERREAD", host="127.0.0.1", port=running.port,
                tls={"enabled": True, **named},
            )  # fmt: skip

        dimse.echo(peer(overread, pacs.authority), calling_ae_title="OVERREAD")
        for wrong in (peer(foreign, pacs.authority), peer(overread, foreign.authority)):
            with pytest.raises(PeerUnavailable):
                dimse.echo(wrong, calling_ae_title="OVERREAD")


def rows_in(database_url: str) -> int:
    records = Records(database_url)
    try:
        with records.reading() as connection:
            return len(connection.execute(select(instances.c.id)).all())
    finally:
        records.close()


@pytest.mark.faults(number=8)
@pytest.mark.parametrize("ending", ["abort", "reset", "half-close"])
def test_an_instance_that_breaks_off_leaves_neither_file_nor_row(receiver, ending):
    dataset = ct_series(slices=1)[0]
    body = body_of(dataset)
    for number in range(5):
        with RawPeer(receiver.port) as peer:
            assert peer.associate(STORAGE)[0] == ACCEPT
            peer.begin_store(instance=dataset.SOPInstanceUID)
            peer.send(pdu(value(1, 0, body[: 300 * (number + 1)])))
            if ending == "abort":
                peer.send(ABORTING)
            elif ending == "reset":
                linger = struct.pack("ii", 1, 0)
                peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            else:
                peer.socket.shutdown(socket.SHUT_WR)
                assert peer.ended()
    wait_for(lambda: receiver.unfinished() == [], limit_s=5)
    assert receiver.files() == []
    assert rows_in(receiver.database_url) == 0


@pytest.mark.slow
@pytest.mark.faults(number=10)
def test_three_hundred_associations_leave_descriptors_and_memory_as_they_were(tmp_path, seen):
    url = f"sqlite:///{tmp_path / 'overread.db'}"
    with ReceiverProcess(tmp_path, url) as running:
        process = psutil.Process(running.pid)
        for _ in range(30):
            echo(running.port)
        wait_for(lambda: process.num_threads() <= 6, limit_s=15)
        before = process.num_fds(), process.num_threads(), process.memory_info().rss
        for _ in range(300):
            echo(running.port)
        wait_for(lambda: process.num_fds() <= before[0] + 2, limit_s=15)
        wait_for(lambda: process.num_threads() <= before[1] + 1, limit_s=15)
        grown_mb = (process.memory_info().rss - before[2]) / (1 << 20)
        assert grown_mb < 5
        seen(f"{process.num_fds() - before[0]:+d} descriptors, {grown_mb:+.1f} MB")


@pytest.mark.faults(number=10)
def test_eight_senders_at_once_lose_nothing(tmp_path, database_url):
    answers: list[int] = []

    def send(number: int) -> None:
        with RawPeer(running.port, timeout_s=60) as peer:
            assert peer.associate(STORAGE)[0] == ACCEPT
            for dataset in ct_series(slices=25, name=f"series {number}"):
                answers.append(peer.store(body_of(dataset), instance=dataset.SOPInstanceUID))

    with Receiver(tmp_path, database_url) as running:
        threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [SUCCESS] * 200
        assert len(running.files()) == rows_in(database_url) == 200


def resident_mb(pid: int) -> float:
    """Return a process's own memory in MB, without the pages of files that it has mapped."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Callable[[], float]]:
    """Give a function that returns the most memory a process had while the body ran, in MB."""
    peak, stop = [0.0], threading.Event()

    def look() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], resident_mb(pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lambda: peak[0]
    finally:
        stop.set()
        thread.join()


GIBIBYTE = 1 << 30


@pytest.mark.slow
@pytest.mark.faults(number=5)
def test_a_multi_frame_of_more_than_a_gibibyte_costs_no_memory(tmp_path, seen):
    if os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize < 4 * GIBIBYTE:
        pytest.skip("the disk has too little room")
    dataset = enhanced_ct(slices=2)[0]
    data = body_of(dataset)
    at = data.index(b"\xe0\x7f\x10\x00OW\0\0")
    frames = 2112  # of 512 x 512 x 16 bit: 1.03 GiB
    size = frames * 512 * 512 * 2
    head = data[:at] + b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<L", size)
    url = f"sqlite:///{tmp_path / 'overread.db'}"
    with ReceiverProcess(tmp_path, url) as running, RawPeer(running.port, timeout_s=100) as peer:
        before_mb = resident_mb(running.pid)
        with watched(running.pid) as peak_mb:
            assert peer.associate(context(1, dataset.SOPClassUID, ExplicitVRLittleEndian))[0] == 2
            peer.begin_store(instance=dataset.SOPInstanceUID, sop_class=dataset.SOPClassUID)
            peer.send(pdu(value(1, 0, head)))
            block = bytes(512 * 512 * 2)
            for number in range(frames):
                peer.send(pdu(value(1, 2 if number == frames - 1 else 0, block)))
            assert peer.status() == SUCCESS
            grown_mb = peak_mb() - before_mb
        (file,) = running.files()
        assert file.stat().st_size > size
        file.unlink()
    assert grown_mb < 64
    seen(f"1 GiB multi-frame: {grown_mb:+.0f} MB")


def _send_on(peer: RawPeer) -> None:
    with contextlib.suppress(OSError):
        while True:
            peer.send(pdu(value(1, 0, bytes(1 << 16))))


@pytest.mark.faults(number=5)
def test_a_data_set_without_end_is_cut_at_the_limit_and_leaves_nothing(tmp_path):
    url = f"sqlite:///{tmp_path / 'overread.db'}"
    with (
        Receiver(tmp_path, url, max_instance_bytes=1 << 22) as running,
        RawPeer(running.port) as peer,
    ):
        assert peer.associate(STORAGE)[0] == ACCEPT
        peer.begin_store(instance="1.2.3")
        sending = threading.Thread(target=_send_on, args=(peer,))
        sending.start()  # for ever, as far as the peer is concerned
        sending.join(15)
        assert not sending.is_alive()
        wait_for(lambda: running.unfinished() == [], limit_s=10)
        echo(running.port)


@pytest.mark.faults(number=7)
def test_descriptors_come_back_after_requests_that_are_none(receiver):
    echo(receiver.port)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for sent in (
        request(),
        request(context(2, CT, "1.2")),
        request(context(1, CT, "1.2"), name="1.2.3"),
        struct.pack(">BBL", 1, 0, 10) + bytes(10),
        b"GET / HTTP/1.1\r\n\r\n",
        pdu(value(1, 3, command(0x30, data=False))),
    ):
        with RawPeer(receiver.port, timeout_s=5) as peer:
            peer.send(sent)
            assert peer.receive()[0] in (0, 3, 7)
    wait_for(lambda: len(os.listdir("/proc/self/fd")) <= before, limit_s=10)  # noqa: PTH208
