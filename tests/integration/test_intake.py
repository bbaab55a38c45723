"""The receiver as a process, with real senders on the other side, on both databases."""

import contextlib
import gc
import hashlib
import io
import os
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)
from pynetdicom import AE, build_context
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import (
    CTImageStorage,
    PatientRootQueryRetrieveInformationModelFind,
    Verification,
)
from sqlalchemy import select, update

from service.core.elements import Encoding, walk
from service.core.part10 import read_file_meta
from service.records.database import Records
from service.records.tables import events, instances, series, studies
from tests.builders.dicom import ct_series, enhanced_ct, in_syntax, part10, radiograph, write_series
from tests.builders.outside import shared_data
from tests.peers.process import wait_for
from tests.peers.receiver import Receiver, ReceiverProcess

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
MISMATCH = 0xA900


@pytest.fixture
def receiver(tmp_path: Path, database_url: str) -> Iterator[Receiver]:
    with Receiver(tmp_path, database_url) as running:
        yield running


@pytest.fixture
def sqlite_receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path, f"sqlite:///{tmp_path / 'overread.db'}") as running:
        yield running


@contextlib.contextmanager
def association(port: int, *contexts, calling: str = "MODALITY", called: str = "OVERREAD", **more):
    entity = AE(calling)
    opened = entity.associate("127.0.0.1", port, contexts=list(contexts), ae_title=called, **more)
    wire = opened.dul.socket.socket if opened.dul.socket else None
    try:
        yield opened
    finally:
        if opened.is_established:
            opened.release()
        entity.shutdown()
        if wire is not None:
            wire.close()  # the library leaves it open when the other side was killed


def context_of(dataset, *syntaxes):
    return build_context(
        dataset.SOPClassUID, list(syntaxes) or [dataset.file_meta.TransferSyntaxUID]
    )


def send(port: int, *datasets) -> list[int]:
    contexts = {(d.SOPClassUID, d.file_meta.TransferSyntaxUID): context_of(d) for d in datasets}
    with association(port, *contexts.values()) as opened:
        assert opened.is_established
        return [opened.send_c_store(dataset).get("Status") for dataset in datasets]


def rows(database_url: str, table, *columns):
    records = Records(database_url)
    try:
        with records.reading() as connection:
            return connection.execute(select(*columns or [table]).order_by(table.c.id)).all()
    finally:
        records.close()


def echoes(port: int) -> bool:
    with association(port, build_context(Verification)) as opened:
        return opened.is_established and opened.send_c_echo().get("Status") == SUCCESS


def test_a_sent_series_lies_in_archive_and_database_as_received(receiver):
    datasets = ct_series(slices=5)
    assert send(receiver.port, *datasets) == [SUCCESS] * 5
    stored = rows(receiver.database_url, instances)
    assert [row.sop_instance_uid for row in stored] == [d.SOPInstanceUID for d in datasets]
    for row, dataset in zip(stored, datasets, strict=True):
        data = (receiver.data_dir / "archive" / row.path).read_bytes()
        sent = part10(dataset)
        body = data[read_file_meta(data).length :]
        assert body == sent[read_file_meta(sent).length :]
        assert row.sha256 == hashlib.sha256(body).hexdigest()
        assert row.calling_ae_title == "MODALITY"
        assert data[:128] == bytes(128)
    study = rows(receiver.database_url, studies)[0]
    assert (study.state, study.revision, study.completed_revision) == ("RECEIVING", 1, 0)
    assert (study.series_count, study.instances_count, study.modalities) == (1, 5, "CT")
    assert study.source_ae_title == "MODALITY"
    assert rows(receiver.database_url, series)[0].instances_count == 5
    assert [event.state for event in rows(receiver.database_url, events)] == ["RECEIVING"]
    assert receiver.unfinished() == []


@pytest.mark.faults(number=18)
def test_the_same_instances_again_change_nothing(receiver):
    datasets = ct_series(slices=2)
    send(receiver.port, *datasets)
    before = rows(receiver.database_url, studies), rows(receiver.database_url, instances)
    files = receiver.files()
    assert send(receiver.port, *datasets, *datasets) == [SUCCESS] * 4
    assert (rows(receiver.database_url, studies), rows(receiver.database_url, instances)) == before
    assert receiver.files() == files


@pytest.mark.faults(number=18)
def test_other_bytes_under_a_known_uid_become_a_new_version(receiver):
    first = ct_series(slices=1)[0]
    second = ct_series(slices=1, SeriesDescription="corrected")[0]
    assert first.SOPInstanceUID == second.SOPInstanceUID
    assert send(receiver.port, first, second) == [SUCCESS, SUCCESS]
    stored = rows(receiver.database_url, instances)
    assert [(row.version, row.current) for row in stored] == [(1, False), (2, True)]
    assert len(receiver.files()) == 2
    assert rows(receiver.database_url, studies)[0].instances_count == 1


