"""An RQ worker that stays warm: no fork per job, no limits of RQ's own, quick to wake.

RQ only brings the doorbell; leases, limits and repeats are kept in the database. A message is
acted on in this process, so that loaded networks and a CUDA context live from job to job.
"""

import threading
from typing import Any

from rq import SimpleWorker
from rq.exceptions import StopRequested
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty
from rq.worker import WorkerStatus

from service.core.logs import get_logger
from service.records import queues
from service.records.queues import OverreadJob
from service.records.topics import Topic

# RQ waits for a message for this long less 15 s, then looks whether it should stop.
_WORKER_TTL_S = 17
_MAINTENANCE_EVERY_S = 60
_PAUSE_AFTER_LOSS_S = 1.0

log = get_logger()


class WarmWorker(SimpleWorker):
    """Runs each message in its own thread, which need not be the main one."""

    # RQ's own limit works by SIGALRM, which needs the main thread and cannot stop native code.
    death_penalty_class = TimerDeathPenalty
    max_connection_wait_time = 2.0

    def __init__(self, *arguments: Any, stop: threading.Event, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._stop = stop

    def heartbeat(self, *arguments: Any, **options: Any) -> None:
        """Say that the worker lives, or end its loop: RQ calls this before and after each job."""
        if self._stop.is_set():
            raise StopRequested
        super().heartbeat(*arguments, **options)

    def execute_job(self, job: Any, queue: Any) -> None:
        """Run one message here and now."""
        self.prepare_execution(job)
        self.perform_job(job, queue)
        self.set_state(WorkerStatus.IDLE)

    def procline(self, message: str) -> None:
        """Leave the process its name: the role's."""

    def _install_signal_handlers(self) -> None:
        """Leave signals to the process, whose handlers set the stop event."""


def work(topic: Topic, *, redis_url: str, stop: threading.Event) -> None:
    """Take messages of a topic until `stop` is set, through any loss of Redis."""
    while not stop.is_set():
        connection = queues.connect(redis_url, blocking=True)
        try:
            WarmWorker(
                queues.queues(connection, topic),
                connection=connection,
                serializer=JSONSerializer,
                job_class=OverreadJob,
                worker_ttl=_WORKER_TTL_S,
                maintenance_interval=_MAINTENANCE_EVERY_S,
                log_job_description=False,
                stop=stop,
            ).work(logging_level="CRITICAL")
        except Exception as error:  # noqa: BLE001  RQ raises what it meets; the queue is losable
            log.warning("queue_lost", topic=topic, error=type(error).__name__)
        finally:
            connection.close()
        stop.wait(_PAUSE_AFTER_LOSS_S)
