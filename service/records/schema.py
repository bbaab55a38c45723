"""Whether the database has the schema that this version works with; asking needs no alembic."""

from typing import Final

from sqlalchemy import inspect, text

from service.core.errors import InvalidSettings
from service.records.database import Records

# The newest migration; a test compares it with the scripts.
SCHEMA_REVISION: Final = "0001"


def require_current_schema(records: Records) -> None:
    """Refuse to work on a schema that is older or newer than this version's.

    Raises
    ------
    InvalidSettings
        ``OLD_SCHEMA``: `overread migrate` has not run yet, or a newer version has.
    """
    with records.reading() as connection:
        found = None
        if inspect(connection).has_table("alembic_version"):
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if found != SCHEMA_REVISION:
        raise InvalidSettings(
            "OLD_SCHEMA",
            f"database.url: found schema {found}; allowed: {SCHEMA_REVISION}; "
            "run `overread migrate`",
        )
