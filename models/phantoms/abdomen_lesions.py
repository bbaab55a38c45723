"""Focal lesions of the liver, and the look-alikes that are none.

A lesion is an ellipsoid in a random direction whose surface is rippled by a few plane waves;
what is inside it depends on its kind and on the contrast phase.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from models.phantoms.abdomen import POPULATIONS, Abdomen
from models.phantoms.geometry import Array, Points


class LesionKind(StrEnum):
    """What a focal liver lesion is."""

    METASTASIS = "metastasis"
    CYST = "cyst"
    CARCINOMA = "hepatocellular_carcinoma"
    HEMANGIOMA = "hemangioma"
    CALCIFIED = "calcified"


_KINDS = tuple(LesionKind)
_SHARES = (0.55, 0.17, 0.13, 0.10, 0.05)


@dataclass(frozen=True)
class Lesion:
    """One focal lesion; `diameter_mm` is that of the sphere of its volume, before ripples."""

    kind: LesionKind
    centre_mm: Points
    diameter_mm: float
    attenuation_hu: float
    edge_mm: float
    rim_hu: float
    necrosis: float
    metric: Points  # maps an offset in mm to the space where the lesion is a sphere
    waves: Points  # rows: direction (3), phase, height

    @property
    def reach_mm(self) -> float:
        """Distance from the centre beyond which the lesion has no influence."""
        longest = 1.0 / float(np.linalg.eigvalsh(self.metric).min())
        return self.diameter_mm / 2 * longest * 1.45 + self.edge_mm + 5

    def distances(self, at: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        """Return signed distance to the surface and distance from the centre, in mm."""
        offset = [at[a] - float(self.centre_mm[a]) for a in range(3)]
        u, v, w = (sum(float(self.metric[r, c]) * offset[c] for c in range(3)) for r in range(3))
        radius = self.diameter_mm / 2
        length = np.sqrt(u * u + v * v + w * w)
        ripple = sum(
            float(height) * np.cos((float(a) * u + float(b) * v + float(c) * w) / radius + float(p))
            for a, b, c, p, height in self.waves
        )
        surface: Array = length - radius * (1 + ripple)
        return surface, length


@dataclass(frozen=True)
class FattyArea:
    """A hazy region of more or less fat: a look-alike, not a lesion."""

    centre_mm: Points
    radius_mm: float
    change_hu: float


@dataclass(frozen=True)
class LiverDisease:
    """All that is wrong, and all that looks wrong, with one liver."""

    lesions: tuple[Lesion, ...]
    fatty_areas: tuple[FattyArea, ...]
    renal_cysts: tuple[tuple[Points, float], ...]  # centre, radius in mm


def _metric(rng: np.random.Generator) -> Points:
    axes = rng.uniform(0.7, 1.15, 3)
    axes = axes / np.cbrt(np.prod(axes))
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return np.asarray((turn / axes) @ turn.T)


def _waves(rng: np.random.Generator, lobulation: float) -> Points:
    count = 7
    direction = rng.standard_normal((count, 3))
    direction *= (rng.uniform(1.2, 4.5, count) / np.linalg.norm(direction, axis=1))[:, None]
    phase = rng.uniform(0, 2 * np.pi, count)
    height = rng.standard_normal(count) * lobulation / np.sqrt(count) * 1.4
    return np.concatenate([direction, phase[:, None], height[:, None]], 1)


def _attenuation(rng: np.random.Generator, kind: LesionKind, abdomen: Abdomen) -> float:
    liver = abdomen.attenuation_hu["liver"]
    if kind is LesionKind.CYST:
        return float(rng.uniform(-2, 18))
    if kind is LesionKind.CALCIFIED:
        return float(rng.uniform(180, 500))
    if kind is LesionKind.CARCINOMA:
        against = {"arterial": (20, 62), "portal_venous": (-34, -14), "none": (-24, -12)}
        return liver + float(rng.uniform(*against[abdomen.phase]))
    contrast = float(rng.uniform(*POPULATIONS[abdomen.domain].lesion_contrast_hu))
    return liver - contrast * (0.7 if abdomen.phase == "none" else 1.0)


def _lesion(rng: np.random.Generator, abdomen: Abdomen, centre: Points, diameter: float) -> Lesion:
    kind = LesionKind(str(rng.choice(_KINDS, p=_SHARES)))
    soft_edge = kind in (LesionKind.METASTASIS, LesionKind.HEMANGIOMA)
    rimmed = kind is LesionKind.METASTASIS and rng.random() < 0.45
    may_decay = kind in (LesionKind.METASTASIS, LesionKind.CARCINOMA) and diameter > 20
    return Lesion(
        kind=kind,
        centre_mm=centre,
        diameter_mm=diameter,
        attenuation_hu=_attenuation(rng, kind, abdomen),
        edge_mm=float(rng.uniform(1, 4) if soft_edge else rng.uniform(0.8, 1.6)),
        rim_hu=float(rng.uniform(8, 35)) if rimmed else 0.0,
        necrosis=float(rng.uniform(0.3, 0.7)) if may_decay and rng.random() < 0.5 else 0.0,
        metric=_metric(rng),
        waves=_waves(rng, float(rng.uniform(*POPULATIONS[abdomen.domain].lobulation))),
    )


def _place(
    rng: np.random.Generator, abdomen: Abdomen, inside: Points, taken: list[Lesion]
) -> Lesion | None:
    for _ in range(40):
        diameter = float(np.clip(np.exp(rng.normal(np.log(15), 0.65)), 4.5, 90))
        centre = inside[rng.integers(len(inside))] + rng.uniform(-2, 2, 3)
        depth = -float(abdomen.lattice.sample(abdomen.fields["liver"], centre)[0])
        clear = all(
            np.linalg.norm(centre - other.centre_mm) > (diameter + other.diameter_mm) / 2 + 3
            for other in taken
        )
        if clear and depth > float(rng.uniform(0, 0.7)) * diameter / 2:
            return _lesion(rng, abdomen, centre, diameter)
    return None


def _renal_cysts(rng: np.random.Generator, abdomen: Abdomen) -> list[tuple[Points, float]]:
    rind = abdomen.lattice.points(np.abs(abdomen.fields["kidney"]) < 3)
    count = int(rng.poisson(0.5))
    picks = rind[rng.integers(len(rind), size=count)]
    return [(point, float(rng.uniform(4, 18))) for point in picks]


def make_liver_disease(abdomen: Abdomen, lesions: int | None = None) -> LiverDisease:
    """Return the disease of one patient; `lesions` asks for a number, None draws it.

    About one patient in seven has no lesion; the others have 1 to 15, median 3. A crowded liver
    may get fewer than asked for.
    """
    rng = np.random.default_rng([abdomen.seed, 102])
    inside = abdomen.lattice.points(abdomen.fields["liver"] < -2)
    if lesions is None:
        many = int(np.clip(np.exp(rng.normal(1.0, 0.8)), 1, 15))
        lesions = 0 if rng.random() < 0.15 else many
    placed: list[Lesion] = []
    for _ in range(lesions):
        lesion = _place(rng, abdomen, inside, placed)
        if lesion is not None:
            placed.append(lesion)
    areas = [
        FattyArea(
            inside[rng.integers(len(inside))],
            float(rng.uniform(10, 26)),
            float(rng.uniform(-16, 16)),
        )
        for _ in range(int(rng.poisson(0.7)))
    ]
    return LiverDisease(tuple(placed), tuple(areas), tuple(_renal_cysts(rng, abdomen)))
