"""Schemas of other versions: upgraded with work in flight, killed half-way, met by older code.

The older versions are those that the migrations themselves describe: each test makes a database as
an earlier revision has it and fills it with what an earlier version would have left.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, insert, inspect, text

from service.core.states import DeliveryState, JobState, StudyState
from service.records import deliveries, jobs
from service.records.database import Records
from service.records.migrations import current_revision, migrate, migration_config
from service.records.schema import newest_revision, require_current_schema
from tests.builders.outgoing import Outgoing
from tests.builders.rows import NOW
from tests.peers.pacs import PlayingPacs
from tests.peers.postgres import PostgresServer

FIRST = "0001"


@pytest.fixture
def records(database_url: str) -> Iterator[Records]:
    store = Records(database_url)
    yield store
    store.close()


def upgrade(records: Records, revision: str) -> None:
    with records.engine.begin() as connection:
        command.upgrade(migration_config(connection), revision)


def revisions() -> list[str]:
    scripts = ScriptDirectory.from_config(migration_config())
    return [script.revision for script in scripts.walk_revisions()][::-1]


def as_it_is(connection: Connection, name: str) -> Table:
    """Return a table as the database has it, not as today's code has it."""
    return Table(name, MetaData(), autoload_with=connection)


def fill(connection: Connection) -> None:
    """Write work in flight, through the columns that the schema has now."""

    def add(name: str, **values: object) -> None:
        table = as_it_is(connection, name)
        connection.execute(insert(table).values(values))

    at = {"received_at": NOW, "last_received_at": NOW}
    states = (StudyState.QUEUED, StudyState.ANALYSING, StudyState.ANALYSED)
    for number, state in enumerate(states, start=1):
        add("studies", id=number, study_instance_uid=f"1.2.{number}", revision=1, state=state, **at)
        add("series", id=number, study_id=number, series_instance_uid=f"1.3.{number}",
            revision=1, **at)  # fmt: skip
    job_states = (JobState.SCHEDULED, JobState.IN_PROGRESS, JobState.COMPLETED)
    for number, state in enumerate(job_states, start=1):
        add("jobs", id=f"{number}" * 32, study_id=number, series_id=number, task="t",
            model_name="m", model_version="1", model_sha256="a" * 64, parameters={}, inputs=[],
            current=True, destinations=["PACS"], state=state, priority="ROUTINE", due_at=NOW,
            fence=1 if state == JobState.IN_PROGRESS else 0, attempts=1,
            lease_until=NOW if state == JobState.IN_PROGRESS else None,
            timings_s={}, scores={}, created_at=NOW)  # fmt: skip
    add("results", id=1, job_id="3" * 32, study_id=3, role="sr", sop_class_uid="1.2",
        sop_instance_uid="1.4.1", series_instance_uid="1.5.1", transfer_syntax_uid="1.2",
        path="x", sha256="b" * 64, size_bytes=1, state="VALID", created_at=NOW)  # fmt: skip
    add("deliveries", id=1, result_id=1, study_id=3, destination="PACS",
        state=DeliveryState.SCHEDULED, priority="ROUTINE", due_at=NOW, give_up_at=NOW,
        created_at=NOW)  # fmt: skip
    add("outbox", topic="infer", subject_id="1" * 32, created_at=NOW)


@pytest.mark.faults(number=40)
def test_work_in_flight_of_an_older_version_goes_on_after_the_upgrade(records, seen):
    upgrade(records, FIRST)
    with records.engine.begin() as connection:
        fill(connection)
    assert migrate(records) == newest_revision()
    later = NOW.replace(hour=NOW.hour + 1)
    with records.writing() as connection:
        assert jobs.release_lost(connection, at=later, max_attempts=3) == ["2" * 32]
        due = {job_id for job_id, _ in jobs.due(connection, at=later)}
        assert due == {"1" * 32, "2" * 32}
        assert [delivery for delivery, _ in deliveries.due(connection, at=later)] == ["1"]
        assert jobs.state_of(connection, "3" * 32) is JobState.COMPLETED
    seen(f"from schema {FIRST} to {newest_revision()} with jobs and deliveries under way")


_DIE_AT = """
import os, signal, sys
from sqlalchemy import event
from service.records.database import Records
from service.records.migrations import migrate
records = Records(sys.argv[1])
left = [int(sys.argv[2])]
@event.listens_for(records.engine, "after_cursor_execute")
def count(connection, cursor, statement, parameters, context, many):
    if statement.lstrip().upper().startswith(("CREATE", "ALTER", "UPDATE", "INSERT", "DROP")):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
migrate(records)
print("whole")
"""


