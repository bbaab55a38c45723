"""Fitting one image to another by moving its points: Gauss-Newton with robust weights.

Movements are 4x4 matrices on LPS mm. They grow out of generators, so that each step is applied to
where the points have come to: 3 shifts, 3 turns, then 6 stretches and shears.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.linalg import expm

from service.core.geometry import Floats

SHIFT, RIGID, AFFINE = 3, 6, 12

# Turns and stretches are measured as what they move at this distance, so that one step's length
# means millimetres for all of them.
_ARM_MM: Final = 100.0
_SETTLED_MM: Final = 0.02
# Huber's constant, in standard deviations estimated from the median.
_HUBER: Final = 1.345
_MAD_TO_SIGMA: Final = 1.4826
_LEAST_POINTS: Final = 200


@dataclass(frozen=True)
class Image:
    """Values, shape (z, y, x), on a grid along the patient's axes, read between its voxels.

    ``origin_mm`` is the centre of voxel (0, 0, 0) as (x, y, z).
    """

    values: NDArray[np.float32]
    origin_mm: Floats
    spacing_mm: float

    def smoothed(self, sigma_mm: float) -> "Image":
        """Return the image blurred by a Gaussian."""
        blurred = ndimage.gaussian_filter(self.values, sigma_mm / self.spacing_mm)
        return Image(blurred, self.origin_mm, self.spacing_mm)

    def indices(self, points_mm: Floats) -> Floats:
        """Map LPS mm, shape (n, 3), to (z, y, x) indices, shape (3, n)."""
        indices: Floats = ((points_mm - self.origin_mm) / self.spacing_mm)[:, ::-1].T
        return indices

    def points(self, indices: Floats) -> Floats:
        """Map (z, y, x) indices, shape (n, 3), to LPS mm."""
        points: Floats = self.origin_mm + np.asarray(indices)[:, ::-1] * self.spacing_mm
        return points

    def at(self, points_mm: Floats) -> Floats:
        """Return the interpolated values at points."""
        return _read(self.values, self.indices(points_mm))

    def holds(self, points_mm: Floats) -> NDArray[np.bool_]:
        """Return which points lie within the grid."""
        last = np.array(self.values.shape)[:, None] - 1
        indices = self.indices(points_mm)
        inside: NDArray[np.bool_] = np.all((indices >= 0) & (indices <= last), axis=0)
        return inside

    def slopes(self) -> tuple[NDArray[np.float32], ...]:
        """Return the change per mm along x, y and z at every voxel."""
        return tuple(np.asarray(each) for each in np.gradient(self.values, self.spacing_mm)[::-1])


@dataclass(frozen=True)
class Fit:
    """A movement, and how well what it joins agrees.

    ``correlation`` is Pearson's over the points that both images hold, ``covered`` their share of
    all points, ``error`` the robust mean residual.
    """

    matrix: Floats
    correlation: float
    covered: float
    error: float


def moved(matrix: Floats, points_mm: Floats) -> Floats:
    """Apply a 4x4 matrix to points, shape (n, 3)."""
    result: Floats = points_mm @ matrix[:3, :3].T + matrix[:3, 3]
    return result


def fit(
    points_mm: Floats,
    values: Floats,
    target: Image,
    *,
    start: Floats,
    freedom: int,
    steps: int = 30,
) -> Fit:
    """Move points until what they carry agrees with the target.

    Parameters
    ----------
    points_mm, values
        Places in the moving image, shape (n, 3), and what is seen there, shape (n,).
    start
        The movement to begin with, 4x4.
    freedom
        How many generators may be used: `SHIFT`, `RIGID` or `AFFINE`.
    """
    slopes = target.slopes()
    matrix, damping = start, 1e-3
    error = _error(points_mm, values, target, matrix)
    for _ in range(steps):
        normal, pull = _equations(points_mm, values, (target, slopes), matrix, freedom)
        if normal is None:
            break
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-9), -pull)
        middle = moved(matrix, points_mm).mean(axis=0)
        proposed = expm(np.tensordot(step, _generators(middle)[:freedom], 1)) @ matrix
        after = _error(points_mm, values, target, proposed)
        if after > error:
            damping *= 10
            if damping > 1e3:
                break
            continue
        matrix, error, damping = proposed, after, max(damping / 5, 1e-6)
        if np.abs(step).max() < _SETTLED_MM:
            break
    return judged(points_mm, values, target, matrix)


def judged(points_mm: Floats, values: Floats, target: Image, matrix: Floats) -> Fit:
    """Return how well a movement joins points and target."""
    at = moved(matrix, points_mm)
    inside = target.holds(at)
    covered = float(inside.mean()) if len(inside) else 0.0
    if inside.sum() < _LEAST_POINTS:
        return Fit(matrix, 0.0, covered, np.inf)
    seen, carried = target.at(at[inside]), values[inside]
    return Fit(matrix, correlation(seen, carried), covered, _robust_mean(seen - carried))


def correlation(one: Floats, other: Floats) -> float:
    """Return Pearson's correlation, 0 where one side is flat."""
    a, b = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 1e-6 else 0.0


