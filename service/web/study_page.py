"""One study on a page: who, what was found, what readers say of it, what happened to it."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from service.core.errors import NotFound, OverreadError
from service.core.findings import Code, Qualifier
from service.core.identifiers import is_uid
from service.core.packages import ModelPackage
from service.records import events, reviews, study_view
from service.records.dicomweb import StoredInstance, instances_of
from service.records.operating_points import at_operating_point
from service.records.study_view import StoredFinding
from service.web import timeline
from service.web.environment import Desk
from service.web.key_images import KeyImage, edited_place, key_image, window_query


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


@dataclass(frozen=True)
class FrameAddress:
    """One frame that a reader may put a finding on."""

    address: str
    sop_instance_uid: str
    frame_number: int


class StudyPage:
    """Answers with a study, and with one finding of it for review."""

    def __init__(self, here: Desk) -> None:
        self._desk = here

    def show(self, study_instance_uid: str, operating_point: str = "") -> HTMLResponse:
        """Show one study."""
        try:
            return self._study(study_instance_uid, operating_point)
        except NotFound:
            return self._missing()

    def show_review(self, study_instance_uid: str, finding_id: str) -> HTMLResponse:
        """Show one finding large, with its history and the form of a verdict."""
        try:
            with self._desk.records.reading() as connection:
                stored = study_view.finding(connection, finding_id)
                history = reviews.history(connection, finding_id)
                images = instances_of(
                    connection,
                    study_instance_uid=study_instance_uid,
                    series_instance_uid=stored.series_instance_uid,
                )
        except NotFound:
            return self._missing()
        packages = self._desk.packages()
        package = packages.get(stored.model_name)
        sizes = {
            one.header.sop_instance_uid: (one.header.rows or 0, one.header.columns or 0)
            for one in images
        }
        frames = _frames(images, study_instance_uid, window_query(package))
        return self._desk.page(
            "review.html",
            one=Shown(stored, key_image(stored, study_instance_uid, sizes, package)),
            frames=frames,
            frames_json=json.dumps([asdict(frame) for frame in frames]),
            history=history,
            edited=edited_place(history),
            labels=_labels(stored, packages),
            study_instance_uid=study_instance_uid,
        )

    def _missing(self) -> HTMLResponse:
        return self._desk.page(
            "message.html", status=404, title="No such study", text="It is not here, or not "
            "any more."
        )  # fmt: skip

    def _study(self, study_instance_uid: str, operating_point: str) -> HTMLResponse:
        if not is_uid(study_instance_uid):
            raise NotFound("STUDY_UNKNOWN", "not a UID")
        with self._desk.records.reading() as connection:
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
        packages, fault = self._desk.packages(), ""
        if operating_point:
            try:
                stored = at_operating_point(stored, operating_point, packages)
            except OverreadError as error:
                fault = error.message
        return self._desk.page(
            "study.html",
            status=422 if fault else 200,
            study=detail,
            fault=fault,
            tasks=_by_task(stored, study_instance_uid, sizes, packages),
            chosen_point="" if fault else operating_point,
            results=results,
            steps=timeline.steps(detail, results),
            newest_event_id=newest_event_id,
        )


def router(here: Desk) -> APIRouter:
    """Return the routes of one study."""
    routes = APIRouter(include_in_schema=False)
    pages = StudyPage(here)
    for path, handler in (
        ("/studies/{study_instance_uid}", pages.show),
        ("/studies/{study_instance_uid}/findings/{finding_id}", pages.show_review),
    ):
        routes.add_api_route(path, handler, methods=["GET"], response_model=None)
    return routes


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


def _frames(
    images: Sequence[StoredInstance], study_instance_uid: str, window: str
) -> list[FrameAddress]:
    """Return every frame of a series in the order of its images."""
    return [
        FrameAddress(
            f"/dicom-web/studies/{study_instance_uid}/series/{one.header.series_instance_uid}"
            f"/instances/{one.header.sop_instance_uid}/frames/{number}/rendered{window}",
            one.header.sop_instance_uid,
            number,
        )
        for one in images
        if one.header.has_pixels
        for number in range(1, one.header.number_of_frames + 1)
    ]


def _labels(stored: StoredFinding, packages: Mapping[str, ModelPackage]) -> list[Code]:
    """Return the labels to choose from: the finding's own, then what the models here know."""
    known = [stored.finding.label]
    for package in packages.values():
        known += [one.label for one in package.manifest.classes if one.label is not None]
    unique = {(code.scheme, code.value): code for code in reversed(known)}
    own = (stored.finding.label.scheme, stored.finding.label.value)
    first = unique.pop(own)
    return [first, *sorted(unique.values(), key=lambda code: code.meaning.casefold())]
