"""The chest as smooth signed distances on a coarse lattice, in mm, drawn from a seed.

Body, chest cavity, lungs, mediastinum, heart, great vessels, spine, liver, spleen, stomach and
the fissures. Thin things (vessels, airways, ribs) are tubes and live in `models.phantoms.thorax`.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from models.phantoms.geometry import Array, Lattice, Points
from models.phantoms.population import Population, ThoraxOptions
from models.phantoms.shapes import capsule, ellipsoid, smooth_max, smooth_min

LATTICE_STEP_MM = 5.0
_CAVITY_EXPONENT = 2.35


@dataclass(frozen=True)
class Build:
    """The numbers that make one patient; lengths in mm, `size` scales all organs."""

    size: float
    female: bool
    half_width: float
    half_depth: float
    apex_z: float
    right_dome_z: float
    left_dome_z: float
    bottom_z: float
    fat: float
    muscle: float
    heart_scale: float
    contrast: bool
    blood_hu: float
    lung_hu: float
    cortex: float
    kyphosis: float
    scoliosis: float
    vertebra_radius: float
    vertebra_height: float
    vertebra_phase: float
    gas_in_stomach: bool

    def spine_x(self, z: Array) -> Array:
        """Return where the spine's middle lies sideways at height z."""
        return np.asarray(self.scoliosis * np.sin(np.asarray(z) / 60.0), np.float32)

    def spine_y(self, z: Array) -> Array:
        """Return where the vertebral bodies' middle lies front to back at height z."""
        bend = self.kyphosis * (np.asarray(z) / 120.0) ** 2
        return np.asarray(self.half_depth * 0.78 - bend - 2, np.float32)

    def cavity_axes(self, z: Array) -> tuple[Array, Array, Array]:
        """Return half width, half depth and centre y of the chest cavity at height z."""
        t = np.clip((self.apex_z - z) / (self.apex_z + 95 * self.size), 0.0, 1.0)
        share = np.maximum(np.sqrt(np.clip(1 - (1 - t) ** 2.3, 1e-4, 1)), 0.04)
        centre = 10 * self.size * (1 - share) + 0.02 * z
        return self.half_width * share, self.half_depth * share**0.85, centre


def draw_build(rng: np.random.Generator, people: Population, options: ThoraxOptions) -> Build:
    """Draw one patient's build."""
    size = float(np.clip(rng.normal(*people.size), 0.78, 1.3))
    female = bool(rng.random() < 0.45)
    breath = rng.uniform(-1, 1)
    right_dome = -72 * size - 14 * breath
    contrast = bool(rng.random() < people.contrast_share)
    heart = rng.uniform(0.88, 1.12)
    return Build(
        size=size,
        female=female,
        half_width=132 * size * rng.uniform(0.9, 1.1) * (0.95 if female else 1.02),
        half_depth=88 * size * rng.uniform(0.87, 1.15),
        apex_z=128 * size * rng.uniform(0.93, 1.07),
        right_dome_z=right_dome,
        left_dome_z=right_dome - rng.uniform(2, 22),
        bottom_z=right_dome - rng.uniform(60, 85) * size,
        fat=rng.uniform(*people.fat_mm),
        muscle=rng.uniform(14, 26),
        heart_scale=heart if options.heart_scale is None else options.heart_scale,
        contrast=contrast,
        blood_hu=rng.uniform(120, 330) if contrast else rng.uniform(32, 48),
        lung_hu=rng.uniform(*people.lung_hu),
        cortex=rng.uniform(1.0, 1.8),
        kyphosis=rng.uniform(4, 12),
        scoliosis=rng.normal(0, 4),
        vertebra_radius=16 * size * rng.uniform(0.9, 1.1),
        vertebra_height=rng.uniform(21, 26) * size,
        vertebra_phase=rng.uniform(0, 1),
        gas_in_stomach=bool(rng.random() < 0.8),
    )


