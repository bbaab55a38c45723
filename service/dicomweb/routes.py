"""The routes of DICOMweb below ``/dicom-web``: searches and retrieval.

Storing is with the other ways in; both share the paths' root.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from service.core.errors import NotFound
from service.core.multipart import Part, encode_multipart
from service.core.settings import Settings
from service.dicomweb import overlays, qido
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
from service.dicomweb.pixels import MEDIA_TYPES, FrameReader, is_native, numbers
from service.dicomweb.rendered import MEDIA_TYPES as PICTURES
from service.dicomweb.rendered import THUMBNAIL_PIXELS, Rendering, render, rendering
from service.dicomweb.wado import Wado, require_uid
from service.records.archive import Archive
from service.records.database import Records
from service.records.dicomweb import (
    Entry,
    Level,
    StoredInstance,
    find,
)

PREFIX: Final = "/dicom-web"
DICOM_JSON: Final = "application/dicom+json"
OCTETS: Final = "application/octet-stream"
PDF: Final = "application/pdf"
_JSON_TYPES: Final = (DICOM_JSON, "application/json")
_ENCAPSULATED_PDF: Final = "1.2.840.10008.5.1.4.1.1.104.1"
_FRAMES_LIMIT: Final = 5000
_STUDY: Final = "/studies/{study}"
_SERIES: Final = "/studies/{study}/series/{series}"
_INSTANCE: Final = "/studies/{study}/series/{series}/instances/{instance}"


class Searches:
    """QIDO-RS."""

    def __init__(self, wado: Wado) -> None:
        self._wado = wado

    def studies(self, request: Request) -> Response:
        """Find studies."""
        return self._found(request, Level.STUDY, {})

    def series(self, request: Request, study: str | None = None) -> Response:
        """Find series, of one study or of all."""
        return self._found(request, Level.SERIES, {"StudyInstanceUID": study})

    def instances(
        self, request: Request, study: str | None = None, series: str | None = None
    ) -> Response:
        """Find instances, of one series, one study or of all."""
        path = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
        return self._found(request, Level.INSTANCE, path)

    def _found(self, request: Request, level: Level, path: dict[str, str | None]) -> Response:
        choose(_accept(request), _JSON_TYPES)
        uids = {name: uid for name, uid in path.items() if uid is not None}
        for uid in uids.values():
            require_uid(uid)
        # A UID in the path is no filter of the query string's.
        given = [
            pair
            for pair in request.query_params.multi_items()
            if pair[0] not in request.path_params
        ]
        query = qido.parse(level, given, uids)
        with self._wado.records.reading() as connection:
            found = find(connection, query.search)
        left = found.total - query.search.offset - len(found.entries)
        headers = {"X-Total-Count": str(found.total)}
        warnings = list(query.warnings)
        if left > 0:
            warnings.append(f"there are {left} additional results that can be requested")
        if warnings:
            headers["Warning"] = ", ".join(f'299 overread "{text}"' for text in warnings)
        if not found.entries:
            return Response(status_code=204, headers=headers)
        header_of = self._headers(found.entries) if qido.needs_header(query) else None
        service = _service(request)
        body = [
            qido.as_json(entry, query, service=service, header=header_of) for entry in found.entries
        ]
        return Response(orjson.dumps(body), media_type=DICOM_JSON, headers=headers)

    def _headers(self, entries: Sequence[Entry]) -> Callable[[Entry], dict[str, Any]]:
        wanted = [entry.instance_row_id for entry in entries if entry.instance_row_id is not None]
        data_sets = self._wado.data_sets(wanted)
        return lambda entry: data_sets.get(entry.instance_row_id or 0, {})


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
        one = choose(_accept(request), ["application/dicom"])
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
        choose(_accept(request), _JSON_TYPES)
        found = self._wado.instances(study, series, instance)
        body = self._wado.metadata(found, _service(request))
        return Response(body, media_type=DICOM_JSON)

    def frames(
        self, request: Request, study: str, series: str, instance: str, frames: str
    ) -> Response:
        """Retrieve frames, such as ``1,3``."""
        wanted = numbers(frames, _FRAMES_LIMIT)
        (one,) = self._wado.instances(study, series, instance)
        return self._frames(one, wanted, _accept(request))

    def bulk_data(
        self, request: Request, study: str, series: str, instance: str, path: str
    ) -> Response:
        """Retrieve a big value by its path of tags and items."""
        (one,) = self._wado.instances(study, series, instance)
        if path.upper() == "7FE00010" and one.header.rows and not is_native(one):
            every = range(1, min(one.header.number_of_frames, _FRAMES_LIMIT) + 1)
            return self._frames(one, every, _accept(request))
        taken = choose(_accept(request), [OCTETS])
        value = self._wado.bulk_data(one, path)
        if taken.multipart:
            return _multipart([Part({"Content-Type": OCTETS}, [value])], OCTETS)
        return Response(value, media_type=OCTETS)

    def rendered(
        self, request: Request, study: str, series: str, instance: str, frame: str = "1"
    ) -> Response:
        """Retrieve a frame as a picture; a document as what it is."""
        (one,) = self._wado.instances(study, series, instance)
        if one.header.sop_class_uid == _ENCAPSULATED_PDF:
            return self._document(request, one)
        asked = {
            name: request.query_params.get(name, "") for name in ("window", "viewport", "quality")
        }
        (number,) = numbers(frame, 1)
        return self._picture(request, one, number, rendering(**asked))

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
        choose(_accept(request), [PDF], multipart=False)
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
        header = request.query_params.get("accept") or _accept(request)
        name = chosen_name(choose(header, preferred, multipart=False), preferred)
        with FrameReader(self._wado.archive, one) as reader:
            picture = render(reader, number, how, name)
        return Response(picture, media_type=name)


def router(settings: Settings, records: Records) -> APIRouter:
    """Return the routes of searches and retrieval."""
    routes = APIRouter(prefix=PREFIX, include_in_schema=False)
    wado = Wado(records, Archive(settings.data_dir))
    searches, retrieval = Searches(wado), Retrieval(wado)
    for path, handler in (
        ("/studies", searches.studies),
        ("/series", searches.series),
        (f"{_STUDY}/series", searches.series),
        ("/instances", searches.instances),
        (f"{_STUDY}/instances", searches.instances),
        (f"{_SERIES}/instances", searches.instances),
        (_STUDY, retrieval.files),
        (_SERIES, retrieval.files),
        (_INSTANCE, retrieval.files),
        (f"{_STUDY}/metadata", retrieval.metadata),
        (f"{_SERIES}/metadata", retrieval.metadata),
        (f"{_INSTANCE}/metadata", retrieval.metadata),
        (f"{_INSTANCE}/frames/{{frames}}", retrieval.frames),
        (f"{_INSTANCE}/bulkdata/{{path:path}}", retrieval.bulk_data),
        (f"{_INSTANCE}/rendered", retrieval.rendered),
        (f"{_INSTANCE}/frames/{{frame}}/rendered", retrieval.rendered),
        (f"{_STUDY}/thumbnail", retrieval.thumbnail),
        (f"{_SERIES}/thumbnail", retrieval.thumbnail),
        (f"{_INSTANCE}/thumbnail", retrieval.thumbnail),
        (f"{_INSTANCE}/frames/{{frame}}/thumbnail", retrieval.thumbnail),
        (f"{_INSTANCE}/frames/{{frame}}/overlay", retrieval.overlay),
    ):
        routes.add_api_route(path, handler, methods=["GET"], response_model=None)
    return routes


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


def _accept(request: Request) -> str:
    return request.headers.get("accept", "")


def _service(request: Request) -> str:
    """Return the address of DICOMweb as this client reached it."""
    base = request.base_url
    server = request.scope.get("server")
    # dicomweb-client (0.61, 2026) names the host without its port.
    if server is not None and base.port is None and base.hostname == server[0]:
        base = base.replace(port=server[1])
    return f"{str(base).rstrip('/')}{PREFIX}"


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
