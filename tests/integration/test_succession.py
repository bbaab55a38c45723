"""Which results give way to which, and what becomes of what had not left yet."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from service.core.states import DeliveryState, JobState, ResultState
from service.records import dicomweb, reports
from service.records.dicomweb import Level, Search
from service.records.reports import ReportRequest
from service.records.study_view import study_key
from service.records.tables import series
from service.studies.assessment import Request, run_again
from tests.builders.bench import Bench
from tests.builders.studies import SmallStudy, ball_package, chest_study
from tests.peers.pacs import PlayingPacs
from workers.models import LoadedModel, load_model


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
    with Bench(tmp_path, database_url, model, destinations=[peer]) as made:
        yield made


def again(bench: Bench, uid: str, model: LoadedModel, **request: object) -> list[str]:
    with bench.records.writing() as connection:
        return list(
            run_again(
                connection,
                study_key(connection, uid),
                Request(force=True, **request),  # type: ignore[arg-type]
                packages=[model.package],
                settings=bench.settings,
                at=bench.clock.now(),
            )
        )


def made_anew(bench: Bench, uid: str, model: LoadedModel, request: ReportRequest) -> str:
    with bench.records.writing() as connection:
        (job_id,) = reports.make_anew(
            connection,
            study_key(connection, uid),
            request,
            packages={model.package.name: model.package},
            settings=bench.settings,
            at=bench.clock.now(),
        )
    return job_id


def states(bench: Bench, uid: str) -> dict[tuple[str, str], ResultState]:
    return {(one.job_id, one.role): one.state for one in bench.results(uid)}


def test_what_had_not_left_is_canceled_and_not_named(
    bench: Bench, study: SmallStudy, model: LoadedModel, pacs: PlayingPacs
) -> None:
    uid = study.study_instance_uid
    bench.receive(study.files)
    (first,) = bench.work()
    (second,) = again(bench, uid, model)
    bench.work()
    bench.send()

    sent = {one.job_id: one.deliveries[0].state for one in bench.results(uid)}
    assert sent == {first: DeliveryState.CANCELED, second: DeliveryState.DELIVERED}
    report = next(item.read() for item in pacs.received if item.read().Modality == "SR")
    assert "PredecessorDocumentsSequence" not in report
    assert states(bench, uid) == {
        (first, "sr"): ResultState.SUPERSEDED, (first, "seg"): ResultState.SUPERSEDED,
        (second, "sr"): ResultState.VALID, (second, "seg"): ResultState.VALID,
    }  # fmt: skip


def test_a_rerun_names_the_same_lesions_alike(
    bench: Bench, study: SmallStudy, model: LoadedModel
) -> None:
    uid = study.study_instance_uid
    bench.receive(study.files)
    bench.work()
    before = {item.finding.tracking_id: item.finding.tracking_uid for item in bench.findings(uid)}
    again(bench, uid, model)
    bench.work()
    after = {item.finding.tracking_id: item.finding.tracking_uid for item in bench.findings(uid)}
    assert len(before) == 2
    assert after == before


def test_a_run_that_was_overtaken_leaves_nothing_to_be_seen_or_sent(
    bench: Bench, study: SmallStudy, model: LoadedModel, pacs: PlayingPacs
) -> None:
    uid = study.study_instance_uid
    bench.receive(study.files)
    second: list[str] = []

    def overtake() -> None:
        # While the first run is at work, somebody asks for another.
        if not second:
            second.extend(again(bench, uid, model))

    (first,) = bench.work(meanwhile=overtake)
    assert states(bench, uid) == {
        (first, "sr"): ResultState.SUPERSEDED, (first, "seg"): ResultState.SUPERSEDED
    }  # fmt: skip
    assert bench.work() == second
    bench.send()
    assert sorted(item.read().Modality for item in pacs.received) == ["SEG", "SR"]
    assert {one.job_id for one in bench.results(uid) if one.current} == set(second)


def test_shadow_runs_are_neither_sent_nor_searched(
    tmp_path: Path, database_url: str, study: SmallStudy, model: LoadedModel, pacs: PlayingPacs
) -> None:
    peer = {"name": "PACS", "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port}
    shadow = {model.package.name: {"shadow": True}}
    uid = study.study_instance_uid
    with Bench(tmp_path, database_url, model, destinations=[peer], models=shadow) as bench:
        bench.receive(study.files)
        bench.work()
        bench.send()
        assert pacs.received == ()
        assert bench.findings(uid) == []
        assert {(one.shadow, one.state) for one in bench.results(uid)} == {
            (True, ResultState.VALID)
        }
        with bench.records.reading() as connection:
            found = dicomweb.find(connection, Search(Level.SERIES, (), limit=10))
        assert [entry.series.modality for entry in found.entries if entry.series] == ["CT"]


def test_an_older_report_never_takes_the_place_of_a_newer_one(
    bench: Bench, study: SmallStudy, model: LoadedModel
) -> None:
    uid = study.study_instance_uid
    bench.receive(study.files)
    bench.work()
    older = made_anew(bench, uid, model, ReportRequest(operating_point="sensitive"))
    newer = made_anew(bench, uid, model, ReportRequest(operating_point="balanced", is_review=True))
    assert bench.job(older).state == JobState.CANCELED
    assert bench.work() == [newer]
    valid = {key for key, state in states(bench, uid).items() if state is ResultState.VALID}
    assert valid == {(newer, "sr"), (newer, "seg")}


def test_superseded_series_are_hidden_from_searches_by_study_alone(
    bench: Bench, study: SmallStudy, model: LoadedModel
) -> None:
    uid = study.study_instance_uid
    bench.receive(study.files)
    (first,) = bench.work()
    made_anew(bench, uid, model, ReportRequest(is_review=True))
    bench.work()
    gone = next(one for one in bench.results(uid) if (one.job_id, one.role) == (first, "sr"))
    with bench.records.reading() as connection:
        of_study = dicomweb.instances_of(connection, study_instance_uid=uid)
        named = dicomweb.instances_of(
            connection, study_instance_uid=uid, series_instance_uid=gone.series_instance_uid
        )
        hidden = connection.execute(
            select(series.c.hidden).where(series.c.series_instance_uid == gone.series_instance_uid)
        ).scalar_one()
    assert hidden
    assert gone.sop_instance_uid not in {one.header.sop_instance_uid for one in of_study}
    assert [one.header.sop_instance_uid for one in named] == [gone.sop_instance_uid]
