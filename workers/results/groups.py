"""Measurement groups: what the report says of one finding (PS3.16 TID 1410, 1411, 1501).

A finding gets two groups of one tracking UID. The first holds its geometry, and only the numbers
that belong to it; the second its values and the reference to its segment. Both are plain TID 1500
content; OHIF turns a pair in this order into a measurement with all its values, and neither a
single group nor the reverse order. One finding without coordinates makes OHIF 3.12 drop the whole
report, so that what is absent, or nowhere in particular, is not measured but evaluated (row 13).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from service.core import codes
from service.core.errors import ContractViolation
from service.core.findings import (
    Code,
    Finding,
    FindingMask,
    Measurement,
    PlanarRegion,
    Qualifier,
    RegionRole,
    RegionShape,
)
from service.core.headers import SourceFrame
from service.core.priors import change_in_words
from workers.results import content
from workers.results.content import Relation
from workers.results.context import ResultContext, WrittenResult
from workers.results.longitudinal import change_of, time_point
from workers.results.numbers import axis_of, notes_on, number_of, percent, unit_of

# OHIF 3.12 and 3.13 draw axes only under this tracking identifier.
_OHIF_AXES: Final = "Cornerstone3DTools@^0.1.0:Bidirectional:"
_AXIS_CODES: Final = {
    RegionRole.LONG_AXIS: codes.LONG_AXIS,
    RegionRole.SHORT_AXIS: codes.SHORT_AXIS,
}


def is_placed(finding: Finding) -> bool:
    """Return whether a finding is there, and somewhere: what is measured, not only evaluated."""
    return finding.location is not None and finding.qualifier is not Qualifier.ABSENT


def evaluation(finding: Finding, *, remark: str = "") -> bytes:
    """Return whether a finding is there, and how sure that is, as one coded statement.

    `remark` is what a reader said of it.
    """
    properties = [
        percent(codes.CERTAINTY_OF_FINDING, finding.probability, Relation.HAS_PROPERTIES),
        content.text(Relation.HAS_PROPERTIES, codes.TRACKING_IDENTIFIER, finding.tracking_id),
        content.uid(
            Relation.HAS_PROPERTIES, codes.TRACKING_UNIQUE_IDENTIFIER, finding.tracking_uid
        ),
    ]
    if finding.prior:
        told = f"{finding.tracking_id} {change_in_words(finding.prior)}"
        properties.append(content.text(Relation.HAS_PROPERTIES, codes.COMMENT, told))
    if remark:
        properties.append(content.text(Relation.HAS_PROPERTIES, codes.COMMENT, remark))
    presence = codes.PRESENCE[finding.qualifier]
    return content.code(Relation.CONTAINS, finding.label, presence, properties)


def shown_frames(findings: Iterable[Finding], frames: Sequence[SourceFrame]) -> list[SourceFrame]:
    """Return the frames that show a finding, each once, in the order of `frames`."""
    shown = {
        (finding.location.sop_instance_uid, finding.location.frame_number)
        for finding in findings
        if finding.location and is_placed(finding)
    }
    return [f for f in frames if (f.instance.sop_instance_uid, f.frame_number) in shown]


class FindingGroups:
    """Makes the measurement groups of one report."""

    def __init__(
        self,
        context: ResultContext,
        frames: Sequence[SourceFrame],
        masks: Mapping[str, FindingMask],
        segmentation: WrittenResult | None,
    ) -> None:
        self._frames = frames
        self._frame_at = {(f.instance.sop_instance_uid, f.frame_number): f for f in frames}
        self._masks = masks
        self._segmentation = segmentation
        self._algorithm = algorithm_identification(context)
        self._remarks = context.review.remarks if context.review else {}

    def of(self, finding: Finding) -> list[bytes]:
        """Return the groups of one finding, geometry first; none where it has no place."""
        if not is_placed(finding):
            return []
        axes = self._axes(finding)
        geometry = axes or self._region(finding)
        # An axis length stands with its line when there is one, else among the values.
        values = [m for m in finding.measurements if not (axes and axis_of(m))]
        return [geometry, self._values(finding, values, bool(axes))]

    def _axes(self, finding: Finding) -> bytes | None:
        """Return the two axes, each length inferred from its line (TID 1501)."""
        regions = {region.role: region for region in _regions(finding)}
        items = [
            content.number(
                _AXIS_CODES[axis],
                measurement.value,
                unit_of(measurement),
                children=[self._coordinates(Relation.INFERRED_FROM, codes.SOURCE, regions[axis])],
            )
            for measurement in finding.measurements
            if (axis := axis_of(measurement)) in regions
        ]
        if len(items) != len(_AXIS_CODES):
            return None
        head = self._head(finding, _OHIF_AXES + finding.tracking_id)
        return content.container(codes.MEASUREMENT_GROUP, head + items, template="1501")

    def _region(self, finding: Finding) -> bytes:
        """Return the place as a box or point, without numbers, with words (TID 1410)."""
        by_role = {region.role: region for region in _regions(finding)}
        roles = (RegionRole.BOX, RegionRole.OUTLINE, RegionRole.CENTER)
        known = next((by_role[role] for role in roles if role in by_role), None)
        region = _boxed(known) if known else self._extent(finding)
        words = f"AI {finding.label.meaning} {100 * finding.probability:.0f}%"
        items = [
            self._coordinates(Relation.CONTAINS, codes.IMAGE_REGION, region),
            content.text(Relation.CONTAINS, codes.COMMENT, words),
        ]
        head = self._head(finding, finding.tracking_id)
        return content.container(codes.MEASUREMENT_GROUP, head + items, template="1410")

    def _extent(self, finding: Finding) -> PlanarRegion:
        """Return the box round a finding's mask, or the whole image it was read from."""
        place = finding.location
        assert place
        frame = self._frame(place.sop_instance_uid, place.frame_number)
        mask = self._masks.get(finding.id)
        left, top, right, bottom = 0, 0, frame.instance.columns or 0, frame.instance.rows or 0
        if mask is not None:
            (_, top, left), (_, height, width) = mask.offset, mask.voxels.shape
            right, bottom = left + width, top + height
        return _boxed(
            PlanarRegion(
                role=RegionRole.BOX,
                shape=RegionShape.POLYLINE,
                sop_instance_uid=place.sop_instance_uid,
                frame_number=place.frame_number,
                points=((left, top), (right, bottom)),
            )
        )

    def _values(self, finding: Finding, measurements: list[Measurement], axes: bool) -> bytes:
        """Return numbers and judgement, tied to the segment or the image (TID 1411, 1501)."""
        items = [number for m in measurements if (number := number_of(m)) is not None]
        items.append(percent(codes.CERTAINTY_OF_FINDING, finding.probability))
        if finding.malignancy_probability is not None:
            items.append(percent(codes.PROBABILITY_OF_CANCER, finding.malignancy_probability))
        presence = codes.PRESENCE[finding.qualifier]
        items.append(content.code(Relation.CONTAINS, codes.PRESENCE_OF_PROPERTY, presence))
        items += change_of(finding)
        segment = self._segment(finding)
        template = "1411" if segment else "1501"
        head = self._head(finding, (_OHIF_AXES if axes else "") + finding.tracking_id)
        head += time_point(finding)
        tail = segment or self._source(finding)
        notes = notes_on(finding)
        if finding.id in self._remarks:
            remark = self._remarks[finding.id]
            notes = [*notes, content.text(Relation.CONTAINS, codes.COMMENT, remark)]
        return content.container(
            codes.MEASUREMENT_GROUP, head + items + tail + notes, template=template
        )

    def _head(self, finding: Finding, tracking_id: str) -> list[bytes]:
        """Return identification, finding, site and algorithm, as every group opens."""
        context = Relation.HAS_OBS_CONTEXT
        head = [
            content.text(context, codes.TRACKING_IDENTIFIER, tracking_id),
            content.uid(context, codes.TRACKING_UNIQUE_IDENTIFIER, finding.tracking_uid),
            content.code(Relation.CONTAINS, codes.FINDING, finding.label),
        ]
        if finding.site:
            side = (
                [content.code(Relation.HAS_CONCEPT_MOD, codes.LATERALITY, finding.laterality)]
                if finding.laterality
                else []
            )
            site = content.code(Relation.HAS_CONCEPT_MOD, codes.FINDING_SITE, finding.site, side)
            head.append(site)
        return head + self._algorithm

    def _segment(self, finding: Finding) -> list[bytes]:
        """Return the segment and the frames it was drawn on."""
        if finding.segment_number is None:
            return []
        if self._segmentation is None:
            raise ContractViolation(
                "SEGMENT_WITHOUT_SEG", f"finding {finding.id} names a segment of no SEG"
            )
        reference = content.image(
            Relation.CONTAINS,
            codes.REFERENCED_SEGMENT,
            self._segmentation.reference,
            segment_number=finding.segment_number,
        )
        mask = self._masks[finding.id]
        drawn = np.flatnonzero(mask.voxels.any(axis=(1, 2))) + mask.offset[0]
        sources = [self._frames[int(index)] for index in drawn]
        return [
            reference,
            *(
                content.source_image(Relation.CONTAINS, codes.SOURCE_IMAGE_FOR_SEGMENTATION, frame)
                for frame in sources
            ),
        ]

    def _source(self, finding: Finding) -> list[bytes]:
        """Return the image that a finding without a segment was read from."""
        assert finding.location
        frame = self._frame(finding.location.sop_instance_uid, finding.location.frame_number)
        return [content.source_image(Relation.CONTAINS, codes.SOURCE_OF_MEASUREMENT, frame)]

    def _coordinates(self, relation: Relation, name: Code, region: PlanarRegion) -> bytes:
        return content.coordinates(
            relation,
            name,
            region.shape,
            points=region.points,
            frame=self._frame(region.sop_instance_uid, region.frame_number),
        )

    def _frame(self, sop_instance_uid: str, frame_number: int) -> SourceFrame:
        try:
            return self._frame_at[sop_instance_uid, frame_number]
        except KeyError:
            raise ContractViolation(
                "REGION_OFF_SOURCE", f"{sop_instance_uid} frame {frame_number} was not analysed"
            ) from None


