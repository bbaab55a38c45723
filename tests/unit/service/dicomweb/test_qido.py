"""Queries of QIDO-RS: what they ask, and which are wrong."""

import pytest

from service.core.errors import InvalidRequest
from service.dicomweb.qido import LIMITS, needs_header, parse
from service.records.dicomweb import Between, Level, Like, OneOf


def keys(level: Level = Level.STUDY, **parameters: str) -> list[tuple[str, object]]:
    return list(parse(level, parameters.items(), {}).search.keys)


def test_attributes_are_named_by_keyword_or_tag() -> None:
    assert keys(PatientID="P1") == keys(**{"00100020": "P1"}) == [("PatientID", OneOf(("P1",)))]


def test_ranges_may_be_open_at_either_end() -> None:
    assert keys(StudyDate="20260101-") == [("StudyDate", Between("20260101", ""))]
    assert keys(StudyDate="-20260101") == [("StudyDate", Between("", "20260101"))]
    assert keys(StudyTime="0815") == [("StudyTime", Between("0815", "0815"))]


def test_wildcards_lists_and_universal_matching() -> None:
    assert keys(StudyDescription="*chest?") == [("StudyDescription", Like(("*chest?",)))]
    assert keys(StudyInstanceUID="1.2,1.3\\1.4") == [
        ("StudyInstanceUID", OneOf(("1.2", "1.3", "1.4")))
    ]
    assert keys(PatientName="*", AccessionNumber="") == []


def test_fuzzy_names_match_each_word() -> None:
    found = keys(PatientName="john doe", fuzzymatching="true")
    assert [name for name, _ in found] == ["PatientName", "PatientName"]


def test_the_path_is_a_key_too_and_cannot_be_widened() -> None:
    query = parse(Level.SERIES, [("StudyInstanceUID", "1.9")], {"StudyInstanceUID": "1.2"})
    assert query.search.keys == (
        ("StudyInstanceUID", OneOf(("1.2",))), ("StudyInstanceUID", OneOf(("1.9",))),
    )  # fmt: skip


def test_what_cannot_be_matched_is_named_in_a_warning() -> None:
    query = parse(Level.STUDY, [("Modality", "CT"), ("PatientAge", "060Y")], {})
    assert query.search.keys == ()
    assert [warning.split()[0] for warning in query.warnings] == ["Modality", "PatientAge"]


def test_limits_are_capped() -> None:
    assert parse(Level.STUDY, [("limit", "999999")], {}).search.limit == LIMITS[Level.STUDY]
    assert parse(Level.STUDY, [("limit", "0")], {}).search.limit == 0


def test_only_what_the_rows_lack_needs_a_header() -> None:
    assert not needs_header(parse(Level.STUDY, [("includefield", "00081030,PatientID")], {}))
    assert needs_header(parse(Level.SERIES, [("includefield", "Manufacturer")], {}))
    assert needs_header(parse(Level.INSTANCE, [("includefield", "all")], {}))
    assert not needs_header(parse(Level.STUDY, [("includefield", "all")], {}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("StudyDate", "2026-01-01"), ("StudyDate", "-"), ("StudyTime", "8 o'clock"),
        ("StudyInstanceUID", "1.2;DROP"), ("limit", "many"), ("offset", "-1"),
        ("limit", "\u0663"), ("fuzzymatching", "yes"), ("includefield", "Nothing"),
        ("Patient", "x"), ("PatientID", "x" * 5000),
    ],
)  # fmt: skip
def test_wrong_parameters_are_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(Level.STUDY, [(name, value)], {})
    assert refused.value.reason == "INVALID_QUERY"
