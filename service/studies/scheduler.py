"""The loop that moves studies on: close, assess, ring, and give back what was lost.

It keeps nothing in memory that matters: every step asks the database what is due, so that it may
be killed between any two lines, and several may run at once.
"""

import threading
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

from redis import Redis

from service.core.clock import Clock, SystemClock
from service.core.errors import OverreadError
from service.core.logs import get_logger
from service.core.packages import ModelPackage, installed_packages
from service.core.settings import Settings
from service.core.states import Priority
from service.records import (
    assembly,
    audit,
    comparisons,
    deliveries,
    heartbeats,
    jobs,
    outbox,
    queues,
    retention,
    webhooks,
)
from service.records.archive import Archive
from service.records.assembly import OpenStudy
from service.records.audit import AuditEntry, AuditKind
from service.records.database import Records, Transaction
from service.records.subjects import sender_of
from service.records.topics import Topic
from service.studies.assessment import assess_study
from service.studies.lease_watch import Lease, LeaseWatch
from service.studies.notices import Notices
from service.studies.priors import advance_comparisons

_TICK_S = 0.2
_RECOVER_EVERY_S = 2.0
_RETIRE_EVERY_S = 60.0
_RETIRE_AT_ONCE = 20
_FORGET_AFTER = timedelta(minutes=10)
_LONGEST_PAUSE_S = 300.0

log = get_logger()


