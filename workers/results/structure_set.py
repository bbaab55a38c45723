"""The regions as contours: one RT Structure Set (PS3.3 A.19.3), for planning and contour viewers.

A contour runs along the edges of a mask's pixels, at the depth of its plane, so that it encloses
exactly the voxels. A hole is reached through a cut without width, as such systems expect.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.core.findings import Analysis
from service.core.headers import SourceFrame
from workers.results.common import (
    analysed_instances,
    check_source,
    code_item,
    common_elements,
    reference_of,
    written,
)
from workers.results.context import ResultContext, ResultRole, WrittenResult
from workers.results.contours import loops_of
from workers.results.encode import Value, clip, encoded, item, part10
from workers.results.planes import Plane, source_planes
from workers.results.rings import joined
from workers.results.segments import Segment, color_of, segments_of
from workers.results.source import SourceStudy

STRUCTURE_SET_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.481.3"
_STUDY: Final = "1.2.840.10008.3.1.2.3.1"  # retired, and still what this element asks for
# An element of an explicit VR holds 65534 bytes, a point in micrometres up to 30.
POINTS_AT_MOST: Final = 2000
_DECIMALS: Final = 3


def write_structure_set(
    context: ResultContext,
    source: SourceStudy,
    analysis: Analysis,
    *,
    frames: Sequence[SourceFrame],
) -> WrittenResult | None:
    """Return the contours of an analysis; None where nothing is drawn, or in no known space."""
    segments = segments_of(analysis)
    planes = source_planes(frames)
    if not segments or planes is None:
        return None
    check_source(source, analysed_instances(frames))
    identity = written(context, source, ResultRole.STRUCTURE_SET, STRUCTURE_SET_STORAGE)
    common = common_elements(context, source, identity)
    space = frames[0].instance.frame_of_reference_uid
    elements: dict[str, Value] = {
        "StructureSetDate": common.pop("ContentDate"),
        "StructureSetTime": common.pop("ContentTime"),
        **common,
        "OperatorsName": None,
        "FrameOfReferenceUID": space,
        "PositionReferenceIndicator": source.position_reference_indicator or None,
        "StructureSetLabel": "AI",
        "StructureSetName": clip(f"AI {context.model.title}"),
        "StructureSetDescription": context.standing,
        "ReferencedFrameOfReferenceSequence": [_referenced(source, frames)],
        "StructureSetROISequence": [_region(context, segment, space) for segment in segments],
        "ROIContourSequence": [_contours(segment, frames, planes) for segment in segments],
        "RTROIObservationsSequence": [_observation(segment) for segment in segments],
        "ApprovalStatus": "UNAPPROVED",
    }
    return replace(identity, content=part10(elements))


def _referenced(source: SourceStudy, frames: Sequence[SourceFrame]) -> bytes:
    """Return the space and all images that contours may lie on (PS3.3 C.8.8.5)."""
    series: dict[str, list[bytes]] = {}
    for frame in frames:
        series.setdefault(frame.instance.series_instance_uid, []).append(_image(frame))
    study = item(
        ReferencedSOPClassUID=_STUDY,
        ReferencedSOPInstanceUID=source.study_instance_uid,
        RTReferencedSeriesSequence=[
            item(SeriesInstanceUID=uid, ContourImageSequence=images)
            for uid, images in series.items()
        ],
    )
    return item(
        FrameOfReferenceUID=frames[0].instance.frame_of_reference_uid,
        RTReferencedStudySequence=[study],
    )


def _image(frame: SourceFrame) -> bytes:
    reference = reference_of(frame.instance)
    elements: dict[str, Value] = {
        "ReferencedSOPClassUID": reference.sop_class_uid,
        "ReferencedSOPInstanceUID": reference.sop_instance_uid,
    }
    if frame.instance.number_of_frames > 1:
        elements["ReferencedFrameNumber"] = frame.frame_number
    return encoded(elements)


def _region(context: ResultContext, segment: Segment, space: str | None) -> bytes:
    finding, model = segment.finding, context.model
    return item(
        ROINumber=segment.number,
        ReferencedFrameOfReferenceUID=space,
        ROIName=clip(f"AI {finding.label.meaning} {segment.number}"),
        ROIDescription=f"{finding.tracking_id}, certainty {100 * finding.probability:.0f} %",
        ROIGenerationAlgorithm="AUTOMATIC",
        ROIGenerationDescription=clip(f"{model.name} {model.version} sha256={model.sha256[:16]}"),
    )


def _contours(segment: Segment, frames: Sequence[SourceFrame], planes: Sequence[Plane]) -> bytes:
    """Return the contours of one region, plane by plane (PS3.3 C.8.8.6)."""
    first, row, column = segment.mask.offset
    contours: list[bytes] = []
    for index in segment.frame_indices:
        for ring in joined(loops_of(segment.mask.voxels[index - first])):
            corners = ring + np.array([column, row])
            contours.append(_contour(corners, frames[index], planes[index], len(contours) + 1))
    red, green, blue = _rgb(color_of(segment.finding, segment.number))
    return item(
        ROIDisplayColor=(red, green, blue),
        ReferencedROINumber=segment.number,
        ContourSequence=contours,
    )


def _contour(corners: NDArray[np.float64], frame: SourceFrame, plane: Plane, number: int) -> bytes:
    every = -(-len(corners) // POINTS_AT_MOST)  # of a very long outline some corners are left out
    points = in_patient_mm(corners[::every], plane)
    return item(
        ContourImageSequence=[_image(frame)],
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points),
        ContourNumber=number,
        ContourData=[round(float(value), _DECIMALS) for value in points.reshape(-1)],
    )


def in_patient_mm(corners: NDArray[np.float64], plane: Plane) -> NDArray[np.float64]:
    """Return corners (column, row) of pixels as points in the patient, shape (points, 3).

    Image Position (Patient) is the centre of the first pixel, half a pixel from its corner.
    """
    along_row = np.array(plane.orientation[:3]) * plane.column_spacing_mm
    along_column = np.array(plane.orientation[3:]) * plane.row_spacing_mm
    steps = corners - 0.5
    return np.asarray(
        np.array(plane.position_mm) + steps[:, :1] * along_row + steps[:, 1:] * along_column
    )


def _observation(segment: Segment) -> bytes:
    return item(
        ObservationNumber=segment.number,
        ReferencedROINumber=segment.number,
        ROIObservationLabel=clip(segment.finding.label.meaning, 16),
        RTROIInterpretedType=None,
        ROIInterpreter=None,
        RTROIIdentificationCodeSequence=[code_item(segment.finding.label)],
    )


def _rgb(lab: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return 8 bits of sRGB for a colour in scaled CIE L*a*b* (D50)."""
    lightness, a, b = lab[0] / 655.35, lab[1] / 257 - 128, lab[2] / 257 - 128
    y = (lightness + 16) / 116
    ratios = np.array([y + a / 500, y, y - b / 200])
    xyz = np.where(ratios > 6 / 29, ratios**3, 3 * (6 / 29) ** 2 * (ratios - 4 / 29))
    linear = _XYZ_D50_TO_RGB @ (xyz * _WHITE_D50)
    clipped = np.clip(linear, 0, 1)
    curve = np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)
    red, green, blue = (round(255 * float(value)) for value in curve)
    return red, green, blue


_WHITE_D50: Final = np.array([0.9642, 1.0, 0.8249])
# Adapted to D65 after Bradford, as ICC profiles of sRGB are.
_XYZ_D50_TO_RGB: Final = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)