def algorithm_identification(context: ResultContext) -> list[bytes]:
    """Return the identification of the algorithm, its digest as a parameter (TID 4019)."""
    model, relation = context.model, Relation.HAS_CONCEPT_MOD
    parameters = {"sha256": model.sha256, **model.parameters}
    return [
        content.text(relation, codes.ALGORITHM_NAME, model.name),
        content.text(relation, codes.ALGORITHM_VERSION, model.version),
        *(
            content.text(relation, codes.ALGORITHM_PARAMETERS, f"{name}={value}")
            for name, value in parameters.items()
        ),
        content.text(relation, codes.ALGORITHM_MANUFACTURER, model.manufacturer),
        content.code(relation, codes.ALGORITHM_FAMILY, codes.ARTIFICIAL_INTELLIGENCE),
    ]


def _regions(finding: Finding) -> tuple[PlanarRegion, ...]:
    return finding.location.regions if finding.location else ()


def _boxed(region: PlanarRegion) -> PlanarRegion:
    """Return the closed box round a region's points; a single point stays as it is."""
    if region.shape is RegionShape.POINT:
        return region
    left, right = (extreme(x for x, _ in region.points) for extreme in (min, max))
    top, bottom = (extreme(y for _, y in region.points) for extreme in (min, max))
    corners = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
    return region.model_copy(update={"points": corners})
