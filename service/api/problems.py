"""Every failure as problem+json (RFC 9457) with a stable reason; the one broad handler of HTTP.

An answer never repeats what was sent: a value may be a patient's name, and may not even be text.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Annotated, Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import Field
from starlette.exceptions import HTTPException

from service.api.answers import to_json
from service.core.errors import (
    Disposition,
    InvalidRequest,
    NotFound,
    OutOfResources,
    OverreadError,
    RefusedInstance,
)
from service.core.logs import get_logger

MEDIA_TYPE: Final = "application/problem+json"
_RETRY_AFTER_S: Final = "5"
# Our own messages begin with the field that they are about.
_NAMED: Final = re.compile(r"([A-Za-z][A-Za-z0-9_.\-]{0,63}): (.+)", re.DOTALL)
_FIELD: Final = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
# Wrong requests are 422 unless HTTP has a word of its own for what is wrong.
_STATUSES: Final = MappingProxyType(
    {
        "JOB_STATE": 409,
        "DELIVERY_STATE": 409,
        "STUDY_COMPLETE": 409,
        "SWITCHED_OFF": 409,
        "INVALID_QUERY": 400,
        "NOT_ACCEPTABLE": 406,
        "UNSUPPORTED_MEDIA_TYPE": 415,
        "MALFORMED_MULTIPART": 400,
        "NO_INSTANCES": 400,
        "INVALID_UID": 400,
        "TOO_MANY_INSTANCES": 413,
    }
)
_REASONS: Final = MappingProxyType(
    {
        400: "BAD_REQUEST",
        401: "UNAUTHORIZED",
        403: "FORBIDDEN",
        404: "NOT_FOUND",
        405: "METHOD_NOT_ALLOWED",
        406: "NOT_ACCEPTABLE",
        411: "LENGTH_REQUIRED",
        413: "TOO_LARGE",
        415: "UNSUPPORTED_MEDIA_TYPE",
        416: "RANGE_NOT_SATISFIABLE",
        429: "TOO_MANY_REQUESTS",
        503: "UNAVAILABLE",
    }
)


@dataclass(frozen=True, slots=True)
class FieldFault:
    """What is wrong with one field of the request."""

    field: Annotated[str, Field(examples=["query.limit"])]
    message: Annotated[str, Field(examples=["Input should be less than or equal to 500"])]


@dataclass(frozen=True, slots=True)
class Problem:
    """A failure: read `reason` by program, `detail` by eye."""

    type: Annotated[str, Field(examples=["about:blank"])]
    title: Annotated[str, Field(examples=["Not Found"])]
    status: Annotated[int, Field(examples=[404])]
    reason: Annotated[str, Field(description="Stable code", examples=["STUDY_UNKNOWN"])]
    detail: Annotated[str, Field(examples=["no study 1.2.3"])]
    errors: list[FieldFault]


def problem(
    status: int,
    reason: str,
    detail: str,
    *,
    errors: Sequence[FieldFault] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a failure as problem+json."""
    body = Problem("about:blank", HTTPStatus(status).phrase, status, reason, detail, list(errors))
    return Response(
        to_json(body),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers=None if headers is None else dict(headers),
    )


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI entries for these failures of a route."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Let the application answer every error with a problem."""

    def on_http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return of_http(error)

    def on_validation(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return of_validation(error)

    def on_ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, OverreadError)
        return of_error(error, path=route_of(request.scope))

    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(OverreadError, on_ours)


def of_http(error: HTTPException) -> Response:
    """Return the framework's own refusals: no such route, method or media type."""
    reason = _REASONS.get(error.status_code, "HTTP_ERROR")
    detail = HTTPStatus(error.status_code).description or HTTPStatus(error.status_code).phrase
    return problem(error.status_code, reason, detail, headers=error.headers)


def of_validation(error: RequestValidationError) -> Response:
    """Return which fields are wrong and what is allowed, without what was sent."""
    faults = [FieldFault(_field(item["loc"]), str(item["msg"])) for item in error.errors()]
    names = ", ".join(sorted({fault.field for fault in faults}))
    return problem(422, "INVALID_REQUEST", f"not valid: {names}", errors=faults)


def of_error(error: OverreadError, *, path: str) -> Response:
    """Return an error of ours; its message only when it is meant for the asker."""
    if isinstance(error, NotFound):
        return problem(404, error.reason, error.message)
    if isinstance(error, InvalidRequest):
        named = _NAMED.match(error.message)
        faults = [] if named is None else [FieldFault(named[1], named[2])]
        status = _STATUSES.get(error.reason, 422)
        return problem(status, error.reason, error.message, errors=faults)
    if isinstance(error, RefusedInstance):
        return problem(409, error.reason, error.message)
    if isinstance(error, OutOfResources) or error.disposition is Disposition.RETRY:
        get_logger().warning("http_unavailable", reason=error.reason, path=path)
        headers = {"Retry-After": _RETRY_AFTER_S}
        return problem(503, error.reason, "try again later", headers=headers)
    get_logger().error("http_failed", reason=error.reason, message=error.message, path=path)
    return problem(500, error.reason, "the server could not do this; its log says why")


def of_unexpected(error: Exception, *, path: str) -> Response:
    """Return what nobody foresaw as a plain 500; the log has its type and place."""
    get_logger().error("http_failed", reason="INTERNAL", path=path, exc_info=error)
    return problem(500, "INTERNAL", "the server could not do this; its log says why")


def route_of(scope: Mapping[str, Any]) -> str:
    """Return the route's pattern, which holds no identifiers, for logs and metrics."""
    return str(getattr(scope.get("route"), "path", "") or "unmatched")


def _field(location: Sequence[int | str]) -> str:
    """Return a field's place; a name that the asker made up is not repeated."""
    parts = [str(part) for part in location]
    return ".".join(part if _FIELD.fullmatch(part) else "?" for part in parts) or "request"
