"""The upper abdomen of a synthetic patient: organs as smooth fields, vessels and ribs as tubes.

A seed and a domain go in; an `Abdomen` comes out, ready to be drawn on any grid by
`models.phantoms.abdomen_render`. Millimetres, patient axes (LPS); z is 0 near the porta hepatis.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from models.phantoms.geometry import Array, Lattice, Points
from models.phantoms.seeds import Domain
from models.phantoms.shapes import capsule, ellipsoid, smooth_max, smooth_min
from models.phantoms.trees import TreeForm, grow_tree

Fields = dict[str, Array]
Interval = tuple[float, float]


@dataclass(frozen=True)
class AbdomenPopulation:
    """From which ranges patients of one domain are drawn; lengths in mm, contrasts in HU."""

    size: Interval  # mean and standard deviation, 1 is an average adult
    subcutaneous_fat_mm: Interval
    visceral_fat_mm: Interval
    warp_mm: Interval
    phases: tuple[float, float, float]  # portal venous, arterial, none
    fatty_liver: float
    lesion_contrast_hu: Interval
    lobulation: Interval


POPULATIONS = {
    Domain.STANDARD: AbdomenPopulation(
        size=(1.0, 0.06),
        subcutaneous_fat_mm=(8, 35),
        visceral_fat_mm=(6, 22),
        warp_mm=(4, 8),
        phases=(0.65, 0.15, 0.20),
        fatty_liver=0.2,
        lesion_contrast_hu=(20, 62),
        lobulation=(0.05, 0.20),
    ),
    Domain.SHIFTED: AbdomenPopulation(
        size=(1.03, 0.10),
        subcutaneous_fat_mm=(4, 60),
        visceral_fat_mm=(2, 34),
        warp_mm=(7, 12),
        phases=(0.35, 0.30, 0.35),
        fatty_liver=0.45,
        lesion_contrast_hu=(15, 48),
        lobulation=(0.12, 0.30),
    ),
}

# Mean attenuation (HU) and its spread by organ: portal venous, arterial, without contrast.
_ATTENUATION: dict[str, tuple[Interval, Interval, Interval]] = {
    "liver": ((108, 12), (72, 8), (56, 6)),
    "portal": ((152, 15), (95, 15), (41, 3)),
    "hepatic": ((150, 15), (70, 8), (41, 3)),
    "aorta": ((145, 18), (290, 45), (41, 3)),
    "spleen": ((118, 10), (125, 22), (48, 4)),
    "kidney": ((175, 20), (180, 28), (32, 3)),
    "pancreas": ((90, 10), (105, 12), (38, 5)),
    "bowel": ((85, 8), (80, 8), (40, 4)),
}
PHASES = ("portal_venous", "arterial", "none")


@dataclass(frozen=True)
class Bowel:
    """Bowel loops: tubes, and for each the attenuation of its content in HU."""

    tubes: Points
    content_hu: Array


@dataclass(frozen=True)
class Abdomen:
    """One patient: fields on a lattice (negative inside), tubes, and attenuations in HU."""

    seed: int
    domain: Domain
    phase: str
    fatty: bool
    scale: float
    lattice: Lattice
    fields: Fields
    attenuation_hu: dict[str, float]
    portal_tree: Points
    hepatic_tree: Points
    ribs: Points
    bowel: Bowel
    spine_y_mm: float
    spine_radius_mm: float
    stomach_hu: float
    gas_level_y_mm: float
    top_mm: float
    bottom_mm: float

    def corners_mm(self) -> tuple[Points, Points]:
        """Return the box that holds the body, low and high corner as (x, y, z)."""
        inside = self.lattice.points(self.fields["body"] < 0)
        low, high = inside.min(0), inside.max(0)
        low[2], high[2] = self.bottom_mm, self.top_mm
        return low, high


def _attenuation(rng: np.random.Generator, phase: str, fatty: bool) -> dict[str, float]:
    column = PHASES.index(phase)
    drawn = {k: float(rng.normal(*v[column])) for k, v in _ATTENUATION.items()}
    if fatty:
        drawn["liver"] -= float(rng.uniform(12, 35))
    return drawn


@dataclass
class _Scene:
    """What the parts of the anatomy share while they are made."""

    rng: np.random.Generator
    population: AbdomenPopulation
    scale: float
    width: float
    depth: float
    lattice: Lattice
    warp: list[Array]

    @property
    def at(self) -> tuple[Array, Array, Array]:
        """Coordinates in the patient's own, unwarped anatomy."""
        x, y, z = self.lattice.grid.coordinates()
        return x + self.warp[0], y + self.warp[1], z + self.warp[2]

    def placed(self, anatomy_mm: Points) -> Points:
        """Return where points of the unwarped anatomy lie in the patient."""
        points = np.atleast_2d(np.asarray(anatomy_mm, float))
        return points - np.stack([self.lattice.sample(w, points) for w in self.warp], 1)