def test_a_late_instance_opens_the_next_revision(receiver):
    datasets = ct_series(slices=2)
    send(receiver.port, datasets[0])
    records = Records(receiver.database_url)
    with records.writing() as connection:
        for table in (studies, series):
            connection.execute(update(table).values(completed_revision=1))
        connection.execute(update(studies).values(state="ANALYSED"))
    records.close()
    send(receiver.port, datasets[1])
    study = rows(receiver.database_url, studies)[0]
    assert (study.revision, study.completed_revision, study.state) == (2, 1, "RECEIVING")
    assert rows(receiver.database_url, series)[0].revision == 2


def test_many_associations_at_once_lose_nothing(receiver):
    groups = [ct_series(slices=12, name=f"series {n}", study=f"study {n % 2}") for n in range(4)]
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda g=group: answers.extend(send(receiver.port, *g)))
        for group in groups
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [SUCCESS] * 48
    assert sorted(study.instances_count for study in rows(receiver.database_url, studies)) == [
        24,
        24,
    ]
    assert len(receiver.files()) == 48


@pytest.mark.faults(number=18)
def test_one_instance_sent_by_many_at_once_is_kept_once(receiver):
    dataset = ct_series(slices=1)[0]
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.extend(send(receiver.port, dataset)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [SUCCESS] * 6
    assert len(rows(receiver.database_url, instances)) == 1
    assert rows(receiver.database_url, studies)[0].instances_count == 1


@pytest.mark.parametrize(
    "transfer_syntax_uid",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        JPEG2000Lossless,
        RLELossless,
    ],
)
def test_every_kind_of_syntax_is_stored_as_received(sqlite_receiver, transfer_syntax_uid):
    datasets = [
        in_syntax(each, transfer_syntax_uid)
        for each in (ct_series(slices=1)[0], radiograph()[0], enhanced_ct(slices=2)[0])
    ]
    assert send(sqlite_receiver.port, *datasets) == [SUCCESS] * 3
    for row in rows(sqlite_receiver.database_url, instances):
        assert row.transfer_syntax_uid == transfer_syntax_uid
        path = sqlite_receiver.data_dir / "archive" / row.path
        assert dcmread(path).file_meta.TransferSyntaxUID == transfer_syntax_uid


def test_dcmtk_verifies_and_stores(sqlite_receiver, dcmtk, tmp_path):
    port = sqlite_receiver.port
    dcmtk("echoscu", "-aec", "OVERREAD", "127.0.0.1", port)
    folder = tmp_path / "series"
    write_series(ct_series(slices=4), folder)
    dcmtk("storescu", "-aec", "OVERREAD", "127.0.0.1", port, "+sd", folder)
    assert len(rows(sqlite_receiver.database_url, instances)) == 4


def test_dcmtk_stores_with_tiny_and_with_large_pdus(sqlite_receiver, dcmtk, tmp_path):
    write_series(ct_series(slices=2, rows=200, columns=200), tmp_path / "series")
    for size in (4096, 131072):
        dcmtk(
            "storescu", "-aec", "OVERREAD", "-pdu", size, "--max-send-pdu", size,
            "127.0.0.1", sqlite_receiver.port, "+sd", tmp_path / "series",
        )  # fmt: skip
    assert len(rows(sqlite_receiver.database_url, instances)) == 2


def test_only_storage_and_verification_are_negotiated(sqlite_receiver):
    wanted = [
        build_context(CTImageStorage, ExplicitVRLittleEndian),
        build_context(CTImageStorage, DeflatedExplicitVRLittleEndian),
        build_context(PatientRootQueryRetrieveInformationModelFind),
        build_context("1.2.3.4.5.6"),
        build_context(Verification),
    ]
    with association(sqlite_receiver.port, *wanted) as opened:
        accepted = {context.abstract_syntax for context in opened.accepted_contexts}
        refused = [(c.abstract_syntax, c.result) for c in opened.rejected_contexts]
    assert accepted == {CTImageStorage, Verification}
    assert refused == [
        (CTImageStorage, 4),
        (PatientRootQueryRetrieveInformationModelFind, 3),
        ("1.2.3.4.5.6", 3),
    ]


@pytest.mark.faults(number=6)
def test_wrong_titles_are_rejected_by_name(tmp_path):
    url = f"sqlite:///{tmp_path / 'overread.db'}"
    callers = [{"ae_title": "MODALITY", "addresses": ["127.0.0.0/8"]}, "PACS"]
    with Receiver(tmp_path, url, callers=callers) as running:
        verify = build_context(Verification)
        with association(running.port, verify, called="OTHER") as opened:
            answer = opened.acceptor.primitive
            assert (answer.result, answer.result_source, answer.diagnostic) == (1, 1, 7)
        with association(running.port, verify, calling="STRANGER") as opened:
            answer = opened.acceptor.primitive
            assert (answer.result, answer.result_source, answer.diagnostic) == (1, 1, 3)
        for calling in ("MODALITY", "PACS"):
            with association(running.port, verify, calling=calling) as opened:
                assert opened.is_established