def _generators(middle_mm: Floats) -> Floats:
    """Return the 4x4 generators about a point, shape (12, 4, 4), scaled to move millimetres."""
    linear = np.zeros((12, 3, 3))
    turns = ((1, 2), (2, 0), (0, 1))
    for index, (a, b) in enumerate(turns):
        linear[3 + index][b, a], linear[3 + index][a, b] = 1, -1
        linear[9 + index][b, a] = linear[9 + index][a, b] = 1
        linear[6 + index][index, index] = 1
    result = np.zeros((12, 4, 4))
    result[:3, :3, 3] = np.eye(3)
    result[3:, :3, :3] = linear[3:] / _ARM_MM
    result[3:, :3, 3] = -(linear[3:] / _ARM_MM) @ middle_mm
    return result


def _equations(
    points_mm: Floats,
    values: Floats,
    seen: tuple[Image, tuple[NDArray[np.float32], ...]],
    matrix: Floats,
    freedom: int,
) -> tuple[Floats | None, Floats]:
    """Return the weighted normal equations of one step; None where too few points are held."""
    target, slopes = seen
    at = moved(matrix, points_mm)
    inside = target.holds(at)
    if inside.sum() < _LEAST_POINTS:
        return None, np.zeros(freedom)
    at = at[inside]
    indices = target.indices(at)
    residual = _read(target.values, indices) - values[inside]
    slope = np.stack([_read(each, indices) for each in slopes], axis=1)
    generators = _generators(moved(matrix, points_mm).mean(axis=0))[:freedom]
    flow = np.einsum("kij,nj->nki", generators[:, :3, :3], at) + generators[None, :, :3, 3]
    jacobian = np.einsum("ni,nki->nk", slope, flow)
    weighted = jacobian * _weights(residual)[:, None]
    return jacobian.T @ weighted, weighted.T @ residual


def _weights(residual: Floats) -> Floats:
    limit = _HUBER * max(_MAD_TO_SIGMA * float(np.median(np.abs(residual))), 1.0)
    weights: Floats = np.minimum(1.0, limit / np.maximum(np.abs(residual), 1e-9))
    return weights


def _error(points_mm: Floats, values: Floats, target: Image, matrix: Floats) -> float:
    """Return the mean residual; points that leave the target cost as much as the worst."""
    at = moved(matrix, points_mm)
    inside = target.holds(at)
    if inside.sum() < _LEAST_POINTS:
        return np.inf
    error = _robust_mean(target.at(at[inside]) - values[inside])
    # Leaving costs a little, so that sliding out of the picture is never the way to agree.
    return error * (1 + 0.5 * (1 - float(inside.mean())))


def _robust_mean(residual: Floats) -> float:
    return float(np.mean(np.sqrt(1 + (residual / 50.0) ** 2) - 1)) * 50.0


def _read(values: NDArray[np.float32], indices: Floats) -> Floats:
    read: Callable[..., Floats] = ndimage.map_coordinates
    return read(values, indices, output=np.float64, order=1, mode="nearest")
