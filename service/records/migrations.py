"""Bring the schema up to date with alembic, from a checkout or from an installed wheel."""

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection, text

from service.core.errors import InvalidSettings
from service.records.database import Records
from service.records.schema import scripts_folder

# A lock number of our own: two processes that start together must not both migrate.
_ADVISORY_LOCK = 0x6F766572


def migration_config(connection: Connection | None = None) -> Config:
    """Return alembic's configuration, which is made in code."""
    config = Config()
    config.set_main_option("script_location", str(scripts_folder()))
    config.set_main_option("path_separator", "os")
    if connection is not None:
        config.attributes["connection"] = connection
    return config


def migrate(records: Records) -> str:
    """Upgrade the schema to this version's and return the revision reached.

    One transaction: an upgrade that is killed half-way leaves the old schema.

    Raises
    ------
    InvalidSettings
        ``NEWER_SCHEMA`` when the database was written by a later version of the product.
    """
    with records.engine.begin() as connection:
        if not records.is_sqlite:
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        config = migration_config(connection)
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise InvalidSettings(
                "NEWER_SCHEMA",
                f"database.url: found schema {current_revision(connection)}, unknown here; "
                "allowed: a database of this or an earlier version",
            ) from error
        return current_revision(connection) or ""


def current_revision(connection: Connection) -> str | None:
    """Return the schema revision that the database is at."""
    return MigrationContext.configure(connection).get_current_revision()
