"""Findings over HTTP: what was found, at which operating point, and what readers say of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service.api.answers import answer
from service.api.context import Context, asker
from service.api.routes import PREFIX, add
from service.api.schemas import FindingId, ReviewBody, ReviewChanges, StudyUid
from service.core.errors import InvalidRequest
from service.core.findings import Code, Finding, Location, Measurement, Qualifier
from service.core.geometry import position_on
from service.core.headers import SourceFrame, Triple
from service.records import reviews, study_view
from service.records.database import Transaction
from service.records.listings import ModelReference
from service.records.operating_points import at_operating_point
from service.records.reviews import Review
from service.records.study_view import StoredFinding


@dataclass(frozen=True, slots=True)
class CodeItem:
    """A coded concept (PS3.3 section 8)."""

    code: Annotated[str, Field(examples=["27925004"])]
    scheme: Annotated[str, Field(examples=["SCT"])]
    meaning: Annotated[str, Field(examples=["Nodule"])]


@dataclass(frozen=True, slots=True)
class RegionItem:
    """Points (column, row) on one frame, (0, 0) at the corner of its first pixel."""

    role: str
    shape: str
    sop_instance_uid: str
    frame_number: int
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class SegmentItem:
    """The finding's segment in the SEG of its run."""

    sop_instance_uid: str
    segment_number: int


@dataclass(frozen=True, slots=True)
class LocationItem:
    """Where the finding lies, in the patient and on the frame that shows it best."""

    center_mm: Annotated[Triple | None, Field(description="Patient position (LPS)")]
    sop_instance_uid: str
    frame_number: int
    series_instance_uid: str
    regions: list[RegionItem]
    segment: SegmentItem | None


@dataclass(frozen=True, slots=True)
class MeasurementItem:
    """A number with its unit (UCUM)."""

    name: Annotated[str, Field(examples=["long_axis"])]
    value: Annotated[float, Field(examples=[14.2])]
    unit: Annotated[str, Field(examples=["mm"])]
    code: CodeItem | None


@dataclass(frozen=True, slots=True)
class FindingItem:
    """One finding with its evidence."""

    id: str
    task: str
    label: CodeItem
    class_name: str
    site: CodeItem | None
    laterality: CodeItem | None
    probability: Annotated[float, Field(description="Calibrated, that the finding is present")]
    qualifier: Qualifier
    operating_point: Annotated[str | None, Field(description="That the qualifier stands on")]
    malignancy_probability: float | None
    location: LocationItem | None
    measurements: list[MeasurementItem]
    tracking_uid: str
    tracking_id: str
    model: ModelReference
    job_id: str
    prior: Annotated[Mapping[str, Any] | None, Field(description="The same lesion earlier")]
    review: Annotated[Review | None, Field(description="The newest verdict")]


@dataclass(frozen=True, slots=True)
class FindingList:
    """Findings by task, the most probable first."""

    items: list[FindingItem]
    next: None = None


@dataclass(frozen=True, slots=True)
class ReviewList:
    """Verdicts on one finding, oldest first."""

    items: list[Review]
    next: None = None


