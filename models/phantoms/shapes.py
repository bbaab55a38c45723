"""Signed distances of simple bodies, and tapered tubes drawn into a volume.

Distances are in mm, negative inside. Tubes are rows of eight numbers: start (x, y, z), end
(x, y, z), radius at the start, radius at the end, all in mm.
"""

from functools import lru_cache

import numpy as np

from models.phantoms.geometry import NUMPY, Array, ArrayModules, Grid, Points, Triple


def smooth_min(a: Array, b: Array | float, width_mm: float) -> Array:
    """Return the union of two bodies, rounded over `width_mm` where they meet."""
    h = np.clip(0.5 + 0.5 * (b - a) / width_mm, 0, 1)
    joined: Array = b + (a - b) * h - width_mm * h * (1 - h)
    return joined


def smooth_max(a: Array, b: Array | float, width_mm: float) -> Array:
    """Return the intersection of two bodies, rounded over `width_mm`."""
    return -smooth_min(-a, -b, width_mm)


def ellipsoid(
    at: tuple[Array, Array, Array], centre: Triple, radii: Triple, *, modules: ArrayModules = NUMPY
) -> Array:
    """Return the approximate signed distance to an ellipsoid along the axes."""
    scaled = [(at[a] - centre[a]) * (1.0 / radii[a]) for a in range(3)]
    inner = modules.xp.sqrt(sum(s * s for s in scaled))
    outer = modules.xp.sqrt(sum((s * (1.0 / r)) ** 2 for s, r in zip(scaled, radii, strict=True)))
    distance: Array = inner * (inner - 1.0) / (outer + 1e-6)
    return distance


def capsule(
    at: tuple[Array, Array, Array], start: Points, end: Points, radii: tuple[float, float]
) -> Array:
    """Return the signed distance to a tapered tube with round ends."""
    axis = end - start
    along = sum((at[a] - start[a]) * axis[a] for a in range(3)) / (float(axis @ axis) + 1e-9)
    t = np.clip(along, 0, 1)
    squares = sum((at[a] - start[a] - t * axis[a]) ** 2 for a in range(3))
    distance: Array = np.sqrt(squares) - (radii[0] + (radii[1] - radii[0]) * t)
    return distance


def draw_tubes(out: Array, grid: Grid, tubes: Points, *, modules: ArrayModules = NUMPY) -> None:
    """Raise `out` to the share of each voxel that the tubes fill, 0 to 1, in place."""
    if len(tubes) == 0:
        return
    first, stop = _bounds(grid, tubes)
    seen = np.flatnonzero((stop > first).all(1))
    if modules.on_gpu:
        _draw_on_gpu(out, grid, (tubes[seen], first[seen], stop[seen]), modules)
        return
    axes = [grid.axis_mm(a).astype(np.float32) for a in range(3)]
    for row in seen:
        _draw_one(out, axes, tubes[row].astype(np.float32), (first[row], stop[row], grid.edge_mm))


def _bounds(grid: Grid, tubes: Points) -> tuple[np.ndarray, np.ndarray]:
    reach = np.maximum(tubes[:, 6], tubes[:, 7])[:, None] + grid.edge_mm
    low = np.minimum(tubes[:, 0:3], tubes[:, 3:6]) - reach
    high = np.maximum(tubes[:, 0:3], tubes[:, 3:6]) + reach
    origin, spacing = np.asarray(grid.origin_mm), np.asarray(grid.spacing_mm)
    first = np.maximum(np.floor((low - origin) / spacing).astype(np.int32), 0)
    stop = np.ceil((high - origin) / spacing).astype(np.int32) + 1
    return first, np.minimum(stop, np.asarray(grid.shape[::-1], np.int32))


def _draw_one(
    out: Array, axes: list[Array], tube: Array, where: tuple[np.ndarray, np.ndarray, float]
) -> None:
    (i0, j0, k0), (i1, j1, k1), edge_mm = where[0], where[1], where[2]
    x = axes[0][i0:i1] - tube[0]
    y = (axes[1][j0:j1] - tube[1])[:, None]
    z = (axes[2][k0:k1] - tube[2])[:, None, None]
    axis = tube[3:6] - tube[0:3]
    t = x * axis[0] + y * axis[1] + z * axis[2]
    t *= np.float32(1.0) / (axis @ axis + np.float32(1e-9))
    np.clip(t, 0, 1, out=t)
    r = (x - t * axis[0]) ** 2
    r += (y - t * axis[1]) ** 2
    r += (z - t * axis[2]) ** 2
    np.sqrt(r, out=r)
    t *= tube[7] - tube[6]
    t += tube[6]
    t -= r
    t *= np.float32(1.0 / edge_mm)
    t += np.float32(0.5)
    np.clip(t, 0, 1, out=t)
    view = out[k0:k1, j0:j1, i0:i1]
    np.maximum(view, t, out=view)


# One block per tube. Shares of a voxel are not negative, and the bit patterns of such floats
# order as integers do, so an integer maximum serves as the missing float one.
_TUBE_KERNEL = r"""
extern "C" __global__ void tubes(float* out, const float* tube, const int* bound,
                                 const float* grid, const int nx, const int ny) {
  const float* t = tube + 8 * blockIdx.x;
  const int* b = bound + 6 * blockIdx.x;
  const int wx = b[3] - b[0], wy = b[4] - b[1], wz = b[5] - b[2];
  const float ax = t[3] - t[0], ay = t[4] - t[1], az = t[5] - t[2];
  const float inverse = 1.0f / (ax * ax + ay * ay + az * az + 1e-9f);
  for (int n = threadIdx.x; n < wx * wy * wz; n += blockDim.x) {
    const int i = b[0] + n % wx, j = b[1] + (n / wx) % wy, k = b[2] + n / (wx * wy);
    const float x = grid[0] + grid[3] * i - t[0];
    const float y = grid[1] + grid[4] * j - t[1];
    const float z = grid[2] + grid[5] * k - t[2];
    const float s = fminf(fmaxf((x * ax + y * ay + z * az) * inverse, 0.0f), 1.0f);
    const float dx = x - s * ax, dy = y - s * ay, dz = z - s * az;
    const float inside = t[6] + (t[7] - t[6]) * s - sqrtf(dx * dx + dy * dy + dz * dz);
    const float share = fminf(fmaxf(inside / grid[6] + 0.5f, 0.0f), 1.0f);
    if (share > 0.0f) {
      const long long at = ((long long)k * ny + j) * nx + i;
      atomicMax((int*)out + at, __float_as_int(share));
    }
  }
}
"""


@lru_cache(maxsize=1)
def _tube_kernel(modules: ArrayModules) -> "object":
    return modules.xp.RawKernel(_TUBE_KERNEL, "tubes")


def _draw_on_gpu(
    out: Array, grid: Grid, drawn: tuple[Points, np.ndarray, np.ndarray], modules: ArrayModules
) -> None:
    tubes, first, stop = drawn
    if len(tubes) == 0:
        return
    xp = modules.xp
    bounds = xp.asarray(np.concatenate([first, stop], 1).astype(np.int32))
    numbers = xp.asarray([*grid.origin_mm, *grid.spacing_mm, grid.edge_mm], dtype=np.float32)
    rows = xp.asarray(tubes, dtype=np.float32)
    _, ny, nx = out.shape
    kernel = _tube_kernel(modules)
    kernel((len(tubes),), (128,), (out, rows, bounds, numbers, np.int32(nx), np.int32(ny)))  # type: ignore[operator]
