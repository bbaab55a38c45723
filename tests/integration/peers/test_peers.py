"""Each throwaway peer starts, does its part, and leaves nothing behind."""

import copy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psycopg
import pytest
import redis
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid
from pynetdicom import AE
from sqlalchemy import create_engine, text

from tests.builders.dicom import ct_series
from tests.peers import catalogue
from tests.peers.catalogue import RealPeer
from tests.peers.orthanc import Orthanc
from tests.peers.pacs import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, Behaviour, PlayingPacs
from tests.peers.process import Process, dying_with_parent, wait_for
from tests.peers.redis import RedisServer
from tests.peers.stow import Answer, StowServer
from tests.peers.tools import Dciodvfy, Dcmtk, PixelMed

REPOSITORY = Path(__file__).parents[3]

pytestmark = pytest.mark.peers


def test_each_database_is_empty_and_keeps_a_row(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE notes (line TEXT)"))
        connection.execute(text("INSERT INTO notes VALUES ('kept')"))
    with engine.connect() as connection:
        assert connection.execute(text("SELECT line FROM notes")).scalars().all() == ["kept"]
    engine.dispose()


def test_a_dropped_database_leaves_no_trace_for_the_next_test(postgres_url: str) -> None:
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        tables = connection.execute(
            "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchone()
    assert tables == (0,)


def test_redis_starts_empty_for_each_test(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_a_killed_redis_comes_back_with_what_it_had(redis_server: RedisServer) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("kept", "yes")
    time.sleep(1.2)  # the append-only file reaches the disk once a second
    redis_server.kill()
    redis_server.start()
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.get("kept") == b"yes"


def test_orthanc_answers_echo_and_rest(orthanc: Orthanc, dcmtk: Dcmtk) -> None:
    dcmtk("echoscu", "-aec", orthanc.ae_title, "127.0.0.1", orthanc.dicom_port)
    assert orthanc.get("/system")["DicomAet"] == orthanc.ae_title
    assert orthanc.get("/dicom-web/studies") == []


def test_orthanc_sends_a_stable_ct_series_on_and_keeps_reports_to_itself(
    orthanc: Orthanc, tmp_path: Path
) -> None:
    (image,) = ct_series(slices=1)
    report = copy.deepcopy(image)
    report.Modality = "SR"
    report.SeriesInstanceUID, report.SOPInstanceUID = generate_uid(), generate_uid()
    with PlayingPacs(tmp_path / "listener", port=orthanc.overread_port) as listener:
        for number, dataset in enumerate((report, image)):
            orthanc.upload(_written(dataset, tmp_path / f"{number}.dcm"))
        listener.wait_for_instances(1, limit_s=30)
        assert orthanc.answers_echo("overread")
    assert [item.sop_instance_uid for item in listener.received] == [image.SOPInstanceUID]


def test_what_came_from_overread_does_not_go_back(orthanc: Orthanc, tmp_path: Path) -> None:
    own, foreign = (ct_series(slices=1, name=name)[0] for name in ("own", "foreign"))
    with PlayingPacs(tmp_path / "listener", port=orthanc.overread_port) as listener:
        for dataset, calling in ((own, "OVERREAD"), (foreign, "MODALITY")):
            port, called = orthanc.dicom_port, orthanc.ae_title
            assert _stored(dataset, port=port, calling=calling, called=called) == 0
        listener.wait_for_instances(1, limit_s=30)
    assert [item.sop_instance_uid for item in listener.received] == [foreign.SOPInstanceUID]
    senders = {orthanc.metadata(instance) for instance in orthanc.instances(Modality="CT")}
    assert senders == {"OVERREAD", "MODALITY"}


def test_the_playing_pacs_keeps_what_it_is_sent_as_sent(pacs: PlayingPacs) -> None:
    (dataset,) = ct_series(slices=1)
    assert _stored(dataset, port=pacs.port) == 0
    assert _stored(dataset, port=pacs.port) == 0
    first, second = pacs.received
    assert first.sop_instance_uid == second.sop_instance_uid == dataset.SOPInstanceUID
    assert first.read().PixelData == dataset.PixelData


@pytest.mark.parametrize(
    ("behaviour", "status", "kept"),
    [
        (Behaviour.OUT_OF_RESOURCES, OUT_OF_RESOURCES, 0),
        (Behaviour.CANNOT_UNDERSTAND, CANNOT_UNDERSTAND, 0),
        (Behaviour.REFUSE_ASSOCIATION, None, 0),
        (Behaviour.ABORT, None, 0),
        (Behaviour.LOSE_ACK, None, 1),
    ],
)
def test_the_playing_pacs_misbehaves_once_and_then_accepts(
    pacs: PlayingPacs, behaviour: Behaviour, status: int | None, kept: int
) -> None:
    (dataset,) = ct_series(slices=1)
    pacs.behave(behaviour, times=1)
    assert _stored(dataset, port=pacs.port) == status
    assert len(pacs.received) == kept
    assert _stored(dataset, port=pacs.port) == 0
    assert len(pacs.received) == kept + 1


def test_dciodvfy_tells_a_whole_object_from_a_broken_one(
    dciodvfy: Dciodvfy, tmp_path: Path
) -> None:
    (whole,) = ct_series(slices=1, Laterality="")
    broken = copy.deepcopy(whole)
    del broken.Rows
    assert dciodvfy(_written(whole, tmp_path / "whole.dcm")).errors == ()
    assert any("Rows" in line for line in dciodvfy(_written(broken, tmp_path / "b.dcm")).errors)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pixelmed_misses_what_a_report_lacks(pixelmed: PixelMed, tmp_path: Path) -> None:
    whole = _report(ct_series(slices=1))
    broken = copy.deepcopy(whole)
    broken.ContentSequence.pop()
    assert pixelmed(_written(whole, tmp_path / "whole.dcm")).errors == ()
    errors = pixelmed(_written(broken, tmp_path / "broken.dcm")).errors
    assert any("Imaging Measurements" in line for line in errors)


@pytest.mark.parametrize(
    ("answer", "status", "kept"),
    [
        (Answer.STORED, 200, 2),
        (Answer.PARTIAL, 202, 1),
        (Answer.CONFLICT, 409, 0),
        (Answer.UNAVAILABLE, 503, 0),
        (Answer.UNAUTHORIZED, 401, 0),
        (Answer.NOT_DICOM_JSON, 200, 2),
    ],
)
def test_the_stow_server_answers_as_told_once_and_then_stores(
    stow: StowServer, tmp_path: Path, answer: Answer, status: int, kept: int
) -> None:
    series = ct_series(slices=2)
    stow.behave(answer, times=1)
    assert _posted(series, stow, tmp_path).status_code == status
    assert len(stow.received) == kept
    assert _posted(series, stow, tmp_path).status_code == 200
    assert len(stow.received) == kept + 2
    assert stow.received[-1].read().PixelData == series[-1].PixelData
    assert stow.received[-1].authorization == "Bearer token"


def test_a_stow_server_that_hangs_up_has_kept_the_instances(
    stow: StowServer, tmp_path: Path
) -> None:
    stow.behave(Answer.HANG_UP, times=1)
    with pytest.raises(httpx.RemoteProtocolError):
        _posted(ct_series(slices=1), stow, tmp_path)
    assert len(stow.received) == 1


def _posted(series: list[Dataset], stow: StowServer, folder: Path) -> httpx.Response:
    """POST the series as one multipart request."""
    body = b"".join(
        b"--cut\r\nContent-Type: application/dicom\r\n\r\n"
        + _written(dataset, folder / "posted.dcm").read_bytes()
        + b"\r\n"
        for dataset in series
    )
    kind = 'multipart/related; type="application/dicom"; boundary=cut'
    headers = {"Content-Type": kind, "Authorization": "Bearer token"}
    return httpx.post(f"{stow.url}/studies", content=body + b"--cut--\r\n", headers=headers)


def test_orthanc_tries_a_failed_store_again_at_its_heartbeat(
    need_peer: Callable[[RealPeer], Path], tmp_path: Path
) -> None:
    program, plugin = need_peer(catalogue.ORTHANC), need_peer(catalogue.ORTHANC_DICOMWEB)
    settings = {"ExecuteLuaEnabled": True, "DicomScuTimeout": 1}
    with Orthanc(program, plugin, folder=tmp_path / "orthanc", settings=settings) as orthanc:
        orthanc.upload(_written(ct_series(slices=1)[0], tmp_path / "image.dcm"))
        wait_for(lambda: "Failure" in orthanc.job_states(), limit_s=20)
        with PlayingPacs(tmp_path / "back", port=orthanc.overread_port) as listener:
            # Debian's release has no heartbeat yet: this is the call that later ones make.
            orthanc.execute("OnHeartBeat()")
            listener.wait_for_instances(1, limit_s=20)


def test_a_process_dies_with_its_parent(tmp_path: Path) -> None:
    number = tmp_path / "pid"
    parent = (
        "import subprocess, pathlib, time\n"
        "from tests.peers.process import dying_with_parent\n"
        "child = subprocess.Popen(dying_with_parent(['sleep', '300']))\n"
        f"pathlib.Path({str(number)!r}).write_text(str(child.pid))\n"
        "time.sleep(300)\n"
    )
    command = dying_with_parent([sys.executable, "-c", parent])
    with Process("parent", command, log=tmp_path / "log", cwd=REPOSITORY) as process:
        wait_for(lambda: number.exists() and number.read_text(), limit_s=20)
        child = int(number.read_text())
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        wait_for(lambda: not _alive(child), limit_s=5)


def _alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def _report(images: list[Dataset]) -> Dataset:
    """Return a measurement report with one diameter, by highdicom."""
    device = sr.DeviceObserverIdentifyingAttributes(uid=generate_uid())
    observer = sr.ObserverContext(codes.DCM.Device, device)
    diameter = sr.Measurement(codes.SCT.Diameter, 3.0, codes.UCUM.Millimeter)
    source = images[0]
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(), identifier="one"),
        measurements=[diameter],
        source_images=[
            sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)
        ],
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=[group],
    )
    return sr.Comprehensive3DSR(
        evidence=images,
        content=content,
        series_number=9000,
        series_instance_uid=generate_uid(),
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="tests",
        is_complete=True,
    )


def _written(dataset: Dataset, path: Path) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def _stored(
    dataset: Dataset, *, port: int, calling: str = "TESTS", called: str = "ANY-SCP"
) -> int | None:
    """C-STORE the data set; None when the association gave no answer."""
    entity = AE(ae_title=calling)
    entity.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return None
    status = association.send_c_store(dataset)
    if association.is_established:
        association.release()
    return status.get("Status")
