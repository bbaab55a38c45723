"""Grids in patient millimetres, smooth fields on a coarse lattice, and how one becomes the other.

Coordinates are patient millimetres (LPS: x to the left, y to the back, z to the head); points are
``(x, y, z)``. Arrays are indexed ``[slice, row, column]``, that is ``[z, y, x]``. All heavy array
work takes its modules from an `ArrayModules`, so the same code runs with numpy and with cupy.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import scipy.fft
import scipy.ndimage
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Points = NDArray[np.floating[Any]]
Triple = tuple[float, float, float]
Window = tuple[slice, slice, slice]


@dataclass(frozen=True)
class ArrayModules:
    """The array library in use: arrays, n-dimensional filters and Fourier transforms."""

    xp: ModuleType = np
    ndimage: ModuleType = scipy.ndimage
    fft: ModuleType = scipy.fft
    on_gpu: bool = False


NUMPY = ArrayModules()


def cupy_modules() -> ArrayModules:
    """Return the modules that run on a CUDA device; raises ImportError without cupy."""
    return ArrayModules(
        xp=importlib.import_module("cupy"),
        ndimage=importlib.import_module("cupyx.scipy.ndimage"),
        fft=importlib.import_module("cupy.fft"),
        on_gpu=True,
    )


@dataclass(frozen=True)
class Grid:
    """A regular grid along the patient axes.

    Attributes
    ----------
    origin_mm
        Centre of voxel ``[0, 0, 0]`` as (x, y, z).
    spacing_mm
        Distance of neighbouring centres along x, y and z, all positive.
    shape
        Number of slices, rows and columns.
    """

    origin_mm: Triple
    spacing_mm: Triple
    shape: tuple[int, int, int]

    @property
    def edge_mm(self) -> float:
        """Width over which a surface is blurred by the voxel's own extent."""
        return float(np.cbrt(np.prod(self.spacing_mm)))

    def axis_mm(self, axis: int) -> Points:
        """Return the voxel centres along patient axis 0 (x), 1 (y) or 2 (z)."""
        steps = np.arange(self.shape[2 - axis])
        return self.origin_mm[axis] + self.spacing_mm[axis] * steps

    def coordinates(self, modules: ArrayModules = NUMPY) -> tuple[Array, Array, Array]:
        """Return x, y and z of all voxels, each shaped to broadcast over the grid."""
        x, y, z = (modules.xp.asarray(self.axis_mm(a), dtype=np.float32) for a in range(3))
        return x[None, None, :], y[None, :, None], z[:, None, None]

    def window(self, low_mm: Points, high_mm: Points) -> Window | None:
        """Return the part of the grid between two corners, or None where they do not meet."""
        origin, spacing = np.asarray(self.origin_mm), np.asarray(self.spacing_mm)
        first = np.maximum(np.floor((low_mm - origin) / spacing).astype(int), 0)
        stop = np.ceil((high_mm - origin) / spacing).astype(int) + 1
        stop = np.minimum(stop, self.shape[::-1])
        if (stop <= first).any():
            return None
        x, y, z = (slice(int(a), int(b)) for a, b in zip(first, stop, strict=True))
        return z, y, x

    def part(self, window: Window) -> "Grid":
        """Return the grid of one window of this grid."""
        z, y, x = window
        starts = (x.start, y.start, z.start)
        origin = tuple(self.origin_mm[a] + self.spacing_mm[a] * starts[a] for a in range(3))
        shape = (z.stop - z.start, y.stop - y.start, x.stop - x.start)
        return Grid((origin[0], origin[1], origin[2]), self.spacing_mm, shape)


def _hat(t: Points) -> Points:
    return np.maximum(0.0, 1.0 - np.abs(t))


def _b_spline(t: Points) -> Points:
    t = np.abs(t)
    inner = 2 / 3 - t * t + t**3 / 2
    return np.where(t < 1, inner, np.where(t < 2, (2 - t) ** 3 / 6, 0.0))


def _catmull_rom(t: Points) -> Points:
    t = np.abs(t)
    inner = 1.5 * t**3 - 2.5 * t**2 + 1
    outer = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return np.where(t < 1, inner, np.where(t < 2, outer, 0.0))


_KERNELS = {"linear": _hat, "spline": _b_spline, "cubic": _catmull_rom}


