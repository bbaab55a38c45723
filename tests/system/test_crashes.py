"""Every process is killed at every stage of a study's life; the end is the same as without.

"The same" means: the same findings, the same results under the same UIDs, each of them in the PACS,
and where one arrived twice, the same bytes twice.
"""

import gc
import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, func, select

from service.core.errors import OverreadError
from service.core.identifiers import result_uid
from service.core.part10 import read_file_meta
from service.core.states import DeliveryState, JobState
from service.records.database import Records
from service.records.tables import deliveries, instances, jobs, studies
from tests.builders.studies import SmallStudy, ball_package, chest_study
from tests.peers.overread import FINISHED, Overread
from tests.peers.pacs import PlayingPacs
from tests.peers.ports import accepts_connections
from tests.peers.process import wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # The sender is pynetdicom's, which leaves the sockets of refused connections to the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROLES = ("receiver", "scheduler", "worker", "deliverer", "redis", "everything")


@dataclass(frozen=True)
class End:
    """What is left of a study when all is over."""

    state: str
    findings: tuple[tuple[str, float], ...]
    result_uids: frozenset[str]


def rows_of(connection: Connection, table: Any, study_uid: str, state: str) -> int:
    query = select(func.count()).select_from(table).join(studies, studies.c.id == table.c.study_id)
    of_study = query.where(studies.c.study_instance_uid == study_uid, table.c.state == state)
    return int(connection.execute(of_study).scalar_one())


def some_received(connection: Connection, study_uid: str) -> bool:
    query = select(studies.c.instances_count).where(studies.c.study_instance_uid == study_uid)
    return (connection.execute(query).scalar() or 0) > 0


def all_received(connection: Connection, study_uid: str) -> bool:
    query = select(func.count()).select_from(instances).join(studies)
    query = query.where(studies.c.study_instance_uid == study_uid, ~instances.c.is_result)
    return bool(connection.execute(query).scalar_one() >= 44)


def completed(connection: Connection, study_uid: str) -> bool:
    query = select(studies.c.completed_revision).where(studies.c.study_instance_uid == study_uid)
    return (connection.execute(query).scalar() or 0) > 0


def running(connection: Connection, study_uid: str) -> bool:
    over = rows_of(connection, jobs, study_uid, JobState.COMPLETED)
    return over + rows_of(connection, jobs, study_uid, JobState.IN_PROGRESS) > 0


def delivering(connection: Connection, study_uid: str) -> bool:
    begun = (DeliveryState.IN_PROGRESS, DeliveryState.DELIVERED)
    return any(rows_of(connection, deliveries, study_uid, state) for state in begun)


STAGES: dict[str, Callable[[Connection, str], bool]] = {
    "while instances come in": some_received,
    "when all are there": all_received,
    "when the study is complete": completed,
    "while the model runs": running,
    "while results are sent": delivering,
}


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Have the sender's forgotten sockets collected here, where that is expected."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[SmallStudy]]:
    folder = tmp_path_factory.mktemp("studies")
    ball_package(folder / "models")
    made = [
        chest_study(folder, name=f"patient {number}", BodyPartExamined="CHEST")
        for number in range(len(STAGES))
    ]
    return folder / "models", made


