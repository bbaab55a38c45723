"""The routes of DICOMweb below ``/dicom-web``: searches and retrieval.

Storing is with the other ways in; both share the paths' root.
"""

import functools
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from service.core.errors import NotFound
from service.core.multipart import Part, encode_multipart
from service.core.settings import Settings
from service.dicomweb import overlays
from service.dicomweb.accept import (
    AS_STORED,
    EXPLICIT,
    MULTIPART,
    Accepted,
    accepted,
    choose,
    chosen_name,
    not_acceptable,
)
from service.dicomweb.asked import PREFIX, accept_of, service_of
from service.dicomweb.pixels import MEDIA_TYPES, FrameReader, is_native, numbers
from service.dicomweb.rendered import MEDIA_TYPES as PICTURES
from service.dicomweb.rendered import THUMBNAIL_PIXELS, Rendering, render, rendering
from service.dicomweb.resources import (
    DICOM_JSON,
    RESOURCES,
    WADL,
    capabilities_json,
    capabilities_wadl,
    described,
)
from service.dicomweb.searches import JSON_TYPES, Searches
from service.dicomweb.wado import Wado
from service.records.archive import Archive
from service.records.database import Records
from service.records.dicomweb import (
    StoredInstance,
)

OCTETS: Final = "application/octet-stream"
PDF: Final = "application/pdf"
_ENCAPSULATED_PDF: Final = "1.2.840.10008.5.1.4.1.1.104.1"
_FRAMES_LIMIT: Final = 5000
_CAPABILITIES: Final = (WADL, "application/json", DICOM_JSON)
_PICTURES_LIMIT: Final = 2000


