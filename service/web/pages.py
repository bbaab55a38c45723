"""The pages put together: their routes, and the styles, scripts and icons that they name."""

from pathlib import Path
from typing import Final

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from service.core.clock import Clock
from service.core.settings import Settings
from service.records.database import Records
from service.web import desk_pages, study_page, worklist_page
from service.web.environment import Desk, Packages, environment

_STATIC: Final = Path(__file__).resolve().parent / "static"


class Assets(StaticFiles):
    """Styles, scripts and icons; the only things here that a browser may keep."""

    def __init__(self) -> None:
        super().__init__(directory=_STATIC)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file; a browser asks each time whether its copy is still good."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def router(settings: Settings, records: Records, *, clock: Clock, packages: Packages) -> APIRouter:
    """Return the routes of the pages."""
    routes = APIRouter(include_in_schema=False)
    here = Desk(settings, records, clock, packages, environment())
    for room in (worklist_page, study_page, desk_pages):
        routes.include_router(room.router(here))
    return routes
