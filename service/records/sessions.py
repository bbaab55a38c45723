"""Sessions of pages: a random cookie in the browser, its digest, owner and end here."""

import secrets
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select

from service.core.access import Means, Principal, Role
from service.records.keys import digest
from service.records.tables import sessions


def open_session(
    connection: Connection, principal: Principal, *, until: datetime, at: datetime
) -> str:
    """Open a session and return the cookie's value; sessions that are over are removed."""
    connection.execute(delete(sessions).where(sessions.c.expires_at <= at))
    cookie = secrets.token_urlsafe(32)
    connection.execute(
        insert(sessions).values(
            sha256=digest(cookie),
            name=principal.name,
            role=principal.role,
            means=principal.means,
            source=principal.source,
            study_instance_uid=principal.study_instance_uid,
            opened_at=at,
            expires_at=until,
        )
    )
    return cookie


def owner(
    connection: Connection, cookie_digest: str, *, at: datetime
) -> tuple[Principal, datetime] | None:
    """Return whose session a cookie belongs to and when it ends; None when it is over."""
    query = select(sessions).where(sessions.c.sha256 == cookie_digest, sessions.c.expires_at > at)
    row = connection.execute(query).first()
    if row is None:
        return None
    principal = Principal(
        row.name, Role(row.role), Means(row.means), row.source, row.study_instance_uid
    )
    return principal, row.expires_at


def close(connection: Connection, cookie_digest: str) -> None:
    """End a session."""
    connection.execute(delete(sessions).where(sessions.c.sha256 == cookie_digest))


def close_all_by(connection: Connection, means: Means) -> None:
    """End every session that was opened by these means."""
    connection.execute(delete(sessions).where(sessions.c.means == means))
