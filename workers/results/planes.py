"""The planes of a segmentation: functional groups that repeat the source's geometry exactly.

Numbers are written so that they read back as the very numbers of the source frame; nothing is
computed that the source says itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from service.core import codes
from service.core.headers import FrameHeader, SourceFrame
from workers.results.common import code_item
from workers.results.encode import Value, item

_IN_PLACE: Final = (0.0, 0.0, 0.0)
_UPRIGHT: Final = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
# Gaps that differ by less than this, relative to their median, are one spacing.
_REGULAR: Final = 0.01


@dataclass(frozen=True)
class Plane:
    """What positions one source frame in the frame of reference."""

    position_mm: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    row_spacing_mm: float
    column_spacing_mm: float
    thickness_mm: float | None


def source_planes(
    frames: Sequence[SourceFrame], *, made_up: bool = False
) -> tuple[Plane, ...] | None:
    """Return the plane of every source frame, or None when the source lies in no known space.

    With `made_up`, an image of known pixel spacing without a frame of reference (a radiograph)
    gets a plane of its own, since some viewers draw a segmentation only where it has one.
    """
    planes = tuple(_plane(frame.geometry) for frame in frames)
    placed = all(frame.instance.frame_of_reference_uid for frame in frames)
    if placed and None not in planes:
        return tuple(plane for plane in planes if plane)
    if made_up and len(frames) == 1:
        plane = _made_up(frames[0])
        return (plane,) if plane else None
    return None


class PlaneGroups:
    """The functional groups that position the frames of one segmentation (PS3.3 A.51.5)."""

    def __init__(self, planes: Sequence[Plane]) -> None:
        self._planes = planes
        self._one_orientation = _all_equal([plane.orientation for plane in planes])
        self._one_grid = _all_equal(
            [(p.row_spacing_mm, p.column_spacing_mm, p.thickness_mm) for p in planes]
        )
        self._spacing_mm = slice_spacing_mm(planes)

    def shared(self) -> bytes:
        """Return what holds for every frame."""
        groups: dict[str, Value] = {}
        if self._one_orientation:
            groups["PlaneOrientationSequence"] = [_orientation(self._planes[0])]
        if self._one_grid:
            groups["PixelMeasuresSequence"] = [_measures(self._planes[0], self._spacing_mm)]
        return item(**groups)

    def of_frame(self, index: int) -> dict[str, Value]:
        """Return what holds for one source frame alone, by keyword."""
        plane = self._planes[index]
        groups: dict[str, Value] = {
            "PlanePositionSequence": [item(ImagePositionPatient=plane.position_mm)]
        }
        if not self._one_orientation:
            groups["PlaneOrientationSequence"] = [_orientation(plane)]
        if not self._one_grid:
            groups["PixelMeasuresSequence"] = [_measures(plane, self._spacing_mm)]
        return groups

    def ranks(self, indices: Sequence[int]) -> dict[int, int]:
        """Return the rank along the normal of each of these source frames, 1 for the lowest.

        Frames in one place share a rank.
        """
        distances = np.round(_distances_mm([self._planes[index] for index in indices]), 4)
        _, ranks = np.unique(distances, return_inverse=True)
        return {index: int(rank) + 1 for index, rank in zip(indices, ranks, strict=True)}


def flat_measures(frames: Sequence[SourceFrame]) -> bytes:
    """Return the shared groups of an image that lies in no space: the size of its pixels.

    OHIF 3.12 fails as a whole when it opens a segmentation without Pixel Measures.
    """
    grids = [grid_mm(frame) for frame in frames]
    if grids[0] is None or not _all_equal(grids):
        return b""
    return item(PixelMeasuresSequence=[item(PixelSpacing=grids[0])])


def derivation(frame: SourceFrame) -> bytes:
    """Return the item that names the frame which a segment was drawn on (PS3.3 C.7.6.16.2.6)."""
    source: dict[str, Value] = {
        "ReferencedSOPClassUID": frame.instance.sop_class_uid,
        "ReferencedSOPInstanceUID": frame.instance.sop_instance_uid,
        "SpatialLocationsPreserved": "YES",
        "PurposeOfReferenceCodeSequence": [code_item(codes.SOURCE_IMAGE_FOR_PROCESSING)],
    }
    if frame.instance.number_of_frames > 1:
        source["ReferencedFrameNumber"] = frame.frame_number
    return item(
        SourceImageSequence=[item(**source)],
        DerivationCodeSequence=[code_item(codes.SEGMENTATION)],
    )


def slice_spacing_mm(planes: Sequence[Plane]) -> float | None:
    """Return the distance between neighbouring planes when it is one and the same."""
    gaps = np.diff(np.sort(_distances_mm(planes)))
    if not len(gaps):
        return None
    median = float(np.median(gaps))
    regular = median > 0 and bool(np.all(np.abs(gaps - median) < _REGULAR * median))
    return round(median, 6) if regular else None


def _plane(geometry: FrameHeader) -> Plane | None:
    if (
        geometry.image_position_mm is None
        or geometry.image_orientation is None
        or geometry.row_spacing_mm is None
        or geometry.column_spacing_mm is None
    ):
        return None
    return Plane(
        geometry.image_position_mm,
        geometry.image_orientation,
        geometry.row_spacing_mm,
        geometry.column_spacing_mm,
        geometry.slice_thickness_mm,
    )


def _made_up(frame: SourceFrame) -> Plane | None:
    grid = grid_mm(frame)
    return Plane(_IN_PLACE, _UPRIGHT, *grid, 1.0) if grid else None


def grid_mm(frame: SourceFrame) -> tuple[float, float] | None:
    """Return row and column spacing in the patient, or on the detector where that is all."""
    geometry, instance = frame.geometry, frame.instance
    row = geometry.row_spacing_mm or instance.imager_row_spacing_mm
    column = geometry.column_spacing_mm or instance.imager_column_spacing_mm
    return (row, column) if row is not None and column is not None else None


def _all_equal(values: Sequence[object]) -> bool:
    return all(value == values[0] for value in values)


def _orientation(plane: Plane) -> bytes:
    return item(ImageOrientationPatient=plane.orientation)


def _measures(plane: Plane, spacing_mm: float | None) -> bytes:
    measures: dict[str, Value] = {"PixelSpacing": (plane.row_spacing_mm, plane.column_spacing_mm)}
    thickness = plane.thickness_mm or spacing_mm
    if thickness:
        measures["SliceThickness"] = thickness
    if spacing_mm:
        measures["SpacingBetweenSlices"] = spacing_mm
    return item(**measures)


def _distances_mm(planes: Sequence[Plane]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    orientation = np.array(planes[0].orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    distances: np.ndarray[tuple[int], np.dtype[np.float64]] = (
        np.array([plane.position_mm for plane in planes]) @ normal
    )
    return distances
