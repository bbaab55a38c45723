"""Instances that lie, traverse, nest, swell or speak strange tongues, sent byte by byte."""

import json
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    generate_uid,
)
from sqlalchemy import select

from service.core.elements import Encoding, walk
from service.core.part10 import read_file_meta
from service.records.database import Records
from service.records.tables import studies
from tests.builders.dicom import ct_series, part10
from tests.faults.test_network import resident_mb, watched
from tests.peers.raw import ACCEPT, CT, RawPeer, context
from tests.peers.receiver import Receiver, ReceiverProcess
from tests.peers.tools import Dcmtk

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
STORAGE = context(1, CT, ExplicitVRLittleEndian)
ITEM = b"\xfe\xff\x00\xe0"
ITEM_END = b"\xfe\xff\x0d\xe0\0\0\0\0"
SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
UNDEFINED = b"\xff\xff\xff\xff"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path, f"sqlite:///{tmp_path / 'overread.db'}") as running:
        yield running


def body_of(dataset) -> bytes:
    data = part10(dataset)
    meta = read_file_meta(data)
    assert meta is not None
    return data[meta.length :]


def replaced(body: bytes, tag: int, value: bytes) -> bytes:
    """Return the data set with another value in a short element."""
    element = next(each for each in walk(body, Encoding()) if each.tag == tag)
    value += b"\0" * (len(value) % 2)
    head = body[element.start : element.start + 6] + struct.pack("<H", len(value))
    return body[: element.start] + head + value + body[element.end :]


def inserted(body: bytes, before_tag: int, element: bytes) -> bytes:
    """Return the data set with an element's bytes before another one."""
    at = next(each.start for each in walk(body, Encoding()) if each.tag >= before_tag)
    return body[:at] + element + body[at:]


def sent(port: int, body: bytes, instance: str) -> int | None:
    """Return the status of one instance; None when the association was ended instead."""
    with RawPeer(port, timeout_s=60) as peer:
        assert peer.associate(STORAGE)[0] == ACCEPT
        try:
            return peer.store(body, instance=instance)
        except (AssertionError, OSError):
            return None


HOSTILE_UIDS = [
    "../../../../tmp/canary",
    "1.2.3\0.4",
    "1.2.3\n4",
    "1.2." + "3" * 70,
    "1.02.3",
    "",
    "/etc/passwd",
    "1.2.3;touch canary",
    "$(touch canary)",
]


def outside(folder: Path) -> list[Path]:
    """Return what lies beside the data directory and the database."""
    found = (path for path in folder.rglob("*") if "data" not in path.parts)
    return sorted(path for path in found if not path.name.startswith("overread.db"))


@pytest.mark.faults(number=12)
@pytest.mark.parametrize("uid", HOSTILE_UIDS)
def test_no_uid_leads_out_of_the_archive(receiver, tmp_path, uid):
    dataset = ct_series(slices=1)[0]
    before = outside(tmp_path)
    body = body_of(dataset)
    for tag in (0x0020000D, 0x0020000E, 0x00080018):
        hostile = replaced(body, tag, uid.encode())
        named = uid if tag == 0x00080018 else str(dataset.SOPInstanceUID)
        status = sent(receiver.port, hostile, named)
        assert status is None or status >> 8 == 0xC0, f"{tag:08X}: {status}"
    assert outside(tmp_path) == before
    assert receiver.files() == []
    assert receiver.unfinished() == []
    assert sent(receiver.port, body, dataset.SOPInstanceUID) == SUCCESS


