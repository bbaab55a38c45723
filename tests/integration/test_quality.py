"""Review rates and drift over real rows, on SQLite and PostgreSQL."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from service.core.states import JobState
from service.records import reviews, statistics
from service.records.database import Records
from service.records.migrations import migrate
from service.records.quality import By, Change, Scores, drifts
from service.records.reviews import Review, Verdict
from service.records.statistics import Statistics
from tests.builders import rows

DAY = timedelta(days=1)


@pytest.fixture
def records(database_url: str) -> Iterator[Records]:
    store = Records(database_url)
    migrate(store)
    yield store
    store.close()


def add_run(connection: Any, *, site: str, protocol: str, probabilities: list[float]) -> list[str]:
    """Write a run of one study; returns its findings' ids."""
    study_id = rows.add_study(connection, source_ae_title=site)
    series_id = rows.add_series(connection, study_id)
    image = rows.add_instance(
        connection,
        study_id,
        series_id,
        manufacturer="ACME",
        manufacturer_model_name="Scan 3000",
        protocol_name=protocol,
    )
    job_id = rows.add_job(connection, study_id, series_id)
    found = [
        rows.nodule(job_id, rank, probability=value, sop_instance_uid=image)
        for rank, value in enumerate(probabilities)
    ]
    rows.add_findings(connection, study_id, job_id, found)
    return [one.id for one in found]


def judge(connection: Any, finding_id: str, *verdicts: Verdict) -> None:
    for verdict in verdicts:
        reviews.write(connection, Review(finding_id, verdict, "", "", {}, rows.NOW))


def figures(records: Records) -> Statistics:
    with records.reading() as connection:
        return statistics.over(connection, rows.NOW - DAY, rows.NOW + DAY)


def test_reviews_are_counted_by_scanner_protocol_and_site(records: Records) -> None:
    with records.writing() as connection:
        first = add_run(connection, site="NORTH", protocol="chest", probabilities=[0.9, 0.3, 0.1])
        add_run(connection, site="NORTH", protocol="low dose", probabilities=[0.1])
        third = add_run(connection, site="SOUTH", protocol="chest", probabilities=[0.8])
        # The newest verdict counts, once.
        judge(connection, first[0], Verdict.REJECTED, Verdict.ACCEPTED)
        judge(connection, first[1], Verdict.REJECTED)
        judge(connection, third[0], Verdict.EDITED)
    found = {(one.by, one.value): one for one in figures(records).reviews}
    assert set(found) == {
        (By.SCANNER, "ACME Scan 3000"),
        (By.PROTOCOL, "chest"),
        (By.PROTOCOL, "low dose"),
        (By.SITE, "NORTH"),
        (By.SITE, "SOUTH"),
    }
    north = found[By.SITE, "NORTH"]
    assert (north.runs, north.positive_runs, north.findings) == (2, 1, 2)
    assert (north.accepted, north.rejected, north.edited) == (1, 1, 0)
    chest = found[By.PROTOCOL, "chest"]
    assert (chest.runs, chest.findings, chest.accepted, chest.edited) == (2, 3, 1, 1)
    assert found[By.SCANNER, "ACME Scan 3000"].runs == 3


def test_runs_that_were_replaced_or_failed_are_left_out(records: Records) -> None:
    with records.writing() as connection:
        study_id = rows.add_study(connection)
        series_id = rows.add_series(connection, study_id)
        rows.add_job(connection, study_id, series_id, current=False)
        rows.add_job(connection, study_id, series_id, state=JobState.FAILED)
    assert figures(records).reviews == []


def scores(*counts: int, scanner: str = "A") -> Scores:
    return Scores("nodules", "1.0.0", scanner, list(counts))


def test_scores_that_moved_are_told_from_those_that_did_not() -> None:
    before = [scores(80, 20), scores(80, 20, scanner="B"), scores(80, 20, scanner="C")]
    now = [scores(78, 22), scores(30, 70, scanner="B"), scores(3, 2, scanner="C")]
    found = {one.scanner: one for one in drifts(now, before)}
    assert found["A"].change is Change.STEADY
    assert found["B"].change is Change.SHIFTED
    assert found["B"].mean == pytest.approx(0.3 * 0.25 + 0.7 * 0.75)
    assert (found["C"].change, found["C"].stability_index) == (Change.UNKNOWN, None)


def test_a_scanner_that_is_new_has_nothing_to_be_compared_with() -> None:
    (found,) = drifts([scores(50, 50)], [])
    assert (found.candidates_before, found.mean_before, found.change) == (0, None, Change.UNKNOWN)
