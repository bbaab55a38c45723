"""Instances over HTTP: STOW-RS and the plain upload, both into the one way in.

A body is taken as it comes and handed to intake in pieces; nothing holds a whole instance in
memory.

References
----------
DICOM PS3.18 section 10.5, store transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import anyio.to_thread
from fastapi import APIRouter, Request, Response
from pydantic import Field
from starlette.requests import ClientDisconnect

from service.api.answers import answer
from service.api.context import Context
from service.api.problems import documented, problem
from service.api.routes import PREFIX
from service.api.schemas import StudyUid
from service.core.errors import OutOfResources
from service.intake.ingest import Ingest, Outcome
from service.intake.stow import Failed, Stow, StowResponse, Upload
from service.records.archive import Archive

SENDER: Final = "HTTP"
DICOM_JSON: Final = "application/dicom+json"
_PIECE_BYTES: Final = 1 << 20
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/dicom": {"schema": {"type": "string", "format": "binary"}},
            'multipart/related; type="application/dicom"': {
                "schema": {"type": "string", "format": "binary"}
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                }
            },
        },
    }
}


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """An instance that is on the disk and in the database."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    outcome: Annotated[str, Field(description="new, or how it relates to what was here")]


@dataclass(frozen=True, slots=True)
class RefusedUpload:
    """An instance that was not kept, and why."""

    sop_instance_uid: Annotated[str, Field(description="Empty where it could not be read")]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class UploadAnswer:
    """What became of an upload's instances."""

    stored: Sequence[StoredInstance]
    failed: Sequence[RefusedUpload]


class UploadRoutes:
    """Takes instances in."""

    def __init__(self, stow: Stow) -> None:
        self._stow = stow

    async def upload(self, request: Request) -> Response:
        """Upload instances.

        One instance as `application/dicom`, or several as `multipart/related` or
        `multipart/form-data`. 200: all are kept; 202: some are not; 409: none is.
        """
        try:
            done = await self._taken(request, "")
        except ClientDisconnect:
            return _gone()
        stored, failed = (
            [_stored(one) for one in done.stored],
            [_refused(one) for one in done.failed],
        )
        if done.status_code < 400:
            return answer(UploadAnswer(stored, failed), status=done.status_code)
        first = failed[0]
        message = f"{first.message} ({len(failed)} refused)" if len(failed) > 1 else first.message
        headers = {"Retry-After": "30"} if done.status_code == 503 else None
        return problem(done.status_code, first.reason, message, headers=headers)

    async def store(self, request: Request) -> Response:
        """Store instances of any study; the response is in the DICOM JSON model."""
        return await self._store(request, "")

    async def store_in_study(self, request: Request, study_instance_uid: StudyUid) -> Response:
        """Store instances of one study; those of others are refused."""
        return await self._store(request, study_instance_uid)

    async def _store(self, request: Request, study_instance_uid: str) -> Response:
        try:
            done = await self._taken(request, study_instance_uid)
        except ClientDisconnect:
            return _gone()
        stored = answer(done.body, status=done.status_code)
        stored.headers["content-type"] = DICOM_JSON
        return stored

    async def _taken(self, request: Request, study_instance_uid: str) -> StowResponse:
        upload = self._stow.open(
            request.headers.get("content-type", ""),
            sender=SENDER,
            study_instance_uid=study_instance_uid,
        )
        with upload:
            await _feed(upload, request)
            service = str(request.base_url) + "dicom-web"
            return await anyio.to_thread.run_sync(upload.finish, service)


async def _feed(upload: Upload, request: Request) -> None:
    """Hand the body over in pieces large enough to be worth a thread's turn."""
    piece = bytearray()
    async for data in request.stream():
        piece += data
        if len(piece) >= _PIECE_BYTES:
            await anyio.to_thread.run_sync(upload.feed, bytes(piece))
            piece.clear()
    if piece:
        await anyio.to_thread.run_sync(upload.feed, bytes(piece))


def _stored(outcome: Outcome) -> StoredInstance:
    return StoredInstance(
        outcome.study_instance_uid,
        outcome.series_instance_uid,
        outcome.sop_instance_uid,
        str(outcome.registration),
    )


def _refused(failed: Failed) -> RefusedUpload:
    shown = "try again later" if isinstance(failed.error, OutOfResources) else failed.error.message
    return RefusedUpload(failed.sop_instance_uid, failed.error.reason, shown)


def _gone() -> Response:
    """Return an answer that nobody reads: the client is gone, and nothing half is kept."""
    return Response(status_code=400)


def stow_of(context: Context) -> Stow:
    """Return the way in for this process."""
    settings = context.settings
    archive = Archive(settings.data_dir, min_free_bytes=settings.retention.min_free_bytes)
    archive.prepare()
    ingest = Ingest(
        context.records,
        archive,
        context.clock,
        max_instance_bytes=settings.dicom.max_instance_bytes,
    )
    return Stow(ingest, accept_deflated=settings.dicom.accept_deflated)


def router(context: Context) -> APIRouter:
    """Return the routes that take instances in."""
    routes = APIRouter()
    handlers = UploadRoutes(stow_of(context))
    faults = documented(400, 409, 413, 415, 422, 503)
    routes.add_api_route(
        f"{PREFIX}/studies",
        handlers.upload,
        methods=["POST"],
        operation_id="uploadInstances",
        summary="Upload instances",
        tags=["studies"],
        responses={200: {"model": UploadAnswer}, 202: {"model": UploadAnswer}, **faults},
        openapi_extra=_BODY,
        response_model=None,
    )
    answers: dict[int | str, dict[str, Any]] = {
        status: {"description": meaning, "content": {DICOM_JSON: {"schema": {"type": "object"}}}}
        for status, meaning in (
            (200, "All instances are stored"),
            (202, "Some instances are stored"),
            (409, "No instance is stored"),
        )
    }
    for path, name, handler in (
        ("/dicom-web/studies", "storeInstances", handlers.store),
        (
            "/dicom-web/studies/{study_instance_uid}",
            "storeInstancesOfStudy",
            handlers.store_in_study,
        ),
    ):
        routes.add_api_route(
            path,
            handler,
            methods=["POST"],
            operation_id=name,
            summary="Store instances (STOW-RS)",
            tags=["dicomweb"],
            responses={**faults, **answers},
            openapi_extra=_BODY,
            response_model=None,
        )
    return routes
