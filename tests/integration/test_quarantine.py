"""Objects that fail their checks: kept apart with the reason, while what stands alone goes out."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.core.errors import InvalidResult
from service.core.states import JobState, ResultState
from service.records import jobs, reports
from tests.builders.bench import Bench
from tests.builders.studies import SmallStudy, ball_package, chest_study
from tests.peers.pacs import PlayingPacs
from workers.models import LoadedModel, load_model
from workers.results import writer

Fail = Callable[[str], None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    package = ball_package(tmp_path_factory.mktemp("models"))
    return load_model(package, device="cpu", threads=1, probe=False)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    return chest_study(tmp_path_factory.mktemp("study"), BodyPartExamined="CHEST")


@pytest.fixture
def bench(
    tmp_path: Path, database_url: str, model: LoadedModel, pacs: PlayingPacs
) -> Iterator[Bench]:
    peer = {"name": "PACS", "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port}
    wanted = {**peer, "objects": ("sr", "seg", "sc")}
    with Bench(tmp_path, database_url, model, destinations=[wanted]) as made:
        yield made


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Return what makes the checks refuse objects of a role; of none with an empty name."""
    checks = writer.validate_result
    refused = {"role": ""}

    def check(result: Any, *arguments: Any, **options: Any) -> None:
        if result.role == refused["role"]:
            raise InvalidResult("VOXELS_DIFFER", "frame 3 is not what was found")
        checks(result, *arguments, **options)

    monkeypatch.setattr(writer, "validate_result", check)
    return lambda role: refused.update(role=role)


def states(bench: Bench, uid: str) -> dict[str, ResultState]:
    return {one.role: one.state for one in bench.results(uid) if one.current}


def test_a_segmentation_held_back_leaves_a_report_that_does_without(
    bench: Bench, study: SmallStudy, pacs: PlayingPacs, fail: Fail
) -> None:
    uid = study.study_instance_uid
    fail("seg")
    bench.receive(study.files)
    (job_id,) = bench.work()
    bench.send()

    assert states(bench, uid) == {
        "sr": ResultState.VALID, "sc": ResultState.VALID, "seg": ResultState.QUARANTINED
    }  # fmt: skip
    (held_back,) = (one for one in bench.results(uid) if one.role == "seg")
    assert (held_back.reason, held_back.deliveries) == ("VOXELS_DIFFER", [])
    row = bench.job(job_id)
    assert (row.state, row.reason) == (JobState.COMPLETED, "RESULTS_QUARANTINED")
    assert "seg: VOXELS_DIFFER: frame 3" in row.message
    kept = list((bench.settings.data_dir / "archive" / "quarantine").rglob("*.dcm"))
    assert len(kept) == 1
    assert held_back.sop_instance_uid.encode() in kept[0].read_bytes()
    # Neither a viewer nor the archive hears of the object.
    report = next(item.read() for item in pacs.received if item.read().Modality == "SR")
    assert held_back.sop_instance_uid not in str(report)
    assert {item.read().Modality for item in pacs.received} == {"SR", "OT"}

    fail("")
    with bench.records.writing() as connection:
        again = reports.make_again(connection, job_id, at=bench.clock.now())
    assert bench.work() == [again]
    bench.send()
    assert set(states(bench, uid).values()) == {ResultState.VALID}
    second = [item.read() for item in pacs.received if item.read().Modality == "SR"][-1]
    (before,) = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    assert before.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == report.SOPInstanceUID
    assert "SEG" in {item.read().Modality for item in pacs.received}


def test_nothing_leaves_when_the_report_fails(
    bench: Bench, study: SmallStudy, pacs: PlayingPacs, fail: Fail
) -> None:
    uid = study.study_instance_uid
    fail("sr")
    bench.receive(study.files)
    (job_id,) = bench.work()
    bench.send()

    assert set(states(bench, uid).values()) == {ResultState.QUARANTINED}
    reasons = {one.role: one.reason for one in bench.results(uid)}
    assert reasons == {
        "sr": "VOXELS_DIFFER", "seg": "REPORT_HELD_BACK", "sc": "REPORT_HELD_BACK"
    }  # fmt: skip
    assert pacs.received == ()
    assert bench.findings(uid) == []
    assert bench.job(job_id).state == JobState.FAILED

    fail("")
    with bench.records.writing() as connection:
        jobs.retry(connection, job_id, at=bench.clock.now())
    bench.work()
    bench.send()
    assert set(states(bench, uid).values()) == {ResultState.VALID}
    assert {item.read().Modality for item in pacs.received} == {"SR", "SEG", "OT"}
    assert len(bench.findings(uid)) == 2


def test_a_picture_held_back_stops_nothing_else(
    bench: Bench, study: SmallStudy, pacs: PlayingPacs, fail: Fail
) -> None:
    fail("sc")
    bench.receive(study.files)
    bench.work()
    bench.send()
    assert {item.read().Modality for item in pacs.received} == {"SR", "SEG"}