@pytest.mark.faults(number=9)
def test_associations_beyond_the_limit_are_rejected_and_places_come_back(tmp_path):
    url = f"sqlite:///{tmp_path / 'overread.db'}"
    with Receiver(tmp_path, url, max_associations=2) as running:
        verify = build_context(Verification)
        with (
            association(running.port, verify),
            association(running.port, verify),
            association(running.port, verify) as third,
        ):
            answer = third.acceptor.primitive
            assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
        assert wait_for(lambda: echoes(running.port), limit_s=90)


def changed(dataset, keyword: str, value: str) -> bytes:
    """Return the file of a data set with one UID replaced in its bytes."""
    data = part10(dataset)
    start = read_file_meta(data).length
    element = next(e for e in walk(data, Encoding(), start=start) if e.tag == dataset[keyword].tag)
    stored = value.encode() + b"\0" * (len(value) % 2)
    head = data[element.start : element.start + 6] + struct.pack("<H", len(stored))
    return data[: element.start] + head + stored + data[element.end :]


def send_bytes(port: int, data: bytes, dataset) -> int:
    """Send a data set's bytes as they are, announced as the data set's class and instance."""
    body = data[read_file_meta(data).length :] if data[128:132] == b"DICM" else data
    with association(port, context_of(dataset)) as opened:
        return raw_store(opened, dataset, body)


def raw_store(opened, dataset, body: bytes) -> int:
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = dataset.SOPClassUID
    request.AffectedSOPInstanceUID = dataset.SOPInstanceUID
    request.Priority = 2
    request.DataSet = io.BytesIO(body)
    # The library's own thread would take the answer for a request.
    opened._reactor_checkpoint.clear()
    wait_for(lambda: opened._is_paused, pause_s=0.001)
    opened.dimse.send_msg(request, opened.accepted_contexts[0].context_id)
    _, answer = opened.dimse.get_msg(block=True)
    opened._reactor_checkpoint.set()
    assert answer is not None, "no answer"
    return answer.Status


@pytest.mark.faults(number=11)
@pytest.mark.faults(number=12)
@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("SOPInstanceUID", "1.2.3.4", MISMATCH),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.4", MISMATCH),
        ("StudyInstanceUID", "", 0xC00D),
        ("SeriesInstanceUID", "../../../tmp/evil", 0xC00E),
        ("StudyInstanceUID", "1.02.3", 0xC00E),
    ],
)
def test_what_was_not_announced_is_refused_and_leaves_nothing(
    sqlite_receiver, keyword, value, expected
):
    dataset = ct_series(slices=1)[0]
    assert send_bytes(sqlite_receiver.port, changed(dataset, keyword, value), dataset) == expected
    assert sqlite_receiver.files() == []
    assert sqlite_receiver.unfinished() == []
    assert rows(sqlite_receiver.database_url, studies) == []


