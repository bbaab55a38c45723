"""OHIF under ``/viewer``: its built files, told where they are and which DICOMweb to ask.

OHIF's package is built for the root of a site. Its few absolute addresses are changed while a
file is served, so that the package stays as it was published, wherever it lies.
"""

import json
import re
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

ROOT: Final = "/viewer"
INDEX: Final = "index.html"
_CONFIG: Final = "app-config.js"
_BOOT: Final = "boot.js"
_OVERLAY: Final = b'<script src="/static/ohif.js" defer></script>'
_MEDIA_TYPES: Final = MappingProxyType(
    {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
)
_INLINE_SCRIPT: Final = re.compile(rb"<script>.*?</script>", re.DOTALL)
_ADDRESS: Final = re.compile(rb'((?:href|src|content)=")/(?!/)')
_PUBLIC_PATH: Final = re.compile(rb'((?:__webpack_require__|\b\w)\.p ?= ?)"/"')
_CSS_ADDRESS: Final = re.compile(rb"url\(/(?!/)")
# Workers and WebAssembly decode, ndarray (of OHIF 3.12) compiles the code that reads segmentations,
# libraries write styles of their own. Nothing from outside.
HEADERS: Final = MappingProxyType(
    {
        "Content-Security-Policy": "default-src 'none'; script-src 'self' 'unsafe-eval'; "
        "worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
        "img-src 'self' data: blob:; connect-src 'self' data: blob:; manifest-src 'self'; "
        "base-uri 'none'; frame-ancestors 'none'",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cache-Control": "no-cache",
    }
)
# Inline in the package; a file of its own needs no hole in the policy above.
BOOT: Final = (
    f"window.PUBLIC_URL = '{ROOT}/';\n"
    "function browserImportFunction(moduleId) { return import(moduleId); }\n"
)


def config() -> str:
    """Return OHIF's settings: our own DICOMweb on the same origin."""
    source = {
        "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
        "sourceName": "dicomweb",
        "configuration": {
            "friendlyName": "overread",
            "name": "overread",
            "qidoRoot": "/dicom-web",
            "wadoRoot": "/dicom-web",
            "wadoUriRoot": "/dicom-web",
            "qidoSupportsIncludeField": True,
            "supportsFuzzyMatching": True,
            "supportsWildcard": True,
            "supportsReject": False,
            "imageRendering": "wadors",
            "thumbnailRendering": "wadors",
            "enableStudyLazyLoad": True,
            "dicomUploadEnabled": False,
            "omitQuotationForMultipartRequest": True,
            "bulkDataURI": {"enabled": True},
        },
    }
    settings = {
        "name": "overread",
        "routerBasename": ROOT,
        "extensions": [],
        "modes": [],
        "customizationService": {},
        "showStudyList": True,
        "maxNumberOfWebWorkers": 3,
        "showWarningMessageForCrossOrigin": False,
        "showCPUFallbackMessage": True,
        "showLoadingIndicator": True,
        "strictZSpacingForVolumeViewport": True,
        "groupEnabledModesFirst": True,
        "disableConfirmationPrompts": True,
        "investigationalUseDialog": {"option": "never"},
        "maxNumRequests": {"interaction": 20, "thumbnail": 10, "prefetch": 10},
        "defaultDataSourceName": "dicomweb",
        "dataSources": [source],
    }
    return f"window.config = {json.dumps(settings)};\n"


class OhifFiles(StaticFiles):
    """The folder of OHIF's build; addresses that are no file show the application."""

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder)
        self._folder = folder.resolve()

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, fitted to where it is served."""
        response = await self._response(path, scope)
        response.headers.update(HEADERS)
        return response

    async def _response(self, path: str, scope: Scope) -> Response:
        if path in {_CONFIG, _BOOT}:
            return Response(config() if path == _CONFIG else BOOT, media_type="text/javascript")
        if path in {"", "."}:
            return self._fitted(INDEX)
        if (fitted := self._named(path)) is not None:
            return fitted
        try:
            return await super().get_response(path, scope)
        except HTTPException as error:
            if error.status_code != 404 or Path(path).suffix:
                raise
            return self._fitted(INDEX)

    def _named(self, path: str) -> Response | None:
        """Return a text file that may hold addresses; None when it is none, or not there."""
        file = (self._folder / path).resolve()
        if file.suffix not in _MEDIA_TYPES or not file.is_relative_to(self._folder):
            return None
        return self._fitted(path) if file.is_file() else None

    def _fitted(self, path: str) -> Response:
        file = self._folder / path
        body = fitted(file, file.stat().st_mtime_ns)
        return Response(body, media_type=_MEDIA_TYPES[file.suffix])


@lru_cache(maxsize=256)
def fitted(file: Path, _changed_at: int) -> bytes:
    """Return a text file of the build with its addresses below `ROOT`."""
    text, root = file.read_bytes(), ROOT.encode()
    if file.suffix == ".js":
        return _PUBLIC_PATH.sub(rb'\1"' + root + b'/"', text)
    if file.suffix == ".css":
        return _CSS_ADDRESS.sub(b"url(" + root + b"/", text)
    text = _INLINE_SCRIPT.sub(b"", text)
    boot = f'<head><script src="/{_BOOT}"></script>'.encode()
    moved = _ADDRESS.sub(rb"\1" + root + b"/", text.replace(b"<head>", boot, 1))
    return moved.replace(b"</head>", _OVERLAY + b"</head>", 1)
