"""Which events may be told already, and how they are written."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from service.api.events import encoded, settled
from service.records.events import Event, EventKind
from tests.builders.rows import NOW


def event(number: int, *, age_s: float = 0.0) -> Event:
    at = NOW - timedelta(seconds=age_s)
    return Event(number, at, EventKind.JOB, "1.2.3", "abc", "COMPLETED", "")


def ids(events: object) -> list[int]:
    return [one.id for one in events]  # type: ignore[attr-defined]


def test_events_without_a_gap_are_told_at_once() -> None:
    assert ids(settled([event(5), event(6)], 4, now=NOW)) == [5, 6]


def test_a_fresh_gap_holds_back_what_follows_it() -> None:
    assert ids(settled([event(5), event(7)], 4, now=NOW)) == [5]


def test_a_gap_that_was_not_filled_in_time_is_passed() -> None:
    assert ids(settled([event(5, age_s=9), event(7, age_s=9)], 4, now=NOW)) == [5, 7]


@given(st.sets(st.integers(1, 40)), st.integers(0, 40))
def test_no_event_is_ever_skipped_or_told_twice(stored: set[int], first: int) -> None:
    # Rows appear one by one in any order; a client asks in between.
    place, told, present = 0, [], []
    for number in sorted(stored, key=lambda value: (value * 7919 + first) % 41):
        present = sorted([*present, number])
        ready = settled([event(one) for one in present if one > place], place, now=NOW)
        told += ids(ready)
        place = told[-1] if told else 0
    late = NOW + timedelta(minutes=1)
    told += ids(settled([event(one) for one in present if one > place], place, now=late))
    assert told == sorted(stored)


def test_an_event_is_three_lines_and_an_empty_one() -> None:
    text = encoded(event(17)).decode()
    assert text.startswith("id: 17\nevent: job\ndata: {")
    assert text.endswith("}\n\n")
    assert text.count("\n") == 4
