"""The segments of a segmentation: which finding each one is, how it is named and coloured."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.core import codes
from service.core.errors import ContractViolation
from service.core.findings import Analysis, Finding, FindingMask
from service.core.headers import Triple
from workers.results.common import code_item
from workers.results.context import ResultContext
from workers.results.encode import Value, clip, encoded, item

# CIE L*a*b* of colours that stay apart on a grey image, for findings that name none.
_COLORS_LAB: Final[tuple[Triple, ...]] = (
    (52.3, 64.5, 41.8), (71.3, -57.7, 48.9), (55.6, 16.7, -64.6), (81.8, 2.9, 77.1),
    (54.6, 66.8, -52.2), (77.9, -40.3, -13.2), (69.9, 37.2, 61.1), (65.9, 0.0, 0.0),
)  # fmt: skip


@dataclass(frozen=True)
class Segment:
    """A finding that was drawn, and where."""

    finding: Finding
    mask: FindingMask
    number: int

    @property
    def frame_indices(self) -> list[int]:
        """Indices of the source frames that hold any of its voxels, ascending."""
        drawn = np.flatnonzero(self.mask.voxels.any(axis=(1, 2)))
        return [int(index) + self.mask.offset[0] for index in drawn]

    def draw(self, index: int, into: NDArray[np.bool_]) -> None:
        """Set this segment's voxels of source frame `index` in an image (rows, columns)."""
        first, row, column = self.mask.offset
        if not first <= index < first + len(self.mask.voxels):
            return
        voxels = self.mask.voxels[index - first]
        into[row : row + voxels.shape[0], column : column + voxels.shape[1]] = voxels


def segments_of(analysis: Analysis) -> tuple[Segment, ...]:
    """Return the findings that have a segment, in the order of their numbers.

    Raises
    ------
    ContractViolation
        ``SEGMENT_NUMBERS`` unless the numbers are 1, 2, 3, ... and each has a mask,
        ``EMPTY_SEGMENT`` when a mask holds no voxel.
    """
    found = [
        Segment(finding, analysis.masks[finding.id], finding.segment_number)
        for finding in analysis.findings
        if finding.segment_number is not None and finding.id in analysis.masks
    ]
    found.sort(key=lambda segment: segment.number)
    claimed = [f for f in analysis.findings if f.segment_number is not None]
    if [segment.number for segment in found] != list(range(1, len(claimed) + 1)):
        raise ContractViolation("SEGMENT_NUMBERS", "segments must be numbered from 1, each drawn")
    for segment in found:
        if not segment.mask.voxels.any():
            raise ContractViolation("EMPTY_SEGMENT", f"segment {segment.number} has no voxel")
    return tuple(found)


def segment_item(context: ResultContext, segment: Segment) -> bytes:
    """Return what a segment is and who drew it (PS3.3 C.8.20.4)."""
    finding, model = segment.finding, context.model
    organ = finding.label == finding.site
    category = codes.ANATOMICAL_STRUCTURE if organ else codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE
    elements: dict[str, Value] = {
        "SegmentNumber": segment.number,
        "SegmentLabel": clip(f"{finding.label.meaning} {segment.number}"),
        "SegmentDescription": f"Certainty {100 * finding.probability:.0f} %",
        "SegmentAlgorithmType": "AUTOMATIC",
        "SegmentAlgorithmName": clip(model.name),
        "SegmentationAlgorithmIdentificationSequence": [_algorithm(context)],
        "SegmentedPropertyCategoryCodeSequence": [code_item(category)],
        "SegmentedPropertyTypeCodeSequence": [code_item(finding.label)],
        "TrackingID": finding.tracking_id,
        "TrackingUID": finding.tracking_uid,
        "RecommendedDisplayCIELabValue": color_of(segment.finding, segment.number),
    }
    if finding.site and not organ:
        elements["AnatomicRegionSequence"] = [_region(finding)]
    return encoded(elements)


def background_item() -> bytes:
    """Return what a label map's number 0 stands for."""
    return item(
        SegmentNumber=0,
        SegmentLabel="Background",
        SegmentAlgorithmType="AUTOMATIC",
        SegmentAlgorithmName="none",
        SegmentedPropertyCategoryCodeSequence=[code_item(codes.BACKGROUND)],
        SegmentedPropertyTypeCodeSequence=[code_item(codes.BACKGROUND)],
    )


def _algorithm(context: ResultContext) -> bytes:
    """Return the Algorithm Identification Macro (PS3.3 table 10-19)."""
    model = context.model
    parameters = {"sha256": model.sha256, **model.parameters}
    return item(
        AlgorithmFamilyCodeSequence=[code_item(codes.ARTIFICIAL_INTELLIGENCE)],
        AlgorithmName=clip(model.name),
        AlgorithmVersion=clip(model.version),
        AlgorithmParameters=" ".join(f"{name}={value}" for name, value in parameters.items()),
        AlgorithmSource=clip(model.manufacturer),
    )


def _region(finding: Finding) -> bytes:
    assert finding.site
    site = finding.site
    elements: dict[str, Value] = {
        "CodeValue": site.value,
        "CodingSchemeDesignator": site.scheme,
        "CodeMeaning": site.meaning,
    }
    if finding.laterality:
        elements["AnatomicRegionModifierSequence"] = [code_item(finding.laterality)]
    return encoded(elements)


def color_of(finding: Finding, number: int) -> tuple[int, int, int]:
    """Return L*, a*, b* scaled to 16 bits (PS3.3 C.10.7.1.1); ``number`` counts from 1."""
    lightness, a, b = finding.color_lab or _COLORS_LAB[(number - 1) % len(_COLORS_LAB)]
    scaled = (lightness / 100, (a + 128) / 255, (b + 128) / 255)
    first, second, third = (round(65535 * min(max(value, 0.0), 1.0)) for value in scaled)
    return first, second, third


def overlap(segments: Sequence[Segment]) -> bool:
    """Return whether any voxel belongs to two segments."""
    for one, other in combinations(segments, 2):
        low = np.maximum(one.mask.offset, other.mask.offset)
        high = np.minimum(
            np.add(one.mask.offset, one.mask.voxels.shape),
            np.add(other.mask.offset, other.mask.voxels.shape),
        )
        if np.all(low < high) and np.any(_block(one, low, high) & _block(other, low, high)):
            return True
    return False


def _block(segment: Segment, low: NDArray[np.int_], high: NDArray[np.int_]) -> NDArray[np.bool_]:
    start, stop = low - segment.mask.offset, high - segment.mask.offset
    block: NDArray[np.bool_] = segment.mask.voxels[
        start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]
    ]
    return block
