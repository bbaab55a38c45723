"""A whole installation whose parts are killed, frozen, starved and cut off while it works.

One installation on each database serves all tests of this file, one after the other: what a fault
leaves behind must not matter to what comes after it.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import select

from service.core.states import JobState
from service.records.database import Records
from service.records.tables import instances, jobs, studies
from tests.builders.chests import chest_series
from tests.builders.dicom import write_series
from tests.builders.studies import NODULES, SmallStudy, ball_package, chest_study
from tests.peers.overread import Overread
from tests.peers.pacs import PlayingPacs
from tests.peers.postgres import PostgresServer, server_programs
from tests.peers.process import wait_for
from tests.peers.redis import RedisServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    # The sender is pynetdicom's, which leaves the sockets of refused connections to the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CGROUP = Path("/sys/fs/cgroup/memory")


@dataclass
class Hospital:
    """A running installation, the PACS behind it, and what it stands on."""

    overread: Overread
    pacs: PlayingPacs
    records: Records
    redis: RedisServer
    postgres: PostgresServer | None
    folder: Path
    sent: int = 0

    def study(self, **attributes: Any) -> SmallStudy:
        """Write a study that was never sent before."""
        self.sent += 1
        name = f"patient {self.sent}"
        return chest_study(self.folder, name=name, BodyPartExamined="CHEST", **attributes)

    def job(self, study: SmallStudy) -> Any:
        """Return the study's job, None while there is none."""
        query = select(jobs).join_from(jobs, studies)
        query = query.where(studies.c.study_instance_uid == study.study_instance_uid)
        with self.records.reading() as connection:
            return connection.execute(query).first()

    def wait_job(self, study: SmallStudy, *states: JobState, limit_s: float = 90) -> Any:
        """Return the study's job as soon as it is in one of the states."""
        return wait_for(
            lambda: (found := self.job(study)) and found.state in states and found,
            limit_s=limit_s,
            pause_s=0.02,
        )

    def files(self, study: SmallStudy) -> list[Path]:
        """Return the archived files of a study's images."""
        query = select(instances.c.path).join_from(instances, studies)
        query = query.where(studies.c.study_instance_uid == study.study_instance_uid)
        with self.records.reading() as connection:
            paths = list(connection.execute(query).scalars())
        return [self.overread.folder / "data" / "archive" / path for path in paths]

    def delivered(self, study: SmallStudy) -> list[str]:
        """Return the result UIDs that the PACS got of a study, each arrival by itself."""
        found = (item.read() for item in self.pacs.received)
        uid = study.study_instance_uid
        return [str(each.SOPInstanceUID) for each in found if uid == each.StudyInstanceUID]

    @contextlib.contextmanager
    def frozen(self, role: str) -> Iterator[None]:
        """Stop a role's processes while the body runs."""
        held = wait_for(lambda: self.overread.processes(role))
        for process in held:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in held:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)

    def analyse(self, study: SmallStudy) -> None:
        """Send a study and see its two results in the PACS, each once."""
        assert self.overread.send(study.files) == []
        self.finish(study)

    def finish(self, study: SmallStudy) -> None:
        """See a study that was sent analysed and delivered."""
        assert self.overread.wait_finished(study.study_instance_uid, limit_s=120) == "ANALYSED"
        wait_for(lambda: len(set(self.delivered(study))) == 2, limit_s=60)


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peers)]
)
def database(request: pytest.FixtureRequest) -> Iterator[tuple[str | None, PostgresServer | None]]:
    """A database of its own, which may be killed: (URL or None for SQLite, server)."""
    if request.param == "sqlite":
        yield None, None
        return
    programs = server_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not here")
    server = PostgresServer(programs)
    try:
        with server.new_database() as url:
            yield url, server
    finally:
        server.close()