def _squircle(x: Array, y: Array, radii: Interval, exponent: float) -> Array:
    ring = (np.abs(x) / radii[0]) ** exponent + (np.abs(y) / radii[1]) ** exponent
    distance: Array = (ring ** (1 / exponent) - 1) * min(radii)
    return distance


def _walls(scene: _Scene, fat_mm: float, muscle_mm: float) -> Fields:
    """Skin, muscle wall, cavity, spine and psoas; they follow the warp only in part."""
    s, w, d = scene.scale, scene.width, scene.depth
    x, y, z = scene.lattice.grid.coordinates()
    x, y, z = (c + 0.4 * u for c, u in zip((x, y, z), scene.warp, strict=True))
    outer = (w + muscle_mm + fat_mm, d + muscle_mm + fat_mm * 0.8 + 8)
    cavity = _squircle(x, y, (w, d), 2.3)
    erector = np.sqrt((np.abs(x) - 30) ** 2 * 0.45 + (y - d * 0.78 - 24) ** 2) - 25 * s
    spine_y = d * 0.70
    psoas_radius = np.clip(17 * s - 0.08 * (z + 40), 4, 26)
    psoas = np.sqrt((np.abs(x) - 38 * s) ** 2 + ((y - spine_y - 2) / 1.2) ** 2) - psoas_radius
    return {
        "body": _squircle(x, y - 8, outer, 2.5),
        "wall": np.minimum(cavity - muscle_mm, erector),
        "cavity": cavity,
        "spine": np.sqrt((x / 1.25) ** 2 + (y - spine_y) ** 2) - 19 * s,
        "psoas": psoas,
    }


def _diaphragm(scene: _Scene) -> Array:
    """Return the signed distance below the domes: negative in the abdomen."""
    s = scene.scale
    x, y, z = scene.at

    def dome(centre: float, height: float, radius: float) -> Array:
        bowl = ((x - centre) / radius) ** 2 + ((y + 8 * s) / (85 * s)) ** 2 + 0.02
        shape: Array = height - 55 * s * bowl**1.05
        return shape

    right = dome(-60 * s, 100 * s, 80 * s)
    left = dome(66 * s, 92 * s, 82 * s)
    height = np.where(x < 0, right, left) + 6 * scene.lattice.noise(scene.rng, 70)
    distance: Array = (z - height) * 0.75
    return distance


def _liver(scene: _Scene) -> Array:
    rng, s, d = scene.rng, scene.scale, scene.depth
    tall = 84 * s * float(rng.uniform(0.85, 1.12))
    right = ellipsoid(scene.at, (-58 * s, -2 * s, 28 * s), (78 * s, 80 * s * d / 85, tall))
    reach = float(rng.uniform(50, 78)) * s
    left = ellipsoid(scene.at, (18 * s, -40 * s, 48 * s), (reach, 36 * s, 40 * s))
    return smooth_min(right, left, 20)


def _viscera(scene: _Scene) -> Fields:
    """Solid organs before they make room for each other."""
    rng, s, at = scene.rng, scene.scale, scene.at

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    stomach_at = (between(34, 52) * s, -between(18, 38) * s, between(30, 48) * s)
    stomach_radii = (between(28, 50) * s, between(24, 38) * s, 46 * s)
    kidneys = np.minimum(
        ellipsoid(at, (-58 * s, 42 * s, -28 * s), (25 * s, 23 * s, 50 * s)),
        ellipsoid(at, (60 * s, 44 * s, -18 * s), (25 * s, 23 * s, 50 * s)),
    )
    bladder = (13 * s * between(0.6, 1.3), 15 * s * between(0.6, 1.3), 30 * s * between(0.6, 1.2))
    spleen = (27 * s, 44 * s, 50 * s * between(0.7, 1.3))
    return {
        "liver": _liver(scene),
        "spleen": ellipsoid(at, (93 * s, 38 * s, 48 * s), spleen),
        "stomach": ellipsoid(at, stomach_at, stomach_radii),
        "kidney": kidneys,
        "gallbladder": ellipsoid(at, (-42 * s, -38 * s, -22 * s), bladder),
    }


