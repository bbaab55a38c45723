"""The audit trail over HTTP, for administrators: who saw and did what, and whether it is whole."""

from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response
from pydantic import AfterValidator

from service.api.answers import answer
from service.api.context import Context
from service.api.routes import PREFIX, add
from service.api.schemas import LIMIT_DEFAULT, Cursor, Limit, StudyUidFilter
from service.records import audit
from service.records.audit import AuditFilter, AuditKind, AuditOutcome, AuditPage, Integrity

_LINE: Final = r"^[^\x00-\x1f\x7f]*$"


def _in_utc(value: datetime) -> datetime:
    """Return a time in UTC; one without its zone is taken for UTC."""
    try:
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError as error:
        raise ValueError("a time of our era") from error


Time = Annotated[datetime, AfterValidator(_in_utc)]


class AuditRoutes:
    """Answers about the trail."""

    def __init__(self, context: Context) -> None:
        self._records = context.records

    def list_audit(
        self,
        study_instance_uid: StudyUidFilter = None,
        actor: Annotated[
            str | None,
            Query(max_length=256, pattern=_LINE, description="Key, person, AE title or address"),
        ] = None,
        kind: Annotated[list[AuditKind] | None, Query(description="Any of these")] = None,
        outcome: AuditOutcome | None = None,
        since: Annotated[Time | None, Query(description="From this time on")] = None,
        until: Annotated[Time | None, Query(description="Before this time")] = None,
        limit: Limit = LIMIT_DEFAULT,
        cursor: Cursor = None,
    ) -> Response:
        """List the audit trail, newest first.

        Who saw and did what to which study, by what means and from where, and who was refused.
        """
        asked = AuditFilter(study_instance_uid, actor, tuple(kind or ()), outcome, since, until)
        with self._records.reading() as connection:
            return answer(audit.page(connection, asked, limit=limit, cursor=cursor or None))

    def check_audit(self) -> Response:
        """Check the audit trail.

        Computes the chain of digests again. Compare `newest_sha256` with what was noted elsewhere:
        a trail that was cut off at its end is whole in itself.
        """
        with self._records.reading() as connection:
            return answer(audit.verify(connection))


def router(context: Context) -> APIRouter:
    """Return the routes of the audit trail."""
    routes, handlers = APIRouter(prefix=PREFIX, tags=["audit"]), AuditRoutes(context)
    add(routes, "GET /audit", handlers.list_audit, gives=AuditPage, problems=(422,))
    add(routes, "GET /audit/integrity", handlers.check_audit, gives=Integrity)
    return routes
