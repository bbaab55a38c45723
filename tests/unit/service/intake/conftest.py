"""An ingest over a fresh archive and an SQLite database."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import select

from service.core.clock import SystemClock
from service.intake.ingest import Ingest
from service.records.archive import Archive
from service.records.database import Records
from service.records.migrations import migrate


@dataclass
class House:
    """Where instances go in these tests."""

    records: Records
    archive: Archive
    ingest: Ingest
    folder: Path

    def rows(self, table):
        with self.records.reading() as connection:
            return connection.execute(select(table).order_by(table.c.id)).all()

    def files(self) -> list[Path]:
        return sorted(self.archive.root.rglob("*.dcm"))

    def unfinished(self) -> list[Path]:
        return sorted((self.folder / "incoming").iterdir())


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    records = Records(f"sqlite:///{tmp_path / 'overread.db'}")
    migrate(records)
    archive = Archive(tmp_path)
    archive.prepare()
    ingest = Ingest(records, archive, SystemClock(), max_instance_bytes=1 << 22)
    yield House(records, archive, ingest, tmp_path)
    records.close()
