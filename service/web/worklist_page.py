"""The worklist: the studies that the address asks for, in the columns that the reader chose."""

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from service.core.errors import InvalidRequest
from service.core.states import Priority, ReadingState, StudyState
from service.records import events, marks, worklist
from service.records.worklist_query import WorklistQuery
from service.web.addresses import address, asked_in
from service.web.environment import Desk

MODALITIES: Final = ("CT", "CR", "DX", "MG", "MR", "PT", "US")
# A cookie of names alone: nothing of a patient, nothing of the reader.
COLUMNS_COOKIE: Final = "overread_columns"
COLUMNS: Final = MappingProxyType(
    {
        "urgency": "Urgency",
        "patient": "Patient",
        "study": "Study",
        "modality": "Modality",
        "accession": "Accession",
        "study_date": "Study date",
        "waited": "Waited",
        "tasks": "Analysis",
        "state": "State",
        "reading": "Reading",
        "labels": "Labels",
        "source": "From",
        "models": "Models",
    }
)
_ALWAYS: Final = frozenset({"patient"})
_SHOWN_AT_FIRST: Final = frozenset(COLUMNS) - {"labels", "source", "models"}

_FILTERS: Final = MappingProxyType(
    {
        "urgency": ("min_urgency", "priority"),
        "study": ("study_description",),
        "modality": ("modality",),
        "accession": ("accession_number",),
        "study_date": ("study_date_from", "study_date_to"),
        "waited": ("received_from", "received_to"),
        "tasks": ("task",),
        "state": ("state",),
        "reading": ("reading",),
        "labels": ("label",),
        "source": ("source_ae_title",),
    }
)


class WorklistPage:
    """Answers with the worklist."""

    def __init__(self, here: Desk) -> None:
        self._desk = here

    def show(self, request: Request) -> HTMLResponse:
        """Show the worklist that the address asks for."""
        asked, faults = asked_in(request.query_params.multi_items())
        with self._desk.records.reading() as connection:
            newest_event_id = events.newest_id(connection)
            known_labels = marks.known_labels(connection)
            try:
                page = worklist.page(connection, asked)
            except InvalidRequest as error:
                faults = {**faults, "cursor": error.message}
                page = worklist.page(connection, asked.model_copy(update={"cursor": None}))
        tasks = sorted({package.task for package in self._desk.packages().values()})
        return self._desk.page(
            "worklist.html",
            status=422 if faults else 200,
            page=page,
            asked=asked,
            faults=faults,
            tasks=tasks,
            labels=[one.label for one in known_labels],
            columns=COLUMNS,
            always=_ALWAYS,
            shown=shown_columns(request.cookies.get(COLUMNS_COOKIE), asked),
            next_address=address(asked, page.next) if page.next else None,
            first_address=address(asked, None) if asked.cursor else None,
            is_filtered=address(asked, None) != address(WorklistQuery(sort=asked.sort), None),
            newest_event_id=newest_event_id,
            states=StudyState,
            readings=ReadingState,
            priorities=Priority,
            modalities=MODALITIES,
        )


def router(here: Desk) -> APIRouter:
    """Return the route of the worklist."""
    routes = APIRouter(include_in_schema=False)
    routes.add_api_route("/", WorklistPage(here).show, methods=["GET"], response_model=None)
    return routes


def shown_columns(cookie: str | None, asked: WorklistQuery) -> Sequence[str]:
    """Return the columns that a cookie names, in their order; without one the usual ones.

    A column that the list is filtered by is always there, so that the filter can be seen.

    >>> list(shown_columns("state.patient.nonsense", WorklistQuery(label=["teaching"])))
    ['patient', 'state', 'labels']
    """
    chosen = _SHOWN_AT_FIRST if cookie is None else set(cookie.split("."))
    used = {name for name, fields in _FILTERS.items() if any(getattr(asked, f) for f in fields)}
    return [name for name in COLUMNS if name in chosen | used | _ALWAYS]
