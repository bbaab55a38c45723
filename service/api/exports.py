"""Reviewed findings as COCO JSON: what readers corrected, to train and measure by elsewhere."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Query, Response
from pydantic import Field

from service.api.answers import answer
from service.api.context import Context
from service.api.routes import PREFIX, add
from service.core.errors import InvalidRequest
from service.core.findings import Finding, RegionRole, RegionShape
from service.records import training
from service.records.training import ReviewedFinding
from service.records.worklist_query import Time

_DEFAULT_SPAN: Final = timedelta(days=365)
_LIMIT: Final = 10_000
_DRAWN: Final = (RegionRole.OUTLINE, RegionRole.BOX)


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One frame; the file's name is its SOP Instance UID."""

    id: int
    file_name: str
    width: int
    height: int
    frame_number: int
    study_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True, slots=True)
class CocoCategory:
    """One coded label."""

    id: int
    name: Annotated[str, Field(examples=["Nodule"])]
    supercategory: Annotated[str, Field(description="Coding scheme and value")]


@dataclass(frozen=True, slots=True)
class CocoAnnotation:
    """One finding as its newest verdict leaves it."""

    id: int
    image_id: int
    category_id: int
    bbox: Annotated[list[float], Field(description="Left, top, width, height in pixels")]
    segmentation: Annotated[list[list[float]], Field(description="Outlines as x, y, x, y, …")]
    area: float
    iscrowd: int
    attributes: Annotated[
        Mapping[str, Any], Field(description="Verdict, changes, probability, model")
    ]


@dataclass(frozen=True, slots=True)
class Coco:
    """A COCO data set; rejected findings are in it too, marked by their verdict."""

    info: Mapping[str, str]
    images: list[CocoImage]
    categories: list[CocoCategory]
    annotations: list[CocoAnnotation]


class ExportRoutes:
    """Gives away what readers made of findings."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def export_reviews(
        self,
        reviewed_from: Annotated[Time, Query(description="Default: a year before the end")] = None,
        reviewed_to: Annotated[Time, Query(description="Default: now")] = None,
    ) -> Response:
        """Export reviewed findings as COCO JSON.

        Boxes and outlines by image, with verdict and what was changed; no patient's name or id.
        At most 10,000 findings: ask for shorter stretches of time to get more.
        """
        # The end is exclusive; what was reviewed just now belongs to it.
        until = reviewed_to or self._context.clock.now() + timedelta(seconds=1)
        since = reviewed_from or until - _DEFAULT_SPAN
        if since >= until:
            raise InvalidRequest("INVALID_REQUEST", "reviewed_from: lies before reviewed_to")
        with self._context.records.reading() as connection:
            found = training.reviewed(connection, since, until, limit=_LIMIT)
            wanted = [_frame_of(one)[0] for one in found if _frame_of(one)[0]]
            headers = training.images(connection, wanted)
        placed = [one for one in found if _frame_of(one)[0] in headers]
        return answer(_coco(placed, headers, f"{since.isoformat()} to {until.isoformat()}"))


def router(context: Context) -> APIRouter:
    """Return the route of the export."""
    routes, handlers = APIRouter(prefix=PREFIX, tags=["findings"]), ExportRoutes(context)
    add(routes, "GET /exports/coco", handlers.export_reviews, gives=Coco, problems=(422,))
    return routes


def _coco(found: Sequence[ReviewedFinding], headers: Mapping[str, Any], stretch: str) -> Coco:
    frames = _numbered(_frame_of(one) for one in found)
    labels = _numbered(_label_of(one) for one in found)
    images = [
        CocoImage(
            id=frames[uid, number],
            file_name=uid,
            width=headers[uid].columns or 0,
            height=headers[uid].rows or 0,
            frame_number=number,
            study_instance_uid=headers[uid].study_instance_uid,
            series_instance_uid=headers[uid].series_instance_uid,
        )
        for uid, number in frames
    ]
    categories = [
        CocoCategory(number, meaning, f"{scheme} {value}")
        for (scheme, value, meaning), number in labels.items()
    ]
    annotations = [
        _annotation(place + 1, one, frames[_frame_of(one)], labels[_label_of(one)])
        for place, one in enumerate(found)
    ]
    return Coco({"description": f"reviewed {stretch}"}, images, categories, annotations)


_Key = TypeVar("_Key")


def _numbered(keys: Iterable[_Key]) -> dict[_Key, int]:
    """Return each key with a number, counted from 1 in the order of their coming."""
    return {key: number for number, key in enumerate(dict.fromkeys(keys), 1)}


def _annotation(number: int, one: ReviewedFinding, image: int, category: int) -> CocoAnnotation:
    outlines = list(_outlines(one.finding))
    xs = [value for outline in outlines for value in outline[::2]]
    ys = [value for outline in outlines for value in outline[1::2]]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)] if xs else []
    return CocoAnnotation(
        id=number,
        image_id=image,
        category_id=category,
        bbox=box,
        segmentation=outlines,
        area=box[2] * box[3] if box else 0.0,
        iscrowd=0,
        attributes={
            "finding_id": one.finding.id,
            "tracking_uid": one.finding.tracking_uid,
            "verdict": one.review.verdict,
            "changes": one.review.changes,
            "reviewed_at": one.review.reviewed_at,
            "probability": one.finding.probability,
            "model": f"{one.model} {one.version}",
        },
    )


def _outlines(finding: Finding) -> Iterator[list[float]]:
    location = finding.location
    for region in location.regions if location else ():
        same = (location and region.sop_instance_uid) == (location and location.sop_instance_uid)
        if same and region.role in _DRAWN and region.shape is RegionShape.POLYLINE:
            yield [value for point in region.points for value in point]


def _frame_of(one: ReviewedFinding) -> tuple[str, int]:
    """Return the frame that a finding lies on: where its reader put it, else where it was found."""
    place = one.review.changes.get("place")
    if isinstance(place, Mapping):
        return str(place["sop_instance_uid"]), int(place.get("frame_number", 1))
    location = one.finding.location
    return (location.sop_instance_uid, location.frame_number) if location else ("", 1)


def _label_of(one: ReviewedFinding) -> tuple[str, str, str]:
    changed = one.review.changes.get("label")
    if isinstance(changed, Mapping):
        return str(changed["scheme"]), str(changed["value"]), str(changed["meaning"])
    label = one.finding.label
    return label.scheme, label.value, label.meaning
