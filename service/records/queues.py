"""The queue in Redis: names, the only targets a message may call, and its JSON form.

A message is a doorbell: it names a target from the list below and carries one row id. Whoever can
write to Redis can therefore ring, and nothing else; and losing Redis loses no work.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from service.core.errors import ContractViolation, PeerUnavailable
from service.core.states import Priority
from service.records.topics import TARGETS, Topic

_TIMEOUT_S = 2.0


class OverreadJob(Job):
    """An RQ job that can call nothing but our targets.

    RQ imports whatever function a job's hash names, with its JSON serializer too. Callbacks and
    webhooks of the hash are ignored for the same reason.
    """

    @property
    def func(self) -> Callable[..., Any]:
        """The target, if it is one of ours."""
        if self.func_name not in TARGETS.values():
            raise ContractViolation("QUEUE_TARGET", "a queue message named a foreign function")
        module, _, name = str(self.func_name).rpartition(".")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function

    @property
    def success_callback(self) -> None:
        """No callbacks: the outcome is written by the target itself."""

    @property
    def failure_callback(self) -> None:
        """No callbacks."""

    @property
    def stopped_callback(self) -> None:
        """No callbacks."""

    def restore(self, raw_data: Any) -> None:
        """Read the job's hash without its webhooks."""
        super().restore(raw_data)
        self.webhooks = []


def connect(url: str, *, blocking: bool = False) -> Redis:
    """Return a client that gives up after two seconds; a worker's waits for messages instead."""
    client: Redis = Redis.from_url(
        url,
        socket_connect_timeout=_TIMEOUT_S,
        socket_timeout=None if blocking else _TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0 if blocking else 15,
    )
    return client


def queue_name(topic: Topic, priority: Priority) -> str:
    """Return the name of the queue for a topic and a priority."""
    return f"overread-{topic}-{priority.lower()}"


def queue(connection: Redis, topic: Topic, priority: Priority) -> Queue:
    """Return the queue for a topic and a priority."""
    return Queue(
        queue_name(topic, priority),
        connection=connection,
        serializer=JSONSerializer,
        job_class=OverreadJob,
        default_timeout=-1,  # limits are kept by the worker's watchdog, which stops native code too
    )


def queues(connection: Redis, topic: Topic) -> list[Queue]:
    """Return the queues of a topic, the most urgent first."""
    return [queue(connection, topic, priority) for priority in Priority]


def message_id(topic: Topic, subject_id: str) -> str:
    """Return the RQ job id of the message about this row."""
    return f"{topic}-{subject_id}"


def ring(connection: Redis, topic: Topic, subjects: Sequence[tuple[str, Priority]]) -> int:
    """Enqueue a message for each row that has none waiting, and return how many were sent.

    Whether a message waits is read from the queue's own list: the status in a job's hash can say
    "queued" for a job that is in no list any more.

    Raises
    ------
    PeerUnavailable
        ``REDIS_AWAY``.
    """
    with translated():
        waiting = {id_ for item in queues(connection, topic) for id_ in item.get_job_ids()}
        sent = 0
        for subject_id, priority in subjects:
            identifier = message_id(topic, subject_id)
            if identifier in waiting:
                continue
            queue(connection, topic, priority).enqueue_call(
                TARGETS[topic],
                args=(subject_id,),
                job_id=identifier,
                result_ttl=0,
                failure_ttl=60,
                description=identifier,
                at_front=False,
            )
            waiting.add(identifier)
            sent += 1
        return sent


def depths(connection: Redis, topic: Topic) -> dict[str, int]:
    """Return how many messages wait in each queue of a topic."""
    with translated():
        return {item.name: len(item) for item in queues(connection, topic)}


def ping(url: str) -> None:
    """Ask Redis for an answer; raise `PeerUnavailable` when there is none."""
    client = connect(url)
    try:
        with translated():
            client.ping()
    finally:
        client.close()


@contextmanager
def translated() -> Iterator[None]:
    """Turn Redis' errors into `PeerUnavailable` with reason ``REDIS_AWAY``."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise PeerUnavailable("REDIS_AWAY", f"Redis: {type(error).__name__}") from error
