"""The viewer at ``/viewer``: OHIF where it is installed, else a page of our own."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from service.core.headers import InstanceHeader
from service.core.identifiers import is_uid
from service.core.settings import Settings
from service.records.database import Records
from service.records.dicomweb import Entry, Level, OneOf, Search, StoredInstance, find
from service.web import words
from service.web.ohif import INDEX, ROOT, OhifFiles

_SEGMENTATION: Final = "SEG"
_TEMPLATES: Final = Path(__file__).resolve().parent / "templates"
_INSTANCES_LIMIT: Final = 20_000
# Center and width in HU, as radiologists know them.
PRESETS: Final = (
    ("Lung", -600, 1500),
    ("Soft tissue", 40, 400),
    ("Liver", 60, 160),
    ("Bone", 400, 1800),
)


def installed_in(settings: Settings) -> Path:
    """Return where `overread viewer install` puts OHIF."""
    return settings.data_dir.absolute() / "viewer"


def ohif_folder(settings: Settings) -> Path | None:
    """Return the folder of OHIF's build: the one set, else the one installed, None without."""
    folder = settings.http.viewer_dir or installed_in(settings)
    return folder if (folder / INDEX).is_file() else None


def mount(app: FastAPI, settings: Settings, records: Records) -> None:
    """Add the viewer to the application."""
    folder = ohif_folder(settings)
    if folder is not None:
        app.mount(ROOT, OhifFiles(folder))
        return
    page = BuiltInViewer(records)
    for path in (f"{ROOT}/", f"{ROOT}/viewer"):
        app.add_api_route(path, page.show, methods=["GET"], include_in_schema=False)


@dataclass
class ShownSeries:
    """A series of images; ``frames`` are addresses of frames below DICOMweb.

    ``aspect`` is the height of a pixel over its width.
    """

    series_instance_uid: str
    title: str
    modality: str
    aspect: float
    frames: list[str]

    @property
    def frames_json(self) -> str:
        """The frames as the page's script reads them."""
        return json.dumps(self.frames)

    @property
    def thumbnail(self) -> str:
        """The address of the frame in the middle."""
        return self.frames[len(self.frames) // 2]


class BuiltInViewer:
    """Shows the series of a study as pictures, with what segmentations draw on them."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._templates = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(words=words)

    def show(self, StudyInstanceUIDs: str = "") -> HTMLResponse:  # noqa: N803  as OHIF names it
        """Show the first study of those in the address."""
        uid = StudyInstanceUIDs.partition(",")[0]
        entries = self._entries(uid) if is_uid(uid) else ()
        if not entries:
            return self._page("viewer_empty.html", status=404 if uid else 200)
        images = [entry for entry in entries if entry.instance and _is_image(entry.instance)]
        return self._page(
            "viewer.html",
            study=entries[0].study,
            series=_by_series(images),
            has_overlay=any(e.series and e.series.modality == _SEGMENTATION for e in entries),
            presets=PRESETS,
        )

    def _entries(self, uid: str) -> Sequence[Entry]:
        key = ("StudyInstanceUID", OneOf((uid,)))
        with self._records.reading() as connection:
            return find(connection, Search(Level.INSTANCE, [key], _INSTANCES_LIMIT)).entries

    def _page(self, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        text = self._templates.get_template(template).render(**values)
        return HTMLResponse(text, status_code=status)


def _is_image(instance: StoredInstance) -> bool:
    return instance.header.has_pixels and instance.header.modality != _SEGMENTATION


def _aspect(header: InstanceHeader) -> float:
    row_mm, column_mm = header.row_spacing_mm, header.column_spacing_mm
    aspect = row_mm / column_mm if row_mm and column_mm else 1.0
    return aspect if 0.1 <= aspect <= 10 else 1.0


def _by_series(entries: Sequence[Entry]) -> list[ShownSeries]:
    shown: dict[str, ShownSeries] = {}
    for entry in entries:
        assert entry.series is not None
        assert entry.instance is not None
        series, header = entry.series, entry.instance.header
        one = shown.setdefault(
            series.series_instance_uid,
            ShownSeries(
                series_instance_uid=series.series_instance_uid,
                title=series.series_description or series.modality or "Series",
                modality=series.modality,
                aspect=_aspect(header),
                frames=[],
            ),
        )
        address = (
            f"/dicom-web/studies/{entry.study.study_instance_uid}"
            f"/series/{series.series_instance_uid}/instances/{header.sop_instance_uid}/frames"
        )
        one.frames += [f"{address}/{n}" for n in range(1, header.number_of_frames + 1)]
    return list(shown.values())
