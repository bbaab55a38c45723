"""API keys: made once and shown once; here is only the digest of each.

A key is 256 random bits, so that its SHA-256 cannot be searched for and needs no slow hash.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final

from pydantic import Field
from sqlalchemy import ColumnElement, Connection, Row, and_, delete, insert, or_, select, update

from service.core.access import Role
from service.core.errors import InvalidRequest, NotFound
from service.records.tables import api_keys, sessions

PREFIX: Final = "ovr_"
_NAME_CHARACTERS: Final = 64
# A key that is used all the time need not write a row each time.
_USED_STEP: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without what opens."""

    id: Annotated[str, Field(description="The part of the key that may be shown")]
    name: str
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: Annotated[datetime | None, Field(description="To the minute")]
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key just made; `secret` is shown this once."""

    key: ApiKey
    secret: str


def digest(secret: str) -> str:
    """Return what is kept of a key or a cookie."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def add(
    connection: Connection,
    name: str,
    role: Role,
    *,
    expires_at: datetime | None,
    by: str,
    at: datetime,
) -> NewApiKey:
    """Make a key.

    Raises
    ------
    InvalidRequest
        ``KEY_NAME``: empty, too long, not printable, or that of another key that still opens;
        ``KEY_EXPIRY``: in the past.
    """
    if not name.strip() or len(name) > _NAME_CHARACTERS or not name.isprintable():
        raise InvalidRequest("KEY_NAME", f"name: 1 to {_NAME_CHARACTERS} printable characters")
    if expires_at is not None and expires_at <= at:
        raise InvalidRequest("KEY_EXPIRY", "expires_at: a time to come")
    # The trail tells keys by their names; and a form sent twice makes no second key.
    same = and_(api_keys.c.name == name.strip(), api_keys.c.revoked_at.is_(None), _not_over(at))
    if connection.execute(select(api_keys.c.id).where(same)).first() is not None:
        raise InvalidRequest("KEY_NAME", "name: another key has it")
    key_id = secrets.token_hex(4)
    secret = f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}"
    key = ApiKey(key_id, name.strip(), role, at, by, expires_at, None, None)
    connection.execute(
        insert(api_keys).values(
            id=key.id,
            name=key.name,
            sha256=digest(secret),
            role=role,
            created_at=at,
            created_by=by,
            expires_at=expires_at,
        )
    )
    return NewApiKey(key, secret)


def listed(connection: Connection) -> Sequence[ApiKey]:
    """Return every key, the newest first; revoked ones too."""
    rows = connection.execute(select(api_keys).order_by(api_keys.c.created_at.desc()))
    return [_key(row) for row in rows]


def valid(connection: Connection, secret_digest: str, *, at: datetime) -> ApiKey | None:
    """Return the key of a digest while it opens: known, not revoked, not expired."""
    alive = and_(
        api_keys.c.sha256 == secret_digest,
        api_keys.c.revoked_at.is_(None),
        _not_over(at),
    )
    row = connection.execute(select(api_keys).where(alive)).first()
    return None if row is None else _key(row)


def used(connection: Connection, key_id: str, *, at: datetime) -> None:
    """Write that a key was used, to the minute."""
    long_ago = or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at < at - _USED_STEP)
    connection.execute(
        update(api_keys).where(api_keys.c.id == key_id, long_ago).values(last_used_at=at)
    )


def is_due(key: ApiKey, *, at: datetime) -> bool:
    """Return whether `used` would write anything."""
    return key.last_used_at is None or key.last_used_at < at - _USED_STEP


def revoke(connection: Connection, key_id: str, *, at: datetime) -> ApiKey:
    """Let a key open nothing any more, nor the sessions that it opened.

    Raises
    ------
    NotFound
        ``KEY_UNKNOWN``.
    """
    known = api_keys.c.id == key_id
    still = and_(known, api_keys.c.revoked_at.is_(None))
    connection.execute(update(api_keys).where(still).values(revoked_at=at))
    connection.execute(delete(sessions).where(sessions.c.source == key_id))
    row = connection.execute(select(api_keys).where(known)).first()
    if row is None:
        raise NotFound("KEY_UNKNOWN", "no such key")
    return _key(row)


def _not_over(at: datetime) -> ColumnElement[bool]:
    return or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > at)


def _key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        role=Role(row.role),
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )
