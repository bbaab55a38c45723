"""A synthetic chest patient: anatomy, vessels, bones, nodules and look-alikes from a seed."""

from dataclasses import dataclass

import numpy as np

from models.phantoms.anatomy import Anatomy, draw_build
from models.phantoms.geometry import Points
from models.phantoms.nodules import Lesion, LesionForm, make_lesion
from models.phantoms.population import (
    POPULATIONS,
    SITES,
    NoduleKind,
    Site,
    ThoraxOptions,
    draw_diameter_mm,
)
from models.phantoms.seeds import Domain
from models.phantoms.skeleton import Skeleton, draw_skeleton
from models.phantoms.trees import TreeForm, grow_tree

_NODULES_PER_SCAN = 1.34
_TRIES = 60


@dataclass(frozen=True)
class Consolidation:
    """A dense patch of lung of no sharp border; `density` 0 to 1 is how much air is replaced."""

    body: Lesion
    density: float


class Thorax:
    """One patient, complete; paint it with `models.phantoms.painting.render_thorax`.

    Attributes
    ----------
    anatomy, skeleton
        Smooth organs; ribs, clavicles, sternum, shoulder blades.
    vessels, airways
        Tubes, shape ``(n, 8)``.
    lesions
        The nodules, which are the truth a detector is measured against.
    look_alikes
        Scars, plaques, lymph nodes, nodules under 3 mm; `Lesion.counted` is False where a mark on
        them counts neither as hit nor as miss.
    consolidations, bullae
        Dense patches; holes of emphysema as rows of (x, y, z, radius).
    """

    def __init__(
        self, seed: int, domain: Domain = Domain.STANDARD, options: ThoraxOptions | None = None
    ) -> None:
        self.seed, self.domain = seed, domain
        self.options = options or ThoraxOptions()
        self.people = POPULATIONS[domain]
        self.rng = rng = np.random.default_rng(seed)
        self.build = draw_build(rng, self.people, self.options)
        self.anatomy = Anatomy(rng, self.people, self.build)
        self.lattice = self.anatomy.lattice
        self._lung_points = self.lattice.points(self.anatomy.fields["lung"] < -3)
        self.vessels, self.airways = self._grow_trees()
        self.skeleton: Skeleton = draw_skeleton(rng, self.anatomy, self.options)
        self.dependent_hu = rng.uniform(0, 90)
        self.fissure_half_mm = rng.uniform(0.25, 0.6)
        self.bullae = self._draw_bullae()
        self.look_alikes: list[Lesion] = []
        self.lesions: list[Lesion] = []
        self._add_look_alikes()
        wanted = self.options.nodules
        for _ in range(rng.poisson(_NODULES_PER_SCAN) if wanted is None else wanted):
            self.add_nodule()
        self.consolidations = [
            self._draw_consolidation(side) for side in self.options.consolidation_sides
        ]

    def depth(self, point_mm: Points) -> float:
        """Return the signed distance of a point to the lung surface, negative inside, in mm."""
        return float(self.lattice.sample(self.anatomy.fields["lung"], point_mm)[0])

    def lung_box_mm(self) -> tuple[Points, Points]:
        """Return the lowest and the highest corner of the lungs as (x, y, z)."""
        points = self.lattice.points(self.anatomy.fields["lung"] < 0)
        return points.min(0), points.max(0)

    def body_box_mm(self) -> tuple[Points, Points]:
        """Return the lowest and the highest corner of the body as (x, y, z)."""
        points = self.lattice.points(self.anatomy.fields["body"] < 0)
        return points.min(0), points.max(0)

    def lung_point(self, depth_mm: float, side: int = 0) -> Points:
        """Draw a point of the lungs, ``-depth_mm`` or more under the surface if there is one."""
        rng = self.rng
        point = self._lung_points[0]
        for _ in range(2000):
            point = self._lung_points[rng.integers(len(self._lung_points))]
            point = point + self.lattice.step_mm * rng.uniform(-0.5, 0.5, 3)
            if (side == 0 or np.sign(point[0]) == side) and self.depth(point) < depth_mm:
                break
        return np.asarray(point)

    def add_nodule(
        self,
        diameter_mm: float | None = None,
        *,
        kind: NoduleKind | None = None,
        site: Site | None = None,
    ) -> Lesion | None:
        """Place one nodule; what is not given is drawn. Returns None where no room is found."""
        for _ in range(_TRIES):
            diameter = self._diameter() if diameter_mm is None else diameter_mm
            chosen_site = site or Site(self._choose({k.value: v for k, v in SITES.items()}))
            centre = self._place(chosen_site, diameter / 2)
            if centre is None or not self._is_free(centre, diameter / 2):
                continue
            nodule = self._shape(centre, diameter, (self._kind(diameter, kind), chosen_site))
            self._tether(nodule)
            self.lesions.append(nodule)
            return nodule
        return None

    def _choose(self, shares: dict[str, float]) -> str:
        weights = np.array(list(shares.values()))
        return str(self.rng.choice(list(shares), p=weights / weights.sum()))

    def _diameter(self) -> float:
        if self.rng.random() < self.options.larger_share:
            return float(self.rng.uniform(*self.options.nodule_size_mm))
        return draw_diameter_mm(self.rng, self.options.nodule_size_mm)

    def _kind(self, diameter: float, wanted: NoduleKind | None) -> NoduleKind:
        shares = {k.value: v for k, v in self.people.kinds.items()}
        kind = wanted or NoduleKind(self._choose(shares))
        smallest = {
            NoduleKind.SPICULATED: 7.0,
            NoduleKind.CAVITARY: 10.0,
            NoduleKind.PART_SOLID: 6.0,
        }
        return kind if diameter >= smallest.get(kind, 0.0) else NoduleKind.SOLID

    def _shape(self, centre: Points, diameter: float, what: tuple[NoduleKind, Site]) -> Lesion:
        rng, kind = self.rng, what[0]
        hu = rng.uniform(*self.people.solid_hu)
        if kind is NoduleKind.GROUND_GLASS:
            hu = rng.uniform(-680, -420)
        elif kind is NoduleKind.CALCIFIED:
            hu = rng.uniform(220, 800)
        irregular = kind is NoduleKind.IRREGULAR
        rays = int(rng.integers(7, 16)) if kind is NoduleKind.SPICULATED else 0
        if kind is NoduleKind.PART_SOLID and rng.random() < 0.3:
            rays = int(rng.integers(4, 9))
        lobulation = rng.uniform(*self.people.lobulation) * (1.3 if rays else 1)
        axes = tuple(rng.uniform(0.55, 1.0, 3)) if irregular else None
        form = LesionForm(lobulation + (0.16 if irregular else 0), axes, None, rays)
        return make_lesion(rng, centre, diameter, kind=kind, site=what[1], hu=hu, form=form)

    def _is_free(self, centre: Points, radius: float) -> bool:
        return all(
            np.linalg.norm(centre - other.centre_mm) > radius + other.radius_mm + 5
            for other in self.lesions
        )

    def _place(self, site: Site, radius: float) -> Points | None:
        if site is Site.PLEURA:
            return self._at_wall(-self.rng.uniform(0.15, 0.85) * radius)
        if site is Site.VESSEL:
            return self._at_vessel(radius)
        if site is Site.FISSURE:
            return self._at_fissure(radius)
        return self.lung_point(-radius - 1.5)

    def _at_wall(self, depth_mm: float) -> Points | None:
        """Walk from a point of the lung along the slope to the wanted depth under its wall."""
        lung = self.anatomy.fields["lung"]
        point = self.lung_point(-3)
        for _ in range(30):
            depth = self.depth(point)
            if abs(depth - depth_mm) < 0.3:
                return point
            slope = self.lattice.gradient(lung, point)
            steep = float(np.linalg.norm(slope)) + 1e-3
            point = point + np.clip(depth_mm - depth, -4, 4) * slope / steep / max(steep, 0.6)
        return None

    def _at_vessel(self, radius: float) -> Points | None:
        rng = self.rng
        middling = np.flatnonzero((self.vessels[:, 6] > 0.9) & (self.vessels[:, 6] < 3.0))
        if len(middling) == 0:
            return None
        tube = self.vessels[rng.choice(middling)]
        aside = rng.standard_normal(3)
        aside *= (tube[6] + radius * rng.uniform(0.3, 0.9)) / np.linalg.norm(aside)
        point = tube[0:3] + rng.random() * (tube[3:6] - tube[0:3]) + aside
        return point if self.depth(point) < -radius * 0.8 else None

    def _at_fissure(self, radius: float) -> Points | None:
        fissure = self.anatomy.fields["oblique_fissure"]
        for _ in range(40):
            point = self.lung_point(-radius - 1)
            if abs(self.lattice.sample(fissure, point)[0]) < max(2.0, 0.7 * radius):
                return point
        return None

    def _tether(self, nodule: Lesion) -> None:
        """Let vessels and pleural tags end in the nodule."""
        rng = self.rng
        strands = []
        if rng.random() < 0.5 and nodule.diameter_mm > 4:
            middles = (self.vessels[:, 0:3] + self.vessels[:, 3:6]) / 2
            away = np.linalg.norm(middles - nodule.centre_mm, axis=1)
            near = (away < nodule.radius_mm + 22) & (away > nodule.radius_mm)
            found = np.flatnonzero(near & (self.vessels[:, 6] > 0.5))
            for i in rng.permutation(found)[: rng.integers(1, 4)]:
                radius = min(self.vessels[i, 6], rng.uniform(0.4, 1.3))
                strands.append((*nodule.centre_mm, *middles[i], radius, radius))
        if len(nodule.spicules) or rng.random() < 0.15:
            point = nodule.centre_mm + rng.standard_normal(3)
            for _ in range(6):
                slope = self.lattice.gradient(self.anatomy.fields["lung"], point)
                point = point + 4 * slope / (np.linalg.norm(slope) + 1e-3)
            if self.depth(point) > -4:
                strands.append((*nodule.centre_mm, *point, rng.uniform(0.3, 0.7), 0.3))
        if strands:
            self.vessels = np.concatenate([self.vessels, np.array(strands)])

    def _grow_trees(self) -> tuple[Points, Points]:
        rng, s = self.rng, self.build.size
        twig = rng.uniform(*self.people.twig_radius_mm)
        points = self.lattice.points(self.anatomy.fields["lung"] < -4)
        vessels, airways = [], [self._trachea()]
        for side in (-1, 1):
            lung = points[np.sign(points[:, 0]) == side]
            count = int(rng.uniform(*self.people.twigs))
            for artery in (True, False):
                ends = lung[rng.integers(len(lung), size=count)]
                ends = ends + rng.uniform(-2.5, 2.5, (count, 3))
                offset = np.array([0, 0, 6] if artery else [-side * 8, 10, -24 * s])
                root = self.anatomy.unwarp(self.anatomy.hila_mm[side] + offset)[0]
                radius = twig * (1.0 if artery else 0.95)
                form = TreeForm(radius, rng.uniform(2.35, 2.75), 0.05, (side * 0.8, 0.1, 0))
                tree = grow_tree(rng, root, ends, form)
                vessels.append(tree)
                if artery:
                    airways.append(self._bronchi(tree, twig))
        return np.concatenate(vessels), np.concatenate(airways)

    def _bronchi(self, arteries: Points, twig: float) -> Points:
        """Return airways beside the arteries of the first generations."""
        bronchi = arteries[arteries[:, 6] > max(1.3, twig * 3.5)].copy()
        aside = (bronchi[:, 6:7] + 1.2) * np.array([[0.25, 0.8, 0.5]])
        bronchi[:, 0:3] += aside
        bronchi[:, 3:6] += aside
        bronchi[:, 6:8] = np.minimum(bronchi[:, 6:8] * self.rng.uniform(0.7, 0.95), 5.2)
        return bronchi

    def _trachea(self) -> Points:
        s = self.build.size
        line = np.array(
            [[0, 4, self.build.apex_z + 50], [0, 6 * s, 95 * s], [s, 8 * s, 42 * s]], float
        )
        top, middle, carina = self.anatomy.unwarp(line)
        rows = [(*top, *middle, 9 * s, 8.5 * s), (*middle, *carina, 8.5 * s, 8.5 * s)]
        for hilum in self.anatomy.hila_mm.values():
            end = self.anatomy.unwarp(hilum + np.array([0, 4, -4]))[0]
            rows.append((*carina, *end, 7.2 * s, 5.5 * s))
        return np.array(rows)

    def _draw_bullae(self) -> Points:
        rng = self.rng
        if rng.random() >= self.people.emphysema_share:
            return np.zeros((0, 4))
        count = rng.integers(5, 60)
        return np.array([(*self.lung_point(-2), rng.uniform(2, 9)) for _ in range(count)])

    def _draw_consolidation(self, side: int) -> Consolidation:
        rng = self.rng
        body = make_lesion(
            rng, self.lung_point(-6, side), rng.uniform(36, 96),
            kind=NoduleKind.SOLID, site=Site.PARENCHYMA, hu=rng.uniform(-250, 20),
            form=LesionForm(0.35, tuple(rng.uniform(0.6, 1.4, 3))), counted=False,
        )  # fmt: skip
        return Consolidation(body, rng.uniform(0.35, 0.9))

    def _add_look_alikes(self) -> None:
        rng, add = self.rng, self.look_alikes.append
        solid = NoduleKind.SOLID
        for _ in range(rng.poisson(3)):
            at, d, hu = self.lung_point(-1), rng.uniform(1.4, 2.8), rng.uniform(-50, 150)
            add(make_lesion(rng, at, d, kind=solid, site=Site.MICRONODULE, hu=hu, counted=False))
        for _ in range(rng.poisson(1.0)):
            axes = (rng.uniform(0.25, 0.4), rng.uniform(0.4, 0.9), rng.uniform(2.4, 4))
            at, d, hu = self.lung_point(-1), rng.uniform(4, 10), rng.uniform(-350, 20)
            form = LesionForm(0.25, axes)
            add(make_lesion(rng, at, d, kind=solid, site=Site.SCAR, hu=hu, form=form))
        for _ in range(rng.poisson(1.0)):
            self._add_plaque()
        for _ in range(rng.poisson(0.6)):
            spot = self._at_fissure(2.0)
            if spot is not None:
                d, hu, form = (
                    rng.uniform(3, 6),
                    rng.uniform(-50, 50),
                    LesionForm(0.1, (0.55, 1.1, 1.5)),
                )
                add(
                    make_lesion(
                        rng, spot, d, kind=solid, site=Site.FISSURE, hu=hu, form=form, counted=False
                    )
                )
        for hilum in self.anatomy.hila_mm.values():
            for _ in range(rng.poisson(1.5)):
                place = hilum * rng.uniform(0.4, 1.0) + rng.normal(0, 9, 3)
                at, d, hu = self.anatomy.unwarp(place)[0], rng.uniform(6, 16), rng.uniform(20, 60)
                add(make_lesion(rng, at, d, kind=solid, site=Site.NODE, hu=hu))
        for _ in range(rng.poisson(1.0)):
            self._add_osteophyte()

    def _add_plaque(self) -> None:
        rng = self.rng
        at = self._at_wall(0.0)
        if at is None:
            return
        calcified = rng.random() < 0.25
        normal = self.lattice.gradient(self.anatomy.fields["lung"], at)
        form = LesionForm(0.15, (0.3, 1.5, 1.5), normal / np.linalg.norm(normal))
        kind = NoduleKind.CALCIFIED if calcified else NoduleKind.SOLID
        hu = rng.uniform(200, 500) if calcified else rng.uniform(0, 60)
        d = rng.uniform(6, 18)
        self.look_alikes.append(
            make_lesion(rng, at, d, kind=kind, site=Site.PLAQUE, hu=hu, form=form)
        )

    def _add_osteophyte(self) -> None:
        """Add a spur of bone at the edge of a vertebra that dents the lung."""
        rng, b = self.rng, self.build
        z = rng.uniform(b.right_dome_z, b.apex_z * 0.7)
        turn = rng.uniform(-0.5, 0.9)
        side = rng.choice([-1, 1])
        x = float(b.spine_x(np.array(z))) + side * np.cos(turn) * b.vertebra_radius * 1.2
        y = float(b.spine_y(np.array(z))) - np.sin(turn) * b.vertebra_radius
        at, d = self.anatomy.unwarp(np.array([x, y, z]))[0], rng.uniform(5, 11)
        self.look_alikes.append(
            make_lesion(
                rng,
                at,
                d,
                kind=NoduleKind.CALCIFIED,
                site=Site.OSTEOPHYTE,
                hu=rng.uniform(250, 600),
            )
        )
