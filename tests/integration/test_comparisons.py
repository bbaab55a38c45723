"""What a study waits for to be compared, what is fetched for it, and when its runs repeat."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from service.core.clock import SystemClock
from service.core.errors import PeerUnavailable
from service.core.packages import ModelPackage
from service.core.priors import PatientIdentity, StudySummary
from service.core.settings import PriorsSettings, PriorsSource, Settings
from service.core.states import JobState, Priority, StudyState
from service.records import comparisons, jobs, priors
from service.records.comparisons import ComparisonState
from service.records.database import Records
from service.records.migrations import migrate
from service.records.tables import comparisons as comparison_rows
from service.records.tables import jobs as job_rows
from service.studies.priors import advance_comparisons, begin_comparison
from tests.builders import rows
from tests.builders.studies import ball_package
from workers import priors_job
from workers.priors.fetching import fetch_priors
from workers.priors.source import FoundSeries
from workers.priors_job import PriorsContext

NOW = rows.NOW
PATIENT = {"patient_id": "P7", "patient_birth_date": "19600101"}
SOURCE = PriorsSource(ae_title="PACS", host="127.0.0.1", port=11112)


@pytest.fixture
def records(database_url: str) -> Iterator[Records]:
    store = Records(database_url)
    migrate(store)
    yield store
    store.close()


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return ball_package(tmp_path / "models")


@dataclass
class Ward:
    """A current study whose run waits for a worker, and an earlier one of the same patient."""

    records: Records
    package: ModelPackage
    settings: Settings
    asked_for: list[int] = field(default_factory=list)
    current: int = 0
    earlier: int = 0
    run: str = "c" * 32
    prior_run: str = "e" * 32

    def fill(self, *, priority: Priority = Priority.ROUTINE, **current: object) -> None:
        with self.records.writing() as connection:
            patient = PATIENT | current
            self.earlier = rows.add_study(connection, study_date="20260102", **patient)
            self.current = rows.add_study(
                connection, study_date="20261120", state=StudyState.QUEUED, **patient
            )
            self.schedule(connection, self.current, self.run, priority)

    def schedule(self, connection, study_id, job_id, priority=Priority.ROUTINE) -> None:
        jobs.schedule(
            connection,
            jobs.NewJob(
                id=job_id,
                study_id=study_id,
                series_id=rows.add_series(connection, study_id),
                task=self.package.task,
                model_name=self.package.name,
                model_version=self.package.version,
                model_sha256=self.package.sha256,
                parameters={"operating_point": "balanced"},
                inputs=[{"instance_id": 1, "sha256": "b" * 64}],
                priority=priority,
                destinations=("PACS",),
            ),
            at=NOW,
        )

    def begin(self) -> None:
        with self.records.writing() as connection:

            def analyse(study_id: int, _package: ModelPackage) -> Sequence[str]:
                self.asked_for.append(study_id)
                self.schedule(connection, study_id, self.prior_run)
                return [self.prior_run]

            begin_comparison(
                connection,
                self.current,
                [self.run],
                packages=[self.package],
                settings=self.settings,
                analyse=analyse,
                at=NOW,
            )

    def end(self, job_id: str) -> None:
        with self.records.writing() as connection:
            done = {"state": JobState.COMPLETED, "ended_at": NOW}
            connection.execute(update(job_rows).where(job_rows.c.id == job_id).values(done))

    def advance(self, after_s: float = 1) -> None:
        with self.records.writing() as connection:
            at = NOW + timedelta(seconds=after_s)
            advance_comparisons(connection, settings=self.settings, at=at)

    def waits_s(self) -> float:
        with self.records.reading() as connection:
            query = select(job_rows.c.due_at).where(job_rows.c.id == self.run)
            return (connection.execute(query).scalar_one() - NOW).total_seconds()

    def state(self) -> str | None:
        with self.records.reading() as connection:
            return connection.execute(select(comparison_rows.c.state)).scalar()

    def runs(self) -> list[tuple[str, bool]]:
        with self.records.reading() as connection:
            query = select(job_rows.c.state, job_rows.c.current)
            mine = query.where(job_rows.c.study_id == self.current).order_by(job_rows.c.current)
            return [(row.state, row.current) for row in connection.execute(mine)]


@pytest.fixture
def ward(records: Records, package: ModelPackage) -> Ward:
    return Ward(records, package, Settings(priors=PriorsSettings(wait_s=30)))


def test_a_prior_that_no_model_has_run_on_is_analysed_and_waited_for(ward: Ward) -> None:
    ward.fill()
    ward.begin()
    assert (ward.asked_for, ward.waits_s(), ward.state()) == ([ward.earlier], 30, "ANALYSING")
    ward.advance(2)
    assert ward.waits_s() == 30
    ward.end(ward.prior_run)
    ward.advance(3)
    assert ward.waits_s() == 3


def test_a_prior_that_is_ready_holds_nothing_up(ward: Ward) -> None:
    ward.fill()
    with ward.records.writing() as connection:
        ward.schedule(connection, ward.earlier, ward.prior_run)
    ward.end(ward.prior_run)
    ward.begin()
    assert (ward.asked_for, ward.waits_s(), ward.state()) == ([], 0, None)


def test_a_prior_that_is_still_coming_in_is_waited_for_but_not_begun(ward: Ward) -> None:
    ward.fill()
    with ward.records.writing() as connection:
        rows.add_study(
            connection, study_date="20260501", revision=2, completed_revision=1, **PATIENT
        )
        ward.schedule(connection, ward.earlier, ward.prior_run)
    ward.begin()
    assert (ward.asked_for, ward.waits_s()) == ([], 30)


def test_an_urgent_study_never_waits(ward: Ward) -> None:
    ward.fill(priority=Priority.STAT)
    ward.begin()
    assert (ward.asked_for, ward.waits_s()) == ([ward.earlier], 0)


@pytest.mark.parametrize(
    "unknown", [{"patient_id": ""}, {"patient_id": "UNKNOWN"}, {"patient_id": "P*"}]
)
def test_an_unknown_patient_is_compared_with_nobody(ward: Ward, unknown: dict[str, str]) -> None:
    ward.settings = Settings(priors=PriorsSettings(source=SOURCE))
    ward.fill(**unknown)
    ward.begin()
    assert (ward.asked_for, ward.state()) == ([], None)


def test_a_late_prior_has_the_run_repeated_once(ward: Ward) -> None:
    ward.fill()
    ward.begin()
    ward.end(ward.run)  # it had waited long enough and ended before the prior was ready
    ward.advance(40)
    assert ward.runs() == [("COMPLETED", True)]
    ward.end(ward.prior_run)
    ward.advance(50)
    assert ward.runs() == [("COMPLETED", False), ("SCHEDULED", True)]
    assert ward.state() == ComparisonState.DONE
    ward.advance(60)
    assert len(ward.runs()) == 2


def test_a_run_that_was_compared_already_is_not_repeated(ward: Ward) -> None:
    ward.fill()
    ward.begin()
    ward.end(ward.prior_run)
    with ward.records.writing() as connection:
        held = jobs.claim(
            connection, ward.run, worker="w", at=NOW + timedelta(40), lease=timedelta(seconds=9)
        )
        assert held
        priors.write_outcome(connection, held, {"state": "compared", "looked_at": [ward.prior_run]})
    ward.end(ward.run)
    ward.advance(50)
    assert (ward.runs(), ward.state()) == ([("COMPLETED", True)], ComparisonState.DONE)


def test_after_the_time_to_give_up_a_report_is_left_alone(ward: Ward) -> None:
    ward.fill()
    ward.begin()
    ward.end(ward.run)
    ward.advance(ward.settings.priors.give_up_s + 1)
    ward.end(ward.prior_run)
    ward.advance(ward.settings.priors.give_up_s + 2)
    assert (ward.runs(), ward.state()) == ([("COMPLETED", True)], ComparisonState.DONE)


@dataclass
class KnownSource:
    """A PACS of the tests' own: what it holds, and what it was asked to send."""

    studies: Sequence[StudySummary] = ()
    instances: int = 100
    error: PeerUnavailable | None = None
    sent: list[str] = field(default_factory=list)

    def studies_of(self, patient: PatientIdentity) -> Sequence[StudySummary]:
        if self.error:
            raise self.error
        return self.studies

    def series_of(self, study_instance_uid: str) -> Sequence[FoundSeries]:
        return [
            FoundSeries(study_instance_uid, f"{study_instance_uid}.1", "CT", "", self.instances),
            FoundSeries(study_instance_uid, f"{study_instance_uid}.2", "SR", "", 1),
        ]

    def fetch(self, series: FoundSeries, *, max_bytes: int) -> None:
        self.sent.append(series.series_instance_uid)


