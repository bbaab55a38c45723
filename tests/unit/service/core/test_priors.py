import pytest

from service.core.priors import (
    PatientIdentity,
    StudySummary,
    choose_priors,
    is_known,
    is_same_patient,
    regions_of,
)

PATIENT = PatientIdentity("P7", "HOSPITAL", "19600101")


def summary(uid: str, date: str, **changes: object) -> StudySummary:
    values = {
        "study_instance_uid": uid,
        "patient": PATIENT,
        "study_date": date,
        "modalities": ("CT",),
        "words": ("CT CHEST",),
        **changes,
    }
    return StudySummary(**values)  # type: ignore[arg-type]


CURRENT = summary("now", "20260404", study_time="101500")


def chosen(*candidates: StudySummary, max_studies: int = 5) -> list[str]:
    found = choose_priors(
        CURRENT, candidates, modalities={"CT"}, max_studies=max_studies, max_age_days=1000
    )
    return [one.study_instance_uid for one in found]


def test_the_newest_earlier_studies_come_first_and_no_more_than_asked() -> None:
    studies = [summary("old", "20240404"), summary("new", "20260301"), summary("mid", "20250404")]

    assert chosen(*studies) == ["new", "mid", "old"]
    assert chosen(*studies, max_studies=1) == ["new"]


@pytest.mark.parametrize(
    "other",
    [
        summary("now", "20260101"),
        summary("later", "20260405"),
        summary("too old", "20200101"),
        summary("undated", ""),
        summary("no date", "2026AB01"),
        summary("other modality", "20260101", modalities=("MR",)),
        summary("other region", "20260101", words=("CT KNEE",)),
        summary("other patient", "20260101", patient=PatientIdentity("P8")),
        summary("same minute", "20260404", study_time="101500"),
    ],
    ids=lambda one: one.study_instance_uid,
)
def test_what_cannot_be_compared_is_left_out(other: StudySummary) -> None:
    assert chosen(other) == []


def test_an_earlier_study_of_the_same_day_and_one_that_names_no_region_count() -> None:
    morning = summary("morning", "20260404", study_time="080000")
    nameless = summary("nameless", "20260101", words=())

    assert chosen(morning, nameless) == ["morning", "nameless"]


@pytest.mark.parametrize("patient_id", ["", " ", "0", "unknown", "ANON", "12*", "1?", "1\\2"])
def test_an_unknown_patient_is_never_asked_for(patient_id: str) -> None:
    assert not is_known(PatientIdentity(patient_id))
    assert not is_same_patient(PatientIdentity(patient_id), PatientIdentity(patient_id))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("7", "A", "1960"), ("7", "A", "1960"), True),
        (("7", "A", ""), ("7", "B", ""), False),
        (("7", "A", "1960"), ("7", "", "1960"), True),
        (("7", "A", "1960"), ("7", "", ""), False),
        (("7", "", "1960"), ("7", "", "1961"), False),
        (("7", "", ""), ("7", "", ""), True),
        (("7", "", ""), ("8", "", ""), False),
    ],
)
def test_numbers_of_two_issuers_are_two_patients(
    one: tuple[str, str, str], other: tuple[str, str, str], same: bool
) -> None:
    assert is_same_patient(PatientIdentity(*one), PatientIdentity(*other)) is same
    assert is_same_patient(PatientIdentity(*other), PatientIdentity(*one)) is same


def test_a_scan_of_chest_and_abdomen_shows_both() -> None:
    assert regions_of(["CT CHEST^ABDOMEN"]) == {"thorax", "abdomen"}