def _fitted(scene: _Scene, organs: Fields, walls: Fields, fat_mm: float) -> Fields:
    """Keep organs inside the cavity, under the diaphragm and out of each other."""
    s = scene.scale
    x, y, z = scene.at
    dome = _diaphragm(scene)
    cavity = walls["cavity"]
    liver = smooth_max(smooth_max(organs["liver"], cavity + fat_mm * 0.25 + 2, 8), dome + 3, 6)
    spleen = smooth_max(smooth_max(organs["spleen"], cavity + fat_mm * 0.3 + 2, 6), dome + 3, 5)
    stomach = smooth_max(smooth_max(organs["stomach"], cavity + fat_mm * 0.3 + 3, 6), dome + 5, 5)
    for other, gap, width in (("stomach", 3, 5), ("kidney", 4, 6), ("gallbladder", 1, 3)):
        body = stomach if other == "stomach" else organs[other]
        liver = smooth_max(liver, -(body - gap), width)
    liver = smooth_max(liver, -(walls["spine"] - 8), 6)
    # The falciform ligament: a cleft of fat between the lobes, in front.
    cleft = np.abs(x - 8 * s + 0.15 * (y + 60)) - 0.5 * np.clip(-y - 12 - 0.25 * z, 0, 6)
    liver = smooth_max(liver, -np.where(y < -8, cleft, np.float32(20.0)), 2.5)
    return {
        "liver": liver,
        "spleen": smooth_max(spleen, -(stomach - 3), 4),
        "stomach": stomach,
        "kidney": organs["kidney"],
        "gallbladder": organs["gallbladder"],
        "lung": smooth_max(cavity, -dome + 2, 3),
    }


def _great_vessels(scene: _Scene, spine_front_mm: float) -> Fields:
    s, at = scene.scale, scene.at
    front = spine_front_mm

    def tube(start: list[float], end: list[float], radii: Interval) -> Array:
        return capsule(at, np.array(start), np.array(end), radii)

    confluence = [4 * s, 12 * s, -22 * s]
    portal = np.minimum(
        tube(confluence, [-32 * s, 2 * s, 12 * s], (7.5 * s, 7 * s)),
        tube(confluence, [70 * s, 30 * s, 25 * s], (6 * s, 4 * s)),
    )
    return {
        "aorta": tube([6, front - 11, -190], [8, front - 10, 190], (10.5 * s, 11 * s)),
        "cava": tube([-20, front - 6, -190], [-22 * s, 20 * s, 75 * s], (11 * s, 12 * s)),
        "portal": portal,
    }


def _pancreas(scene: _Scene) -> Array:
    rng, s = scene.rng, scene.scale
    line = s * np.array(
        [[-34, -6, -30], [-12, -12, -24], [14, -14, -14], [42, 6, 2], [74, 22, 16]], float
    )
    body: Array | None = None
    for start, end in pairwise(line):
        radii = (float(rng.uniform(8, 13)) * s, float(rng.uniform(7, 11)) * s)
        piece = capsule(scene.at, start, end, radii)
        body = piece if body is None else smooth_min(body, piece, 5)
    assert body is not None
    return body + 2.2 * scene.lattice.noise(rng, 12)


def _bowel(scene: _Scene, taken: Array) -> Bowel:
    """Lay wandering loops where the cavity is still free."""
    rng, lattice = scene.rng, scene.lattice
    free = lattice.points(taken > 9)
    if len(free) == 0:
        return Bowel(np.zeros((0, 8)), np.zeros(0, np.float32))
    tubes, content = [], []
    for _ in range(int(rng.integers(24, 56))):
        here = free[rng.integers(len(free))] + rng.uniform(-2, 2, 3)
        heading = rng.standard_normal(3)
        radius = float(rng.uniform(6, 13)) * scene.scale
        kind = float(rng.choice([-900.0, 20.0, 60.0, 220.0], p=[0.3, 0.3, 0.28, 0.12]))
        for _ in range(int(rng.integers(3, 9))):
            heading = heading + 0.8 * rng.standard_normal(3)
            ahead = here + 14 * heading / (np.linalg.norm(heading) + 1e-6)
            if lattice.sample(taken, ahead)[0] < radius * 0.7:
                heading = -heading
                continue
            tubes.append((*here, *ahead, radius, radius * float(rng.uniform(0.85, 1.1))))
            content.append(kind)
            here = ahead
    if not tubes:
        return Bowel(np.zeros((0, 8)), np.zeros(0, np.float32))
    return Bowel(np.array(tubes), np.array(content, np.float32))


