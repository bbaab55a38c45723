"""Studies, networks and clocks that break a job: it ends with its reason and harms no other."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from sqlalchemy import select

from service.core.errors import LostClaim
from service.core.manifest_input import Network
from service.core.states import JobState
from service.records import jobs
from service.records.jobs import Outcome
from service.records.tables import studies as study_rows
from service.studies.lease_watch import Lease, LeaseWatch
from tests.builders import onnx
from tests.builders.chests import chest_series
from tests.builders.dicom import in_syntax
from tests.builders.packages import network_entry
from tests.builders.rows import NOW
from tests.builders.studies import NODULES, ball_package
from tests.builders.ward import Ward
from workers.inference.device import CPU
from workers.inference.session import open_session
from workers.models import LoadedModel, load_model

HOUR_S = 3600


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    package = ball_package(tmp_path_factory.mktemp("models"))
    return load_model(package, device="cpu", probe=False)


@pytest.fixture
def ward(tmp_path: Path, database_url: str, redis_url: str, model: LoadedModel) -> Iterator[Ward]:
    made = Ward(tmp_path, database_url, redis_url, model=model)
    yield made
    made.close()


@pytest.fixture
def sqlite_ward(tmp_path: Path, redis_url: str, model: LoadedModel) -> Iterator[Ward]:
    """A ward whose database does not matter."""
    made = Ward(tmp_path, f"sqlite:///{tmp_path / 'overread.db'}", redis_url, model=model)
    yield made
    made.close()


def chest(name: str = "chest", **attributes: Any) -> list[Dataset]:
    return chest_series(
        NODULES, study=name, name=f"{name} series", BodyPartExamined="CHEST", **attributes
    )


def with_frame(datasets: list[Dataset], frame: bytes, syntax: str, **changed: Any) -> list[Dataset]:
    """Return the series with every frame replaced by one codestream that may lie."""
    for dataset in datasets:
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax
        for keyword, value in changed.items():
            setattr(dataset, keyword, value)
    return datasets


def larger_j2k() -> list[Dataset]:
    return with_frame(
        chest("lies"), imagecodecs.jpeg2k_encode(np.zeros((512, 4000), np.uint16)),
        JPEG2000Lossless,
    )  # fmt: skip


def bomb_j2k() -> list[Dataset]:
    frame = bytearray(imagecodecs.jpeg2k_encode(np.zeros((64, 64), np.uint16)))
    at = frame.index(b"\xff\x51") + 6
    frame[at : at + 8] = (60_000).to_bytes(4, "big") * 2  # the size that the codestream claims
    return with_frame(chest("bomb"), bytes(frame), JPEG2000Lossless, Rows=60_000, Columns=60_000)


def cut_jpeg_ls() -> list[Dataset]:
    first = in_syntax(chest("cut")[0], JPEGLSLossless)
    frame = imagecodecs.jpegls_encode(np.zeros((first.Rows, first.Columns), np.uint16))
    return with_frame(chest("cut"), frame[: len(frame) // 2], JPEGLSLossless)


def lying_rle() -> list[Dataset]:
    return with_frame(chest("rle"), b"\x0f\0\0\0" + b"\xff" * 200, RLELossless)


def rows_beyond_the_pixels() -> list[Dataset]:
    datasets = chest("rows")
    for dataset in datasets:
        dataset.Rows = 60_000
    return datasets


def wild_spacing() -> list[Dataset]:
    datasets = chest("gap")
    for number, dataset in enumerate(datasets):
        x, y, _ = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, str(number**2)]
    return datasets


LIES: dict[str, Callable[[], list[Dataset]]] = {
    "a frame larger than the header": larger_j2k,
    "a bomb of 60000 x 60000": bomb_j2k,
    "half a frame": cut_jpeg_ls,
    "fifteen segments of nothing": lying_rle,
    "rows beyond the pixels": rows_beyond_the_pixels,
    "planes at wild places": wild_spacing,
}


@pytest.mark.faults(number=16)
@pytest.mark.parametrize("lie", LIES)
def test_pixels_that_lie_end_their_own_job_with_a_reason(sqlite_ward, lie, seen):
    ward = sqlite_ward
    datasets = LIES[lie]()
    ward.receive(datasets)
    ward.run()
    ended = ward.job(datasets[0])
    with ward.records.reading() as connection:
        state = connection.execute(select(study_rows.c.state)).scalar_one()
    assert state == "NOT_ANALYSED"
    if ended is not None:  # else it never became a job
        assert ended.state == JobState.NOT_APPLICABLE
        assert ended.attempts == 1
        assert ended.reason
        seen(ended.reason)
    ward.receive(chest("good"))
    ward.run()
    assert ward.job(chest("good")[0]).state == JobState.COMPLETED


@pytest.mark.faults(number=23)
@pytest.mark.parametrize("change", ["deleted", "one byte", "cut", "replaced"])
def test_other_bytes_than_received_are_never_analysed(sqlite_ward, change):
    ward = sqlite_ward
    ward.receive(chest())
    ward.schedule()
    victim, other = ward.files()[:2]
    content = victim.read_bytes()
    if change == "deleted":
        victim.unlink()
    elif change == "one byte":
        victim.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif change == "cut":
        victim.write_bytes(content[:-100])
    else:
        victim.write_bytes(other.read_bytes())
    ward.run()
    assert (ward.job().state, ward.job().reason) == (JobState.FAILED, "DIGEST")
    assert ward.count("findings") == ward.count("results") == 0


@pytest.mark.faults(number=29)
@pytest.mark.parametrize("fault", ["nan", "shape"])
def test_an_output_that_breaks_its_promise_fails_the_job_and_sends_nothing(
    tmp_path, redis_url, monkeypatch, model, fault
):
    database_url = f"sqlite:///{tmp_path / 'overread.db'}"
    detector = model.sessions["detector"]
    ward = Ward(tmp_path, database_url, redis_url, model=model)
    try:
        real = type(detector)._evaluate

        def broken(self, feeds, options):
            arrays = real(self, feeds, options)
            if fault == "nan":
                arrays[0].flat[0] = np.nan
                return arrays
            return [array[..., :-1] for array in arrays]

        monkeypatch.setattr(type(detector), "_evaluate", broken)
        ward.receive(chest())
        ward.run()
        assert (ward.job().state, ward.job().reason) == (JobState.FAILED, "MODEL_OUTPUT")
        assert ward.count("results") == 0
        monkeypatch.undo()
        ward.receive(chest("good"))
        ward.run()
        assert ward.job(chest("good")[0]).state == JobState.COMPLETED
    finally:
        ward.close()


@pytest.mark.faults(number=26)
def test_a_worker_that_thaws_after_another_delivered_writes_nothing(ward):
    ward.receive(chest())
    (job_id,) = ward.schedule()
    frozen = ward.claim(job_id, worker="frozen")
    assert frozen is not None
    ward.clock.pass_(60)
    with ward.records.writing() as connection:
        jobs.release_lost(connection, at=ward.clock.now(), max_attempts=3)
    ward.run()
    assert ward.job().state == JobState.COMPLETED
    before = ward.count("results"), ward.count("findings")
    with pytest.raises(LostClaim), ward.records.writing() as connection:
        jobs.finish(connection, frozen, Outcome(JobState.FAILED), at=ward.clock.now())
    assert (ward.count("results"), ward.count("findings")) == before
    assert ward.job().state == JobState.COMPLETED


@pytest.mark.faults(number=27)
def test_a_job_waits_while_no_worker_has_the_device(sqlite_ward):
    ward = sqlite_ward
    ward.receive(chest())
    (job_id,) = ward.schedule()
    ward.clock.pass_(24 * HOUR_S)
    assert ward.schedule() == [job_id]
    assert (ward.job().state, ward.job().attempts) == (JobState.SCHEDULED, 0)


@pytest.mark.gpu
@pytest.mark.faults(number=27)
def test_a_device_that_is_lost_in_the_middle_of_a_job():
    pytest.skip("no CUDA device here to be taken away")


def test_a_lease_is_lost_only_when_nobody_changes_it():
    now = [0.0]
    watch = LeaseWatch(12, monotonic=lambda: now[0])
    alive = [Lease("alive", 1, NOW - timedelta(hours=1))]  # its clock is an hour behind ours
    dead_ahead = Lease("dead", 1, NOW + timedelta(hours=1))  # its clock was an hour ahead
    lost: list[str] = []
    for second in range(40):
        now[0] = float(second)
        if second % 4 == 0:
            alive[0] = Lease("alive", 1, alive[0].until + timedelta(seconds=4))
        found = watch.lost([alive[0], dead_ahead], at=NOW + timedelta(seconds=second))
        lost += [lease.subject_id for lease in found if lease.subject_id not in lost]
    assert lost == ["dead"]


@pytest.mark.faults(number=38)
@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
def test_a_clock_that_jumps_takes_no_job_from_a_living_worker(ward, jump_s):
    ward.receive(chest())
    (job_id,) = ward.schedule()
    held = ward.claim(job_id)
    assert held is not None
    now = [0.0]
    ward.scheduler._jobs_watch._monotonic = lambda: now[0]
    ward.clock.pass_(jump_s)
    lease = timedelta(seconds=ward.settings.jobs.lease_s)
    for _ in range(30):  # the worker goes on extending, by the new clock
        with ward.records.writing() as connection:
            assert jobs.extend(connection, held, until=ward.clock.now() + lease)
        ward.scheduler._recover_at = 0.0
        ward.scheduler.step()
        ward.clock.pass_(5)
        now[0] += 5
    assert (ward.job().state, ward.job().attempts) == (JobState.IN_PROGRESS, 1)
    for _ in range(5):  # and now it is dead
        ward.scheduler._recover_at = 0.0
        ward.scheduler.step()
        ward.clock.pass_(10)
        now[0] += 10
    assert ward.job().state == JobState.SCHEDULED


@pytest.mark.faults(number=38)
def test_dates_of_all_centuries_are_taken_in_and_sorted(sqlite_ward):
    ward = sqlite_ward
    dates = ["19000101", "20240229", "20261120", "20990101", "20230229", ""]
    for number, date in enumerate(dates):
        ward.receive(chest_series((), study=f"study {number}", name=f"s {number}", StudyDate=date))
    ward.run()
    with ward.records.reading() as connection:
        query = select(study_rows.c.study_date).order_by(study_rows.c.study_date)
        found = list(connection.execute(query).scalars())
    assert sorted(found) == sorted(dates)


@pytest.mark.faults(number=24)
def test_a_study_that_ends_every_worker_is_parked_and_holds_up_nobody(ward):
    ward.receive(chest("poison"))
    (poison,) = ward.schedule()
    for attempt in range(3):
        assert ward.claim(poison) is not None, f"attempt {attempt}"
        ward.clock.pass_(60)  # the worker was killed: nobody extends
        with ward.records.writing() as connection:
            jobs.release_lost(connection, at=ward.clock.now(), max_attempts=3)
    ended = ward.job()
    assert (ended.state, ended.reason, ended.attempts) == (JobState.FAILED, "WORKER_LOST", 3)
    ward.receive(chest("good"))
    ward.run()
    assert ward.job(chest("good")[0]).state == JobState.COMPLETED


@pytest.mark.faults(number=25)
def test_an_endless_network_ends_at_its_limit_and_the_next_study_is_done(
    tmp_path, redis_url, model, monkeypatch
):
    database_url = f"sqlite:///{tmp_path / 'overread.db'}"
    ward = Ward(tmp_path, database_url, redis_url, model=model)
    endless = tmp_path / "endless"
    endless.mkdir()
    content = onnx.endless("x", [1, 4], "y")
    network = Network.model_validate(network_entry("detector", content, time_limit_s=0.5))
    onnx.write(endless, "detector.onnx", content)
    session = open_session(endless, network, CPU, threads=1)
    real = LoadedModel.analyse

    def hanging(self, image, **more):
        session.run({"x": np.ones((1, 4), np.float32)})

    try:
        monkeypatch.setattr(LoadedModel, "analyse", hanging)
        ward.receive(chest())
        ward.run()
        assert (ward.job().state, ward.job().reason) == (JobState.FAILED, "MODEL_TIMEOUT")
        assert threading.active_count() < 50
        monkeypatch.setattr(LoadedModel, "analyse", real)
        ward.receive(chest("good"))
        ward.run()
        assert ward.job(chest("good")[0]).state == JobState.COMPLETED
    finally:
        ward.close()
