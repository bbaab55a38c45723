"""What happened to a study, step by step, with how long each step took."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.core.states import DeliveryState, JobState
from service.records.listings import JobItem
from service.records.study_view import ResultItem, StudyDetail
from service.web.words import DELIVERY_STATES, JOB_STATES, reason_words, task_title


@dataclass(frozen=True)
class Step:
    """One thing that happened; `took` is how long it lasted, None for a moment."""

    at: datetime
    title: str
    detail: str = ""
    took: timedelta | None = None
    tone: str = "done"


def steps(study: StudyDetail, results: Sequence[ResultItem]) -> list[Step]:
    """Return the study's way in order of time: received, complete, queued, ran, sent."""
    found = [*_arrival(study), *_runs(study), *_deliveries(results)]
    return sorted(found, key=lambda step: step.at)


def _arrival(study: StudyDetail) -> Iterator[Step]:
    images = f"{study.instances_count} instance{'' if study.instances_count == 1 else 's'}"
    yield Step(
        study.received_at,
        "Received",
        f"{images} from {study.source_ae_title}" if study.source_ae_title else images,
        study.last_received_at - study.received_at,
    )
    if study.completed_at is None:
        return
    revision = f"revision {study.revision}" if study.revision > 1 else "no more instances came"
    yield Step(
        study.completed_at, "Complete", revision, study.completed_at - study.last_received_at
    )


def _runs(study: StudyDetail) -> Iterator[Step]:
    for job in study.jobs:
        if not job.current:
            continue
        title = task_title(job.task)
        if job.started_at is None:
            reason = job.message or reason_words(job.reason)
            tone = "now" if job.state is JobState.SCHEDULED else "bad"
            yield Step(job.created_at, title, reason or JOB_STATES[JobState(job.state)], tone=tone)
            continue
        yield Step(job.created_at, f"{title} queued", "", job.started_at - job.created_at)
        took = None if job.ended_at is None else job.ended_at - job.started_at
        yield Step(job.started_at, f"{title} {_ran(job.state)}", _how(job), took, _tone(job.state))


def _ran(state: JobState) -> str:
    if state == JobState.COMPLETED:
        return "ran"
    return "runs" if state == JobState.IN_PROGRESS else JOB_STATES[JobState(state)]


def _how(job: JobItem) -> str:
    """Return device and attempts of a run, or why it ended as it did."""
    reason = job.message or reason_words(job.reason)
    parts = [
        reason,
        f"on {job.device}" if job.device else "",
        f"attempt {job.attempts}" if job.attempts > 1 else "",
    ]
    return ", ".join(part for part in parts if part)


def _tone(state: JobState) -> str:
    if state == JobState.FAILED:
        return "bad"
    return "now" if state in (JobState.IN_PROGRESS, JobState.SCHEDULED) else "done"


def _deliveries(results: Sequence[ResultItem]) -> Iterator[Step]:
    for result in results:
        if not result.current:
            continue
        for delivery in result.deliveries:
            title = f"{result.role.upper()} to {delivery.destination}"
            if delivery.delivered_at is not None:
                took = delivery.delivered_at - delivery.created_at
                yield Step(delivery.delivered_at, title, "acknowledged", took)
                if delivery.committed_at is not None:
                    kept = "the destination committed to keep it"
                    yield Step(delivery.committed_at, title, kept)
                continue
            bad = delivery.state == DeliveryState.PARKED
            words = delivery.message or reason_words(delivery.reason)
            state = DELIVERY_STATES[DeliveryState(delivery.state)]
            detail = f"{state}: {words}" if words else state
            yield Step(delivery.created_at, title, detail, tone="bad" if bad else "now")
