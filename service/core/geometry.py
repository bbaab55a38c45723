"""Where the planes of a series lie in the patient, and whether they make one regular stack.

Everything is in patient coordinates (LPS) and millimetres. An affine maps the homogeneous index
(column, row, slice, 1) of a voxel's centre to the patient. Nothing here touches pixels or files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.core.errors import UnsuitableSeries
from service.core.headers import FrameHeader, Triple

Floats = NDArray[np.float64]

# Decimal strings of 16 characters leave cosines exact to about 1e-6; headers written with four
# digits are common and must still count as unit vectors at right angles.
_COSINE_TOLERANCE = 1e-3
# Below this offset the shift of a plane against its neighbours is lost in the linear
# interpolation that every reader of the volume does anyway.
_IN_PLANE_TOLERANCE_PIXELS = 0.25


@dataclass(frozen=True)
class Stack:
    """Parallel image planes of one pixel size, in order along their normal.

    ``origins_mm`` holds the centre of the top left pixel of each plane, shape (planes, 3).
    ``row_direction`` is the unit vector along a row (the way the column index grows),
    ``column_direction`` the one down a column.
    """

    origins_mm: Floats
    row_direction: Floats
    column_direction: Floats
    row_spacing_mm: float
    column_spacing_mm: float

    @property
    def normal(self) -> Floats:
        """Unit normal of the planes: row direction crossed with column direction."""
        return np.cross(self.row_direction, self.column_direction)

    @property
    def distances_mm(self) -> Floats:
        """Distance of each plane from the first along the normal, growing, shape (planes,)."""
        distances: Floats = (self.origins_mm - self.origins_mm[0]) @ self.normal
        return distances

    @property
    def offsets_pixels(self) -> Floats:
        """Shift of each plane against the first within the plane: (rows, columns), fractions."""
        shifts = self.origins_mm - self.origins_mm[0]
        return np.stack(
            [
                shifts @ self.column_direction / self.row_spacing_mm,
                shifts @ self.row_direction / self.column_spacing_mm,
            ],
            axis=1,
        )

    @property
    def is_perpendicular(self) -> bool:
        """Whether the planes lie straight above each other, to a quarter of a pixel."""
        return bool(np.abs(self.offsets_pixels).max() <= _IN_PLANE_TOLERANCE_PIXELS)

    @property
    def tilt_degrees(self) -> float:
        """Angle between the way from first to last plane and the normal: the gantry tilt."""
        way = self.origins_mm[-1] - self.origins_mm[0]
        along = float(way @ self.normal)
        return float(np.degrees(np.arctan2(np.linalg.norm(way - along * self.normal), along)))

    def plane_affine(self, index: int) -> Floats:
        """Return the affine of one plane; its third column is the unit normal."""
        return affine_of(self, origin_mm=self.origins_mm[index], slice_spacing_mm=1.0)

    def taking(self, indices: Sequence[int] | NDArray[np.intp]) -> "Stack":
        """Return the stack of the planes named."""
        return replace(self, origins_mm=self.origins_mm[np.asarray(indices)])


def affine_of(stack: Stack, *, origin_mm: Floats, slice_spacing_mm: float) -> Floats:
    """Return the 4x4 affine (column, row, slice) to LPS mm of a grid with the stack's axes.

    References
    ----------
    DICOM PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1.
    """
    affine = np.eye(4)
    affine[:3, 0] = stack.row_direction * stack.column_spacing_mm
    affine[:3, 1] = stack.column_direction * stack.row_spacing_mm
    affine[:3, 2] = stack.normal * slice_spacing_mm
    affine[:3, 3] = origin_mm
    return affine


def to_patient_mm(affine: Floats, indices: Floats) -> Floats:
    """Map (column, row, slice) indices, shape (..., 3), to LPS millimetres."""
    mapped: Floats = np.asarray(indices) @ affine[:3, :3].T + affine[:3, 3]
    return mapped


def to_index(affine: Floats, points_mm: Floats) -> Floats:
    """Map LPS millimetres, shape (..., 3), to fractional (column, row, slice) indices."""
    mapped: Floats = (np.asarray(points_mm) - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    return mapped


def position_on(plane: FrameHeader, column: float, row: float) -> Triple | None:
    """Return where a point of a frame lies in the patient, LPS mm; None without a plane.

    `column` and `row` are counted from the corner of the first pixel (PS3.3 C.18.6.1.2), Image
    Position (Patient) is that pixel's centre.

    >>> plane = FrameHeader(
    ...     image_position_mm=(10, 20, 30), image_orientation=(1, 0, 0, 0, 1, 0),
    ...     row_spacing_mm=2, column_spacing_mm=0.5,
    ... )
    >>> position_on(plane, 4.5, 1.5)
    (12.0, 22.0, 30.0)
    """
    if (
        plane.image_position_mm is None
        or plane.image_orientation is None
        or not plane.column_spacing_mm
        or not plane.row_spacing_mm
    ):
        return None
    along, down = np.asarray(plane.image_orientation).reshape(2, 3)
    found = (
        np.asarray(plane.image_position_mm)
        + along * (column - 0.5) * plane.column_spacing_mm
        + down * (row - 0.5) * plane.row_spacing_mm
    )
    return float(found[0]), float(found[1]), float(found[2])


def stack_planes(
    planes: Sequence[FrameHeader], *, orientation_tolerance_degrees: float
) -> tuple[Stack, NDArray[np.intp]]:
    """Put planes in order along their normal.

    Returns
    -------
    tuple
        The stack, and for each of its planes the place it had in `planes`. Planes at the same
        position keep the order they came in.

    Raises
    ------
    UnsuitableSeries
        ``NO_GEOMETRY`` when a plane has no position, orientation or pixel spacing;
        ``INCONSISTENT_ORIENTATION`` when planes are not parallel;
        ``INCONSISTENT_SPACING`` when pixel sizes differ.
    """
    for plane in planes:
        _require_geometry(plane)
    orientations = np.array([plane.image_orientation for plane in planes], dtype=np.float64)
    row_direction, column_direction = _common_orientation(
        orientations, orientation_tolerance_degrees
    )
    spacings = np.array([(plane.row_spacing_mm, plane.column_spacing_mm) for plane in planes])
    if not np.allclose(spacings, spacings[0], rtol=1e-3, atol=0):
        raise UnsuitableSeries(
            "INCONSISTENT_SPACING",
            f"pixel spacing varies from {spacings.min():.4g} to {spacings.max():.4g} mm",
        )
    origins = np.array([plane.image_position_mm for plane in planes], dtype=np.float64)
    order = np.argsort(origins @ np.cross(row_direction, column_direction), kind="stable")
    stack = Stack(
        origins_mm=origins[order],
        row_direction=row_direction,
        column_direction=column_direction,
        row_spacing_mm=float(spacings[0, 0]),
        column_spacing_mm=float(spacings[0, 1]),
    )
    return stack, order


def slice_spacing_mm(
    positions_mm: Floats, slice_normal: Floats, *, tolerance_fraction: float = 0.1
) -> float:
    """Return the distance between neighbouring slice centres, in mm.

    Slice Thickness (0018,0050) is deliberately not consulted: it is the depth of one slice, and
    overlapping or gapped reconstructions differ from it.

    Parameters
    ----------
    positions_mm
        Image Position (Patient) (0020,0032) of each slice, in any order; shape (slices, 3), LPS.
    slice_normal
        Unit normal of the image plane, shape (3,).
    tolerance_fraction
        How far a slice may lie from its place on the regular grid, as a part of the spacing
        (but never less than 0.1 mm, since many senders round positions to that).

    Returns
    -------
    float
        Mean gap, greater than 0.

    Raises
    ------
    UnsuitableSeries
        ``TOO_FEW_SLICES`` below two slices; ``DUPLICATE_POSITION`` when two slices lie at one
        position; ``SLICE_GAP`` when whole slices are missing; ``INCONSISTENT_SPACING`` when the
        gaps fit no regular grid. Slices are counted from 1 along the normal.

    References
    ----------
    DICOM PS3.3 C.7.6.2.1.1, Image Position and Image Orientation.

    Examples
    --------
    >>> axial = np.array([[0.0, 0.0, 2.5], [0.0, 0.0, 0.0], [0.0, 0.0, 5.0]])
    >>> slice_spacing_mm(axial, np.array([0.0, 0.0, 1.0]))
    2.5
    """
    if len(positions_mm) < 2:
        raise UnsuitableSeries("TOO_FEW_SLICES", "a volume needs at least two slices")
    distances = np.sort(positions_mm @ slice_normal)
    gaps = np.diff(distances)
    typical = float(np.median(gaps))
    duplicates = duplicate_gaps(gaps)
    if len(duplicates):
        first = int(duplicates[0])
        raise UnsuitableSeries(
            "DUPLICATE_POSITION", f"slices {first + 1} and {first + 2} lie at the same position"
        )
    tolerance_mm = max(0.1, tolerance_fraction * typical)
    _refuse_missing_slices(gaps, typical, tolerance_mm)
    spacing = float(distances[-1] - distances[0]) / len(gaps)
    residuals = np.abs(distances - distances[0] - spacing * np.arange(len(distances)))
    if residuals.max() > tolerance_mm:
        raise UnsuitableSeries(
            "INCONSISTENT_SPACING",
            f"slice spacing varies from {gaps.min():.3g} mm to {gaps.max():.3g} mm",
        )
    return spacing


def duplicate_gaps(gaps_mm: Floats) -> NDArray[np.intp]:
    """Return the gaps too small to lie between two different slices: below 0.01 mm.

    No scanner reconstructs that densely; positions that differ by less are one position that was
    rounded twice.
    """
    return np.flatnonzero(gaps_mm < 0.01)


def _refuse_missing_slices(gaps: Floats, typical: float, tolerance_mm: float) -> None:
    """Raise SLICE_GAP when the gaps that stand out are whole numbers of slices wide."""
    wide = np.flatnonzero(gaps > typical + 2 * tolerance_mm)
    if not len(wide):
        return
    steps = gaps[wide] / typical
    whole = np.abs(steps - np.round(steps)) * typical <= 2 * tolerance_mm
    if np.all(whole) and np.all(np.round(steps) >= 2) and len(wide) * 2 <= len(gaps):
        where = int(wide[0])
        more = f", and {len(wide) - 1} more" if len(wide) > 1 else ""
        raise UnsuitableSeries(
            "SLICE_GAP",
            f"slice gap of {gaps[where]:.4g} mm after slice {where + 1}"
            f" where {typical:.4g} mm was expected{more}",
        )


def _require_geometry(plane: FrameHeader) -> None:
    if plane.image_position_mm is None or plane.image_orientation is None:
        raise UnsuitableSeries("NO_GEOMETRY", "a slice has no position or orientation")
    spacings = (plane.row_spacing_mm, plane.column_spacing_mm)
    if any(spacing is None or not 0 < spacing < np.inf for spacing in spacings):
        raise UnsuitableSeries("NO_GEOMETRY", "pixel spacing is missing or not above zero")


def _common_orientation(orientations: Floats, tolerance_degrees: float) -> tuple[Floats, Floats]:
    """Return row and column direction of parallel planes as exact unit vectors."""
    directions = orientations.reshape(-1, 2, 3)
    lengths = np.linalg.norm(directions, axis=2)
    right_angle = np.abs(np.einsum("ij,ij->i", directions[:, 0], directions[:, 1]))
    if np.abs(lengths - 1).max() > _COSINE_TOLERANCE or right_angle.max() > _COSINE_TOLERANCE:
        raise UnsuitableSeries(
            "NO_GEOMETRY", "image orientation is not a pair of unit vectors at a right angle"
        )
    cosines = np.einsum(
        "ijk,jk->ij", directions / lengths[..., None], directions[0] / lengths[0, :, None]
    )
    worst = float(np.degrees(np.arccos(np.clip(cosines.min(), -1, 1))))
    if worst > tolerance_degrees:
        raise UnsuitableSeries(
            "INCONSISTENT_ORIENTATION",
            f"slices are turned against each other by {worst:.1f} degrees",
        )
    row = directions[:, 0].mean(axis=0)
    row /= np.linalg.norm(row)
    column = directions[:, 1].mean(axis=0)
    column -= row * (column @ row)
    return row, column / np.linalg.norm(column)