@pytest.mark.faults(number=13)
def test_cut_instances_are_never_acknowledged(sqlite_receiver):
    dataset = ct_series(slices=1)[0]
    data = part10(dataset)
    body = data[read_file_meta(data).length :]
    with association(sqlite_receiver.port, context_of(dataset)) as opened:
        for length in (1, 7, 9, 100, len(body) // 2, len(body) - 1):
            status = raw_store(opened, dataset, body[:length])
            assert 0xC000 <= status <= 0xC0FF
        assert raw_store(opened, dataset, body) == SUCCESS
    assert len(sqlite_receiver.files()) == 1


@pytest.mark.faults(number=13)
@pytest.mark.faults(number=17)
def test_torture_instances_are_stored_or_refused_and_the_listener_lives(sqlite_receiver):
    refused = {}
    stored = 0
    for path in sorted(shared_data("torture/made").rglob("*.dcm")):
        data = path.read_bytes()
        if data[128:132] != b"DICM":
            continue
        meta = read_file_meta(data)
        if meta is None or "deflate" in path.name:
            continue
        contexts = [build_context(meta.sop_class_uid, meta.transfer_syntax_uid)]
        dataset = (
            dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID"], force=True)
            if ("nested" not in path.name)
            else None
        )
        with association(sqlite_receiver.port, *contexts) as opened:
            named = _Named(meta.sop_class_uid, meta.sop_instance_uid)
            status = raw_store(opened, dataset or named, data[meta.length :])
        if status == SUCCESS:
            stored += 1
        else:
            refused[path.stem] = status
    assert stored > 100
    assert set(refused) == {"nested_300", "trunc_header", "trunc_pixels", "uid_empty", "uid_long",
                            "uid_path"}  # fmt: skip
    assert all(0xC000 <= status <= 0xC0FF for status in refused.values())
    assert echoes(sqlite_receiver.port)


class _Named:
    def __init__(self, sop_class_uid: str, sop_instance_uid: str) -> None:
        self.SOPClassUID = sop_class_uid
        self.SOPInstanceUID = sop_instance_uid


# The library forgets to close the socket of an association that could not be opened.
@pytest.mark.faults(number=31)
@pytest.mark.faults(number=39)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.slow
def test_no_answered_instance_is_lost_when_the_receiver_is_killed(tmp_path, database_url):
    answered: list[str] = []
    stop = threading.Event()
    receiver = ReceiverProcess(tmp_path, database_url)

    def sender(number: int) -> None:
        while not stop.is_set():
            batch = ct_series(slices=20, name=generate_uid(), study=f"study {number}")
            with association(receiver.port, context_of(batch[0])) as opened:
                for dataset in batch:
                    if not opened.is_established:
                        break
                    if opened.send_c_store(dataset).get("Status") == SUCCESS:
                        answered.append(dataset.SOPInstanceUID)

    threads = [threading.Thread(target=sender, args=(n,)) for n in range(3)]
    receiver.start()
    for thread in threads:
        thread.start()
    for _ in range(3):
        count = len(answered)
        wait_for(lambda before=count: len(answered) > before + 10)
        receiver.kill()
        receiver.start()
    stop.set()
    for thread in threads:
        thread.join()
    receiver.stop()
    stored = {row.sop_instance_uid: row for row in rows(database_url, instances)}
    gc.collect()
    assert len(answered) > 30
    assert set(answered) <= set(stored)
    for row in stored.values():
        data = (receiver.data_dir / "archive" / row.path).read_bytes()
        assert hashlib.sha256(data[read_file_meta(data).length :]).hexdigest() == row.sha256


@pytest.mark.faults(number=39)
def test_a_stopping_receiver_finishes_the_instance_that_is_coming_in(sqlite_receiver):
    dataset = ct_series(slices=1, rows=400, columns=400)[0]
    statuses: list[int] = []
    sending = threading.Event()
    with association(sqlite_receiver.port, context_of(dataset)) as opened:
        send_pdu = opened.dul.socket.send

        def dawdling(data: bytes) -> None:
            if len(data) > 10_000:
                sending.set()
                time.sleep(0.1)
            send_pdu(data)

        opened.dul.socket.send = dawdling
        thread = threading.Thread(
            target=lambda: statuses.append(opened.send_c_store(dataset).get("Status"))
        )
        thread.start()
        assert sending.wait(10)
        sqlite_receiver.stop()
        thread.join()
    assert statuses == [SUCCESS]
    assert len(sqlite_receiver.files()) == 1


@pytest.mark.faults(number=39)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.slow
def test_several_processes_share_one_port_and_come_back_when_killed(tmp_path, database_url):
    with ReceiverProcess(tmp_path, database_url, processes=2) as running:
        assert wait_for(lambda: echoes(running.port), limit_s=90)
        children = wait_for(lambda: _children(running.pid))
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(set(_children(running.pid)) - set(children)) == 2)
        assert wait_for(lambda: echoes(running.port), limit_s=90)
        assert send(running.port, *ct_series(slices=3)) == [SUCCESS] * 3
    gc.collect()
    assert len(rows(database_url, instances)) == 3


def _children(pid: int) -> list[int]:
    """Return the listening processes of a receiver, made by itself or by its fork server."""
    table = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(maxsplit=3) for line in table.splitlines()]
    parents = {int(child): int(parent) for child, parent, *_ in rows}
    listeners = [
        int(child)
        for child, _, state, *title in rows
        if not state.startswith("Z") and "".join(title).startswith("overread listener")
    ]
    return [each for each in listeners if pid in (parents[each], parents.get(parents[each]))]


@pytest.mark.slow
def test_children_end_with_their_parent(tmp_path):
    url = f"sqlite:///{tmp_path / 'overread.db'}"
    running = ReceiverProcess(tmp_path, url, processes=2)
    running.start()
    assert wait_for(lambda: echoes(running.port), limit_s=90)
    children = _children(running.pid)
    assert len(children) == 2
    running.signal(signal.SIGKILL)
    assert wait_for(lambda: not any(_runs(pid) for pid in children))


def _runs(pid: int) -> bool:
    """Return whether a process runs; one that only waits to be reaped does not."""
    found = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(found) and not found.startswith("Z")
