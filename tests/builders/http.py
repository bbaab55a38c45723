"""The HTTP application over a database of its own, and what clients of it need."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import Connection, delete

from service.api.app import create_app
from service.api.server import listener, serve
from service.core.settings import Settings
from service.records.database import Records
from service.records.migrations import migrate
from service.records.tables import audit_events, metadata
from tests.builders import rows

BASE_URL = "http://127.0.0.1:8080"
# Rows are made around `rows.NOW`; the application's own clock stands a little later.
LATER = rows.NOW + timedelta(minutes=5)


@dataclass
class SetClock:
    """A clock that stands where a test puts it."""

    time: datetime = LATER

    def now(self) -> datetime:
        """Return the time that was set."""
        return self.time


@dataclass
class Site:
    """An application with its records and a client on loopback."""

    settings: Settings
    records: Records
    clock: SetClock
    client: TestClient

    def add(self, make: Any, **given: Any) -> Any:
        """Write rows by a builder and return what it returns."""
        with self.records.writing() as connection:
            return make(connection, **given)

    def empty(self) -> None:
        """Delete every row, so that the next test begins afresh."""
        with self.records.writing() as connection:
            for table in reversed(metadata.sorted_tables):
                if table is not audit_events:  # append-only, for tests too
                    connection.execute(delete(table))

    def uid(self, study_id: int) -> str:
        """Return the Study Instance UID of a row."""
        with self.records.reading() as connection:
            return rows.uid_of(connection, study_id)

    def get(self, path: str, **given: Any) -> Any:
        """Return the JSON of an answer that must be good."""
        answer = self.client.get(f"/api/v1{path}", **given)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextlib.contextmanager
def site(database_url: str, data_dir: Path, **sections: Any) -> Iterator[Site]:
    """Open an application over an empty, migrated database."""
    records = Records(database_url)
    migrate(records)
    settings = site_settings(data_dir, **sections)
    clock = SetClock()
    app = create_app(settings, records, clock=clock)
    try:
        yield Site(settings, records, clock, TestClient(app, base_url=BASE_URL))
    finally:
        app.state.trail.close()
        records.close()


def site_settings(data_dir: Path, **sections: Any) -> Settings:
    """Return settings whose models and data are the test's own."""
    models_dir = data_dir / "models"
    models_dir.mkdir(parents=True, exist_ok=True)
    given = {
        "data_dir": data_dir,
        "retention": {"min_free_bytes": 0},
        "models": {"dir": models_dir},
        "redis": {"url": "redis://127.0.0.1:1/0"},
    }
    return Settings(**{**given, **sections})


@contextlib.contextmanager
def served(settings: Settings, records: Records) -> Iterator[str]:
    """Serve by uvicorn on a free port; yields the address, ends the server cleanly."""
    stop = threading.Event()
    opened = listener(settings.http.model_copy(update={"port": 0}))
    port = opened.getsockname()[1]
    thread = threading.Thread(target=serve, args=(settings, records, opened, stop))
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"


def many_studies(connection: Connection, count: int, **columns: Any) -> list[int]:
    """Write studies one minute apart, urgency in steps so that several share each value."""
    return [
        rows.add_study(
            connection,
            received_at=rows.NOW + timedelta(minutes=number),
            urgency=(number % 4) / 4,
            **columns,
        )
        for number in range(count)
    ]
