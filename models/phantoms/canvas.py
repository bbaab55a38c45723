"""The surface that painters share: one slab, its HU so far, and the anatomy's fields on it."""

import numpy as np

from models.phantoms.anatomy import Anatomy
from models.phantoms.geometry import Array, ArrayModules, Grid, apply_separable


def blend(hu: Array, share: Array, target: Array | float) -> None:
    """Move `hu` towards `target` by `share` (0 to 1), in place."""
    hu += share * (target - hu)


class Canvas:
    """A slab being painted; fields are interpolated from the lattice when first asked for.

    Attributes
    ----------
    hu
        Hounsfield units so far, float32, indexed ``[z, y, x]``.
    coordinates
        x, y, z in mm, shaped to broadcast.
    heights
        z as a numpy array of shape ``(slices, 1, 1)``, wherever `hu` lives.
    """

    def __init__(self, anatomy: Anatomy, grid: Grid, modules: ArrayModules) -> None:
        self.anatomy, self.grid, self.modules = anatomy, grid, modules
        self.hu: Array = modules.xp.zeros(grid.shape, dtype=np.float32)
        self.coordinates = grid.coordinates(modules)
        self.heights: Array = grid.axis_mm(2).astype(np.float32)[:, None, None]
        self._matrices = anatomy.lattice.matrices(grid)
        self._fields: dict[str, Array] = {}

    def device(self, values: Array) -> Array:
        """Bring a small numpy array to where `hu` lives."""
        moved: Array = self.modules.xp.asarray(values)
        return moved

    def field(self, name: str) -> Array:
        """Return one field of the anatomy on this slab; callers must not change it."""
        if name not in self._fields:
            coarse = self.anatomy.fields[name]
            self._fields[name] = apply_separable(coarse, self._matrices, self.modules)
        return self._fields[name]

    def share(self, distance: Array, per_mm: float | None = None) -> Array:
        """Return how much of each voxel a body fills; `per_mm` is the steepness of its border."""
        steepness = 1 / self.grid.edge_mm if per_mm is None else per_mm
        filled: Array = self.modules.xp.clip(0.5 - distance * steepness, 0, 1)
        return filled

    def inside(self, name: str, per_mm: float | None = None) -> Array:
        """Return how much of each voxel the named organ fills."""
        return self.share(self.field(name), per_mm)

    def is_near(self, name: str, reach_mm: float = 4.0) -> bool:
        """Tell, from the coarse field alone, whether an organ comes within reach of the slab."""
        lattice = self.anatomy.lattice
        low = np.array([self.grid.axis_mm(a)[0] for a in range(3)])
        high = np.array([self.grid.axis_mm(a)[-1] for a in range(3)])
        window = lattice.grid.window(low - 2 * lattice.step_mm, high + 2 * lattice.step_mm)
        if window is None:
            return False
        return bool(self.anatomy.fields[name][window].min() < reach_mm)
