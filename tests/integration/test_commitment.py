"""Storage commitment with a real requestor: on its own association, or on one of ours."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import CTImageStorage, StorageCommitmentPushModel

from tests.builders.dicom import ct_series
from tests.peers.ports import free_port
from tests.peers.receiver import Receiver, ReceiverProcess

INSTANCE = "1.2.840.10008.1.20.1.1"
SUCCESS = 0x0000


class Requestor:
    """A modality that stores, asks for commitment and listens for the report."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, Dataset]] = []
        self.told = threading.Event()

    def on_report(self, event):
        self.reports.append((event.event_type, event.event_information))
        self.told.set()
        return SUCCESS, None

    def request(self, port: int, datasets, references, *, wait: bool, **more) -> int:
        entity = AE("MODALITY")
        opened = entity.associate(
            "127.0.0.1",
            port,
            contexts=[
                build_context(CTImageStorage, ExplicitVRLittleEndian),
                build_context(StorageCommitmentPushModel),
            ],
            ae_title="OVERREAD",
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.on_report)] if wait else [],
        )
        assert opened.is_established
        wire = opened.dul.socket.socket
        for dataset in datasets:
            assert opened.send_c_store(dataset).Status == SUCCESS
        information = Dataset()
        information.TransactionUID = generate_uid()
        information.ReferencedSOPSequence = [_item(*reference) for reference in references]
        status, _ = opened.send_n_action(
            more.get("information", information),
            more.get("action_type", 1),
            StorageCommitmentPushModel,
            more.get("instance", INSTANCE),
        )
        if wait and status.Status == SUCCESS:
            assert self.told.wait(20)
        time.sleep(0.5)  # the library sends its answer after the handler, in its own time
        opened.release()
        wire.close()
        self.transaction_uid = information.TransactionUID
        return status.Status


def _item(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path, f"sqlite:///{tmp_path / 'overread.db'}") as running:
        yield running


def uids(sequence) -> list[str]:
    return [item.ReferencedSOPInstanceUID for item in sequence]


def test_stored_instances_are_committed_on_the_same_association(receiver):
    datasets = ct_series(slices=3)
    modality = Requestor()
    wanted = [(d.SOPClassUID, d.SOPInstanceUID) for d in datasets]
    assert modality.request(receiver.port, datasets, wanted, wait=True) == SUCCESS
    event_type, report = modality.reports[0]
    assert event_type == 1
    assert report.TransactionUID == modality.transaction_uid
    assert uids(report.ReferencedSOPSequence) == [uid for _, uid in wanted]


def test_what_is_not_kept_is_named_with_its_reason(receiver):
    kept, lost, other = ct_series(slices=3)
    modality = Requestor()
    modality.request(receiver.port, [lost], [(lost.SOPClassUID, lost.SOPInstanceUID)], wait=True)
    os.unlink(receiver.files()[0])  # noqa: PTH108
    modality = Requestor()
    wanted = [
        (kept.SOPClassUID, kept.SOPInstanceUID),
        ("1.2.840.10008.5.1.4.1.1.4", other.SOPInstanceUID),
        (lost.SOPClassUID, lost.SOPInstanceUID),
        (kept.SOPClassUID, "1.2.3.4"),
    ]
    modality.request(receiver.port, [kept, other], wanted, wait=True)
    event_type, report = modality.reports[0]
    assert event_type == 2
    assert uids(report.ReferencedSOPSequence) == [kept.SOPInstanceUID]
    failed = [(i.ReferencedSOPInstanceUID, i.FailureReason) for i in report.FailedSOPSequence]
    assert failed == [
        (other.SOPInstanceUID, 0x0119),
        (lost.SOPInstanceUID, 0x0112),
        ("1.2.3.4", 0x0112),
    ]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"action_type": 2}, 0x0123),
        ({"instance": "1.2.3"}, 0x0112),
        ({"information": _item("1.2", "1.2.3")}, 0x0110),
    ],
)
def test_a_request_that_is_none_gets_a_status(receiver, more, expected):
    modality = Requestor()
    assert modality.request(receiver.port, [], [("1.2", "1.2.3")], wait=True, **more) == expected


def test_a_requestor_that_takes_no_report_is_called_back_where_it_is_known(tmp_path):
    modality = Requestor()
    port = free_port()
    entity = AE("MODALITY")
    entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    listening = entity.start_server(
        ("127.0.0.1", port),
        block=False,
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, modality.on_report)],
    )
    destination = {"name": "pacs", "ae_title": "MODALITY", "host": "127.0.0.1", "port": port}
    url = f"sqlite:///{tmp_path / 'overread.db'}"
    try:
        with Receiver(tmp_path, url, destinations=[destination]) as running:
            dataset = ct_series(slices=1)[0]
            wanted = [(dataset.SOPClassUID, dataset.SOPInstanceUID)]
            modality.request(running.port, [dataset], wanted, wait=False)
            assert modality.told.wait(30)
    finally:
        listening.shutdown()
    event_type, report = modality.reports[0]
    assert (event_type, uids(report.ReferencedSOPSequence)) == (1, [dataset.SOPInstanceUID])


class _Listening:
    """A requestor's own listener, which takes reports or refuses them."""

    def __init__(self, modality: Requestor, port: int) -> None:
        entity = AE("MODALITY")
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        self._server = entity.start_server(
            ("127.0.0.1", port),
            block=False,
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, modality.on_report)],
        )

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()


@pytest.mark.faults(number=31)
@pytest.mark.slow
def test_a_report_that_is_owed_is_told_after_a_kill(tmp_path, database_url):
    modality = Requestor()
    port = free_port()
    peer = {"name": "pacs", "ae_title": "MODALITY", "host": "127.0.0.1", "port": port}
    running = ReceiverProcess(tmp_path, database_url, destinations=[peer])
    running.start()
    dataset = ct_series(slices=1)[0]
    wanted = [(dataset.SOPClassUID, dataset.SOPInstanceUID)]
    assert modality.request(running.port, [dataset], wanted, wait=False) == SUCCESS
    running.kill()
    with _Listening(modality, port):
        running.start()
        assert modality.told.wait(60)
        running.stop()
    event_type, report = modality.reports[0]
    assert (event_type, uids(report.ReferencedSOPSequence)) == (1, [dataset.SOPInstanceUID])
    assert report.TransactionUID == modality.transaction_uid