@pytest.mark.faults(number=13)
def test_what_cannot_be_read_is_never_answered_with_success(receiver):
    dataset = ct_series(slices=1)[0]
    body, uid = body_of(dataset), dataset.SOPInstanceUID
    chance = random.Random(7)
    broken = {
        "garbage": chance.randbytes(5000),
        "zeros": bytes(5000),
        "a file with its meta": part10(dataset),
        "a length beyond the end": inserted(
            body, 0x00100000, struct.pack("<HH2sHL", 0x0009, 0x1000, b"OB", 0, 0x7FFFFFFF)
        ),
        "an element of 4 GiB": body + struct.pack("<HH2sHL", 0x7FE1, 0x1000, b"OB", 0, 0xFFFFFFFE),
        "cut in the pixels": body[:-1],
        "more after the end": body + b"\0",
    }
    for name, data in broken.items():
        status = sent(receiver.port, data, uid)
        assert status is not None, name
        assert status >> 8 == 0xC0, f"{name}: {status:04X}"
    assert receiver.files() == []


def nested(depth: int) -> bytes:
    """Return a private sequence that holds itself so many times."""
    opening = struct.pack("<HH2sH", 0x0009, 0x1000, b"SQ", 0) + UNDEFINED + ITEM + UNDEFINED
    return opening * depth + (ITEM_END + SEQUENCE_END) * depth


@pytest.mark.faults(number=14)
@pytest.mark.parametrize("depth", [300, 3000, 30_000])
def test_deep_nesting_is_refused(receiver, depth):
    dataset = ct_series(slices=1)[0]
    body = inserted(body_of(dataset), 0x00100000, nested(depth))
    assert sent(receiver.port, body, dataset.SOPInstanceUID) == 0xC001


@pytest.mark.faults(number=14)
def test_more_elements_than_any_instance_has_are_refused_and_many_are_stored(receiver):
    dataset = ct_series(slices=1)[0]
    items = (ITEM + b"\0\0\0\0") * 250_000
    sequence = struct.pack("<HH2sHL", 0x0009, 0x1000, b"SQ", 0, len(items)) + items
    body = inserted(body_of(dataset), 0x00100000, sequence)
    assert sent(receiver.port, body, dataset.SOPInstanceUID) == 0xC003
    many = b"".join(
        struct.pack("<HH2sH", 0x0009 + 2 * (number >> 12), 0x1000 + (number & 0xFFF), b"SH", 2)
        + b"x "
        for number in range(28_000)
    )
    body = inserted(body_of(dataset), 0x00100000, many)
    assert sent(receiver.port, body, dataset.SOPInstanceUID) == SUCCESS


@pytest.mark.slow
@pytest.mark.faults(number=15)
def test_bombs_and_huge_values_cost_bounded_memory(tmp_path, seen):
    dataset = ct_series(slices=1)[0]
    body, uid = body_of(dataset), dataset.SOPInstanceUID
    bomb_of = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(1 << 20)
    head = body + struct.pack("<HH2sHL", 0x7FE1, 0x1000, b"OB", 0, 0x7FFFFFFE)
    bomb = bomb_of.compress(head) + b"".join(bomb_of.compress(block) for _ in range(1024))
    bomb += bomb_of.flush()
    private = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 40 << 20) + bytes(40 << 20)
    url = f"sqlite:///{tmp_path / 'overread.db'}"
    with ReceiverProcess(tmp_path, url, accept_deflated=True) as running:
        before_mb = resident_mb(running.pid)
        with watched(running.pid) as peak_mb:
            with RawPeer(running.port, timeout_s=60) as peer:
                peer.associate(context(1, CT, DeflatedExplicitVRLittleEndian))
                assert peer.store(bomb, instance=uid) == OUT_OF_RESOURCES
            bomb_mb = peak_mb() - before_mb
            long_name = replaced(body, 0x00100010, b"A" * 0xFFF0)
            assert sent(running.port, long_name, uid) == SUCCESS
            other = ct_series(slices=2)[1]
            large = inserted(body_of(other), 0x00100000, private)
            assert sent(running.port, large, other.SOPInstanceUID) == SUCCESS
    assert bomb_mb < 600
    seen(f"{len(bomb) >> 10} KiB that inflate to 1 GiB: refused at {bomb_mb:.0f} MB")


