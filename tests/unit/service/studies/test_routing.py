"""Routing rules: the first that holds decides, destinations have conditions of their own."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset

from service.core.settings import Condition, Destination, RoutingRule
from service.core.states import Priority
from service.studies.routing import attributes, holds, requested_priority, route

PACS = Destination(name="PACS", ae_title="PACS", host="127.0.0.1", port=104)
RESEARCH = Destination(
    name="research",
    stow_url="http://127.0.0.1/dicom-web",
    rules=(Condition(keyword="Modality", value="CT"),),
)


def header(**attributes: str) -> bytes:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def test_without_rules_every_model_runs_for_every_matching_destination() -> None:
    lookup = attributes(header(Modality="DX"), "CT1")
    decided = route((), (PACS, RESEARCH), lookup)
    assert (decided.models, decided.priority) == (None, Priority.ROUTINE)
    assert decided.destinations == ("PACS",)


def test_the_first_rule_that_holds_decides() -> None:
    rules = (
        RoutingRule(
            name="emergency",
            when=(Condition(keyword="StudyDescription", operator="contains", value="emergency"),),
            priority=Priority.STAT,
        ),
        RoutingRule(
            name="night",
            when=(Condition(keyword="CallingAETitle", value="ct2"),),
            models=("lung_nodule_detection",),
            destinations=("research",),
        ),
    )
    urgent = attributes(header(Modality="CT", StudyDescription="EMERGENCY chest"), "CT2")
    assert route(rules, (PACS, RESEARCH), urgent).priority is Priority.STAT
    other = route(rules, (PACS, RESEARCH), attributes(header(Modality="CT"), "CT2"))
    assert (other.models, other.destinations) == (("lung_nodule_detection",), ("research",))


def test_the_priority_that_was_ordered_is_kept() -> None:
    lookup = attributes(header(RequestedProcedurePriority="STAT"), "CT1")
    assert requested_priority(lookup) is Priority.STAT
    assert requested_priority(attributes(header(), "CT1")) is Priority.ROUTINE


@pytest.mark.parametrize(
    ("operator", "value", "found", "expected"),
    [
        ("equals", "CT", ("ct",), True),
        ("equals", "CT", (), False),
        ("not_equals", "CT", ("MR",), True),
        ("in", ("CR", "DX"), ("DX",), True),
        ("contains", "chest", ("CT CHEST",), True),
        ("matches", "CT*CHEST?", ("CT of CHESTS",), True),
        ("matches", "CT", ("CTA",), False),
        ("exists", "", ("x",), True),
        ("exists", "", (), False),
    ],
)
def test_each_operator(
    operator: str, value: str | tuple[str, ...], found: tuple[str, ...], expected: bool
) -> None:
    condition = Condition(keyword="Modality", operator=operator, value=value)  # type: ignore[arg-type]
    assert holds(condition, found) is expected


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_pattern_and_no_value_raise(pattern: str, value: str) -> None:
    condition = Condition(keyword="Modality", operator="matches", value=pattern)
    assert holds(condition, (value,)) in (True, False)
