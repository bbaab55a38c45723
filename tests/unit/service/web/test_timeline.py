"""The way of a study in steps: what happened, how long it took, what went wrong."""

from dataclasses import replace
from datetime import timedelta

from service.core.states import (
    CommitmentState,
    DeliveryState,
    JobState,
    Priority,
    ResultState,
    StudyState,
)
from service.records.listings import JobItem, ModelReference
from service.records.study_view import DeliveryStatus, ResultItem, StudyDetail
from service.web.timeline import steps
from tests.builders.rows import NOW


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


JOB = JobItem(
    id="a" * 32,
    study_instance_uid="1.2",
    series_instance_uid="1.2.3",
    task="nodules",
    model=ModelReference("m", "1.0.0", "b" * 64),
    state=JobState.COMPLETED,
    priority=Priority.ROUTINE,
    reason="",
    message="",
    attempts=1,
    worker="w",
    device="cpu",
    parameters={},
    timings_s={},
    scores={},
    current=True,
    shadow=False,
    created_at=NOW + seconds(24),
    due_at=NOW + seconds(24),
    started_at=NOW + seconds(26),
    ended_at=NOW + seconds(47),
    report_of=None,
)
DELIVERY = DeliveryStatus(
    id=1,
    destination="pacs",
    state=DeliveryState.DELIVERED,
    attempts=1,
    reason="",
    message="",
    created_at=NOW + seconds(47),
    due_at=NOW + seconds(47),
    delivered_at=NOW + seconds(48.5),
    commitment=CommitmentState.NONE,
    committed_at=None,
)


def study(*jobs: JobItem, **fields: object) -> StudyDetail:
    base = StudyDetail(
        study_instance_uid="1.2",
        patient_id="",
        patient_name="",
        patient_birth_date=None,
        patient_sex="",
        accession_number="",
        study_date=None,
        study_description="",
        modalities=["CT"],
        received_at=NOW,
        last_received_at=NOW + seconds(9),
        state=StudyState.ANALYSED,
        priority=Priority.ROUTINE,
        urgency=0.0,
        urgency_reason="",
        series_count=1,
        instances_count=300,
        tasks=[],
        referring_physician_name="",
        study_id="",
        source_ae_title="CT1",
        revision=1,
        completed_at=NOW + seconds(24),
        series=[],
        eligibility=[],
        jobs=list(jobs),
        body_parts=[],
        labels=[],
        reading=None,
    )
    return replace(base, **fields)  # type: ignore[arg-type]


def result(*deliveries: DeliveryStatus, current: bool = True) -> ResultItem:
    return ResultItem(
        role="sr",
        sop_class_uid="1",
        sop_instance_uid="1.9",
        series_instance_uid="1.8",
        state=ResultState.VALID,
        reason="",
        message="",
        size_bytes=1,
        created_at=NOW,
        job_id=JOB.id,
        task="nodules",
        model="m",
        version="1.0.0",
        form="",
        reviewed=False,
        shadow=False,
        superseded_at=None,
        superseded_by=None,
        current=current,
        deliveries=list(deliveries),
    )


def test_a_study_that_went_through_tells_each_step_and_its_length() -> None:
    told = [(step.title, step.took) for step in steps(study(JOB), [result(DELIVERY)])]
    assert told == [
        ("Received", seconds(9)),
        ("Complete", seconds(15)),
        ("Nodules queued", seconds(2)),
        ("Nodules ran", seconds(21)),
        ("SR to pacs", seconds(1.5)),
    ]


def test_a_study_still_coming_in_has_only_arrived() -> None:
    assert [step.title for step in steps(study(completed_at=None), [])] == ["Received"]


def test_what_is_under_way_has_no_length_yet() -> None:
    running = replace(JOB, state=JobState.IN_PROGRESS, ended_at=None)
    last = steps(study(running), [])[-1]
    assert (last.title, last.took, last.tone) == ("Nodules runs", None, "now")


def test_a_failed_run_and_a_parked_delivery_stand_out_with_their_reason() -> None:
    failed = replace(JOB, state=JobState.FAILED, reason="WORKER_LOST", attempts=3)
    parked = replace(
        DELIVERY, state=DeliveryState.PARKED, delivered_at=None, message="answered 0xC000"
    )
    bad = [step for step in steps(study(failed), [result(parked)]) if step.tone == "bad"]
    assert [step.detail for step in bad] == [
        "worker lost, on cpu, attempt 3",
        "given up, needs a person: answered 0xC000",
    ]


def test_what_a_newer_run_replaced_is_left_out() -> None:
    old = replace(JOB, current=False)
    assert [step.title for step in steps(study(old), [result(DELIVERY, current=False)])] == [
        "Received",
        "Complete",
    ]