class Anatomy:
    """All smooth fields of one patient, and the warp that makes the patient irregular.

    Attributes
    ----------
    fields
        Signed distances in mm by name, and the two noise fields ``texture`` (22 mm) and
        ``unevenness`` (60 mm), each of the lattice's shape.
    hila_mm
        Root of the right (-1) and left (+1) lung, before the warp.
    """

    def __init__(self, rng: np.random.Generator, people: Population, build: Build) -> None:
        self.build = build
        half_x = build.half_width + build.muscle + build.fat + 60
        half_y = build.half_depth + build.muscle + build.fat + 45
        self.lattice = Lattice(
            (-half_x, -half_y, build.bottom_z - 25),
            (half_x, half_y + 10, build.apex_z + 45),
            LATTICE_STEP_MM,
        )
        amplitude = rng.uniform(*people.warp_mm)
        self.warp = [
            amplitude * (self.lattice.noise(rng, 75) + 0.25 * self.lattice.noise(rng, 30))
            for _ in range(3)
        ]
        x, y, z = self.lattice.grid.coordinates()
        self._at = (x + self.warp[0], y + self.warp[1], z + self.warp[2])
        s = build.size
        self.hila_mm = {
            -1: np.array([-36, 6, 6]) * s + rng.normal(0, 3, 3),
            1: np.array([38, 9, 14]) * s + rng.normal(0, 3, 3),
        }
        self.fields: dict[str, Array] = {}
        self._chest_wall(rng)
        self._mediastinum(rng)
        self._lungs_and_abdomen(rng)
        self._fissures_and_textures(rng)
        del self._at  # three large arrays that nothing needs any more
        for name, field in self.fields.items():
            whole = np.broadcast_to(field, self.lattice.shape)
            self.fields[name] = np.ascontiguousarray(whole, np.float32)

    def unwarp(self, points_mm: Points) -> Points:
        """Move points given before the warp to where they lie in the patient, to first order."""
        points = np.atleast_2d(points_mm).astype(float)
        return points - np.stack([self.lattice.sample(u, points) for u in self.warp], 1)

    def _chest_wall(self, rng: np.random.Generator) -> None:
        b, s = self.build, self.build.size
        x, y, z = self._at
        width, depth, centre = b.cavity_axes(z)
        n = _CAVITY_EXPONENT
        radius = (np.abs(x / width) ** n + np.abs((y - centre) / depth) ** n) ** (1 / n)
        cavity = (radius - 1) * np.minimum(width, depth)
        self.fields["cavity"] = smooth_max(cavity, (z - b.apex_z) * 0.9, 6)
        gx, gy, gz = self.lattice.grid.coordinates()
        shoulders = 38 * s * np.clip((gz - 40 * s) / 90, 0, 1)
        wide = b.half_width + b.muscle + b.fat + shoulders - 0.10 * np.clip(-gz - 60, 0, 100)
        deep = b.half_depth + b.muscle * 0.8 + b.fat * 0.8 + 4
        neck = np.clip((gz - b.apex_z - 12) / 30, 0, 1)
        half_x, half_y = wide * (1 - neck) + 75 * neck, deep * (1 - 0.35 * neck)
        rx = np.abs((gx + 0.5 * self.warp[0]) / half_x) ** 2.6
        ry = np.abs((gy + 0.5 * self.warp[1] - 9) / (half_y + 5)) ** 2.6
        body: Array = ((rx + ry) ** (1 / 2.6) - 1) * np.minimum(half_x, half_y)
        if b.female:
            scale, height = rng.uniform(0.7, 1.25), rng.uniform(-50, -30) * s
            for side in (-1, 1):
                centre_mm = (side * 72 * s, -b.half_depth - 16, height)
                breast = ellipsoid(self._at, centre_mm, (52 * scale, 40 * scale, 58 * scale))
                body = smooth_min(body, breast, 18)
        self.fields["body"] = body
        sideways = (x - b.spine_x(z)) / 1.15
        self.fields["spine"] = np.hypot(sideways, y - b.spine_y(z)) - b.vertebra_radius

    def _heart(self, rng: np.random.Generator) -> Array:
        b, s = self.build, self.build.size
        scale = b.heart_scale * s
        x, y, z = self._at
        left = rng.uniform(9, 19) * s * (0.7 + 0.3 * b.heart_scale)
        front, height = -rng.uniform(24, 36) * s, b.left_dome_z + 44 * scale
        c, n = np.cos(0.62), np.sin(0.62)
        along, across = c * (x - left) - n * (z - height), n * (x - left) + c * (z - height)
        radii = (63 * scale, 48 * scale, 48 * scale)
        return ellipsoid((along, y - front, across), (0, 0, 0), radii)

    def _great_vessels(self, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        s, at = self.build.size, self._at
        radius = rng.uniform(10, 14.5) * s
        path = np.array(
            [
                [-14, -22, 0], [-16, -26, 38], [-8, -22, 62], [6, -6, 74], [18, 14, 68],
                [22, 34, 48], [22, 40, 0], [18, 42, -70], [8, 44, -190],
            ],
            float,
        ) * s  # fmt: skip
        aorta = np.full(self.lattice.shape, 1e3, np.float32)
        for a, c in pairwise(path):
            ascending = a[2] < 60 * s and a[1] < 0
            widths = (radius * (1.15 if ascending else 1), radius)
            aorta = np.minimum(aorta, capsule(at, a, c, widths))
        left_root = np.array([12, -22, 8.0]) * s
        right_root = np.array([6, -12, 18.0]) * s
        left = capsule(at, left_root, self.hila_mm[1] - [4, 0, 0], (12 * s, 8.5 * s))
        right = capsule(at, right_root, self.hila_mm[-1] + [4, 0, 0], (11 * s, 8.5 * s))
        atrium = ellipsoid(at, (2, 18 * s, -18 * s), (38 * s, 20 * s, 24 * s))
        return aorta, np.minimum(left, right), atrium

    def _mediastinum(self, rng: np.random.Generator) -> None:
        s = self.build.size
        x, y, _ = self._at
        heart = self._heart(rng)
        upper = ellipsoid(self._at, (0, -8 * s, 55 * s), (rng.uniform(26, 35) * s, 36 * s, 75 * s))
        middle = smooth_min(heart, upper, 14)
        middle = smooth_min(middle, np.hypot(x, (y - 42 * s) / 2.2) - 15 * s, 10)
        # The lungs touch in front of the heart along a thin sheet, the anterior junction.
        middle = smooth_min(middle, np.hypot(x, (y + 62 * s) / 6) - rng.uniform(3.5, 7), 8)
        aorta, arteries, atrium = self._great_vessels(rng)
        middle = smooth_min(middle, aorta - 1.5, 6)
        middle = smooth_min(middle, smooth_min(arteries, atrium, 6) - 2, 8)
        blood = np.minimum(np.minimum(aorta, arteries), np.minimum(heart + 6, atrium))
        self.fields |= {"mediastinum": middle, "heart": heart, "blood": blood}

    def _lungs_and_abdomen(self, rng: np.random.Generator) -> None:
        b, s, f = self.build, self.build.size, self.fields
        x, y, z = self._at

        def dome(centre_x: float, top_z: float, radius: float) -> Array:
            q = np.sqrt(((x - centre_x) / radius) ** 2 + ((y + 14 * s) / (86 * s)) ** 2 + 0.02)
            return np.asarray(top_z - 62 * s * q**2.1, np.float32)

        right = dome(-66 * s, b.right_dome_z, 80 * s)
        left = dome(66 * s, b.left_dome_z, 82 * s)
        under = (np.where(x < 0, right, left) - z) * 0.72
        lung = smooth_max(f["cavity"], -f["mediastinum"], 7)
        lung = smooth_max(lung, -(f["spine"] - 5), 6)
        lung = smooth_max(lung, under, 5)
        f["lung"] = np.maximum(lung, 1.2 - np.abs(x - 0.3 * self.warp[1]))
        liver = smooth_max(smooth_max(f["cavity"] - 3, 3 - under, 4), x - 35 * s, 15)
        f["liver"] = smooth_max(liver, b.bottom_z - z - 10, 5)
        stomach = (62 * s, -5.0, b.left_dome_z - rng.uniform(24, 34) * s)
        f["stomach"] = ellipsoid(self._at, stomach, (38 * s, 34 * s, 26 * s))
        spleen = (98 * s, 45 * s, b.left_dome_z - 50 * s)
        f["spleen"] = ellipsoid(self._at, spleen, (28 * s, 40 * s, 45 * s))

    def _fissures_and_textures(self, rng: np.random.Generator) -> None:
        s = self.build.size
        x, y, z = self._at
        waves = [6 * self.lattice.noise(rng, 60) for _ in range(2)]
        right = (z - (18 * s - 0.95 * y)) / 1.38 + waves[0]
        left = (z - (24 * s - 1.0 * y)) / 1.41 + waves[1]
        self.fields["oblique_fissure"] = np.where(x < 0, right, left)
        self.fields["minor_fissure"] = (z - (2 * s + 0.12 * y)) + waves[1]
        self.fields["texture"] = self.lattice.noise(rng, 22)
        self.fields["unevenness"] = self.lattice.noise(rng, 60)
