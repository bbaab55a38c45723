"""The gate for contours and maps: where they lie, and that they hold what was found."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from service.core.errors import InvalidResult
from service.core.findings import Analysis
from service.core.headers import SourceFrame
from workers.results.parametric_map import mapped_findings, scaled
from workers.results.planes import Plane, source_planes
from workers.results.rings import area
from workers.results.segments import Segment, segments_of
from workers.results.structure_set import POINTS_AT_MOST
from workers.results.validate_seg import check_pixel_bytes

_OFF_PLANE_MM: Final = 0.01
_ROUNDING_PIXELS: Final = 0.05


def check_contours(dataset: Dataset, analysis: Analysis, frames: Sequence[SourceFrame]) -> None:
    """Refuse contours that leave their plane or image, or enclose other voxels than were found."""
    planes = source_planes(frames)
    segments = {segment.number: segment for segment in segments_of(analysis)}
    if planes is None or {roi.ROINumber for roi in dataset.StructureSetROISequence} != set(
        segments
    ):
        raise InvalidResult("TRACKING_DIFFERS", "the regions are not the segments of this job")
    index_of = {(f.instance.sop_instance_uid, f.frame_number): i for i, f in enumerate(frames)}
    for region in dataset.ROIContourSequence:
        found: dict[int, float] = {}
        whole = True
        for index, corners in _rings(region, index_of, planes):
            _check_on_image(corners, frames[index])
            found[index] = found.get(index, 0.0) + area(corners)
            whole &= len(corners) < POINTS_AT_MOST // 2
        if whole:  # of longer outlines some corners may be missing
            _check_areas(found, segments[int(region.ReferencedROINumber)])


def _rings(
    region: Any, index_of: dict[tuple[str, int], int], planes: Sequence[Plane]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield the source frame and the corners, in its pixels, of each contour."""
    for contour in region.ContourSequence:
        image = contour.ContourImageSequence[0]
        place = (str(image.ReferencedSOPInstanceUID), int(image.get("ReferencedFrameNumber", 1)))
        if place not in index_of:
            raise InvalidResult("EVIDENCE_INCOMPLETE", "a contour is on no frame of this job")
        plane = planes[index_of[place]]
        points = np.array(contour.ContourData, np.float64).reshape(-1, 3)
        if len(points) != contour.NumberOfContourPoints:
            raise InvalidResult("INVALID_VALUE", "a contour has another number of points")
        offsets = points - np.array(plane.position_mm)
        row, column = np.array(plane.orientation[:3]), np.array(plane.orientation[3:])
        if np.any(np.abs(offsets @ np.cross(row, column)) > _OFF_PLANE_MM):
            raise InvalidResult("GEOMETRY_DIFFERS", "a contour leaves the plane of its image")
        x = offsets @ row / plane.column_spacing_mm + 0.5
        y = offsets @ column / plane.row_spacing_mm + 0.5
        yield index_of[place], np.stack([x, y], axis=1)


def _check_on_image(corners: NDArray[np.float64], frame: SourceFrame) -> None:
    far_corner = (frame.instance.columns or 0, frame.instance.rows or 0)
    if np.any(np.maximum(-corners, corners - far_corner) > _ROUNDING_PIXELS):
        raise InvalidResult("REGION_OUTSIDE", "a contour leaves its image")


def _check_areas(found: dict[int, float], segment: Segment) -> None:
    """Each plane's contours enclose as many pixels as the mask has there, but for rounding."""
    first = segment.mask.offset[0]
    expected = {
        index: int(segment.mask.voxels[index - first].sum()) for index in segment.frame_indices
    }
    rounding = {index: 0.5 + 0.01 * pixels for index, pixels in expected.items()}
    if set(found) != set(expected) or any(
        abs(found[index] - pixels) > rounding[index] for index, pixels in expected.items()
    ):
        raise InvalidResult("VOXELS_DIFFER", f"contours of {segment.number} enclose other voxels")


def check_maps(dataset: Dataset, analysis: Analysis, frames: Sequence[SourceFrame]) -> None:
    """Refuse maps of other frames or values than the analysis has."""
    mapped = mapped_findings(analysis, frames)
    if int(dataset.NumberOfFrames) != len(mapped):
        raise InvalidResult("PIXELS_INCOMPLETE", "maps are missing")
    check_pixel_bytes(dataset, 2 * len(mapped) * dataset.Rows * dataset.Columns)
    written = np.frombuffer(dataset.PixelData, "<u2").reshape(
        len(mapped), dataset.Rows, dataset.Columns
    )
    groups = dataset.PerFrameFunctionalGroupsSequence
    for (finding, index), pixels, group in zip(mapped, written, groups, strict=True):
        image = group.DerivationImageSequence[0].SourceImageSequence[0]
        if image.ReferencedSOPInstanceUID != frames[index].instance.sop_instance_uid:
            raise InvalidResult("GEOMETRY_DIFFERS", "a map is on another image")
        if not np.array_equal(pixels, scaled(analysis.maps[finding.id], frames[index])):
            raise InvalidResult("VOXELS_DIFFER", f"the map of {finding.id} is another")