def held_by_pacs(uid: str, date: str = "20260301", **patient: str) -> StudySummary:
    identity = PatientIdentity(patient.get("patient_id", "P7"), "", patient.get("birth", ""))
    return StudySummary(uid, identity, date, modalities=("CT",), words=("CT chest",))


def fetched(ward: Ward, source: KnownSource, **rules: float):
    ward.settings = Settings(priors=PriorsSettings(source=SOURCE, **rules))
    ward.fill()
    ward.end(ward.run)
    ward.begin()
    with ward.records.writing() as connection:
        (waiting,) = comparisons.all_open(connection)
        held = comparisons.claim(connection, waiting.id, at=NOW, lease=timedelta(seconds=60))
    assert held
    return fetch_priors(
        source, held, settings=ward.settings, records=ward.records, clock=SystemClock()
    )


def test_series_of_the_modality_are_fetched_of_studies_that_are_not_here(ward: Ward) -> None:
    source = KnownSource([held_by_pacs("1.5"), held_by_pacs("1.6", "20240101")])
    came = fetched(ward, source)
    assert source.sent == ["1.5.1"]  # the archive's own is newer than the other
    assert "1.5" in came.study_instance_uids
    with ward.records.reading() as connection:
        assert comparisons.fetched_for(connection, "1.5") == rows.uid_of(connection, ward.current)


