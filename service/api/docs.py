"""The API's documentation: OpenAPI, and a page that shows it without the internet."""

from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from pydantic import TypeAdapter

from service.api.policy import OPEN_PATHS, roles_of
from service.api.problems import Problem, documented
from service.api.routes import PREFIX
from service.web import reference
from service.web.environment import Desk

OPENAPI_PATH: Final = f"{PREFIX}/openapi.json"
DOCS_PATH: Final = f"{PREFIX}/docs"

# Swagger UI sets styles on its elements; nothing else of the strict policy is loosened.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_PAGE: Final = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>overread API</title>
<link rel="icon" href="/static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/static/vendor/swagger-ui-5.35.0.css">
<script src="/static/vendor/swagger-ui-5.35.0.js" defer></script>
<script src="/static/docs.js" defer></script>
<body data-openapi="{OPENAPI_PATH}"><div id="docs"></div></body>
</html>
"""

DESCRIPTION: Final = """
overread takes imaging studies by DICOM or HTTP, runs computer-aided detection on the series that
suit it, and sends SR and SEG back. This is its JSON face.

* Times are RFC 3339 in UTC, lengths millimetres, patient coordinates LPS.
* Lists page by `limit` and `cursor`: pass `next` of one page as `cursor` of the following.
* Failures are problem+json (RFC 9457); `reason` is a stable code.
* Where keys are asked for, send `Authorization: Bearer KEY` or `X-API-Key: KEY`.

For research; not for clinical use unless the site has validated it.
"""
TAGS: Final = [
    {"name": "worklist", "description": "One item a study, most urgent first."},
    {"name": "studies", "description": "Studies, their series and results, and running again."},
    {"name": "findings", "description": "What was found, and what readers say of it."},
    {"name": "jobs", "description": "Runs of one model on one series."},
    {"name": "deliveries", "description": "Results on their way to destinations."},
    {"name": "models", "description": "Installed model packages."},
    {"name": "desk", "description": "Queues, destinations, rules and disk, for administrators."},
    {"name": "events", "description": "State changes as they happen."},
    {"name": "dicomweb", "description": "QIDO-RS, WADO-RS and STOW-RS (PS3.18)."},
    {"name": "statistics", "description": "Figures over time."},
    {"name": "health", "description": "For probes and monitoring."},
    {"name": "access", "description": "API keys, and links to one study."},
    {"name": "audit", "description": "Who saw and did what, for administrators."},
    {"name": "webhooks", "description": "Who was told of which event."},
]


def router(here: Desk) -> APIRouter:
    """Return the routes of the reference, and of the page that tries requests."""
    routes = APIRouter()

    @routes.get(DOCS_PATH, include_in_schema=False)
    def get_docs(request: Request) -> HTMLResponse:
        """Return the reference as a page."""
        document = request.app.openapi()
        shapes = reference.shapes(document)
        return here.page(
            "reference.html",
            version=document["info"]["version"],
            about=document["info"].get("description", "").replace("`", "").strip(),
            groups=reference.groups(document),
            shapes=shapes,
            names=frozenset(one.name for one in shapes),
        )

    @routes.get(f"{DOCS_PATH}/try", include_in_schema=False)
    def get_swagger() -> HTMLResponse:
        """Return the page that tries requests."""
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})

    return routes


def openapi(app: FastAPI, *, needs_key: bool) -> dict[str, Any]:
    """Return the OpenAPI of an application with how to authenticate and what a problem is."""
    schema = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    components = schema.setdefault("components", {}).setdefault("schemas", {})
    problem = TypeAdapter(Problem).json_schema(ref_template="#/components/schemas/{model}")
    components.update(problem.pop("$defs", {}), Problem=problem)
    _describe_refusals(schema["paths"])
    for unused in ("HTTPValidationError", "ValidationError"):
        components.pop(unused, None)
    if needs_key:
        schema["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        schema["security"] = [{"bearer": []}, {"apiKey": []}]
        _describe_roles(schema["paths"])
        for path in OPEN_PATHS:
            schema["paths"][path]["get"]["security"] = []
    return schema


def _describe_refusals(paths: dict[str, Any]) -> None:
    """Say problem+json where FastAPI would answer with its own body."""
    answers = documented(422)[422]
    for operation in (each for path in paths.values() for each in path.values()):
        found = operation["responses"].get("422", {}).get("content", {})
        if "application/json" in found:
            operation["responses"]["422"] = answers


def _describe_roles(paths: dict[str, Any]) -> None:
    """Say of each operation which role it needs, and how the gate refuses."""
    for (method, path), role in roles_of(paths).items():
        if path in OPEN_PATHS:
            continue
        operation = paths[path][method.lower()]
        operation["x-role"] = role.value
        for status, answers in documented(401, 403, 429).items():
            operation["responses"].setdefault(str(status), answers)
