"""The schema on SQLite and PostgreSQL: upgraded, compared with the tables, refused when unknown."""

from collections.abc import Iterator

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text

from service.core.errors import InvalidSettings
from service.records.database import Records
from service.records.migrations import migrate, migration_config
from service.records.schema import newest_revision, require_current_schema


@pytest.fixture
def records(database_url: str) -> Iterator[Records]:
    store = Records(database_url)
    yield store
    store.close()


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")  # expression indices of SQLite
def test_the_migrated_schema_is_the_one_that_the_tables_say(records: Records) -> None:
    assert migrate(records) == newest_revision()
    with records.engine.begin() as connection:
        command.check(migration_config(connection))


def test_migrating_twice_changes_nothing(records: Records) -> None:
    assert migrate(records) == migrate(records)
    require_current_schema(records)


def test_the_newest_script_is_the_only_head() -> None:
    scripts = ScriptDirectory.from_config(migration_config())
    assert scripts.get_heads() == [newest_revision()]


def test_a_database_without_schema_is_refused_with_what_to_do(records: Records) -> None:
    with pytest.raises(InvalidSettings, match="run `overread migrate`"):
        require_current_schema(records)


@pytest.mark.faults(number=40)
def test_a_database_of_a_later_version_is_refused(records: Records) -> None:
    migrate(records)
    with records.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InvalidSettings, match="9999"):
        require_current_schema(records)
    with pytest.raises(InvalidSettings, match="NEWER_SCHEMA"):
        migrate(records)


@pytest.mark.faults(number=40)
def test_an_upgrade_that_is_killed_half_way_leaves_the_old_schema(records: Records) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        _upgrade_and_die(records)
    with pytest.raises(InvalidSettings, match="None"):
        require_current_schema(records)
    migrate(records)
    require_current_schema(records)


def _upgrade_and_die(records: Records) -> None:
    with records.engine.begin() as connection:
        command.upgrade(migration_config(connection), "head")
        raise RuntimeError("killed")