class Scheduler:
    """One pass of `step` does everything that is due."""

    def __init__(
        self,
        settings: Settings,
        records: Records,
        redis: Redis,
        packages: Sequence[ModelPackage],
        *,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._records = records
        self._redis = redis
        self._packages = packages
        self._clock = clock
        self._archive = Archive(settings.data_dir)
        self._notices = Notices(settings, records, clock)
        self._jobs_watch = LeaseWatch(settings.jobs.lease_s)
        self._deliveries_watch = LeaseWatch(settings.jobs.lease_s)
        self._recover_at = 0.0
        self._retire_at = 0.0
        # Studies whose assessment raised: when to try again, so that one cannot hold up the rest.
        self._pauses: dict[int, tuple[float, float]] = {}

    def step(self) -> None:
        """Close what is quiet, assess what is closed, ring what is due, recover what was lost.

        Raises
        ------
        OutOfResources, PeerUnavailable
            The database or Redis is away; the next step starts afresh.
        """
        self._close_series()
        for study in self._ready_studies():
            self._assess(study)
        if time.monotonic() >= self._recover_at:
            self._compare()
            self._recover()
            self._recover_at = time.monotonic() + _RECOVER_EVERY_S
        self._tell_webhooks()
        self._relay()
        if time.monotonic() >= self._retire_at:
            self._retire()
            self._retire_at = time.monotonic() + _RETIRE_EVERY_S

    def _close_series(self) -> None:
        now = self._clock.now()
        quiet = timedelta(seconds=self._settings.studies.series_quiet_s)
        with self._records.reading() as connection:
            if not assembly.has_quiet_series(connection, at=now, quiet=quiet):
                return
        with self._records.writing() as connection:
            closed = assembly.close_quiet_series(connection, at=now, quiet=quiet)
        log.info("series_complete", count=closed)

    def _ready_studies(self) -> Sequence[OpenStudy]:
        quiet = timedelta(seconds=self._settings.studies.study_quiet_s)
        with self._records.reading() as connection:
            ready = assembly.quiet_studies(connection, at=self._clock.now(), quiet=quiet)
        now = time.monotonic()
        return [study for study in ready if self._pauses.get(study.id, (0.0, 0.0))[0] <= now]

    def _assess(self, study: OpenStudy) -> None:
        try:
            with self._records.writing() as connection:
                job_ids = assess_study(
                    connection,
                    study,
                    packages=self._packages,
                    settings=self._settings,
                    at=self._clock.now(),
                )
                self._note_received(connection, study)
        except OverreadError:
            raise
        except Exception:
            self._pause(study)
            log.exception("assessment_failed", study_instance_uid=study.study_instance_uid)
            return
        self._pauses.pop(study.id, None)
        log.info(
            "study_complete",
            study_instance_uid=study.study_instance_uid,
            revision=study.revision,
            count=len(job_ids),
        )

    def _compare(self) -> None:
        """Move on the studies that wait for an earlier one."""
        now = self._clock.now()
        with self._records.reading() as connection:
            if not comparisons.is_waiting(connection):
                return
        with self._records.writing() as connection:
            advance_comparisons(connection, settings=self._settings, at=now)

    def _note_received(self, connection: Transaction, study: OpenStudy) -> None:
        """Write into the audit trail who sent what is now complete."""
        sender, count = sender_of(connection, study.id)
        entry = AuditEntry(
            at=self._clock.now(),
            kind=AuditKind.IMPORT,
            operation="receive",
            actor=sender or "unknown",
            study_instance_uid=study.study_instance_uid,
            detail=f"{count} instances, revision {study.revision}",
        )
        audit.append(connection, [entry], process=heartbeats.process_name("scheduler"))

    def _pause(self, study: OpenStudy) -> None:
        _, last_s = self._pauses.get(study.id, (0.0, 1.0))
        pause_s = min(_LONGEST_PAUSE_S, last_s * 2)
        self._pauses[study.id] = (time.monotonic() + pause_s, pause_s)

    def _recover(self) -> None:
        """Give back what silent processes held, and ring for rows that Redis does not know of."""
        now = self._clock.now()
        with self._records.writing() as connection:
            heartbeats.forget_silent(connection, before=now - _FORGET_AFTER)
            lost = jobs.release_lost(
                connection,
                at=now,
                max_attempts=self._settings.jobs.max_attempts,
                among=_lost(self._jobs_watch, jobs.leases(connection), at=now),
            )
            lost_deliveries = deliveries.release_lost(
                connection,
                at=now,
                among=_lost(self._deliveries_watch, deliveries.leases(connection), at=now),
            )
            lost_deliveries += webhooks.release_lost(connection, at=now)
            due = {
                Topic.INFER: jobs.due(connection, at=now),
                Topic.DELIVER: deliveries.due(connection, at=now),
                Topic.WEBHOOK: webhooks.due(connection, at=now),
                Topic.PRIORS: comparisons.due_fetches(connection, at=now),
            }
        if lost or lost_deliveries:
            log.warning("claims_released", count=len(lost) + lost_deliveries)
        for topic, subjects in due.items():
            queues.ring(self._redis, topic, subjects)

    def _tell_webhooks(self) -> None:
        try:
            count = self._notices.step()
        except OverreadError:
            raise
        except Exception:
            # What happens to studies must not wait for who is told of it.
            self._notices.pause()
            log.exception("notices_failed")
            return
        if count:
            log.info("webhooks_due", count=count)

    def _relay(self) -> None:
        with self._records.reading() as connection:
            doorbells = outbox.pending(connection)
            if not doorbells:
                return
            subjects = {topic: self._subjects(connection, doorbells, topic) for topic in Topic}
        for topic, due in subjects.items():
            queues.ring(self._redis, topic, due)
        with self._records.writing() as connection:
            outbox.remove(connection, doorbells)

    def _retire(self) -> None:
        """Delete a few of the studies that have been kept for long enough."""
        before = self._clock.now() - self._settings.retention.keep
        with self._records.reading() as connection:
            expired = retention.expired_studies(connection, before=before, limit=_RETIRE_AT_ONCE)
        for study_id in expired:
            with self._records.writing() as connection:
                paths = retention.delete_study(connection, study_id)
            # After the commit: a file without a row is waste, a row without a file is a fault.
            for path in paths:
                self._archive.delete(path)
        if expired:
            log.info("studies_retired", count=len(expired))

    @staticmethod
    def _subjects(
        connection: object, doorbells: Sequence[outbox.Doorbell], topic: Topic
    ) -> list[tuple[str, Priority]]:
        wanted = list({bell.subject_id: None for bell in doorbells if bell.topic == topic})
        known = _PRIORITIES[topic](connection, wanted)  # type: ignore[arg-type]
        return [(subject_id, known[subject_id]) for subject_id in wanted if subject_id in known]


def _lost(
    watch: LeaseWatch, held: Sequence[tuple[str, int, datetime]], *, at: datetime
) -> set[tuple[str, int]]:
    lost = watch.lost((Lease(*each) for each in held), at=at)
    return {(lease.subject_id, lease.fence) for lease in lost}


_PRIORITIES = {
    Topic.INFER: jobs.priorities,
    Topic.DELIVER: deliveries.priorities,
    Topic.WEBHOOK: webhooks.priorities,
    Topic.PRIORS: comparisons.fetch_priorities,
}


def run(settings: Settings, stop: threading.Event) -> None:
    """Run the scheduler until `stop` is set; a database or Redis that is away is waited for."""
    packages = installed_packages(settings.models.dir)
    records = Records(settings.database_url, pool_size=settings.database.pool_size)
    redis = queues.connect(settings.redis_url)
    scheduler = Scheduler(settings, records, redis, packages, clock=SystemClock())
    log.info("scheduler_started", count=len(packages))
    pause_s = _TICK_S
    with heartbeats.beating(records, SystemClock(), "scheduler"):
        while not stop.wait(pause_s):
            try:
                scheduler.step()
                pause_s = _TICK_S
            except OverreadError as error:
                pause_s = min(5.0, pause_s * 2)
                log.warning("step_failed", reason=error.reason, message=error.message)
    records.close()