class Retrieval:
    """WADO-RS."""

    def __init__(self, wado: Wado) -> None:
        self._wado = wado
        self._drawings = overlays.Drawings(wado.records)

    def files(
        self, request: Request, study: str, series: str | None = None, instance: str | None = None
    ) -> Response:
        """Retrieve the instances of a study, of a series, or one."""
        found = self._wado.instances(study, series, instance)
        one = choose(accept_of(request), ["application/dicom"])
        is_single = one.name == "application/dicom" and not one.multipart
        if is_single and instance is None:
            raise not_acceptable(f"available: {MULTIPART} of application/dicom")
        for each in found[:1]:
            self._wado.require_file(each)
        parts = (self._wado.file_part(each, one.transfer_syntax_uid) for each in found)
        first = next(parts)
        if is_single:
            headers = {"Content-Type": first.headers["Content-Type"]}
            return StreamingResponse(iter(first.body), headers=headers)
        return _multipart(_chained(first, parts), "application/dicom")

    def metadata(
        self, request: Request, study: str, series: str | None = None, instance: str | None = None
    ) -> Response:
        """Retrieve the metadata of instances: everything but big values."""
        choose(accept_of(request), JSON_TYPES)
        found = self._wado.instances(study, series, instance)
        body = self._wado.metadata(found, service_of(request))
        return Response(body, media_type=DICOM_JSON)

    def frames(
        self, request: Request, study: str, series: str, instance: str, frames: str
    ) -> Response:
        """Retrieve frames, such as ``1,3``."""
        wanted = numbers(frames, _FRAMES_LIMIT)
        (one,) = self._wado.instances(study, series, instance)
        return self._frames(one, wanted, accept_of(request))

    def bulk_data(
        self, request: Request, study: str, series: str, instance: str, path: str
    ) -> Response:
        """Retrieve a big value by its path of tags and items."""
        (one,) = self._wado.instances(study, series, instance)
        if path.upper() == "7FE00010" and one.header.rows and not is_native(one):
            every = range(1, min(one.header.number_of_frames, _FRAMES_LIMIT) + 1)
            return self._frames(one, every, accept_of(request))
        taken = choose(accept_of(request), [OCTETS])
        value = self._wado.bulk_data(one, path)
        if taken.multipart:
            return _multipart([Part({"Content-Type": OCTETS}, [value])], OCTETS)
        return Response(value, media_type=OCTETS)

    def pixels(
        self, request: Request, study: str, series: str | None = None, instance: str | None = None
    ) -> Response:
        """Retrieve the pixel data of instances, each as one part in its order."""
        found = self._wado.instances(study, series, instance)
        images = [one for one in found if one.header.has_pixels]
        if not images:
            raise NotFound("NO_FRAMES", "there are no pixels")
        choose(accept_of(request), [OCTETS], multipart=True)
        service = service_of(request)
        parts = (self._wado.pixel_part(one, service) for one in images)
        return _multipart(_chained(next(parts), parts), OCTETS)

    def pictures(self, request: Request, study: str, series: str | None = None) -> Response:
        """Retrieve a picture of every image, the frame in the middle standing for several."""
        found = self._wado.instances(study, series, None)
        images = [
            one
            for one in found
            if one.header.has_pixels and one.header.sop_class_uid != overlays.SEGMENTATION
        ][:_PICTURES_LIMIT]
        if not images:
            raise NotFound("NO_FRAMES", "there is no image")
        name = chosen_name(choose(accept_of(request), PICTURES), PICTURES)
        how = _asked_rendering(request)
        parts = (self._picture_part(one, how, name) for one in images)
        return _multipart(_chained(next(parts), parts), name)

    def _picture_part(self, one: StoredInstance, how: Rendering, name: str) -> Part:
        with FrameReader(self._wado.archive, one) as reader:
            picture = render(reader, (one.header.number_of_frames + 1) // 2, how, name)
        return Part({"Content-Type": name}, [picture])

    def rendered(
        self, request: Request, study: str, series: str, instance: str, frame: str = "1"
    ) -> Response:
        """Retrieve a frame as a picture; a document as what it is."""
        (one,) = self._wado.instances(study, series, instance)
        if one.header.sop_class_uid == _ENCAPSULATED_PDF:
            return self._document(request, one)
        (number,) = numbers(frame, 1)
        return self._picture(request, one, number, _asked_rendering(request))

    def thumbnail(
        self,
        request: Request,
        study: str,
        series: str | None = None,
        instance: str | None = None,
        frame: str | None = None,
    ) -> Response:
        """Retrieve a small picture of a frame, or of what lies in the middle."""
        images = [
            one for one in self._wado.instances(study, series, instance) if one.header.has_pixels
        ]
        plain = [one for one in images if one.header.sop_class_uid != overlays.SEGMENTATION]
        images = plain or images
        if not images:
            raise NotFound("NO_FRAMES", "there is no image")
        one = images[len(images) // 2]
        number = numbers(frame, 1)[0] if frame else (one.header.number_of_frames + 1) // 2
        small = Rendering(viewport=(THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        return self._picture(request, one, number, small, preferred=PICTURES[::-1])

    def overlay(self, study: str, series: str, instance: str, frame: str) -> Response:
        """Retrieve what the study's segmentations draw on a frame, as a transparent picture."""
        (one,) = self._wado.instances(study, series, instance)
        (number,) = numbers(frame, 1)
        drawn = self._drawings.on(study, one.header.sop_instance_uid, number)
        body = overlays.overlay(self._wado.archive, drawn)
        return Response(body, media_type="image/png")

    def _frames(self, one: StoredInstance, wanted: Sequence[int], header: str) -> Response:
        taken, content_type, as_stored = _frame_type(one, header)

        def parts() -> Iterator[Part]:
            with FrameReader(self._wado.archive, one) as reader:
                for number in wanted:
                    frame = reader.stored(number) if as_stored else reader.native(number)
                    yield Part({"Content-Type": content_type}, [frame])

        if len(wanted) > 1:  # pixel data that break off are told by a status, before any frame
            with FrameReader(self._wado.archive, one) as reader:
                reader.stored(max(wanted))
        name = content_type.partition(";")[0]
        made = parts()
        first = next(made)
        if not taken.multipart and taken.name != "*/*" and len(wanted) == 1:
            return Response(b"".join(first.body), headers={"Content-Type": content_type})
        if len(wanted) == 1:
            return _multipart_at_once(first, name)
        return _multipart(_chained(first, made), name)

    def _document(self, request: Request, one: StoredInstance) -> Response:
        choose(accept_of(request), [PDF], multipart=False)
        return Response(self._wado.bulk_data(one, "00420011"), media_type=PDF)

    def _picture(
        self,
        request: Request,
        one: StoredInstance,
        number: int,
        how: Rendering,
        *,
        preferred: Sequence[str] = PICTURES,
    ) -> Response:
        header = request.query_params.get("accept") or accept_of(request)
        name = chosen_name(choose(header, preferred, multipart=False), preferred)
        with FrameReader(self._wado.archive, one) as reader:
            picture = render(reader, number, how, name)
        return Response(picture, media_type=name)


def router(settings: Settings, records: Records) -> APIRouter:
    """Return the routes of searches, retrieval and capabilities; each answers HEAD too."""
    routes = APIRouter(prefix=PREFIX, tags=["dicomweb"])
    wado = Wado(records, Archive(settings.data_dir))
    rooms = {"searches": Searches(wado), "retrieval": Retrieval(wado)}
    for one in RESOURCES:
        room, _, name = one.handler.partition(".")
        handler = getattr(rooms[room], name)
        routes.add_api_route(
            one.path,
            handler,
            methods=["GET"],
            operation_id=one.operation,
            summary=one.summary,
            description="",
            openapi_extra=described(one),
            response_model=None,
            response_class=Response,
        )
        routes.add_api_route(
            one.path,
            _head(handler),
            methods=["HEAD"],
            include_in_schema=False,
            response_model=None,
        )
    for path in ("", "/"):
        routes.add_api_route(
            path, _capabilities, methods=["OPTIONS"], include_in_schema=False, response_model=None
        )
    return routes


def _head(handler: Callable[..., Response]) -> Callable[..., Response]:
    """Return a handler that says what another would answer, without the answer's body."""

    @functools.wraps(handler)
    def bare(*given: Any, **named: Any) -> Response:
        whole = handler(*given, **named)
        headers = [pair for pair in whole.raw_headers if pair[0] != b"transfer-encoding"]
        answer = Response(status_code=whole.status_code)
        answer.raw_headers = headers
        return answer

    return bare


def _capabilities(request: Request) -> Response:
    """Say what is served here (PS3.18 8.9)."""
    taken = chosen_name(choose(accept_of(request), _CAPABILITIES, multipart=False), _CAPABILITIES)
    service = service_of(request)
    if taken == WADL:
        return Response(capabilities_wadl(service), media_type=WADL)
    return Response(orjson.dumps(capabilities_json(service)), media_type=taken)


def _frame_type(one: StoredInstance, header: str) -> tuple[Accepted, str, bool]:
    """Return how frames are given: the accepted range, their content type, and if as stored."""
    stored = one.header.transfer_syntax_uid
    compressed = MEDIA_TYPES.get(stored, OCTETS)
    native = is_native(one)
    for taken in accepted(header):
        wanted = taken.transfer_syntax_uid
        if taken.takes(OCTETS):
            if wanted in {AS_STORED, stored} and not native:
                return taken, f"{OCTETS}; transfer-syntax={stored}", True
            if wanted in {"", AS_STORED, EXPLICIT} or (native and wanted == stored):
                return taken, f"{OCTETS}; transfer-syntax={EXPLICIT}", False
        elif not native and taken.takes(compressed) and wanted in {"", AS_STORED, stored}:
            return taken, f"{compressed}; transfer-syntax={stored}", True
    shown = sorted({OCTETS, compressed})
    raise not_acceptable(
        f"available: {MULTIPART} of {' or '.join(shown)} in {EXPLICIT} or {stored}"
    )


def _asked_rendering(request: Request) -> Rendering:
    given = request.query_params
    return rendering(**{name: given.get(name, "") for name in ("window", "viewport", "quality")})


def _chained(first: Part, rest: Iterator[Part]) -> Iterator[Part]:
    yield first
    yield from rest


def _multipart(parts: Iterator[Part] | Sequence[Part], content_type: str) -> Response:
    boundary = uuid.uuid4().hex
    return StreamingResponse(
        encode_multipart(parts, boundary), headers=_multipart_type(content_type, boundary)
    )


def _multipart_at_once(part: Part, content_type: str) -> Response:
    """Return one part with its length known, which is less work for both sides."""
    boundary = uuid.uuid4().hex
    body = b"".join(encode_multipart([part], boundary))
    return Response(body, headers=_multipart_type(content_type, boundary))


def _multipart_type(content_type: str, boundary: str) -> dict[str, str]:
    return {"Content-Type": f'{MULTIPART}; type="{content_type}"; boundary={boundary}'}
