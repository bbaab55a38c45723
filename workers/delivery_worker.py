"""The process that sends results: a few threads, each taking messages from the queue."""

import threading

from service.core.clock import SystemClock
from service.core.logs import get_logger
from service.core.settings import Settings
from service.records.archive import Archive
from service.records.database import Records
from service.records.heartbeats import beating
from service.records.topics import Topic
from workers import audit_relay, deliver_job, priors_job, webhook_job
from workers.deliver_job import DeliveryContext
from workers.priors_job import PriorsContext
from workers.warm_worker import work
from workers.webhook_job import CallContext

_THREADS = 4

log = get_logger()


def run(settings: Settings, stop: threading.Event) -> None:
    """Deliver until `stop` is set."""
    records = Records(settings.database_url, pool_size=settings.database.pool_size)
    clock = SystemClock()
    deliver_job.use(DeliveryContext(settings, records, Archive(settings.data_dir), clock))
    threads = [
        threading.Thread(
            target=work,
            args=(Topic.DELIVER,),
            kwargs={"redis_url": settings.redis_url, "stop": stop},
            name=f"deliver-{number}",
        )
        for number in range(_THREADS)
    ]
    if settings.priors.source is not None:
        priors_job.use(PriorsContext(settings, records, clock))
        asked = {"redis_url": settings.redis_url, "stop": stop}
        threads.append(
            threading.Thread(target=work, args=(Topic.PRIORS,), kwargs=asked, name="priors")
        )
    if settings.webhooks:
        webhook_job.use(CallContext(settings, records, clock))
        told = {"redis_url": settings.redis_url, "stop": stop}
        threads.append(
            threading.Thread(target=work, args=(Topic.WEBHOOK,), kwargs=told, name="webhooks")
        )
    if settings.audit.syslog.host is not None:
        passed = (settings, records, clock, stop)
        threads.append(threading.Thread(target=audit_relay.run, args=passed, name="syslog"))
    with beating(records, clock, "deliverer"):
        for thread in threads:
            thread.start()
        log.info("deliverer_started", count=len(settings.destinations))
        for thread in threads:
            thread.join()
    records.close()