class FindingRoutes:
    """Answers about findings."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._records = context.records

    def list_findings(
        self,
        study_instance_uid: StudyUid,
        operating_point: Annotated[
            str | None,
            Query(
                pattern=r"^[a-z][a-z0-9_]{0,62}$",
                description="Judge the stored candidates by this operating point of their model; "
                "no network is run",
            ),
        ] = None,
        qualifier: Annotated[list[Qualifier] | None, Query(description="Only these")] = None,
    ) -> Response:
        """List current findings of a study.

        Every stored candidate of the study's current runs; `qualifier` says what its probability
        means at the operating point in force.
        """
        with self._records.reading() as connection:
            stored = study_view.current_findings(connection, study_instance_uid)
        if operating_point is not None:
            stored = at_operating_point(stored, operating_point, self._context.shelf.packages())
        wanted = [item for item in stored if not qualifier or item.finding.qualifier in qualifier]
        return answer(FindingList([finding_item(item) for item in wanted]))

    def get_finding(self, finding_id: FindingId) -> Response:
        """Get one finding.

        Whether its run is still current or not.
        """
        with self._records.reading() as connection:
            return answer(finding_item(study_view.finding(connection, finding_id)))

    def review_finding(self, finding_id: FindingId, body: ReviewBody, request: Request) -> Response:
        """Accept, reject or edit a finding.

        The newest verdict counts; earlier ones are kept. Who is signed in is the reviewer.
        """
        with self._records.reading() as connection:
            changes = _changes(connection, finding_id, body.changes)
        review = Review(
            finding_id=finding_id,
            verdict=body.verdict,
            comment=body.comment,
            reviewer=asker(request) or body.reviewer,
            changes=changes,
            reviewed_at=self._context.clock.now(),
        )
        with self._records.writing() as connection:
            reviews.write(connection, review)
        return self.get_finding(finding_id)

    def list_reviews(self, finding_id: FindingId) -> Response:
        """List every verdict on a finding.

        Oldest first; the last one counts.
        """
        with self._records.reading() as connection:
            study_view.finding(connection, finding_id)
            return answer(ReviewList(list(reviews.history(connection, finding_id))))


def router(context: Context) -> APIRouter:
    """Return the routes of findings and reviews."""
    routes, handlers = APIRouter(prefix=PREFIX, tags=["findings"]), FindingRoutes(context)
    one, missing = "/findings/{finding_id}", (404, 422)
    add(
        routes,
        "GET /studies/{study_instance_uid}/findings",
        handlers.list_findings,
        gives=FindingList,
        problems=missing,
    )
    add(routes, f"GET {one}", handlers.get_finding, gives=FindingItem, problems=missing)
    add(
        routes,
        f"PUT {one}/review",
        handlers.review_finding,
        gives=FindingItem,
        problems=(404, 413, 422),
    )
    add(routes, f"GET {one}/reviews", handlers.list_reviews, gives=ReviewList, problems=missing)
    return routes


def _changes(
    connection: Transaction, finding_id: str, asked: ReviewChanges | None
) -> dict[str, Any]:
    """Return what is kept of a reader's changes; a place on an image becomes one in the patient.

    Raises
    ------
    InvalidRequest
        ``PLACE`` when the image is none of the finding's series, or the point lies beside it.
    """
    if asked is None:
        return {}
    changes = asked.model_dump(exclude_none=True)
    if asked.place is None:
        return changes
    place = asked.place
    header = study_view.source_header(connection, finding_id, place.sop_instance_uid)
    if header is None or place.frame_number > header.number_of_frames:
        raise InvalidRequest("PLACE", "changes.place: no frame of the finding's series")
    if place.column > (header.columns or 0) or place.row > (header.rows or 0):
        raise InvalidRequest("PLACE", "changes.place: column or row lie outside of the frame")
    if asked.center_mm is None:
        plane = SourceFrame(header, place.frame_number).geometry
        center_mm = position_on(plane, place.column, place.row)
        changes |= {} if center_mm is None else {"center_mm": center_mm}
    return changes


def finding_item(item: StoredFinding) -> FindingItem:
    """Return a stored finding as JSON shows it."""
    finding = item.finding
    return FindingItem(
        id=finding.id,
        task=item.task,
        label=_required(finding.label),
        class_name=finding.class_name,
        site=_code(finding.site),
        laterality=_code(finding.laterality),
        probability=finding.probability,
        qualifier=finding.qualifier,
        operating_point=item.operating_point,
        malignancy_probability=finding.malignancy_probability,
        location=None if finding.location is None else _location(finding.location, item),
        measurements=[_measurement(one) for one in finding.measurements],
        tracking_uid=finding.tracking_uid,
        tracking_id=finding.tracking_id,
        model=ModelReference(item.model_name, item.model_version, item.model_sha256),
        job_id=item.job_id,
        prior=None if finding.prior is None else finding.prior.model_dump(),
        review=item.review,
    )


def _required(code: Code) -> CodeItem:
    return CodeItem(code.value, code.scheme, code.meaning)


def _code(code: Code | None) -> CodeItem | None:
    return None if code is None else _required(code)


def _measurement(one: Measurement) -> MeasurementItem:
    return MeasurementItem(one.name, one.value, one.unit, _code(one.code))


def _location(location: Location, item: StoredFinding) -> LocationItem:
    return LocationItem(
        center_mm=location.center_mm,
        sop_instance_uid=location.sop_instance_uid,
        frame_number=location.frame_number,
        series_instance_uid=item.series_instance_uid,
        regions=[
            RegionItem(
                role=region.role,
                shape=region.shape,
                sop_instance_uid=region.sop_instance_uid,
                frame_number=region.frame_number,
                points=region.points,
            )
            for region in location.regions
        ],
        segment=_segment(item.finding, item.segmentation_uid),
    )


def _segment(finding: Finding, segmentation_uid: str | None) -> SegmentItem | None:
    if segmentation_uid is None or finding.segment_number is None:
        return None
    return SegmentItem(segmentation_uid, finding.segment_number)
