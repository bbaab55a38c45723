"""Ribs, clavicles, sternum and shoulder blades of a synthetic patient."""

from dataclasses import dataclass

import numpy as np

from models.phantoms.anatomy import Anatomy
from models.phantoms.geometry import Points, Triple
from models.phantoms.population import ThoraxOptions


@dataclass(frozen=True)
class ShoulderBlade:
    """A flat ellipsoid turned by `angle` about the body's axis."""

    centre_mm: Points
    radii_mm: Triple
    angle: float


@dataclass(frozen=True)
class Skeleton:
    """Bones other than the spine; tubes are rows as `models.phantoms.shapes` draws them.

    `rib_lines_mm` are the ribs' middle lines, one array of points each.
    """

    ribs: Points
    clavicles: Points
    sternum: tuple[Points, Points]
    shoulder_blades: tuple[ShoulderBlade, ...]
    rib_lines_mm: tuple[Points, ...]


def draw_skeleton(rng: np.random.Generator, anatomy: Anatomy, options: ThoraxOptions) -> Skeleton:
    """Draw the bones that go with an anatomy."""
    b, s = anatomy.build, anatomy.build.size
    tubes, lines = _ribs(rng, anatomy)
    clavicles = []
    height = b.apex_z - 8
    for side in (-1, 1):
        inner = np.array([side * 16 * s, -b.half_depth * 0.72 - 8, height - 18 * s])
        middle = np.array([side * 75 * s, -b.half_depth * 0.55 - 14, height + 4])
        outer = np.array([side * (b.half_width + 18) * 0.98, -8, height + 16])
        clavicles += [(*inner, *middle, 6.2 * s, 5 * s), (*middle, *outer, 5 * s, 5.5 * s)]
    down = options.arms_down
    down = bool(rng.random() < 0.2) if down is None else down
    blades = tuple(
        ShoulderBlade(
            np.array(
                [side * b.half_width * (0.80 if down else 0.95), b.half_depth * 0.72 + 6, 48 * s]
            ),
            (34 * s, 4.0, 58 * s),
            side * rng.uniform(0.3, 0.7),
        )
        for side in (-1, 1)
    )
    sternum = (np.array([0, -b.half_depth - 5, 5 * s]), np.array([17 * s, 5.5, 82 * s]))
    return Skeleton(tubes, np.array(clavicles), sternum, blades, tuple(lines))


def _ribs(rng: np.random.Generator, anatomy: Anatomy) -> tuple[Points, list[Points]]:
    b, s = anatomy.build, anatomy.build.size
    heights = np.linspace(b.apex_z - 6, b.apex_z - 6 - 11 * rng.uniform(23, 27) * s, 12)
    slope = rng.uniform(0.55, 0.9)
    tubes, lines = [], []
    for i, height in enumerate(heights):
        radius = (3.0 + 0.08 * min(i, 6)) * s * rng.uniform(0.9, 1.15)
        reach = np.pi * (1.0 if i < 7 else 0.92 - 0.09 * (i - 7))
        turn = np.linspace(0.10, reach * 0.93, 26)
        z = height - slope * 92 * s * (turn / np.pi) ** 1.35 * (0.55 + 0.07 * min(i, 7))
        width, depth, centre = anatomy.build.cavity_axes(z)
        c, n, power = np.cos(turn), np.sin(turn), 2 / 2.35
        for side in (-1, 1):
            x = side * (width + 6.5) * np.sign(n) * np.abs(n) ** power
            y = centre + (depth + 6.0) * np.sign(c) * np.abs(c) ** power
            line = anatomy.unwarp(np.stack([x, y, z], 1))
            lines.append(line)
            # The last fifth is cartilage. Three tubes side by side make the rib taller than thick.
            bony = int((len(line) - 1) * 0.82)
            spread = rng.uniform(2.6, 4.2) * s
            for up in (-spread, 0.0, spread):
                moved = line + np.array([0.0, 0.0, up])
                ends = [moved[:bony], moved[1 : bony + 1], np.full((bony, 2), radius)]
                tubes.append(np.concatenate(ends, 1))
    return np.concatenate(tubes), lines