def interpolation_matrix(
    wanted_mm: Points, *, start_mm: float, step_mm: float, count: int, kernel: str = "linear"
) -> Array:
    """Return the weights that turn `count` regular samples into values at `wanted_mm`.

    The samples lie at ``start_mm + step_mm * i``; beyond the ends the last sample counts. Shape
    ``(wanted, count)``, rows sum to one.
    """
    u = np.clip((np.asarray(wanted_mm, np.float64) - start_mm) / step_mm, 0, count - 1)
    weights = _KERNELS[kernel](u[:, None] - np.arange(-2, count + 2)[None, :])
    weights[:, 2] += weights[:, 0] + weights[:, 1]
    weights[:, -3] += weights[:, -1] + weights[:, -2]
    weights = weights[:, 2:-2]
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def apply_separable(
    values: Array, matrices: tuple[Array, Array, Array], modules: ArrayModules = NUMPY
) -> Array:
    """Resample `values` with one matrix per axis, in the order slice, row, column.

    Only the samples that carry weight are read, so a small box in a large field is cheap.
    """
    used = []
    for matrix in matrices:
        columns = np.flatnonzero(matrix.any(0))
        used.append(slice(int(columns[0]), int(columns[-1]) + 1))
    xp = modules.xp
    z, y, x = (xp.asarray(m[:, u]) for m, u in zip(matrices, used, strict=True))
    values = xp.asarray(values[tuple(used)])
    slices, rows, columns_ = values.shape
    values = (z @ values.reshape(slices, rows * columns_)).reshape(-1, rows, columns_)
    result: Array = xp.matmul(xp.matmul(y, values), x.T)
    return result


def resample(voxels: Array, source: Grid, target: Grid, *, modules: ArrayModules = NUMPY) -> Array:
    """Interpolate a volume linearly onto another grid along the same axes."""
    z, y, x = (
        interpolation_matrix(
            target.axis_mm(a),
            start_mm=source.origin_mm[a],
            step_mm=source.spacing_mm[a],
            count=source.shape[2 - a],
        )
        for a in (2, 1, 0)
    )
    return apply_separable(voxels, (z, y, x), modules)


class Lattice:
    """A coarse regular grid over the whole scene, on which smooth fields are kept."""

    def __init__(self, low_mm: Triple, high_mm: Triple, step_mm: float) -> None:
        self.step_mm = step_mm
        self.low_mm = np.asarray(low_mm, float)
        counts = np.ceil((np.asarray(high_mm) - self.low_mm) / step_mm).astype(int) + 1
        self.grid = Grid(low_mm, (step_mm,) * 3, (int(counts[2]), int(counts[1]), int(counts[0])))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of lattice points along slice, row and column."""
        return self.grid.shape

    def matrices(self, grid: Grid) -> tuple[Array, Array, Array]:
        """Return the smooth interpolation onto `grid`, for `apply_separable`."""
        z, y, x = (
            interpolation_matrix(
                grid.axis_mm(a),
                start_mm=float(self.low_mm[a]),
                step_mm=self.step_mm,
                count=self.shape[2 - a],
                kernel="spline",
            )
            for a in (2, 1, 0)
        )
        return z, y, x

    def sample(self, field: Array, points_mm: Points) -> Points:
        """Interpolate `field` linearly at points of shape ``(n, 3)``."""
        u = (np.atleast_2d(points_mm) - self.low_mm) / self.step_mm
        u = np.clip(u[:, ::-1], 0, np.asarray(self.shape) - 1.001)
        base = u.astype(int)
        fraction = u - base
        total = np.zeros(len(u))
        for corner in np.ndindex(2, 2, 2):
            weight = np.prod(np.where(corner, fraction, 1 - fraction), axis=1)
            total += weight * field[tuple((base + corner).T)]
        return total

    def gradient(self, field: Array, point_mm: Points) -> Points:
        """Return the slope of `field` at one point, per mm along x, y and z."""
        steps = np.eye(3) * 2.5
        ahead, behind = (self.sample(field, point_mm + s * steps) for s in (1, -1))
        return np.asarray((ahead - behind) / 5.0)

    def points(self, mask: NDArray[np.bool_]) -> Points:
        """Return the lattice points where `mask` holds, shape ``(n, 3)``."""
        return np.asarray(self.low_mm + self.step_mm * np.argwhere(mask)[:, ::-1])

    def noise(self, rng: np.random.Generator, correlation_mm: float) -> Array:
        """Return smooth noise of unit variance with features about `correlation_mm` wide."""
        extent = (np.asarray(self.shape) - 1) * self.step_mm
        counts = np.maximum(np.ceil(extent / correlation_mm).astype(int) + 4, 4)
        white = rng.standard_normal(tuple(counts), dtype=np.float32)
        matrices = [
            interpolation_matrix(
                np.arange(n) * self.step_mm,
                start_mm=-correlation_mm * rng.uniform(1, 2),
                step_mm=correlation_mm,
                count=int(m),
                kernel="cubic",
            )
            for n, m in zip(self.shape, counts, strict=True)
        ]
        field = apply_separable(white, (matrices[0], matrices[1], matrices[2]))
        return np.asarray(field / (field.std() + 1e-6), np.float32)
