"""Jobs and deliveries in the database: who may take one, who has lost it, what is told."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import select

from service.core.errors import InvalidRequest, LostClaim, NotFound
from service.core.states import DeliveryState, JobState, Priority, StudyState
from service.records import deliveries, events, jobs, outbox
from service.records.database import Records
from service.records.jobs import Claim, NewJob, Outcome
from service.records.migrations import migrate
from service.records.tables import deliveries as delivery_rows
from service.records.tables import jobs as job_rows
from service.records.tables import studies as study_rows
from service.records.topics import Topic
from tests.builders import rows

NOW = rows.NOW
LEASE = timedelta(seconds=15)


@pytest.fixture
def records(database_url: str) -> Iterator[Records]:
    store = Records(database_url)
    migrate(store)
    yield store
    store.close()


def scheduled(records: Records, *, name: str = "a", model: str = "lung") -> NewJob:
    with records.writing() as connection:
        study_id = rows.add_study(connection, state=StudyState.QUEUED)
        job = new_job(study_id, rows.add_series(connection, study_id), name=name, model=model)
        jobs.schedule(connection, job, at=NOW)
    return job


def new_job(study_id: int, series_id: int, *, name: str, model: str = "lung") -> NewJob:
    return NewJob(
        id=name.ljust(32, "0"),
        study_id=study_id,
        series_id=series_id,
        task="nodules",
        model_name=model,
        model_version="1.0.0",
        model_sha256="a" * 64,
        parameters={"operating_point": "balanced"},
        inputs=[{"instance_id": 1, "sha256": "b" * 64}],
        priority=Priority.ROUTINE,
        destinations=("PACS",),
    )


def take(records: Records, job: NewJob, *, worker: str = "one", after_s: float = 0) -> Claim | None:
    with records.writing() as connection:
        at = NOW + timedelta(seconds=after_s)
        return jobs.claim(connection, job.id, worker=worker, at=at, lease=LEASE)


def state_of(records: Records, job: NewJob) -> JobState:
    with records.reading() as connection:
        return jobs.state_of(connection, job.id)


def study_state(records: Records, job: NewJob) -> str:
    with records.reading() as connection:
        query = select(study_rows.c.state).where(study_rows.c.id == job.study_id)
        return str(connection.execute(query).scalar_one())


def test_a_scheduled_job_comes_with_its_doorbell(records: Records) -> None:
    job = scheduled(records)
    with records.reading() as connection:
        bells = outbox.pending(connection)
    assert [(bell.topic, bell.subject_id) for bell in bells] == [(Topic.INFER, job.id)]


def test_scheduling_the_same_job_twice_changes_nothing(records: Records) -> None:
    job = scheduled(records)
    with records.writing() as connection:
        assert not jobs.schedule(connection, job, at=NOW)
        assert outbox.count(connection) == 1


def test_a_transaction_that_fails_leaves_neither_job_nor_doorbell(records: Records) -> None:
    with records.writing() as connection:
        study_id = rows.add_study(connection)
        series_id = rows.add_series(connection, study_id)

    def scheduled_and_killed() -> None:
        with records.writing() as connection:
            jobs.schedule(connection, new_job(study_id, series_id, name="x"), at=NOW)
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        scheduled_and_killed()
    with records.reading() as connection:
        assert outbox.count(connection) == 0
        assert connection.execute(select(job_rows.c.id)).first() is None


def test_only_one_of_two_workers_gets_the_job(records: Records) -> None:
    job = scheduled(records)
    first, second = take(records, job), take(records, job, worker="two")
    assert first is not None
    assert (first.fence, first.attempt, first.inputs) == (1, 1, job.inputs)
    assert second is None
    assert study_state(records, job) == StudyState.ANALYSING


def test_a_job_is_not_taken_before_it_is_due(records: Records) -> None:
    job = scheduled(records)
    held = take(records, job)
    assert held is not None
    with records.writing() as connection:
        later = NOW + timedelta(seconds=60)
        outcome = Outcome(JobState.SCHEDULED, reason="PEER_BUSY")
        jobs.try_later(connection, held, outcome, due_at=later, at=NOW)
    assert take(records, job, after_s=59) is None
    again = take(records, job, after_s=60)
    assert again is not None
    assert again.attempt == 2


@pytest.mark.faults(number=26)
def test_a_silent_worker_loses_its_job_and_its_late_answer_is_refused(records: Records) -> None:
    job = scheduled(records)
    frozen = take(records, job)
    assert frozen is not None
    with records.writing() as connection:
        at = NOW + LEASE + timedelta(seconds=1)
        assert jobs.release_lost(connection, at=at, max_attempts=3) == [job.id]
    other = take(records, job, worker="two", after_s=17)
    assert other is not None
    with records.writing() as connection:
        assert not jobs.extend(connection, frozen, until=NOW + timedelta(hours=1))
    with pytest.raises(LostClaim, match="FENCED"), records.writing() as connection:
        jobs.finish(connection, frozen, Outcome(JobState.COMPLETED), at=NOW)
    with records.writing() as connection:
        jobs.finish(connection, other, Outcome(JobState.COMPLETED), at=NOW)
    assert state_of(records, job) is JobState.COMPLETED
    assert study_state(records, job) == StudyState.ANALYSED


def test_a_worker_that_extends_its_lease_keeps_the_job(records: Records) -> None:
    job = scheduled(records)
    held = take(records, job)
    assert held is not None
    with records.writing() as connection:
        assert jobs.extend(connection, held, until=NOW + timedelta(seconds=60))
        at = NOW + timedelta(seconds=59)
        assert jobs.release_lost(connection, at=at, max_attempts=3) == []


@pytest.mark.faults(number=24)
def test_a_job_that_kills_every_worker_is_parked_with_the_reason(records: Records) -> None:
    job = scheduled(records)
    at = NOW
    for _ in range(3):
        with records.writing() as connection:
            assert jobs.claim(connection, job.id, worker="w", at=at, lease=LEASE) is not None
        at += LEASE + timedelta(seconds=1)
        with records.writing() as connection:
            jobs.release_lost(connection, at=at, max_attempts=3)
    assert state_of(records, job) is JobState.FAILED
    assert study_state(records, job) == StudyState.FAILED
    with records.reading() as connection:
        row = connection.execute(select(job_rows)).one()
    assert row.reason == "WORKER_LOST"
    assert "attempt 3" in row.message


def test_a_failed_job_runs_again_when_a_person_asks(records: Records) -> None:
    job = scheduled(records)
    held = take(records, job)
    assert held is not None
    with records.writing() as connection:
        jobs.finish(connection, held, Outcome(JobState.FAILED, reason="MODEL_OUTPUT"), at=NOW)
        jobs.retry(connection, job.id, at=NOW)
    again = take(records, job)
    assert again is not None
    assert again.attempt == 1


def test_a_completed_job_cannot_be_retried_or_canceled(records: Records) -> None:
    job = scheduled(records)
    held = take(records, job)
    assert held is not None
    with records.writing() as connection:
        jobs.finish(connection, held, Outcome(JobState.COMPLETED), at=NOW)
    for change in (jobs.retry, jobs.cancel):
        with pytest.raises(InvalidRequest, match="COMPLETED"), records.writing() as connection:
            change(connection, job.id, at=NOW)
    with pytest.raises(NotFound, match="JOB_UNKNOWN"), records.writing() as connection:
        jobs.cancel(connection, "f" * 32, at=NOW)


def test_a_canceled_job_stops_the_worker_from_writing(records: Records) -> None:
    job = scheduled(records)
    held = take(records, job)
    assert held is not None
    with records.writing() as connection:
        jobs.cancel(connection, job.id, at=NOW)
    with pytest.raises(LostClaim), records.writing() as connection:
        jobs.finish(connection, held, Outcome(JobState.COMPLETED), at=NOW)
    assert state_of(records, job) is JobState.CANCELED


def test_newer_jobs_end_the_reign_of_earlier_ones_of_the_same_model(records: Records) -> None:
    old = scheduled(records)
    with records.writing() as connection:
        new = new_job(old.study_id, old.series_id, name="b")
        other = new_job(old.study_id, old.series_id, name="c", model="liver")
        jobs.schedule(connection, other, at=NOW)
        jobs.supersede(connection, old.study_id, "lung", keep=[new.id], at=NOW)
        jobs.schedule(connection, new, at=NOW)
    with records.reading() as connection:
        rows_now = connection.execute(select(job_rows.c.id, job_rows.c.current))
        found = {row.id: row.current for row in rows_now}
    assert found == {old.id: False, new.id: True, other.id: True}
    assert state_of(records, old) is JobState.CANCELED


def test_every_change_of_a_job_is_told_in_order(records: Records) -> None:
    job = scheduled(records)
    held = take(records, job)
    assert held is not None
    with records.writing() as connection:
        jobs.finish(connection, held, Outcome(JobState.NOT_APPLICABLE, reason="NOT_CHEST"), at=NOW)
    with records.reading() as connection:
        told = [
            (event.kind, event.state, event.reason)
            for event in events.after(connection, 0)
            if event.kind == events.EventKind.JOB
        ]
    assert told == [
        ("job", "SCHEDULED", ""),
        ("job", "IN_PROGRESS", ""),
        ("job", "NOT_APPLICABLE", "NOT_CHEST"),
    ]


@pytest.fixture
def delivery_id(records: Records) -> int:
    with records.writing() as connection:
        study_id = rows.add_study(connection)
        series_id = rows.add_series(connection, study_id)
        result_id = rows.add_result(
            connection, study_id, rows.add_job(connection, study_id, series_id)
        )
        for _ in range(2):  # the second is the same delivery again
            deliveries.schedule(
                connection,
                result_id=result_id,
                study_id=study_id,
                destination="PACS",
                priority=Priority.STAT,
                at=NOW,
            )
        return int(connection.execute(select(delivery_rows.c.id)).scalar_one())


def test_pauses_between_attempts_grow_and_end_after_a_day(
    records: Records, delivery_id: int
) -> None:
    at, pauses = NOW, []
    while True:
        with records.writing() as connection:
            held = deliveries.claim(connection, delivery_id, at=at, lease=LEASE)
            assert held is not None
            state = deliveries.try_later(connection, held, reason="CONNECT", message="away", at=at)
        if state is DeliveryState.PARKED:
            break
        with records.reading() as connection:
            due = connection.execute(select(delivery_rows.c.due_at)).scalar_one()
        pauses.append((due - at).total_seconds())
        at = due
    assert pauses[:5] == [2, 4, 8, 16, 32]
    assert max(pauses) == 300
    assert timedelta(hours=23) < at - NOW <= timedelta(hours=24)


def test_a_parked_delivery_is_sent_again_when_a_person_asks(
    records: Records, delivery_id: int
) -> None:
    with records.writing() as connection:
        held = deliveries.claim(connection, delivery_id, at=NOW, lease=LEASE)
        assert held is not None
        deliveries.park(connection, held, reason="STATUS_A900", message="no", at=NOW)
        assert deliveries.claim(connection, delivery_id, at=NOW, lease=LEASE) is None
        deliveries.send_again(connection, delivery_id, at=NOW)
        again = deliveries.claim(connection, delivery_id, at=NOW, lease=LEASE)
    assert again is not None
    assert again.attempt == 1
    with pytest.raises(InvalidRequest, match="DELIVERY_STATE"), records.writing() as connection:
        deliveries.send_again(connection, delivery_id, at=NOW)


def test_a_silent_deliverer_loses_its_delivery(records: Records, delivery_id: int) -> None:
    with records.writing() as connection:
        held = deliveries.claim(connection, delivery_id, at=NOW, lease=LEASE)
        assert held is not None
        late = NOW + LEASE + timedelta(seconds=1)
        assert deliveries.release_lost(connection, at=late) == 1
    with pytest.raises(LostClaim), records.writing() as connection:
        deliveries.delivered(connection, held, at=NOW)
    with records.reading() as connection:
        assert deliveries.due(connection, at=late) == [(str(delivery_id), Priority.STAT)]
