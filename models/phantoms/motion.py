"""How a patient lies and breathes differently from one scan to the next.

A `Motion` takes points of a later scan to where the same tissue lay in the reference scan. The
body as a whole is turned and shifted on the table; inside the chest the tissue slides along the
wall, most at the diaphragm and not at all at the apex and at the ribs and spine.
"""

from dataclasses import dataclass

import numpy as np
import scipy.ndimage
from scipy.spatial.transform import Rotation

from models.phantoms.geometry import Array, Points, Triple
from models.phantoms.thorax import Thorax

# The tissue that slides, and the wall that stays, are joined over this depth.
_SLIDING_MM = 15.0
_INVERSION_STEPS = 25


@dataclass(frozen=True)
class Motion:
    """Lengths in mm, angles in degrees about x, y and z; zero is the reference scan.

    ``breath_mm`` is how much lower the diaphragm stands than in the reference scan: deeper
    inspiration is positive. ``chest_lift`` is the share by which the chest is then deeper.
    """

    shift_mm: Triple = (0.0, 0.0, 0.0)
    turn_degrees: Triple = (0.0, 0.0, 0.0)
    breath_mm: float = 0.0
    chest_lift: float = 0.0

    @property
    def is_still(self) -> bool:
        """Whether nothing moved."""
        return self == Motion()

    def to_reference(self, points_mm: Points, thorax: Thorax) -> Points:
        """Return where tissue at points of this scan, shape (n, 3), lay in the reference scan."""
        level = self._unmoved(points_mm)
        return level + self._breathing(level, thorax)

    def from_reference(self, points_mm: Points, thorax: Thorax) -> Points:
        """Return where tissue of the reference scan lies in this one, to a hundredth of a mm."""
        wanted = np.atleast_2d(np.asarray(points_mm, float))
        level = wanted.copy()
        for _ in range(_INVERSION_STEPS):
            level += 0.8 * (wanted - level - self._breathing(level, thorax))
        return np.asarray(self._rotation.apply(level) + self.shift_mm)

    @property
    def _rotation(self) -> Rotation:
        return Rotation.from_euler("xyz", self.turn_degrees, degrees=True)

    def _unmoved(self, points_mm: Points) -> Points:
        shifted = np.atleast_2d(np.asarray(points_mm, float)) - self.shift_mm
        return np.asarray(self._rotation.inv().apply(shifted))

    def _breathing(self, level: Points, thorax: Thorax) -> Points:
        """Return by how much breathing has moved tissue at these points back to the reference."""
        away = np.zeros_like(level)
        if self.breath_mm == 0 and self.chest_lift == 0:
            return away
        build = thorax.build
        height = (build.apex_z - level[:, 2]) / (build.apex_z - build.right_dome_z)
        inside = np.clip(-_sampled(thorax.anatomy.fields["cavity"], thorax, level), 0, _SLIDING_MM)
        away[:, 2] = self.breath_mm * np.clip(height, 0, 1) ** 1.3 * inside / _SLIDING_MM
        # The back lies on the table; the front rises.
        front = np.clip((build.half_depth - level[:, 1]) / (2 * build.half_depth), 0, 1)
        away[:, 1] = self.chest_lift * 2 * build.half_depth * front
        return away


def _sampled(field: Array, thorax: Thorax, points_mm: Points) -> Points:
    lattice = thorax.lattice
    indices = ((points_mm - lattice.low_mm) / lattice.step_mm)[:, ::-1].T
    return np.asarray(scipy.ndimage.map_coordinates(field, indices, order=1, mode="nearest"))
