"""FHIR R4 over HTTP: one study's resources, read by id or searched by study."""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import orjson
from fastapi import APIRouter, Request, Response

from service.core.clock import Clock
from service.core.errors import NotFound
from service.core.identifiers import is_uid
from service.fhir import resources
from service.fhir.resources import Resource
from service.records import listings, model_runs, study_view
from service.records.database import Records, Transaction
from service.records.study_view import StudyDetail

PREFIX: Final = "/fhir"
MEDIA_TYPE: Final = "application/fhir+json"
_OID: Final = "urn:oid:"
SEARCHES: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        "DiagnosticReport": ("_id", "study"),
        "Observation": ("_id", "study", "derived-from"),
        "ImagingStudy": ("_id", "identifier", "study"),
        "Device": ("_id", "study"),
    }
)


class FhirRoutes:
    """Answers in FHIR."""

    def __init__(self, records: Records, clock: Clock, public_url: str | None) -> None:
        self._records = records
        self._clock = clock
        self._public_url = public_url
        self._of_study: Mapping[str, Callable[[Transaction, str], list[Resource]]] = {
            "DiagnosticReport": _reports,
            "Observation": _observations,
            "ImagingStudy": _imaging_studies,
            "Device": _devices,
        }
        self._by_id: Mapping[str, Callable[[Transaction, str], Resource]] = {
            "DiagnosticReport": _report,
            "Observation": _observation,
            "ImagingStudy": _imaging_study,
            "Device": _device,
        }

    def metadata(self, request: Request) -> Response:
        """Say what this server can do."""
        return _answer(
            resources.capability_statement(
                base=self._base(request),
                version=importlib.metadata.version("overread"),
                at=self._clock.now(),
                searches=SEARCHES,
            )
        )

    def search(self, request: Request) -> Response:
        """Search the resources of one study."""
        kind = request.url.path.rpartition("/")[2]
        asked = {name: value for name, value in request.query_params.items() if value}
        uid, fault = _study_asked(kind, asked)
        if fault:
            return _answer(resources.outcome("required", fault), status=400)
        request.scope["audit_study"] = uid or ""
        found: list[Resource] = []
        with self._records.reading() as connection:
            try:
                if uid is not None:
                    found = self._of_study[kind](connection, uid)
                elif "_id" in asked:
                    found = [self._by_id[kind](connection, asked["_id"])]
            except NotFound:
                found = []
        if "_id" in asked:
            found = [one for one in found if one["id"] == asked["_id"]]
        base = self._base(request)
        address = f"{base}/{kind}" + (f"?{request.url.query}" if request.url.query else "")
        return _answer(resources.bundle(found, address=address, base=base))

    def read(self, request: Request, resource_id: str) -> Response:
        """Return one resource."""
        kind = request.url.path.split("/")[-2]
        with self._records.reading() as connection:
            try:
                return _answer(self._by_id[kind](connection, resource_id))
            except NotFound:
                text = f"no {kind} of this id"
                return _answer(resources.outcome("not-found", text), status=404)

    def _base(self, request: Request) -> str:
        return (self._public_url or str(request.base_url).rstrip("/")) + PREFIX


def router(records: Records, *, clock: Clock, public_url: str | None) -> APIRouter:
    """Return the routes of FHIR; the capability statement describes them, OpenAPI does not."""
    routes = APIRouter(prefix=PREFIX, include_in_schema=False)
    handlers = FhirRoutes(records, clock, public_url)
    routes.add_api_route("/metadata", handlers.metadata, methods=["GET"], name="fhir_metadata")
    for kind in SEARCHES:
        routes.add_api_route(f"/{kind}", handlers.search, methods=["GET"], name="fhir_search")
        path = f"/{kind}/{{resource_id}}"
        routes.add_api_route(path, handlers.read, methods=["GET"], name="fhir_read")
    return routes


def _study_asked(kind: str, asked: Mapping[str, str]) -> tuple[str | None, str]:
    """Return the study that a search names, or what is missing."""
    value = asked.get("study")
    if value is None and kind == "ImagingStudy":
        value = asked.get("identifier", "").rpartition("|")[2] or None
    if value is None and kind == "Observation":
        value = asked.get("derived-from", "").removeprefix("ImagingStudy/") or None
    if value is None:
        names = ", ".join(SEARCHES[kind])
        return None, "" if "_id" in asked else f"one of these is needed: {names}"
    uid = value.removeprefix(_OID)
    return (uid, "") if is_uid(uid) else (None, "the study is named by its Study Instance UID")


def _imaging_studies(connection: Transaction, uid: str) -> list[Resource]:
    return [resources.imaging_study(study_view.detail(connection, uid))]


def _reports(connection: Transaction, uid: str) -> list[Resource]:
    study = study_view.detail(connection, uid)
    found = study_view.current_findings(connection, uid)
    return [
        resources.diagnostic_report(study, job, [one for one in found if one.job_id == job.id])
        for job in study.jobs
        if job.current and not job.shadow
    ]


def _observations(connection: Transaction, uid: str) -> list[Resource]:
    study = study_view.detail(connection, uid)
    found = resources.stated(study_view.current_findings(connection, uid))
    return [resources.observation(study, item) for item in found]


def _devices(connection: Transaction, uid: str) -> list[Resource]:
    study = study_view.detail(connection, uid)
    models = {job.model for job in study.jobs if job.current and not job.shadow}
    return [
        resources.device(model.name, model.version, model.sha256)
        for model in sorted(models, key=lambda one: one.sha256)
    ]


def _imaging_study(connection: Transaction, resource_id: str) -> Resource:
    if not is_uid(resource_id):
        raise NotFound("STUDY_UNKNOWN", "not a UID")
    return resources.imaging_study(study_view.detail(connection, resource_id))


def _report(connection: Transaction, resource_id: str) -> Resource:
    job = listings.job(connection, _printable(resource_id))
    return _of(_reports(connection, job.study_instance_uid), resource_id)


def _observation(connection: Transaction, resource_id: str) -> Resource:
    study = _study_of_finding(connection, _printable(resource_id))
    return _of(_observations(connection, study.study_instance_uid), resource_id)


def _study_of_finding(connection: Transaction, finding_id: str) -> StudyDetail:
    item = study_view.finding(connection, finding_id)
    return study_view.detail(connection, listings.job(connection, item.job_id).study_instance_uid)


def _device(connection: Transaction, resource_id: str) -> Resource:
    model = model_runs.by_digest(connection, _printable(resource_id))
    return resources.device(model.name, model.version, model.sha256)


def _of(found: Sequence[Resource], resource_id: str) -> Resource:
    """Return the resource of an id; what a newer run replaced is not among them."""
    for one in found:
        if one["id"] == resource_id:
            return one
    raise NotFound("RESOURCE_UNKNOWN", "no such resource")


def _printable(resource_id: str) -> str:
    if not resource_id.isprintable() or len(resource_id) > 64:
        raise NotFound("RESOURCE_UNKNOWN", "no such resource")
    return resource_id


def _answer(content: Resource, *, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status_code=status, media_type=MEDIA_TYPE)