@pytest.mark.faults(number=15)
def test_deflated_data_sets_are_not_negotiated_by_default(receiver):
    with RawPeer(receiver.port) as peer:
        _, body = peer.associate(context(1, CT, DeflatedExplicitVRLittleEndian))
        at = body.index(b"\x21\0", 68)
        assert body[at + 6] == 4  # transfer syntaxes not supported


STRANGE = [
    b"\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
    b"\0\x01\x02\x1b[31m\x07",
    b"<script>alert(1)</script>",
    b"'; DROP TABLE studies; --",
    b"${jndi:ldap://127.0.0.1/a}",
    b"=cmd|'/C calc'!A0",
    b"a\r\nb\r\nc",
    b"\xff\xfe\xfd\xc0\xaf",
]


@pytest.mark.faults(number=17)
def test_strange_text_is_stored_and_never_breaks_a_log_line(tmp_path, database_url):
    running = ReceiverProcess(tmp_path, database_url)
    running.start()
    try:
        for number, text in enumerate(STRANGE):
            dataset = ct_series(
                slices=1, name=f"series {number}", study=f"study {number}",
                StudyDescription="to be replaced", SeriesDescription="to be replaced",
            )[0]  # fmt: skip
            body = body_of(dataset)
            for tag in (0x00100010, 0x00100020, 0x00081030, 0x0008103E):
                body = replaced(body, tag, text[:60])
            assert sent(running.port, body, dataset.SOPInstanceUID) == SUCCESS, text
            with RawPeer(running.port) as peer:
                title = text.decode("latin_1")[:16]
                peer.associate(STORAGE, calling=title, called=title)
    finally:
        running.stop()
    lines = (tmp_path / "receiver.log").read_text().splitlines()
    assert len(lines) > len(STRANGE)
    for line in lines:
        json.loads(line)
    log = "\n".join(lines)
    for word in ("<script>", "DROP TABLE", "jndi"):
        assert f'patient_name": "{word}' not in log
    records = Records(database_url)
    with records.reading() as connection:
        assert len(connection.execute(select(studies.c.id)).all()) == len(STRANGE)
    records.close()


@pytest.mark.slow
@pytest.mark.peers
@pytest.mark.faults(number=19)
def test_instances_with_flipped_bytes_get_statuses_and_success_only_when_readable(
    receiver, dcmtk: Dcmtk, tmp_path, seen
):
    chance = random.Random(20_261_120)
    counts = {"stored": 0, "refused": 0}
    with RawPeer(receiver.port, timeout_s=60) as peer:
        assert peer.associate(STORAGE)[0] == ACCEPT
        for _ in range(150):
            uid = generate_uid()
            dataset = ct_series(slices=1, rows=16, columns=16)[0]
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
            body = bytearray(body_of(dataset))
            for _ in range(chance.randrange(1, 8)):
                body[chance.randrange(len(body) - 512)] = chance.randrange(256)
            status = peer.store(bytes(body), instance=uid)
            counts["stored" if status == SUCCESS else "refused"] += 1
            assert status in (SUCCESS, 0xA900, 0x0110) or status >> 8 == 0xC0, f"{status:04X}"
    stored = receiver.files()
    assert len(stored) <= counts["stored"]
    # Damaged values are the sender's; what must hold is that the bytes are a data set to its end.
    listing = tmp_path / "dump.txt"
    for file in stored[:40]:
        listing.write_text(dcmtk("dcmdump", "-q", file, check=False).stdout)
        assert "(7fe0,0010)" in listing.read_text() or "# Dicom-Data-Set" in listing.read_text()
    seen(f"{counts['stored']} stored, {counts['refused']} refused, the association lived")


@pytest.mark.faults(number=12)
@pytest.mark.faults(number=17)
def test_a_polyglot_preamble_does_not_reach_the_archive(receiver):
    """A file's first 128 bytes can make it a program too; over DIMSE and in files they are lost."""
    dataset = ct_series(slices=1)[0]
    assert sent(receiver.port, body_of(dataset), dataset.SOPInstanceUID) == SUCCESS
    (file,) = receiver.files()
    assert file.read_bytes()[:128] == bytes(128)
