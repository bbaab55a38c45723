"""What hostile, slow and unlucky surroundings do to the listener: as little as possible."""

import contextlib
import shutil
import socket
import sqlite3
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_context
from pynetdicom.sop_class import CTImageStorage, Verification

from service.intake.scp import MAX_CONNECTIONS
from tests.builders.dicom import ct_series
from tests.peers.process import wait_for
from tests.peers.receiver import Receiver

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path, f"sqlite:///{tmp_path / 'overread.db'}", max_associations=5) as running:
        yield running


def echo(port: int, **more) -> bool:
    entity = AE("MODALITY")
    opened = entity.associate(
        "127.0.0.1", port, contexts=[build_context(Verification)], ae_title="OVERREAD", **more
    )
    if not opened.is_established:
        return False
    status = opened.send_c_echo().get("Status")
    opened.release()
    return status == SUCCESS


def store(port: int, *datasets) -> list[int]:
    entity = AE("MODALITY")
    opened = entity.associate(
        "127.0.0.1",
        port,
        contexts=[build_context(CTImageStorage, ExplicitVRLittleEndian)],
        ae_title="OVERREAD",
    )
    assert opened.is_established
    statuses = [opened.send_c_store(dataset).get("Status") for dataset in datasets]
    opened.release()
    return statuses


@contextlib.contextmanager
def connected(port: int, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    try:
        for each in sockets:
            each.sendall(sent)
        yield sockets
    finally:
        for each in sockets:
            each.close()


@pytest.mark.faults(number=5)
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="silent"),
        pytest.param(b"\x01\x00\x00\x00\x00\xff", id="begins a request"),
        pytest.param(b"\x99\x00\xff\xff\xff\xff", id="bad type"),
        pytest.param(b"\x01\x00\xff\xff\xff\xff", id="absurd length"),
    ],
)
def test_connections_that_never_associate_lock_nobody_out(receiver, sent):
    with connected(receiver.port, 40, sent):
        assert echo(receiver.port)
        assert store(receiver.port, *ct_series(slices=1)) == [SUCCESS]


@pytest.mark.faults(number=9)
def test_more_silent_connections_than_there_is_room_for_lock_nobody_out(receiver):
    with connected(receiver.port, MAX_CONNECTIONS + 30):
        assert echo(receiver.port)
        assert store(receiver.port, *ct_series(slices=1)) == [SUCCESS]


@pytest.mark.faults(number=1)
def test_connections_that_are_gone_at_once_lock_nobody_out(receiver):
    with connected(receiver.port, 30):
        pass
    assert echo(receiver.port)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.faults(number=7)
def test_descriptors_and_files_come_back_after_broken_associations(receiver):
    echo(receiver.port)
    before = open_descriptors()
    for _ in range(10):
        with connected(receiver.port, 3, b"\x01\x00\x00\x00\x10\x00" + bytes(100)):
            pass
    wait_for(lambda: open_descriptors() <= before + 2)
    assert receiver.unfinished() == []


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not here")
    subprocess.run(
        [
            openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", str(key), "-out", str(certificate),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


def serves(raw: socket.socket, context: ssl.SSLContext) -> bool:
    """Return whether the listener reads from a client with this context."""
    try:
        with context.wrap_socket(raw) as wrapped:
            wrapped.settimeout(5)
            wrapped.sendall(b"\x99" + bytes(5))
            return bool(wrapped.recv(1))  # an abort would be an answer
    except OSError:
        return False


@pytest.mark.faults(number=4)
def test_tls_serves_good_clients_beside_silent_plain_and_nameless_ones(tmp_path, certificate):
    pem, key = certificate
    tls = {"enabled": True, "certificate": pem, "key": key, "ca": pem}
    url = f"sqlite:///{tmp_path / 'overread.db'}"
    with Receiver(tmp_path, url, tls=tls) as running:
        client = ssl.create_default_context(cafile=str(pem))
        client.check_hostname = False
        nameless = ssl.create_default_context(cafile=str(pem))
        nameless.check_hostname = False
        client.load_cert_chain(pem, key)
        with connected(running.port, 30):
            assert echo(running.port, tls_args=(client, "localhost"))
            with connected(running.port, 1, b"\x01\x00\x00\x00\x00\x40" + bytes(64)) as plain:
                plain[0].settimeout(15)
                with contextlib.suppress(OSError):
                    while plain[0].recv(100):
                        pass
            raw = socket.create_connection(("127.0.0.1", running.port))
            assert not serves(raw, nameless)
            assert echo(running.port, tls_args=(client, "localhost"))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mount.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.mark.faults(number=20)
@pytest.mark.faults(number=21)
def test_a_full_disk_is_told_and_leaves_nothing_and_space_coming_back_is_used(tmp_path, tiny_disk):
    url = f"sqlite:///{tmp_path / 'overread.db'}"
    with Receiver(tiny_disk, url) as running:
        filler = tiny_disk / "filler"
        filler.write_bytes(bytes(6 << 20))
        big, small = ct_series(slices=2, rows=40, columns=40)
        big.Rows = big.Columns = 1500
        big.PixelData = bytes(1500 * 1500 * 2)
        assert store(running.port, big, small) == [OUT_OF_RESOURCES, SUCCESS]
        assert running.unfinished() == []
        assert len(running.files()) == 1
        filler.unlink()
        assert store(running.port, big) == [SUCCESS]
        assert len(running.files()) == 2


@pytest.mark.faults(number=20)
def test_below_the_watermark_nothing_is_taken_but_echo_is_answered(tmp_path):
    url = f"sqlite:///{tmp_path / 'overread.db'}"
    with Receiver(tmp_path, url, min_free_bytes=1 << 62) as running:
        assert store(running.port, *ct_series(slices=2)) == [OUT_OF_RESOURCES] * 2
        assert echo(running.port)
        assert running.files() == []
        assert running.unfinished() == []


@pytest.mark.faults(number=30)
@pytest.mark.slow
def test_a_locked_database_is_told_within_time_and_work_goes_on_after_it(receiver, tmp_path):
    first, second = ct_series(slices=2)
    lock = sqlite3.connect(tmp_path / "overread.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    assert store(receiver.port, first) == [OUT_OF_RESOURCES]
    assert time.monotonic() - started < 15
    lock.execute("ROLLBACK")
    lock.close()
    assert store(receiver.port, first, second) == [SUCCESS] * 2
    assert len(receiver.files()) == 2


@pytest.mark.faults(number=31)
@pytest.mark.peers
def test_a_connection_lost_while_receiving_does_no_harm(tmp_path, postgres_server):
    with postgres_server.new_database() as url, Receiver(tmp_path, url) as running:
        assert store(running.port, *ct_series(slices=1, name="first")) == [SUCCESS]
        stop = threading.Event()

        def cut() -> None:
            engine = sqlalchemy.create_engine(url)
            while not stop.is_set():
                with engine.connect() as connection:
                    connection.execute(
                        sqlalchemy.text(
                            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                            "WHERE pid <> pg_backend_pid() AND datname = current_database()"
                        )
                    )
                stop.wait(0.2)
            engine.dispose()

        cutting = threading.Thread(target=cut)
        cutting.start()
        statuses = []
        for number in range(6):
            statuses += store(running.port, *ct_series(slices=4, name=f"series {number}"))
        stop.set()
        cutting.join()
        assert set(statuses) <= {SUCCESS, OUT_OF_RESOURCES}
        resent = []
        for number in range(6):
            resent += store(running.port, *ct_series(slices=4, name=f"series {number}"))
        assert resent == [SUCCESS] * 24
        assert len(running.files()) == 25
