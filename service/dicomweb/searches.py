"""QIDO-RS over HTTP."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson
from fastapi import Request, Response

from service.dicomweb import qido
from service.dicomweb.accept import choose
from service.dicomweb.asked import accept_of, service_of
from service.dicomweb.resources import DICOM_JSON
from service.dicomweb.wado import Wado, require_uid
from service.records.dicomweb import Entry, Level, find

JSON_TYPES: Final = (DICOM_JSON, "application/json")


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
        choose(accept_of(request), JSON_TYPES)
        uids = {name: uid for name, uid in path.items() if uid is not None}
        for name, uid in uids.items():
            require_uid(uid, name)
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
        service = service_of(request)
        body = [
            qido.as_json(entry, query, service=service, header=header_of) for entry in found.entries
        ]
        return Response(orjson.dumps(body), media_type=DICOM_JSON, headers=headers)

    def _headers(self, entries: Sequence[Entry]) -> Callable[[Entry], dict[str, Any]]:
        wanted = [entry.instance_row_id for entry in entries if entry.instance_row_id is not None]
        data_sets = self._wado.data_sets(wanted)
        return lambda entry: data_sets.get(entry.instance_row_id or 0, {})