@pytest.fixture(scope="module")
def undisturbed(
    made: tuple[Path, list[SmallStudy]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, End]:
    models_dir, small_studies = made
    folder = tmp_path_factory.mktemp("undisturbed")
    with PlayingPacs(folder / "pacs") as pacs, installation(folder, models_dir, pacs) as overread:
        for study in small_studies:
            assert overread.send(study.files) == []
        return {study.study_instance_uid: end_of(overread, pacs, study) for study in small_studies}


def installation(folder: Path, models_dir: Path, pacs: PlayingPacs) -> Overread:
    peer = {"name": "PACS", "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port}
    return Overread(folder / "overread", models__dir=models_dir, destinations=[peer])


def end_of(overread: Overread, pacs: PlayingPacs, study: SmallStudy) -> End:
    """Wait until the study is over and delivered, and return what is left."""
    uid = study.study_instance_uid
    state = overread.wait_finished(uid, limit_s=120)
    wait_for(lambda: all_delivered(overread, uid), limit_s=120, pause_s=0.3)
    found = overread.get(f"/studies/{uid}/findings")["items"]
    by_uid: dict[str, set[str]] = {}
    for item in pacs.received:
        dataset = item.read()
        if dataset.StudyInstanceUID == uid:
            content = hashlib.sha256(dataset_bytes(item.path)).hexdigest()
            by_uid.setdefault(item.sop_instance_uid, set()).add(content)
    assert all(len(contents) == 1 for contents in by_uid.values()), "one UID, two contents"
    # Sending took so long that the study was quiet in between: then it ran once for what was
    # there and once for all of it, and each run left its own results, under their own UIDs.
    runs = [job["id"] for job in overread.get("/jobs", study_instance_uid=uid)["items"]]
    assert set(by_uid) <= {result_uid(run, role) for run in runs for role in ("sr", "seg")}
    (last_run,) = {item["job_id"] for item in found}
    return End(
        state=state,
        findings=tuple((item["id"], round(item["probability"], 6)) for item in found),
        result_uids=frozenset(set(by_uid) & {result_uid(last_run, role) for role in ("sr", "seg")}),
    )


def dataset_bytes(path: Path) -> bytes:
    """Return a file's data set; the file meta in front of it is the receiving PACS's own."""
    content = path.read_bytes()
    meta = read_file_meta(content)
    assert meta is not None
    return content[meta.length :]


def all_delivered(overread: Overread, study_uid: str) -> bool:
    try:
        results = overread.get(f"/studies/{study_uid}/results")["items"]
    except httpx.TransportError:
        return False
    # What an earlier run of the study had not sent yet gave way to the later run's results.
    states = [
        delivery["state"]
        for result in results
        if result["current"]
        for delivery in result["deliveries"]
    ]
    return len(states) >= 2 and set(states) == {"DELIVERED"}


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    store = Records(f"sqlite:///{tmp_path / 'overread' / 'data' / 'overread.sqlite'}")
    yield store
    store.close()


@pytest.mark.faults(number=39)
@pytest.mark.parametrize("role", ROLES)
def test_killing_a_process_at_any_stage_changes_nothing(
    role: str,
    made: tuple[Path, list[SmallStudy]],
    undisturbed: dict[str, End],
    tmp_path: Path,
    pacs: PlayingPacs,
    records: Records,
) -> None:
    models_dir, small_studies = made
    with installation(tmp_path, models_dir, pacs) as overread:
        for study, (stage, reached) in zip(small_studies, STAGES.items(), strict=True):
            victims = run_and_kill(overread, records, study, role, reached)
            assert victims, f"no {role} to kill {stage}"
            assert end_of(overread, pacs, study) == undisturbed[study.study_instance_uid], stage


def run_and_kill(
    overread: Overread,
    records: Records,
    study: SmallStudy,
    role: str,
    reached: Callable[[Connection, str], bool],
) -> int:
    """Send a study as a PACS does, repeating what was not answered, and kill at the stage."""
    killed = 0
    waiting = list(study.files)
    for _ in itertools.count():
        if waiting:
            waiting = send_once(overread, waiting, at_most=8 if not killed else 100)
        with records.reading() as connection:
            due = reached(connection, study.study_instance_uid)
        if due and not killed:
            killed = kill(overread, role)
        if killed and not waiting:
            return killed
        if not waiting and is_over(overread, study) and not killed:
            killed = kill(overread, role)


def send_once(overread: Overread, files: list[Path], *, at_most: int) -> list[Path]:
    """Send some files and return those that still have to be sent."""
    if not accepts_connections(overread.dicom_port):
        time.sleep(0.1)
        return files
    try:
        failures = overread.send(files[:at_most])
    except (OverreadError, ValueError, RuntimeError):  # nobody listens: a PACS tries again
        return files
    failed = {failure.split(": ")[0] for failure in failures}
    return [file for file in files[:at_most] if str(file) in failed] + files[at_most:]


def kill(overread: Overread, role: str) -> int:
    if role != "everything":
        return wait_for(lambda: overread.kill(role), limit_s=30)
    overread.kill_everything()
    overread.start(ready=False)
    return 1


def is_over(overread: Overread, study: SmallStudy) -> bool:
    try:
        return overread.state(study.study_instance_uid) in FINISHED
    except httpx.TransportError:
        return False