@pytest.fixture(scope="module")
def hospital(
    database: tuple[str | None, PostgresServer | None],
    redis_program: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Hospital]:
    url, server = database
    folder = tmp_path_factory.mktemp("hospital")
    ball_package(folder / "models")
    (folder / "redis").mkdir()
    with (
        RedisServer(redis_program, folder / "redis", persistent=False) as redis,
        PlayingPacs(folder / "pacs") as pacs,
    ):
        peer = {"name": "PACS", "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port}
        settings = {"database__url": url} if url else {}
        with Overread(
            folder / "overread",
            models__dir=folder / "models",
            destinations=[peer],
            redis__url=redis.url,
            jobs__timeout_s=15,
            jobs__max_attempts=3,
            **settings,
        ) as overread:
            sqlite = folder / "overread" / "data" / "overread.sqlite"
            records = Records(url or f"sqlite:///{sqlite}")
            yield Hospital(overread, pacs, records, redis, server, folder)
            records.close()


@pytest.mark.faults(number=24)
def test_a_killed_worker_s_job_runs_again_within_thirty_seconds(hospital: Hospital, seen) -> None:
    study = hospital.study()
    assert hospital.overread.send(study.files) == []
    hospital.wait_job(study, JobState.IN_PROGRESS)
    assert hospital.overread.kill("worker")
    killed_at = time.monotonic()
    wait_for(lambda: hospital.job(study).attempts == 2, limit_s=60, pause_s=0.05)
    again_s = time.monotonic() - killed_at
    hospital.finish(study)
    assert again_s < 30
    seen(f"killed worker's job ran again after {again_s:.0f} s")


@pytest.mark.faults(number=24)
def test_a_worker_out_of_memory_is_replaced_and_its_job_runs_again(
    hospital: Hospital, seen
) -> None:
    group = CGROUP / f"overread-{os.getpid()}"
    try:
        group.mkdir()
        # Of what it takes from now on; what it has already stays where it was counted.
        (group / "memory.limit_in_bytes").write_text(str(1 << 19))
    except OSError:
        pytest.skip("a memory limit needs the memory control group and root")
    try:
        (worker,) = wait_for(lambda: hospital.overread.processes("worker"))
        with hospital.frozen("worker"):
            study = hospital.study()
            assert hospital.overread.send(study.files) == []
            hospital.wait_job(study, JobState.SCHEDULED)
            (group / "cgroup.procs").write_text(str(worker.pid))
        wait_for(lambda: not worker.is_running() or worker.status() == "zombie", limit_s=60)
        hospital.finish(study)
        seen("killed by the kernel for memory, then done")
    finally:
        with contextlib.suppress(OSError, TimeoutError):
            wait_for(lambda: not (group / "cgroup.procs").read_text().strip(), limit_s=20)
            group.rmdir()


@pytest.mark.faults(number=25)
def test_native_code_that_hangs_is_ended_at_its_limit_and_told(hospital: Hospital, seen) -> None:
    """A named pipe in the archive blocks whoever opens it in the kernel, for ever."""
    study = hospital.study()
    with hospital.frozen("worker"):
        assert hospital.overread.send(study.files) == []
        hospital.wait_job(study, JobState.SCHEDULED)
        victim = hospital.files(study)[0]
        content = victim.read_bytes()
        victim.unlink()
        os.mkfifo(victim)
    held = hospital.wait_job(study, JobState.IN_PROGRESS)
    assert held.attempts == 1
    told = wait_for(
        lambda: (found := hospital.job(study)) and found.reason == "TIMEOUT" and found,
        limit_s=60,
    )
    assert "15 s" in told.message
    victim.unlink()
    victim.write_bytes(content)
    hospital.finish(study)
    seen("ended 10 s beyond its limit, told TIMEOUT, process replaced")


@pytest.mark.faults(number=26)
def test_a_worker_that_was_frozen_writes_nothing_when_it_thaws(hospital: Hospital, seen) -> None:
    study = hospital.study()
    assert hospital.overread.send(study.files) == []
    hospital.wait_job(study, JobState.IN_PROGRESS)
    with hospital.frozen("worker"):
        wait_for(lambda: hospital.job(study).state == JobState.SCHEDULED, limit_s=40)
        time.sleep(2)
    hospital.finish(study)
    assert hospital.job(study).attempts == 2
    arrived = hospital.delivered(study)
    assert len(set(arrived)) == 2
    seen("its claim was gone; two results, each UID once")


@pytest.mark.faults(number=23)
def test_a_file_changed_under_its_row_fails_the_job_alone(hospital: Hospital) -> None:
    study = hospital.study()
    with hospital.frozen("worker"):
        assert hospital.overread.send(study.files) == []
        hospital.wait_job(study, JobState.SCHEDULED)
        victim = hospital.files(study)[3]
        content = bytearray(victim.read_bytes())
        content[-50] ^= 1
        victim.write_bytes(bytes(content))
    ended = hospital.wait_job(study, JobState.FAILED, JobState.COMPLETED)
    assert (ended.state, ended.reason) == (JobState.FAILED, "DIGEST")
    assert hospital.delivered(study) == []
    hospital.analyse(hospital.study())


@pytest.mark.faults(number=32)
def test_redis_that_is_emptied_is_filled_again_from_the_database(hospital: Hospital, seen) -> None:
    waiting = [hospital.study() for _ in range(3)]
    with hospital.frozen("worker"):
        for study in waiting:
            assert hospital.overread.send(study.files) == []
        for study in waiting:
            hospital.wait_job(study, JobState.SCHEDULED)
        hospital.redis.flush()
        emptied_at = time.monotonic()
    for study in waiting:
        hospital.finish(study)
    rebuilt_s = time.monotonic() - emptied_at
    assert rebuilt_s < 60
    seen(f"emptied: three waiting studies delivered {rebuilt_s:.0f} s later")


@pytest.mark.faults(number=32)
def test_redis_that_is_killed_or_frozen_keeps_no_study_out(hospital: Hospital, seen) -> None:
    hospital.redis.kill()
    study = hospital.study()
    assert hospital.overread.send(study.files) == []
    wait_for(lambda: _missing(hospital.overread) == ["redis"], limit_s=30)
    hospital.redis.start()
    back_at = time.monotonic()
    hospital.finish(study)
    seen(f"killed without persistence: delivered {time.monotonic() - back_at:.0f} s after it came")
    hospital.redis.freeze()
    frozen = hospital.study()
    assert hospital.overread.send(frozen.files) == []
    time.sleep(8)
    hospital.redis.thaw()
    hospital.finish(frozen)


@pytest.mark.faults(number=32)
def test_redis_away_at_the_start_keeps_no_study_out(hospital: Hospital) -> None:
    hospital.redis.kill()
    hospital.overread.kill_everything()
    hospital.overread.start(ready=False)
    study = hospital.study()
    wait_for(lambda: _took(hospital.overread, study), limit_s=60, pause_s=0.5)
    hospital.redis.start()
    hospital.finish(study)


def _missing(overread: Overread) -> list[str]:
    with contextlib.suppress(httpx.TransportError):
        return list(httpx.get(f"{overread.url}/readyz", trust_env=False).json()["missing"])
    return []


def _took(overread: Overread, study: SmallStudy) -> bool:
    try:
        return overread.send(study.files) == []
    except Exception:  # noqa: BLE001  whatever the sender meets while nobody listens
        return False


@pytest.mark.faults(number=30)
def test_a_database_that_is_away_refuses_and_everything_resumes_by_itself(
    hospital: Hospital, seen
) -> None:
    if hospital.postgres is None:
        pytest.skip("an SQLite file does not go away; a locked one is tried with the listener")
    study = hospital.study()
    hospital.postgres.process.kill()
    began = time.monotonic()
    failures = hospital.overread.send(study.files[:3])
    assert time.monotonic() - began < 45
    assert len(failures) == 3
    assert all("A700" in failure.upper() for failure in failures), failures
    answer = httpx.get(f"{hospital.overread.url}/api/v1/worklist", timeout=30, trust_env=False)
    assert answer.status_code == 503
    hospital.postgres.start()
    back_at = time.monotonic()
    wait_for(lambda: _took(hospital.overread, study), limit_s=30, pause_s=0.2)
    resumed_s = time.monotonic() - back_at
    hospital.finish(study)
    assert resumed_s < 15
    seen(f"0xA700 and 503 while away; taken in again {resumed_s:.0f} s after it came back")


@pytest.mark.faults(number=39)
def test_a_killed_receiver_is_back_within_three_seconds(hospital: Hospital, seen) -> None:
    (victim,) = wait_for(lambda: hospital.overread.processes("receiver"))
    os.kill(victim.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    study = hospital.study()
    wait_for(lambda: _took(hospital.overread, study), limit_s=60, pause_s=0.05)
    back_s = time.monotonic() - killed_at
    hospital.finish(study)
    seen(f"receiver back and a study taken in {back_s:.1f} s after its kill")


@pytest.mark.faults(number=39)
def test_a_stop_under_load_loses_nothing_that_was_answered(hospital: Hospital) -> None:
    load = [hospital.study() for _ in range(3)]
    for study in load:
        assert hospital.overread.send(study.files) == []
    assert hospital.overread.process.stop(limit_s=25, first=signal.SIGTERM) == 0
    hospital.overread.start()
    for study in load:
        hospital.finish(study)
        assert len(set(hospital.delivered(study))) == 2


@pytest.mark.faults(number=16)
def test_a_series_of_lies_is_not_analysed_and_the_next_study_is(hospital: Hospital) -> None:
    datasets = chest_series(NODULES, study="lies", name="lies series", BodyPartExamined="CHEST")
    for dataset in datasets:
        dataset.Rows = 60_000
    files = write_series(datasets, hospital.folder / "lies")
    assert hospital.overread.send(files) == []
    uid = str(datasets[0].StudyInstanceUID)
    assert hospital.overread.wait_finished(uid, limit_s=60) == "NOT_ANALYSED"
    hospital.analyse(hospital.study())
