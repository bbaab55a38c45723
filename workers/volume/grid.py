"""A regular grid of voxels in the patient, with its array axes along named directions."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike

from service.core.errors import ContractViolation
from service.core.geometry import Floats, to_index, to_patient_mm
from workers.volume.series import Volume

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

# Patient axis (x to the left, y to the back, z to the head) and sense of each direction letter.
_LETTERS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an array lie.

    ``affine`` maps the index of a voxel's centre, last array axis first, to LPS mm, just as a
    volume's maps (column, row, slice).
    """

    shape: Shape
    affine: Floats

    @property
    def spacing_mm(self) -> Spacing:
        """Distance between voxel centres along each array axis."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(lengths[2]), float(lengths[1]), float(lengths[0])

    def patient_mm(self, indices: ArrayLike) -> Floats:
        """Map array indices, shape (..., 3), in array order, to LPS millimetres."""
        return to_patient_mm(self.affine, np.asarray(indices, dtype=np.float64)[..., ::-1])

    def indices(self, points_mm: ArrayLike) -> Floats:
        """Map LPS millimetres, shape (..., 3), to fractional array indices."""
        return to_index(self.affine, np.asarray(points_mm, dtype=np.float64))[..., ::-1]


def grid_of(volume: Volume) -> Grid:
    """Return the grid of the volume's own voxels: (slices, rows, columns)."""
    slices, rows, columns = volume.voxels.shape
    return Grid((slices, rows, columns), volume.affine)


def canonical_grid(volume: Volume, spacing_mm: Sequence[float], *, axes: str = "SPL") -> Grid:
    """Return the grid that covers a volume with array axes in the patient's directions.

    Axes are swapped and mirrored but not turned: an oblique volume keeps its obliquity, so that
    each axis can be resampled on its own and nothing is cut off at the corners.

    Parameters
    ----------
    spacing_mm
        Wanted spacing in the order (z, y, x) of the patient's axes, whatever `axes` says; 0
        keeps the volume's own.
    axes
        Where array axes run to: S or I, A or P, R or L, in array order.

    Returns
    -------
    Grid
        Exactly of the spacing wanted. Along the first axis it reaches beyond the volume by less
        than a voxel; along the others it stops less than a voxel short of the border.
    """
    own = grid_of(volume)
    directions = _closest_axes(volume, axes)
    steps, counts = np.empty(3), np.empty(3, dtype=int)
    for axis, letter in enumerate(axes):
        source_axis, _ = directions[axis]
        own_mm = own.spacing_mm[source_axis]
        wanted = spacing_mm[2 - _LETTERS[letter][0]]
        steps[axis] = own_mm if wanted == 0 or abs(wanted / own_mm - 1) < 1e-3 else wanted
        fitting = own.shape[source_axis] * own_mm / steps[axis]
        whole = np.ceil(fitting - 1e-3) if axis == 0 else np.floor(fitting + 1e-3)
        counts[axis] = max(1, int(whole))
    middle = own.patient_mm((np.array(own.shape) - 1) / 2)
    return _centred(volume, directions, middle, shape=counts, spacing=steps)


def centred_grid(
    volume: Volume,
    center_mm: ArrayLike,
    *,
    shape: Shape,
    spacing_mm: Sequence[float],
    axes: str = "SPL",
) -> Grid:
    """Return a grid of fixed shape round a point, with axes as in `canonical_grid`.

    ``shape`` and ``center_mm`` (LPS) may reach beyond the volume; ``shape`` is in array order,
    ``spacing_mm`` in the order (z, y, x).
    """
    directions = _closest_axes(volume, axes)
    spacing = np.array([spacing_mm[2 - _LETTERS[letter][0]] for letter in axes])
    return _centred(
        volume, directions, np.asarray(center_mm), shape=np.array(shape), spacing=spacing
    )


def _closest_axes(volume: Volume, axes: str) -> list[tuple[int, int]]:
    """Return for each letter the volume's array axis closest to it, and its sense (1 or -1)."""
    if sorted(_LETTERS.get(letter, (3, 1))[0] for letter in axes) != [0, 1, 2]:
        raise ContractViolation("GRID", f"axes {axes!r} do not name three directions")
    columns = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    cosines = columns[:, ::-1]  # (patient axis, array axis)
    patient = [_LETTERS[letter][0] for letter in axes]
    best = max(
        permutations(range(3)),
        key=lambda order: sum(abs(cosines[patient[i], order[i]]) for i in range(3)),
    )
    return [
        (array_axis, int(np.sign(cosines[patient[i], array_axis])) * _LETTERS[axes[i]][1])
        for i, array_axis in enumerate(best)
    ]


def _centred(
    volume: Volume,
    directions: Sequence[tuple[int, int]],
    center_mm: Floats,
    *,
    shape: np.ndarray[tuple[int], np.dtype[np.int_]],
    spacing: Floats,
) -> Grid:
    units = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    affine = np.eye(4)
    for axis, (source_axis, sense) in enumerate(directions):
        affine[:3, 2 - axis] = units[:, 2 - source_axis] * sense * spacing[axis]
    affine[:3, 3] = center_mm - affine[:3, :3] @ ((np.array(shape) - 1) / 2)[::-1]
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)
