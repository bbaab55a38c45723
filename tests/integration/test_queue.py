"""The queue in a real Redis: what may be called, what rings once, what a loss costs."""

import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from service.core.errors import PeerUnavailable
from service.core.states import Priority
from service.records import queues
from service.records.topics import Topic
from tests.peers.redis import RedisServer
from workers import deliver_job
from workers.warm_worker import work


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids that the delivery target was called with."""
    calls: list[str] = []
    monkeypatch.setattr(deliver_job, "run", calls.append)
    return calls


def run_worker(redis_url: str, done: Callable[[], bool], *, within_s: float = 20) -> None:
    stop = threading.Event()
    thread = threading.Thread(
        target=work, args=(Topic.DELIVER,), kwargs={"redis_url": redis_url, "stop": stop}
    )
    thread.start()
    waited = threading.Event()
    for _ in range(int(within_s / 0.05)):
        if done() or waited.wait(0.05):
            break
    stop.set()
    thread.join()
    assert done()


def test_urgent_messages_are_taken_before_routine_ones(redis_url: str, taken: list[str]) -> None:
    connection = queues.connect(redis_url)
    subjects = [("1", Priority.ROUTINE), ("2", Priority.HIGH), ("3", Priority.STAT)]
    assert queues.ring(connection, Topic.DELIVER, subjects) == 3
    run_worker(redis_url, lambda: len(taken) == 3)
    assert taken == ["3", "2", "1"]


def test_a_row_whose_message_waits_is_not_rung_again(redis_url: str) -> None:
    connection = queues.connect(redis_url)
    assert queues.ring(connection, Topic.DELIVER, [("7", Priority.ROUTINE)]) == 1
    assert queues.ring(connection, Topic.DELIVER, [("7", Priority.ROUTINE)]) == 0
    assert queues.depths(connection, Topic.DELIVER)["overread-deliver-routine"] == 1


def test_a_row_is_rung_again_after_redis_lost_everything(redis_url: str) -> None:
    connection = queues.connect(redis_url)
    queues.ring(connection, Topic.DELIVER, [("7", Priority.ROUTINE)])
    connection.flushall()
    assert queues.ring(connection, Topic.DELIVER, [("7", Priority.ROUTINE)]) == 1


@pytest.mark.faults(number=33)
def test_a_foreign_function_is_not_called_and_the_next_message_is(
    redis_url: str, taken: list[str], tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    plain: Redis = Redis.from_url(redis_url)
    hostile = Queue("overread-deliver-stat", connection=plain, serializer=JSONSerializer)
    hostile.enqueue("os.mkdir", str(canary))
    queues.ring(queues.connect(redis_url), Topic.DELIVER, [("9", Priority.ROUTINE)])
    run_worker(redis_url, lambda: taken == ["9"])
    assert not canary.exists()


def test_a_message_goes_in_no_pickle(redis_url: str) -> None:
    connection = queues.connect(redis_url)
    queues.ring(connection, Topic.INFER, [("a" * 32, Priority.ROUTINE)])
    raw = connection.hget(f"rq:job:{queues.message_id(Topic.INFER, 'a' * 32)}", "data")
    assert isinstance(raw, bytes)
    assert b"workers.infer_job.run" in zlib.decompress(raw)


@pytest.mark.faults(number=32)
def test_redis_away_is_said_in_seconds(redis_server: RedisServer) -> None:
    connection = queues.connect(redis_server.url)
    redis_server.kill()
    with pytest.raises(PeerUnavailable, match="REDIS_AWAY"):
        queues.ring(connection, Topic.DELIVER, [("1", Priority.ROUTINE)])


@pytest.mark.faults(number=32)
def test_a_worker_comes_back_by_itself_when_redis_does(
    redis_server: RedisServer, taken: list[str]
) -> None:
    stop = threading.Event()
    thread = threading.Thread(
        target=work, args=(Topic.DELIVER,), kwargs={"redis_url": redis_server.url, "stop": stop}
    )
    thread.start()
    try:
        redis_server.kill()
        stop.wait(1.0)
        redis_server.start()
        queues.ring(queues.connect(redis_server.url), Topic.DELIVER, [("5", Priority.ROUTINE)])
        for _ in range(300):
            if taken or stop.wait(0.05):
                break
    finally:
        stop.set()
        thread.join()
    assert taken == ["5"]
