"""Random kills of every part while studies come in; the end is the same as without.

``--kills N`` asks for a longer run, ``--crash-seed`` for another order. Parts are killed, frozen
for a while or emptied; the sender behaves as a PACS does and repeats whatever was not answered.
"""

import contextlib
import hashlib
import json
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select

from service.core.identifiers import result_uid
from service.core.part10 import read_file_meta
from service.core.states import DeliveryState
from service.records.database import Records
from service.records.tables import deliveries, findings, instances, jobs, studies
from service.send import Peer, send_files
from tests.builders.studies import SmallStudy, ball_package, chest_study
from tests.peers.overread import AE_TITLE, FINISHED, Overread
from tests.peers.pacs import Behaviour, PlayingPacs
from tests.peers.postgres import PostgresServer, server_programs
from tests.peers.process import wait_for
from tests.peers.redis import RedisServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(0),
    # The sender is pynetdicom's, which leaves the sockets of refused connections to the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

_PAUSE_S = (0.3, 3.0)
_SETTLE_S = 240.0


@dataclass
class Turmoil:
    """An installation in trouble: what may go wrong, and how often each did."""

    overread: Overread
    pacs: PlayingPacs
    redis: RedisServer
    postgres: PostgresServer | None
    chance: random.Random
    done: Counter[str] = field(default_factory=Counter)

    def strike(self) -> None:
        """Let one thing go wrong."""
        troubles: list[tuple[str, Callable[[], None]]] = [
            *((role, lambda role=role: self._kill(role)) for role in
              ("receiver", "scheduler", "worker", "worker", "deliverer", "api")),
            ("redis", self._kill_redis),
            ("redis emptied", self.redis.flush),
            ("everything", self._kill_everything),
            ("worker frozen", lambda: self._freeze("worker")),
            ("deliverer frozen", lambda: self._freeze("deliverer")),
            ("PACS in trouble", self._trouble_pacs),
        ]  # fmt: skip
        if self.postgres is not None:
            troubles.append(("database", self._kill_database))
        name, trouble = self.chance.choice(troubles)
        trouble()
        self.done[name] += 1

    def _kill(self, role: str) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self.overread.kill(role)

    def _kill_everything(self) -> None:
        self.overread.kill_everything()
        self.overread.start(ready=False)

    def _kill_redis(self) -> None:
        self.redis.kill()
        time.sleep(self.chance.uniform(0, 2))
        self.redis.start()

    def _kill_database(self) -> None:
        assert self.postgres is not None
        self.postgres.process.kill()
        time.sleep(self.chance.uniform(0, 2))
        self.postgres.start()

    def _freeze(self, role: str) -> None:
        frozen = self.overread.processes(role)
        for process in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.5, 8))
        for process in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def _trouble_pacs(self) -> None:
        behaviours = (Behaviour.LOSE_ACK, Behaviour.ABORT, Behaviour.OUT_OF_RESOURCES)
        self.pacs.behave(self.chance.choice(behaviours), times=2)


class Sender(threading.Thread):
    """Sends studies one after the other and repeats what was not answered, as a PACS does.

    They are spread over the whole run: one is let go whenever the run has come far enough.
    """

    def __init__(self, port: int, waiting: list[SmallStudy]) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.left = list(waiting)
        self.may_send = threading.Semaphore(0)

    def run(self) -> None:
        """Send until all is answered."""
        for study in list(self.left):
            self.may_send.acquire()
            files = list(study.files)
            while files:
                files = self._once(files)
            self.left.remove(study)

    def _once(self, files: list[Path]) -> list[Path]:
        try:
            answers = send_files(
                files, Peer(AE_TITLE, "127.0.0.1", self.port), calling_ae_title="TESTS"
            )
            failures = [failure for failure in answers if failure is not None]
        except Exception:  # noqa: BLE001  nobody listens, or the other side was killed
            time.sleep(0.3)
            return files
        failed = {failure.split(": ")[0] for failure in failures}
        return [file for file in files if str(file) in failed]


