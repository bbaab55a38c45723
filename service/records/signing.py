"""The key that signs links and unfinished logins; a new one makes every older link worthless."""

import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from service.core.access import Means
from service.records import sessions
from service.records.tables import signing_keys


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A secret of 256 bits and its name, which signatures carry."""

    id: str
    secret: bytes


def current(connection: Connection) -> SigningKey | None:
    """Return the key in force, None before the first."""
    query = select(signing_keys).order_by(signing_keys.c.created_at.desc(), signing_keys.c.id)
    row = connection.execute(query.limit(1)).first()
    return None if row is None else SigningKey(row.id, row.secret)


def rotate(connection: Connection, *, at: datetime) -> SigningKey:
    """Put a new key in force; links signed before, and sessions opened by them, are over."""
    connection.execute(delete(signing_keys))
    sessions.close_all_by(connection, Means.LINK)
    key = SigningKey(secrets.token_hex(8), secrets.token_bytes(32))
    connection.execute(insert(signing_keys).values(id=key.id, secret=key.secret, created_at=at))
    return key