@pytest.mark.parametrize(
    "other",
    [
        held_by_pacs("1.5", "20261121"),
        held_by_pacs("1.5", "19990101"),
        held_by_pacs("1.5", patient_id="P8"),
        held_by_pacs("1.5", birth="19700101"),
    ],
    ids=["later", "too old", "another patient", "another birth date"],
)
def test_what_does_not_fit_is_not_fetched(ward: Ward, other: StudySummary) -> None:
    source = KnownSource([other])
    fetched(ward, source)
    assert source.sent == []


def test_no_more_is_fetched_than_a_day_allows(ward: Ward) -> None:
    source = KnownSource([held_by_pacs("1.5"), held_by_pacs("1.6", "20260401")])
    came = fetched(ward, source, max_per_day=1)
    assert (source.sent, came.reason) == (["1.6.1"], "DAY_LIMIT")


def test_a_study_beyond_the_size_limit_is_left_where_it_is(ward: Ward) -> None:
    source = KnownSource([held_by_pacs("1.5")], instances=3000)
    came = fetched(ward, source, max_bytes=10**9)
    assert (source.sent, came.reason) == ([], "NOTHING_SUITABLE")
    assert "1.5" not in came.study_instance_uids


def test_a_pacs_that_is_away_is_asked_three_times_and_then_no_more(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = KnownSource(error=PeerUnavailable("CONNECT", "away"))
    monkeypatch.setattr(priors_job, "source_of", lambda _settings: source)
    ward.settings = Settings(priors=PriorsSettings(source=SOURCE))
    ward.fill()
    ward.begin()

    class At:
        moment = NOW

        def now(self):
            return self.moment

    clock = At()
    context = PriorsContext(ward.settings, ward.records, clock)
    for seconds in (0, 6, 30):
        clock.moment = NOW + timedelta(seconds=seconds)
        with ward.records.reading() as connection:
            ((due, _),) = comparisons.due_fetches(connection, at=clock.moment)
        priors_job.seek(context, int(due))
    assert ward.state() == ComparisonState.ANALYSING
    with ward.records.reading() as connection:
        assert connection.execute(select(comparison_rows.c.reason)).scalar() == "CONNECT"
        assert comparisons.due_fetches(connection, at=NOW + timedelta(hours=1)) == []
