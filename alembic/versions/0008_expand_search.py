"""expand search: words in a study's texts by trigrams, where the database can"""

import sqlite3
from collections.abc import Sequence

from alembic import op
from sqlalchemy import Connection, text

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_COLUMNS = (
    "patient_name", "patient_id", "accession_number", "study_description", "study_instance_uid",
)  # fmt: skip
_LIST = ", ".join(_COLUMNS)
_NEW = ", ".join(f"new.{name}" for name in _COLUMNS)
_OLD = ", ".join(f"old.{name}" for name in _COLUMNS)
_ADD = f"INSERT INTO studies_search(rowid, {_LIST}) VALUES (new.id, {_NEW});"  # noqa: S608
_TAKE = (  # names of columns, nothing received
    f"INSERT INTO studies_search(studies_search, rowid, {_LIST}) "  # noqa: S608
    f"VALUES ('delete', old.id, {_OLD});"
)
_TRIGGERS = {
    "studies_search_insert": f"AFTER INSERT ON studies BEGIN {_ADD} END",
    "studies_search_delete": f"AFTER DELETE ON studies BEGIN {_TAKE} END",
    "studies_search_update": f"AFTER UPDATE OF {_LIST} ON studies BEGIN {_TAKE} {_ADD} END",
}


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        if _has_trigrams(connection):
            texts = " || chr(10) || ".join(_COLUMNS)
            op.execute(
                f"CREATE INDEX ix_studies_search ON studies USING gin (lower({texts}) gin_trgm_ops)"
            )
    elif _has_full_text():
        op.execute(
            f"CREATE VIRTUAL TABLE studies_search USING fts5({_LIST}, content='studies', "
            "content_rowid='id', tokenize='trigram')"
        )
        for name, body in _TRIGGERS.items():
            op.execute(f"CREATE TRIGGER {name} {body}")
        op.execute("INSERT INTO studies_search(studies_search) VALUES ('rebuild')")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP INDEX IF EXISTS ix_studies_search")
        return
    for name in _TRIGGERS:
        op.execute(f"DROP TRIGGER IF EXISTS {name}")
    op.execute("DROP TABLE IF EXISTS studies_search")


def _has_trigrams(connection: Connection) -> bool:
    """Create the extension unless it is there; False where this user or server cannot."""
    query = text("SELECT 1 FROM pg_available_extensions WHERE name = 'pg_trgm'")
    if connection.execute(query).first() is None:
        return False
    try:
        with connection.begin_nested():
            connection.execute(text("CREATE EXTENSION IF NOT EXISTS pg_trgm"))
    except Exception:  # noqa: BLE001  whatever the reason: search works without, by looking at every row
        return False
    return True


def _has_full_text() -> bool:
    try:
        with sqlite3.connect(":memory:") as probe:
            probe.execute("CREATE VIRTUAL TABLE words USING fts5(word, tokenize='trigram')")
    except sqlite3.OperationalError:  # built without FTS5, or older than 3.34
        return False
    finally:
        probe.close()
    return True
