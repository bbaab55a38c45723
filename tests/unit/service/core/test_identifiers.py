"""Identifiers that a repeat reproduces, and the grammar of UIDs and AE titles."""

import re

from hypothesis import given
from hypothesis import strategies as st

from service.core.identifiers import (
    derive_job_id,
    derive_uid,
    finding_id,
    is_ae_title,
    is_uid,
    result_series_uid,
    result_uid,
    tracking_uid,
)
from service.core.states import DELIVERY_TRANSITIONS, JOB_TRANSITIONS, DeliveryState, JobState

DIGEST = "a" * 64


def job_id(**changes: object) -> str:
    values: dict[str, object] = {
        "series_instance_uid": "1.2.3",
        "instance_digests": ["x", "y"],
        "model_sha256": DIGEST,
        "parameters": {"operating_point": "balanced"},
    }
    return derive_job_id(**{**values, **changes})  # type: ignore[arg-type]


def test_a_job_is_the_same_whatever_order_its_instances_came_in() -> None:
    assert job_id() == job_id(instance_digests=["y", "x"])


def test_a_job_is_another_one_when_anything_that_decides_its_outcome_differs() -> None:
    others = [
        job_id(series_instance_uid="1.2.4"),
        job_id(instance_digests=["x", "y", "z"]),
        job_id(model_sha256="b" * 64),
        job_id(parameters={"operating_point": "sensitive"}),
    ]
    assert len({job_id(), *others}) == 5


@given(st.text(max_size=40), st.text(max_size=40))
def test_every_derived_uid_is_valid_and_repeatable(first: str, second: str) -> None:
    made = derive_uid(first, second)
    assert is_uid(made)
    assert made == derive_uid(first, second)


def test_the_uids_of_one_job_all_differ() -> None:
    job = job_id()
    assert re.fullmatch(r"[0-9a-f]{32}", job)
    uids = {result_uid(job, "sr"), result_uid(job, "seg"), result_series_uid(job, "sr")}
    uids |= {tracking_uid(job, rank) for rank in range(3)}
    assert len(uids) == 6
    assert finding_id(job, 0) != finding_id(job, 1)


def test_what_is_no_uid_is_refused() -> None:
    for text in (
        "",
        "1",
        "1..2",
        "1.02",
        ".1.2",
        "1.2.",
        "1.2/..",
        "1." + "2" * 63,
        "1.2\n",
        "a.b",
    ):
        assert not is_uid(text), text


def test_what_is_no_ae_title_is_refused() -> None:
    assert is_ae_title("PACS 1")
    for text in ("", "   ", "A" * 17, "A\\B", "A\n", "Ä"):
        assert not is_ae_title(text), text


def test_every_state_says_what_may_follow_and_everything_can_be_reached() -> None:
    for table, states, first in (
        (JOB_TRANSITIONS, JobState, JobState.SCHEDULED),
        (DELIVERY_TRANSITIONS, DeliveryState, DeliveryState.SCHEDULED),
    ):
        assert set(table) == set(states)
        reached, waiting = {first}, [first]
        while waiting:
            for state in table[waiting.pop()]:  # type: ignore[index]
                if state not in reached:
                    reached.add(state)
                    waiting.append(state)
        assert reached == set(states)