@pytest.mark.slow
@pytest.mark.faults(number=40)
def test_an_upgrade_that_is_killed_is_whole_or_not_at_all(records, database_url, seen):
    upgrade(records, FIRST)
    with records.engine.begin() as connection:
        fill(connection)
    for statements in (1, 7, 20):
        done = subprocess.run(
            [sys.executable, "-c", _DIE_AT, database_url, str(statements)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            timeout=100,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        with records.engine.connect() as connection:
            assert current_revision(connection) == FIRST
            assert not inspect(connection).has_table("commitment_reports")
    assert migrate(records) == newest_revision()
    require_current_schema(records)
    seen("killed at its 1st, 7th and 20th statement: old schema, then whole")


@pytest.mark.faults(number=40)
def test_every_migration_only_expands_so_that_older_code_runs_on_it(records):
    """A rolling upgrade migrates first: the code of before must find and fill what it knows."""
    upgrade(records, FIRST)
    known = _columns(records)
    older = {name: [column for table, column in known if table == name] for name in _OLD_ROWS}
    for revision in revisions()[1:]:
        upgrade(records, revision)
        now = _columns(records)
        for key, (kind, nullable, _) in known.items():
            assert key in now, f"{revision} takes {key} away"
            assert str(now[key][0]) == str(kind), f"{revision} changes the type of {key}"
            assert now[key][1] or not nullable, f"{revision} makes {key} required"
        old_tables = {table for table, _ in known}
        for key in now.keys() - known.keys():
            _, nullable, default = now[key]
            if key[0] in old_tables:
                assert nullable or default is not None, f"{revision}: {key} without a default"
        known = now
    with records.engine.begin() as connection:
        for name, values in _OLD_ROWS.items():
            assert values.keys() <= set(older[name])
            connection.execute(insert(as_it_is(connection, name)).values(values))


_OLD_ROWS = {
    "studies": {
        "study_instance_uid": "1.2.3", "received_at": NOW, "last_received_at": NOW,
        "revision": 1, "state": "RECEIVING",
    },
    "outbox": {"topic": "infer", "subject_id": "1" * 32, "created_at": NOW},
}  # fmt: skip


def _columns(records: Records) -> dict[tuple[str, str], tuple[object, bool, object]]:
    """Return type, nullability and default of every column of the database."""
    with records.engine.connect() as connection:
        inspector = inspect(connection)
        return {
            (table, column["name"]): (column["type"], column["nullable"], column["default"])
            for table in inspector.get_table_names()
            if table != "alembic_version"
            for column in inspector.get_columns(table)
        }


@pytest.mark.faults(number=40)
def test_a_schema_of_a_later_version_is_refused_in_one_line(records, database_url, tmp_path):
    migrate(records)
    with records.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    environment = {
        **os.environ,
        "OVERREAD_DATABASE__URL": database_url,
        "OVERREAD_DATA_DIR": str(tmp_path / "data"),
    }
    for role in ("migrate", "receiver"):
        done = subprocess.run(
            [sys.executable, "-m", "service.cli", role],
            env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True,
            timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("overread: ")
        assert "9999" in last
        assert "Traceback" not in done.stderr


def restored_sqlite(url: str, folder: Path) -> str:
    """Copy a database in use as operations.md says, and return the copy's URL."""
    source = sqlite3.connect(url.removeprefix("sqlite:///"))
    copy = sqlite3.connect(folder / "copy.sqlite")
    source.backup(copy)
    source.close()
    copy.close()
    return f"sqlite:///{folder / 'copy.sqlite'}"


def restored_postgresql(url: str, folder: Path, server: PostgresServer, name: str) -> str:
    """Dump a database in use and restore it as operations.md says; return the copy's URL."""
    programs = {each: shutil.which(each) or str(server.programs / each) for each in
                ("pg_dump", "pg_restore")}  # fmt: skip
    plain = url.replace("postgresql+psycopg://", "postgresql://")
    dump = folder / "overread.dump"
    subprocess.run([programs["pg_dump"], "-Fc", "-f", str(dump), plain], check=True)
    server.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    copy = server.url(name)
    target = copy.replace("postgresql+psycopg://", "postgresql://")
    subprocess.run([programs["pg_restore"], "-d", target, str(dump)], check=True)
    return copy


@pytest.mark.faults(number=40)
def test_a_backup_restores_rows_files_and_work_in_flight(
    tmp_path, database_url, request, pacs: PlayingPacs, seen
):
    peer = {"name": "PACS", "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port}
    out = Outgoing(tmp_path / "data", database_url, [peer])
    (delivery,) = out.add_result()
    copies = tmp_path / "backup"
    copies.mkdir()
    if database_url.startswith("sqlite"):
        url = restored_sqlite(database_url, copies)
    else:
        server = request.getfixturevalue("postgres_server")
        url = restored_postgresql(database_url, copies, server, f"copy_{os.getpid()}_{delivery}")
    shutil.copytree(out.archive.root, copies / "data" / "archive")  # rows first, then files
    out.close()
    shutil.rmtree(tmp_path / "data")
    restored = Outgoing(copies / "data", url, [peer], clock=out.clock)
    try:
        require_current_schema(restored.records)
        restored.step()
        assert restored.row(delivery).state == "DELIVERED"
        assert len(pacs.received) == 1
    finally:
        restored.close()
    seen("backup restored, its waiting delivery sent")