@dataclass(frozen=True)
class End:
    """What is left of one study: how it ended, what was found, what the PACS shows."""

    state: str
    findings: tuple[tuple[str, float], ...]
    results: frozenset[str]


def settings_of(
    pacs: PlayingPacs, folder: Path, redis: RedisServer, url: str | None
) -> dict[str, Any]:
    peer = {"name": "PACS", "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port}
    return {
        "models__dir": folder / "models",
        "destinations": [peer],
        "redis__url": redis.url,
        # More attempts than there are kills that can hit one job, so that only poison is parked.
        "jobs__max_attempts": 100,
        "studies__series_quiet_s": 3,
        "studies__study_quiet_s": 6,
        **({"database__url": url} if url else {}),
    }


@contextlib.contextmanager
def installation(
    folder: Path, models: Path, redis_program: Path, url: str | None
) -> Iterator[tuple[Overread, PlayingPacs, RedisServer]]:
    (folder / "redis").mkdir(parents=True)
    with (
        RedisServer(redis_program, folder / "redis", persistent=False) as redis,
        PlayingPacs(folder / "pacs") as pacs,
        Overread(folder / "overread", **settings_of(pacs, models, redis, url)) as overread,
    ):
        yield overread, pacs, redis


def ends(records: Records, pacs: PlayingPacs, wanted: list[SmallStudy]) -> dict[str, End]:
    """Return what is left of each study, after checking that nothing is there twice or changed."""
    contents: dict[str, set[str]] = {}
    of_study: dict[str, set[str]] = {}
    for item in pacs.received:
        content = item.path.read_bytes()
        meta = read_file_meta(content)
        assert meta is not None
        digest = hashlib.sha256(content[meta.length :]).hexdigest()
        contents.setdefault(item.sop_instance_uid, set()).add(digest)
        of_study.setdefault(str(item.read().StudyInstanceUID), set()).add(item.sop_instance_uid)
    assert all(len(each) == 1 for each in contents.values()), "one UID, two contents"
    found = {}
    with records.reading() as connection:
        for study in wanted:
            uid = study.study_instance_uid
            row = connection.execute(
                select(studies).where(studies.c.study_instance_uid == uid)
            ).one()
            stored = connection.execute(
                select(instances.c.sop_instance_uid).where(
                    instances.c.study_id == row.id, ~instances.c.is_result
                )
            ).scalars()
            assert set(stored) == {str(each.SOPInstanceUID) for each in study.datasets}
            # A study that was quiet while its sender was held up ran for what was there, too.
            runs = connection.execute(
                select(jobs.c.id, jobs.c.current).where(jobs.c.study_id == row.id)
            ).all()
            expected = {result_uid(run.id, role) for run in runs for role in ("sr", "seg")}
            assert of_study.get(uid, set()) <= expected, "a result that no run explains"
            (last,) = [run.id for run in runs if run.current]
            told = connection.execute(
                select(findings.c.id, findings.c.probability)
                .where(findings.c.job_id == last)
                .order_by(findings.c.rank)
            ).all()
            results = {result_uid(last, role) for role in ("sr", "seg")}
            found[uid] = End(
                state=row.state,
                findings=tuple((each.id, round(each.probability, 6)) for each in told),
                results=frozenset(of_study.get(uid, set()) & results),
            )
    return found


def settled(records: Records, wanted: list[SmallStudy]) -> bool:
    """Return whether every study is over and everything of it delivered or canceled."""
    with contextlib.suppress(Exception), records.reading() as connection:
        rows = connection.execute(select(studies.c.study_instance_uid, studies.c.state)).all()
        states = {row.study_instance_uid: row.state for row in rows}
        if any(states.get(study.study_instance_uid) not in FINISHED for study in wanted):
            return False
        open_states = (DeliveryState.SCHEDULED, DeliveryState.IN_PROGRESS)
        waiting = select(deliveries.c.id).where(deliveries.c.state.in_(open_states)).limit(1)
        some = select(deliveries.c.id).limit(1)
        return (
            connection.execute(waiting).first() is None
            and connection.execute(some).first() is not None
        )
    return False


def _due(number: int, studies_count: int, kills: int) -> int:
    """Return how many studies are let go before this kill, spread evenly.

    >>> [_due(number, 4, 8) for number in range(8)]
    [1, 0, 1, 0, 1, 0, 1, 0]
    """
    before = -(-number * studies_count // kills)
    return -(-(number + 1) * studies_count // kills) - before


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Any:
    folder = tmp_path_factory.mktemp("crashes")
    ball_package(folder / "models")
    count = max(4, request.config.getoption("--kills") // 6)
    return folder, [
        chest_study(folder, name=f"patient {number}", BodyPartExamined="CHEST")
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def undisturbed(made: tuple[Path, list[SmallStudy]], redis_program: Path) -> dict[str, End]:
    folder, wanted = made
    with installation(folder / "calm", folder, redis_program, None) as (overread, pacs, _):
        for study in wanted:
            assert overread.send(study.files) == []
        records = Records(f"sqlite:///{folder / 'calm/overread/data/overread.sqlite'}")
        wait_for(lambda: settled(records, wanted), limit_s=_SETTLE_S, pause_s=0.5)
        found = ends(records, pacs, wanted)
        records.close()
    assert all(len(end.results) == 2 for end in found.values())
    return found


@pytest.mark.faults(number=39)
@pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.peers)]
)
def test_random_kills_of_every_part_change_nothing(
    database: str,
    made: tuple[Path, list[SmallStudy]],
    undisturbed: dict[str, End],
    redis_program: Path,
    request: pytest.FixtureRequest,
    seen: Callable[[str], None],
) -> None:
    folder, wanted = made
    kills, seed = (request.config.getoption(name) for name in ("--kills", "--crash-seed"))
    with contextlib.ExitStack() as stack:
        postgres, url = None, None
        if database == "postgresql":
            programs = server_programs()
            if programs is None:
                pytest.skip("PostgreSQL is not here")
            postgres = PostgresServer(programs, durable=True)
            stack.callback(postgres.close)
            url = stack.enter_context(postgres.new_database())
        place = installation(folder / database, folder, redis_program, url)
        overread, pacs, redis = stack.enter_context(place)
        records = Records(url or f"sqlite:///{folder / database / 'overread/data/overread.sqlite'}")
        stack.callback(records.close)
        turmoil = Turmoil(overread, pacs, redis, postgres, random.Random(seed))
        sender = Sender(overread.dicom_port, wanted)
        sender.start()
        began = time.monotonic()
        for number in range(kills):
            for _ in range(_due(number, len(wanted), kills)):
                sender.may_send.release()
            time.sleep(turmoil.chance.uniform(*_PAUSE_S))
            turmoil.strike()
        trouble_s = time.monotonic() - began
        pacs.behave(Behaviour.ACCEPT)
        sender.join(_SETTLE_S)
        assert not sender.is_alive(), f"{len(sender.left)} studies were not taken in"
        wait_for(lambda: settled(records, wanted), limit_s=_SETTLE_S, pause_s=0.5)
        settled_s = time.monotonic() - began - trouble_s
        assert ends(records, pacs, wanted) == undisturbed
        arrivals = Counter(item.sop_instance_uid for item in pacs.received)
        with records.reading() as connection:
            attempts = connection.execute(select(jobs.c.attempts)).scalars().all()
    again = sum(count - 1 for count in arrivals.values())
    figures = {
        "database": database,
        "jobs_that_ran_again": sum(count > 1 for count in attempts),
        "seed": seed,
        "kills": dict(sorted(turmoil.done.items())),
        "studies": len(wanted),
        "lost": 0,
        "trouble_s": round(trouble_s),
        "settled_after_s": round(settled_s),
        "results": len(arrivals),
        "arrived_again_with_the_same_bytes": again,
    }
    print(json.dumps(figures))
    seen(
        f"{sum(turmoil.done.values())} kills and faults on {database}: {len(wanted)} studies, "
        f"0 lost, 0 second UIDs, same findings; {again} results arrived again with the same bytes"
    )
