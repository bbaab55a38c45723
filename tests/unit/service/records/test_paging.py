"""Cursors: what they hold comes back, and what they should not hold is refused."""

import base64
from datetime import UTC, datetime
from types import SimpleNamespace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from service.core.errors import InvalidRequest
from service.records.paging import Order
from service.records.tables import studies

URGENCY = Order(
    "urgency", (studies.c.urgency, studies.c.received_at, studies.c.id), descending=True
)
NAME = Order("patient_name", (studies.c.patient_name, studies.c.id), descending=False)


@given(
    st.floats(0, 1),
    st.datetimes(timezones=st.just(UTC)),
    st.integers(1, 2**31 - 1),
)
def test_a_cursor_leads_back_to_exactly_its_row(urgency: float, at: datetime, key: int) -> None:
    row = SimpleNamespace(urgency=urgency, received_at=at, id=key)
    assert URGENCY._place(URGENCY.cursor(row)) == (urgency, at, key)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=80))
def test_any_name_survives_a_cursor(name: str) -> None:
    row = SimpleNamespace(patient_name=name, id=4)
    assert NAME._place(NAME.cursor(row)) == (name, 4)


def forged(*values: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(list(values))).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "%%%",
        "ü",
        "a" * 2000,
        base64.urlsafe_b64encode(b"{}").decode(),
        base64.urlsafe_b64encode(b"[" * 600).decode(),
        forged("patient_name", "A", 1),
        forged("urgency"),
        forged("urgency", "1", "2026-11-20T00:00:00Z", 1),
        forged("urgency", True, "2026-11-20T00:00:00Z", 1),
        forged("urgency", 0.5, "2026-11-20T00:00:00", 1),
        forged("urgency", 0.5, "soon", 1),
        forged("urgency", 0.5, "2026-11-20T00:00:00Z", 1.5),
        forged("urgency", 0.5, "2026-11-20T00:00:00Z", 2**63),
        forged("urgency", 0.5, "2026-11-20T00:00:00Z", None),
    ],
)
def test_what_this_order_did_not_give_out_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        URGENCY.page(select(studies.c.id), limit=10, cursor=cursor)
    assert caught.value.reason == "CURSOR"


def test_text_that_no_database_holds_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        NAME.page(select(studies.c.id), limit=10, cursor=forged("patient_name", "a\0", 1))
