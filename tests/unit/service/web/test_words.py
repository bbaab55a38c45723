"""Names, durations and states in the words that people read."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.states import DeliveryState, JobState, StudyState
from service.records.worklist import TaskStatus
from service.web import words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("Doe^Jane^Ann^Dr^PhD", "DOE, Dr Jane Ann PhD"),
        ("Doe", "DOE"),
        ("^Jane", "Jane"),
        ("", ""),
        ("^^^^==", ""),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "YAMADA, Tarou (山田 太郎) (やまだ たろう)"),
        ("Buc^Jérôme^^^^more^than^five", "BUC, Jérôme"),
    ],
)
def test_person_names_are_shown_family_first(value: str, shown: str) -> None:
    assert words.person_name(value) == shown


@given(st.text())
def test_any_person_name_can_be_shown(value: str) -> None:
    assert "^" not in words.person_name(value)


@pytest.mark.parametrize(
    ("born", "age"),
    [
        ("1961-11-20", "65 y"),
        ("1961-11-21", "64 y"),
        ("2025-11-21", "11 mo"),
        ("2026-11-20", "0 mo"),
        ("2030-01-01", ""),
        ("2026-02-30", ""),
        (None, ""),
    ],
)
def test_age_counts_whole_years_and_months(born: str | None, age: str) -> None:
    assert words.age_and_sex(born, "", date(2026, 11, 20)) == age


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min 59 s"),
        (3600, "1 h"),
        (26 * 3600 + 60, "26 h 1 min"),
        (49 * 3600, "2 d"),
        (-5, "0.0 s"),
    ],
)
def test_durations_have_at_most_two_units(seconds: float, shown: str) -> None:
    assert words.span(timedelta(seconds=seconds)) == shown


def test_every_state_has_words() -> None:
    assert set(words.STUDY_STATES) == set(words.STUDY_STATES_EXPLAINED) == set(StudyState)
    assert set(words.JOB_STATES) == set(JobState)
    assert set(words.DELIVERY_STATES) == set(DeliveryState)


def status(
    state: JobState, *, findings: int = 0, reason: str = "", message: str = ""
) -> TaskStatus:
    return TaskStatus("nodules", "m", "1.0.0", state, reason, message, None, findings, None)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (status(JobState.COMPLETED), "nothing found"),
        (status(JobState.COMPLETED, findings=1), "1 finding"),
        (status(JobState.COMPLETED, findings=3), "3 findings"),
        (status(JobState.SCHEDULED), "waiting"),
        (
            status(JobState.NOT_APPLICABLE, reason="SLICE_GAP", message="a gap of 12.5 mm"),
            "not analysed: a gap of 12.5 mm",
        ),
        (status(JobState.NOT_APPLICABLE, reason="SLICE_GAP"), "not analysed: slice gap"),
        (status(JobState.FAILED, reason="WORKER_LOST"), "failed: worker lost"),
    ],
)
def test_a_task_explains_itself(given: TaskStatus, shown: str) -> None:
    assert words.task_words(given) == shown


def test_waiting_is_told_in_its_greatest_unit() -> None:
    now = datetime(2026, 11, 20, 12, tzinfo=UTC)
    told = [words.waited(now - timedelta(minutes=m), now) for m in (0, 1, 119, 120, 2879, 2880)]
    assert told == ["now", "1 min", "119 min", "2 h", "47 h", "2 d"]
