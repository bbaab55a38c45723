"""Whether the database has the schema that this version works with; asking needs no alembic."""

from pathlib import Path

from sqlalchemy import inspect, text

from service.core.errors import InvalidSettings
from service.records.database import Records

_ROOT = Path(__file__).resolve().parents[2]


def scripts_folder() -> Path:
    """Return where the migrations lie: beside the packages, or inside an installed wheel."""
    packaged = _ROOT / "service" / "_alembic"
    return packaged if packaged.is_dir() else _ROOT / "alembic"


def newest_revision() -> str:
    """Return the revision of the newest migration, by the number that its file begins with."""
    return max(file.name.split("_")[0] for file in scripts_folder().glob("versions/[0-9]*.py"))


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
    wanted = newest_revision()
    if found != wanted:
        raise InvalidSettings(
            "OLD_SCHEMA",
            f"database.url: found schema {found}; allowed: {wanted}; run `overread migrate`",
        )
