"""What may be asked of the worklist, and what is refused by the name of its field."""

from datetime import UTC, date, datetime

import pytest
from pydantic import ValidationError

from service.core.states import StudyState
from service.records.worklist_query import WorklistQuery, WorklistSort


def test_nothing_asked_is_the_most_urgent_first() -> None:
    asked = WorklistQuery()
    assert (asked.sort, asked.limit, asked.cursor) == (WorklistSort.URGENCY, 50, None)


def test_empty_parameters_as_forms_send_them_are_not_asked() -> None:
    names = ("q", "patient_id", "task", "min_urgency", "study_date_from", "received_to", "cursor")
    empty = WorklistQuery.model_validate(
        {name: "" for name in names} | {"state": [""], "modality": ""}
    )
    assert empty == WorklistQuery()


@pytest.mark.parametrize("given", [["QUEUED,FAILED"], ["QUEUED", "FAILED"], "QUEUED,FAILED"])
def test_several_values_come_with_commas_or_repeated(given: object) -> None:
    asked = WorklistQuery.model_validate({"state": given})
    assert asked.state == [StudyState.QUEUED, StudyState.FAILED]


@pytest.mark.parametrize("given", ["2026-11-20", "20261120"])
def test_dates_are_read_as_people_and_as_dicom_write_them(given: str) -> None:
    assert WorklistQuery.model_validate({"study_date_from": given}).study_date_from == date(
        2026, 11, 20
    )


@pytest.mark.parametrize(
    "given", ["2026-11-20T09:30:00Z", "2026-11-20T10:30:00+01:00", "2026-11-20T09:30:00"]
)
def test_times_are_taken_to_utc(given: str) -> None:
    asked = WorklistQuery.model_validate({"received_from": given})
    assert asked.received_from == datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("limit", 0),
        ("limit", 501),
        ("limit", "many"),
        ("min_urgency", 1.1),
        ("min_urgency", "nan"),
        ("min_urgency", "inf"),
        ("sort", "name"),
        ("state", "DONE"),
        ("priority", "SOON"),
        ("study_date_from", "20261301"),
        ("study_date_from", "yesterday"),
        ("received_from", "noon"),
        ("q", "a\0b"),
        ("patient_id", "line\nbreak"),
        ("patient_id", "x" * 129),
        ("patient_name", "\ud800"),
        ("modality", "x" * 17),
        ("colour", "red"),
    ],
)
def test_a_wrong_value_is_refused_by_its_field(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        WorklistQuery.model_validate({field: value})
    assert caught.value.errors()[0]["loc"][0] == field


def test_a_span_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValidationError):
        WorklistQuery.model_validate(
            {"study_date_from": "2026-11-21", "study_date_to": "2026-11-20"}
        )
