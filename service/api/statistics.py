"""Statistics over HTTP."""

from datetime import timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from service.api.answers import answer
from service.api.context import Context
from service.api.routes import PREFIX, add
from service.core.errors import InvalidRequest
from service.records.figures import Figures
from service.records.statistics import Statistics
from service.records.worklist_query import Time

_DEFAULT_SPAN: Final = timedelta(days=30)
_LONGEST_SPAN: Final = timedelta(days=400)


class StatisticsRoutes:
    """Answers about figures."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._figures = Figures(context.records)

    def get_statistics(
        self,
        received_from: Annotated[Time, Query(description="Default: 30 days before the end")] = None,
        received_to: Annotated[Time, Query(description="Default: now")] = None,
    ) -> Response:
        """Get volumes, latencies, review rates and score distributions.

        By model, scanner and day, over a stretch of time of at most 400 days. What takes long to
        count may be five minutes old.
        """
        until = received_to or self._context.clock.now()
        since = received_from or until - _DEFAULT_SPAN
        if not timedelta() < until - since <= _LONGEST_SPAN:
            raise InvalidRequest(
                "INVALID_REQUEST", "received_from: 400 days or less before received_to"
            )
        return answer(self._figures.over(since, until))


def router(context: Context) -> APIRouter:
    """Return the route of statistics."""
    routes, handlers = APIRouter(prefix=PREFIX, tags=["statistics"]), StatisticsRoutes(context)
    add(routes, "GET /statistics", handlers.get_statistics, gives=Statistics, problems=(422,))
    return routes
