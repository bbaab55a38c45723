"""What the commands about access do: keys, the key that signs links, the audit trail's chain."""

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import typer
from rich.console import Console
from rich.table import Table

from service.core.access import Means, Role
from service.core.clock import SystemClock
from service.core.settings import Settings
from service.records import audit, keys, signing
from service.records.audit import AuditEntry, AuditKind, Integrity
from service.records.database import Records, Transaction
from service.records.heartbeats import process_name
from service.records.keys import ApiKey
from service.records.schema import require_current_schema


def add_key(settings: Settings, name: str, role: Role, *, days: int | None) -> str:
    """Make a key and return it, this once.

    Raises
    ------
    InvalidRequest
        ``KEY_NAME``.
    """
    now = SystemClock().now()
    ends_at = None if days is None else now + timedelta(days=days)
    with _writing(settings) as connection:
        made = keys.add(connection, name, role, expires_at=ends_at, by=_who(), at=now)
        _note(connection, "make_key", f"key:{made.key.id}", now)
    return made.secret


def show_keys(settings: Settings) -> None:
    """Print the keys, without what opens."""
    with _reading(settings) as connection:
        found = keys.listed(connection)
    now = SystemClock().now()
    heads = ("id", "name", "role", "made", "by", "expires", "last used", "state")
    rows = [
        (
            key.id,
            key.name,
            key.role.value,
            _day(key.created_at),
            key.created_by,
            _day(key.expires_at),
            _day(key.last_used_at),
            _state(key, now),
        )
        for key in found
    ]
    console = Console()
    if not console.is_terminal:
        for row in (heads, *rows):
            typer.echo("\t".join(row))
        return
    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def revoke_key(settings: Settings, key_id: str) -> ApiKey:
    """Revoke a key.

    Raises
    ------
    NotFound
        ``KEY_UNKNOWN``.
    """
    now = SystemClock().now()
    with _writing(settings) as connection:
        key = keys.revoke(connection, key_id, at=now)
        _note(connection, "revoke_key", f"key:{key.id}", now)
    return key


def rotate_links(settings: Settings) -> None:
    """Make every link worthless."""
    now = SystemClock().now()
    with _writing(settings) as connection:
        signing.rotate(connection, at=now)
        _note(connection, "rotate_link_key", "", now)


def check_trail(settings: Settings) -> Integrity:
    """Compute the audit trail's chain again."""
    with _reading(settings) as connection:
        return audit.verify(connection)


@contextmanager
def _writing(settings: Settings) -> Iterator[Transaction]:
    records = _opened(settings)
    try:
        with records.writing() as connection:
            yield connection
    finally:
        records.close()


@contextmanager
def _reading(settings: Settings) -> Iterator[Transaction]:
    records = _opened(settings)
    try:
        with records.reading() as connection:
            yield connection
    finally:
        records.close()


def _opened(settings: Settings) -> Records:
    records = Records(settings.database_url)
    require_current_schema(records)
    return records


def _note(connection: Transaction, operation: str, subject: str, at: datetime) -> None:
    entry = AuditEntry(
        at=at,
        kind=AuditKind.SECURITY,
        operation=operation,
        actor=_who(),
        means=Means.NONE,
        role=Role.ADMINISTRATOR,
        subject_id=subject,
        detail="command line",
    )
    audit.append(connection, [entry], process=process_name("cli"))


def _state(key: ApiKey, now: datetime) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "good"


def _who() -> str:
    """Return the account that runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _day(time: datetime | None) -> str:
    return "-" if time is None else time.strftime("%Y-%m-%d %H:%M")
