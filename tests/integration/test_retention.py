"""What is deleted when studies have been kept for long enough: the oldest, and nothing wanted."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection

from service.core.states import CommitmentState, DeliveryState, StudyState
from service.records import retention
from service.records.database import Records
from service.records.migrations import migrate
from tests.builders import rows
from tests.builders.rows import NOW

MONTH = timedelta(days=30)


@pytest.fixture
def records(database_url: str) -> Iterator[Records]:
    store = Records(database_url)
    migrate(store)
    yield store
    store.close()


def old_study(connection: Connection, days: int, state: str = StudyState.ANALYSED) -> int:
    at = NOW - timedelta(days=days)
    return rows.add_study(connection, state=state, received_at=at, last_received_at=at)


def with_delivery(connection: Connection, days: int, **columns: Any) -> int:
    study_id = old_study(connection, days)
    job_id = rows.add_job(connection, study_id, rows.add_series(connection, study_id))
    rows.add_delivery(
        connection, study_id, rows.add_result(connection, study_id, job_id), **columns
    )
    return study_id


def test_the_oldest_delivered_goes_first_and_the_undelivered_never(records: Records) -> None:
    with records.writing() as connection:
        old_study(connection, 10)
        delivered = with_delivery(connection, 40)
        for days, state in (
            (100, DeliveryState.SCHEDULED),
            (101, DeliveryState.IN_PROGRESS),
            (102, DeliveryState.PARKED),
        ):
            with_delivery(connection, days, state=state)
        for commitment in (CommitmentState.DUE, CommitmentState.REQUESTED):
            with_delivery(connection, 103, commitment=commitment)
        committed = with_delivery(connection, 60, commitment=CommitmentState.COMMITTED)
        nothing_to_send = old_study(connection, 50, StudyState.NOT_ANALYSED)
        for state in (StudyState.RECEIVING, StudyState.QUEUED, StudyState.ANALYSING):
            old_study(connection, 200, state)
        expired = retention.expired_studies(connection, before=NOW - MONTH, limit=10)
        assert list(expired) == [committed, nothing_to_send, delivered]
        first = retention.expired_studies(connection, before=NOW - MONTH, limit=1)
        assert list(first) == [committed]