def _ribs(scene: _Scene) -> Points:
    s, w, d = scene.scale, scene.width + 5, scene.depth + 5
    bars = []
    for level, top in enumerate(np.arange(95, -40, -24) * s):
        theta = np.linspace(0.3, np.pi * (0.9 - 0.09 * level), 18)
        side = np.abs(np.sin(theta)) ** 0.87 * w
        back = np.sign(np.cos(theta)) * np.abs(np.cos(theta)) ** 0.87 * d
        height = top - 55 * s * (theta / np.pi) ** 1.3
        for sign in (-1, 1):
            line = np.stack([sign * side, back, height], 1)
            line = line - 0.4 * (line - scene.placed(line))
            bars.append(np.concatenate([line[:-1], line[1:], np.full((17, 2), 3.2 * s)], 1))
    stacked = np.concatenate(bars)
    lift = np.array([0, 0, 3.4, 0, 0, 3.4, 0, 0]) * s
    return np.concatenate([stacked - lift, stacked, stacked + lift])


def _trees(scene: _Scene, liver: Array) -> tuple[Points, Points]:
    rng, s = scene.rng, scene.scale
    inside = scene.lattice.points(liver < -4)
    form = TreeForm(float(rng.uniform(0.6, 1.0)))
    count = int(rng.uniform(90, 240))

    def tree(root: list[float]) -> Points:
        twigs = inside[rng.integers(len(inside), size=count)] + rng.uniform(-2, 2, (count, 3))
        return grow_tree(rng, scene.placed(np.array(root) * s)[0], twigs, form)

    return tree([-32, 2, 12]), tree([-22, 16, 68])


def _new_scene(rng: np.random.Generator, population: AbdomenPopulation, margin_mm: float) -> _Scene:
    scale = float(np.clip(rng.normal(*population.size), 0.78, 1.3))
    width = 122 * scale * float(rng.uniform(0.9, 1.12))
    depth = 82 * scale * float(rng.uniform(0.88, 1.15))
    half, tall = width + margin_mm, 126 * scale
    low = (-half, -(depth + margin_mm), -tall)
    lattice = Lattice(low, (half, depth + margin_mm + 20, tall), 4.0)
    amplitude = float(rng.uniform(*population.warp_mm))
    warp = [
        amplitude * lattice.noise(rng, 62) + 0.28 * amplitude * lattice.noise(rng, 28)
        for _ in range(3)
    ]
    return _Scene(rng, population, scale, width, depth, lattice, warp)


def make_abdomen(seed: int, domain: Domain = Domain.STANDARD) -> Abdomen:
    """Return the abdomen of the patient that `seed` stands for, without lesions."""
    rng = np.random.default_rng([seed, 101])
    population = POPULATIONS[domain]
    fat = float(rng.uniform(*population.subcutaneous_fat_mm))
    muscle = float(rng.uniform(10, 18))
    visceral = float(rng.uniform(*population.visceral_fat_mm))
    scene = _new_scene(rng, population, fat + muscle + 14)
    phase = str(rng.choice(PHASES, p=population.phases))
    fatty = bool(rng.random() < population.fatty_liver)
    walls = _walls(scene, fat, muscle)
    organs = _fitted(scene, _viscera(scene), walls, visceral)
    spine_y, spine_radius = scene.depth * 0.70, 19 * scene.scale
    vessels = _great_vessels(scene, spine_y - spine_radius)
    fields: Fields = {**walls, **organs, **vessels, "pancreas": _pancreas(scene)}
    for name, width_mm in (("texture", 18.0), ("texture_wide", 50.0), ("texture_fine", 9.0)):
        fields[name] = scene.lattice.noise(rng, width_mm)
    shape = scene.lattice.shape
    fields = {
        k: np.ascontiguousarray(np.broadcast_to(v, shape), np.float32) for k, v in fields.items()
    }
    solid = [fields[k] for k in ("liver", "spleen", "stomach", "kidney", "gallbladder", "lung")]
    taken = np.minimum.reduce([*solid, fields["pancreas"], fields["spine"], -fields["cavity"]])
    portal_tree, hepatic_tree = _trees(scene, fields["liver"])
    return Abdomen(
        seed=seed,
        domain=domain,
        phase=phase,
        fatty=fatty,
        scale=scene.scale,
        lattice=scene.lattice,
        fields=fields,
        attenuation_hu=_attenuation(rng, phase, fatty),
        portal_tree=portal_tree,
        hepatic_tree=hepatic_tree,
        ribs=_ribs(scene),
        bowel=_bowel(scene, taken),
        spine_y_mm=spine_y,
        spine_radius_mm=spine_radius,
        stomach_hu=float(rng.choice([15.0, 40.0, 180.0], p=[0.5, 0.3, 0.2])),
        gas_level_y_mm=float(-rng.uniform(22, 45) * scene.scale),
        top_mm=114 * scene.scale,
        bottom_mm=-114 * scene.scale,
    )
