"""The worklist over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from service.api.answers import answer
from service.api.context import Context
from service.api.routes import PREFIX, add
from service.records import worklist
from service.records.worklist_query import WorklistQuery


class WorklistRoutes:
    """Answers about the worklist."""

    def __init__(self, context: Context) -> None:
        self._records = context.records

    def list_worklist(self, query: Annotated[WorklistQuery, Query()]) -> Response:
        """List studies, most urgent first.

        One item a study. Every filter narrows the list; within one filter several values widen
        it. `next` leads to the page that follows and stays right while studies come in.
        """
        with self._records.reading() as connection:
            return answer(worklist.page(connection, query))


def router(context: Context) -> APIRouter:
    """Return the worklist's route."""
    routes, handlers = APIRouter(prefix=PREFIX, tags=["worklist"]), WorklistRoutes(context)
    add(
        routes,
        "GET /worklist",
        handlers.list_worklist,
        gives=worklist.WorklistPage,
        problems=(422,),
    )
    return routes
