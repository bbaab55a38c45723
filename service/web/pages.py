"""The pages: what they show is read here, how it looks lies in the templates."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from service.core.clock import Clock
from service.core.errors import InvalidRequest, NotFound, OverreadError
from service.core.findings import Qualifier
from service.core.identifiers import is_uid
from service.core.packages import ModelPackage
from service.core.settings import Settings
from service.core.states import DeliveryState, JobState, Priority, StudyState
from service.records import events, heartbeats, listings, statistics, study_view, worklist
from service.records.database import Records
from service.records.listings import Filter
from service.records.operating_points import at_operating_point
from service.records.statistics import Gauges
from service.records.study_view import StoredFinding
from service.records.worklist_query import WorklistQuery
from service.web import timeline, words
from service.web.addresses import address, asked_in
from service.web.key_images import KeyImage, key_image

_HERE: Final = Path(__file__).resolve().parent
_ALIVE_WITHIN: Final = timedelta(seconds=20)
_QUEUE_ROWS: Final = 50
_UNSENT: Final = (DeliveryState.PARKED, DeliveryState.SCHEDULED, DeliveryState.IN_PROGRESS)
MODALITIES: Final = ("CT", "CR", "DX", "MG", "MR", "PT", "US")

Packages = Callable[[], Mapping[str, ModelPackage]]


@dataclass(frozen=True)
class Shown:
    """A finding as the study page shows it."""

    stored: StoredFinding
    image: KeyImage | None


@dataclass(frozen=True)
class TaskFindings:
    """The findings of one model, and the operating points to choose from."""

    task: str
    model: str
    version: str
    point: str | None
    points: Sequence[Any]
    shown: Sequence[Shown]
    absent: Sequence[Shown]


class Assets(StaticFiles):
    """Styles, scripts and icons; the only things here that a browser may keep."""

    def __init__(self) -> None:
        super().__init__(directory=_HERE / "static")

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file; a browser asks each time whether its copy is still good."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


class Pages:
    """Answers with pages."""

    def __init__(
        self, settings: Settings, records: Records, *, clock: Clock, packages: Packages
    ) -> None:
        self._settings = settings
        self._records = records
        self._clock = clock
        self._packages = packages
        self._templates = _environment()

    def show_worklist(self, request: Request) -> HTMLResponse:
        """Show the worklist that the address asks for."""
        asked, faults = asked_in(request.query_params.multi_items())
        with self._records.reading() as connection:
            newest_event_id = events.newest_id(connection)
            try:
                page = worklist.page(connection, asked)
            except InvalidRequest as error:
                faults = {**faults, "cursor": error.message}
                page = worklist.page(connection, asked.model_copy(update={"cursor": None}))
        tasks = sorted({package.task for package in self._packages().values()})
        return self._page(
            "worklist.html",
            status=422 if faults else 200,
            page=page,
            asked=asked,
            faults=faults,
            tasks=tasks,
            next_address=address(asked, page.next) if page.next else None,
            first_address=address(asked, None) if asked.cursor else None,
            is_filtered=address(asked, None) != address(WorklistQuery(sort=asked.sort), None),
            newest_event_id=newest_event_id,
            states=StudyState,
            priorities=Priority,
            modalities=MODALITIES,
        )

    def show_study(self, study_instance_uid: str, operating_point: str = "") -> HTMLResponse:
        """Show one study."""
        try:
            return self._study(study_instance_uid, operating_point)
        except NotFound:
            return self._page(
                "message.html", status=404, title="No such study", text="It is not here, or not "
                "any more."
            )  # fmt: skip

    def show_queue(self) -> HTMLResponse:
        """Show what runs, what waits, what failed and why, and which processes are alive."""
        since = self._clock.now() - _ALIVE_WITHIN
        with self._records.reading() as connection:
            newest_event_id = events.newest_id(connection)
            gauges = statistics.gauges(connection, alive_since=since)
            alive = heartbeats.seen_since(connection, since)
            lists = {
                state: listings.job_page(
                    connection, Filter(states=(state,)), limit=_QUEUE_ROWS, cursor=None
                ).items
                for state in (JobState.IN_PROGRESS, JobState.SCHEDULED, JobState.FAILED)
            }
            stuck = listings.delivery_page(
                connection, Filter(states=_UNSENT), limit=_QUEUE_ROWS, cursor=None
            ).items
        return self._page(
            "queue.html",
            newest_event_id=newest_event_id,
            counts=_counts(gauges),
            oldest=gauges.oldest_waiting_at,
            alive=alive,
            running=lists[JobState.IN_PROGRESS],
            waiting=lists[JobState.SCHEDULED],
            failed=lists[JobState.FAILED],
            stuck=stuck,
            most=_QUEUE_ROWS,
        )

    def show_models(self) -> HTMLResponse:
        """Show the installed models."""
        packages = sorted(self._packages().values(), key=lambda package: package.name)
        return self._page("models.html", packages=packages, choices=self._settings.models.of)

    def show_model(self, name: str) -> HTMLResponse:
        """Show one model's card."""
        package = self._packages().get(name)
        if package is None:
            return self._page(
                "message.html", status=404, title="No such model", text="It is not installed."
            )
        card = package.folder / "card.md"
        text = card.read_text("utf-8", "replace") if card.is_file() else ""
        return self._page("model.html", package=package, card=text)

    def _study(self, study_instance_uid: str, operating_point: str) -> HTMLResponse:
        if not is_uid(study_instance_uid):
            raise NotFound("STUDY_UNKNOWN", "not a UID")
        with self._records.reading() as connection:
            newest_event_id = events.newest_id(connection)
            detail = study_view.detail(connection, study_instance_uid)
            stored = study_view.current_findings(connection, study_instance_uid)
            results = study_view.result_items(connection, study_instance_uid)
            sizes = study_view.image_sizes(
                connection,
                [
                    item.finding.location.sop_instance_uid
                    for item in stored
                    if item.finding.location
                ],
            )
        packages, fault = self._packages(), ""
        if operating_point:
            try:
                stored = at_operating_point(stored, operating_point, packages)
            except OverreadError as error:
                fault = error.message
        return self._page(
            "study.html",
            status=422 if fault else 200,
            study=detail,
            fault=fault,
            tasks=_by_task(stored, study_instance_uid, sizes, packages),
            results=results,
            steps=timeline.steps(detail, results),
            newest_event_id=newest_event_id,
        )

    def _page(self, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        text = self._templates.get_template(template).render(
            now=self._clock.now(), clinical_use=self._settings.results.clinical_use, **values
        )
        return HTMLResponse(text, status_code=status)


def router(settings: Settings, records: Records, *, clock: Clock, packages: Packages) -> APIRouter:
    """Return the routes of the pages."""
    routes = APIRouter(include_in_schema=False)
    pages = Pages(settings, records, clock=clock, packages=packages)
    routes.add_api_route("/", pages.show_worklist, methods=["GET"])
    routes.add_api_route("/studies/{study_instance_uid}", pages.show_study, methods=["GET"])
    routes.add_api_route("/queue", pages.show_queue, methods=["GET"])
    routes.add_api_route("/models", pages.show_models, methods=["GET"])
    routes.add_api_route("/models/{name}", pages.show_model, methods=["GET"])
    return routes


def _counts(gauges: Gauges) -> Mapping[str, int]:
    """Return how many jobs are in each state, over all models."""
    counted: defaultdict[str, int] = defaultdict(int)
    for _, _, state, number in gauges.jobs:
        counted[state] += number
    return counted


def _by_task(
    stored: Sequence[StoredFinding],
    study_instance_uid: str,
    sizes: Mapping[str, tuple[int, int]],
    packages: Mapping[str, ModelPackage],
) -> list[TaskFindings]:
    gathered: defaultdict[tuple[str, str, str], list[Shown]] = defaultdict(list)
    for item in stored:
        package = packages.get(item.model_name)
        image = key_image(item, study_instance_uid, sizes, package)
        gathered[item.task, item.model_name, item.model_version].append(Shown(item, image))
    return [
        TaskFindings(
            task=task,
            model=model,
            version=version,
            point=found[0].stored.operating_point,
            points=_points(packages.get(model), found[0].stored.model_sha256),
            shown=[one for one in found if one.stored.finding.qualifier is not Qualifier.ABSENT],
            absent=[one for one in found if one.stored.finding.qualifier is Qualifier.ABSENT],
        )
        for (task, model, version), found in gathered.items()
    ]


def _points(package: ModelPackage | None, sha256: str) -> Sequence[Any]:
    if package is None or package.sha256 != sha256:
        return ()
    return package.manifest.operating_points


def _environment() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update(words=words)
    return templates
