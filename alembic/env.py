"""How alembic reaches the database: by the connection it is handed, in the caller's transaction."""

from typing import Any, Literal

from alembic import context

from service.records.tables import UtcDateTime, metadata


def render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Write our time type as the plain one it becomes: migrations import nothing of ours."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def include_name(name: str | None, _kind: str, _parents: Any) -> bool:
    """Leave out the index of words, which each database makes in its own way."""
    return not (name or "").startswith(("studies_search", "ix_studies_search"))


connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("run `overread migrate`; alembic gets its connection from there")

context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=True,
    compare_type=True,
    render_item=render_item,
    include_name=include_name,
)
with context.begin_transaction():
    context.run_migrations()
