"""Messages that nobody of ours wrote: broken hashes, foreign functions, ids that are none."""

import threading
import zlib

import pytest
from redis import Redis

from service.core.errors import ContractViolation
from service.core.states import Priority
from service.records import queues
from service.records.topics import Topic
from tests.peers.process import wait_for
from workers import deliver_job, infer_job
from workers.warm_worker import work


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids that the delivery target was called with."""
    calls: list[str] = []
    monkeypatch.setattr(deliver_job, "run", calls.append)
    return calls


POISON = {
    "a date that is none": {b"created_at": b"yesterday", b"data": b""},
    "data that inflate to nothing": {b"created_at": b"2026-11-20T00:00:00Z", b"data": b"\xff\xfe"},
    "json that is none": {
        b"created_at": b"2026-11-20T00:00:00Z",
        b"data": zlib.compress(b"[1, 2"),
    },
    "a call of os.system": {
        b"created_at": b"2026-11-20T00:00:00Z",
        b"origin": b"overread-deliver-stat",
        b"data": zlib.compress(b'["os.system", null, ["touch canary"], {}]'),
    },
    "a hash of nothing": {b"status": b"queued"},
}


@pytest.mark.faults(number=33)
@pytest.mark.parametrize("poison", POISON)
def test_a_poisoned_message_neither_runs_nor_stops_the_worker(
    redis_url: str, taken: list[str], tmp_path, monkeypatch, poison: str
) -> None:
    monkeypatch.chdir(tmp_path)
    plain: Redis = Redis.from_url(redis_url)
    plain.sadd("rq:queues", "rq:queue:overread-deliver-stat")
    plain.hset("rq:job:poison", mapping=POISON[poison])
    plain.rpush("rq:queue:overread-deliver-stat", "poison")
    stop = threading.Event()
    thread = threading.Thread(
        target=work, args=(Topic.DELIVER,), kwargs={"redis_url": redis_url, "stop": stop}
    )
    thread.start()
    try:
        queues.ring(queues.connect(redis_url), Topic.DELIVER, [("7", Priority.ROUTINE)])
        wait_for(lambda: taken == ["7"], limit_s=30)
        assert plain.llen("rq:queue:overread-deliver-stat") == 0
    finally:
        stop.set()
        thread.join()
        plain.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.faults(number=33)
@pytest.mark.parametrize("subject", ["1; DROP TABLE jobs", "-1", "", "../x", "9" * 40])
def test_an_id_that_is_none_is_refused_before_any_row_is_looked_at(subject: str) -> None:

    with pytest.raises(ContractViolation, match=r"QUEUE_MESSAGE|NOT_PREPARED"):
        infer_job.run(subject)
