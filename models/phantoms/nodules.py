"""Lung nodules and what resembles them, as implicit bodies that can be painted into any grid."""

from dataclasses import dataclass, field

import numpy as np

from models.phantoms.geometry import NUMPY, Array, ArrayModules, Grid, Points, Window
from models.phantoms.population import NoduleKind, Site
from models.phantoms.shapes import draw_tubes

_WAVES = 7


@dataclass(frozen=True)
class Lesion:
    """One lesion or look-alike: a rotated ellipsoid with a wavy surface.

    Attributes
    ----------
    centre_mm, diameter_mm
        Where it is; the diameter of the sphere of the same volume.
    metric
        Matrix, shape ``(3, 3)``, that maps offsets to a space where the body is a sphere.
    waves
        Surface waves: direction (3), phase, amplitude; shape ``(n, 5)``.
    spicules
        Tubes that radiate from the surface.
    counted
        False for what readers would leave out: nodules under 3 mm and other look-alikes.
    """

    centre_mm: Points
    diameter_mm: float
    kind: NoduleKind
    site: Site
    hu: float
    metric: Points
    waves: Points
    stretch: float
    spicules: Points = field(default_factory=lambda: np.zeros((0, 8)))
    core: Points = field(default_factory=lambda: np.zeros(4))
    cavity_share: float = 0.0
    calcium_pattern: str = "diffuse"
    grain: float = 0.4
    counted: bool = True

    @property
    def radius_mm(self) -> float:
        """Half the diameter."""
        return self.diameter_mm / 2

    @property
    def reach_mm(self) -> float:
        """Distance from the centre beyond which nothing of the lesion lies."""
        spicules = 0.5 * self.radius_mm if len(self.spicules) else 0.0
        return self.radius_mm * self.stretch * 1.45 + 3 + spicules

    def distance(self, grid: Grid, modules: ArrayModules = NUMPY) -> tuple[Array, Array]:
        """Return the signed distance to the surface and the distance from the centre, in mm."""
        xp = modules.xp
        x, y, z = grid.coordinates(modules)
        centre = [float(c) for c in self.centre_mm]
        dx, dy, dz = x - centre[0], y - centre[1], z - centre[2]
        u, v, w = (a * dx + b * dy + c * dz for a, b, c in self.metric.tolist())
        radius = xp.sqrt(u * u + v * v + w * w)
        bulge = xp.zeros_like(radius)
        scaled = self.waves / [[self.radius_mm] * 3 + [1, 1]]
        for kx, ky, kz, phase, height in scaled.tolist():
            bulge += height * xp.cos(kx * u + ky * v + kz * w + phase)
        return radius - self.radius_mm * (1 + bulge), radius


@dataclass(frozen=True)
class LesionForm:
    """The shape that `make_lesion` gives a lesion."""

    lobulation: float = 0.12
    axes: tuple[float, float, float] | None = None
    normal: Points | None = None
    spicules: int = 0


def make_lesion(
    rng: np.random.Generator,
    centre_mm: Points,
    diameter_mm: float,
    *,
    kind: NoduleKind,
    site: Site,
    hu: float,
    form: LesionForm = LesionForm(),
    counted: bool = True,
) -> Lesion:
    """Draw a lesion's surface and inside; `form.normal` turns its first axis that way."""
    axes = rng.uniform(0.75, 1.0, 3) if form.axes is None else np.asarray(form.axes, float)
    axes = axes / np.cbrt(np.prod(axes))
    frame = rng.standard_normal((3, 3))
    if form.normal is not None:
        frame[:, 0] = form.normal
    frame, _ = np.linalg.qr(frame)
    waves = np.empty((_WAVES, 5))
    directions = rng.standard_normal((_WAVES, 3))
    lengths = rng.uniform(1.2, 4.5, _WAVES) / np.linalg.norm(directions, axis=1)
    waves[:, :3] = directions * lengths[:, None]
    waves[:, 3] = rng.uniform(0, 2 * np.pi, _WAVES)
    waves[:, 4] = rng.standard_normal(_WAVES) * form.lobulation * 0.53
    radius = diameter_mm / 2
    core = np.append(rng.standard_normal(3) * 0.12 * radius, rng.uniform(0.35, 0.65) * radius)
    return Lesion(
        centre_mm=np.asarray(centre_mm, float),
        diameter_mm=float(diameter_mm),
        kind=kind,
        site=site,
        hu=float(hu),
        metric=(frame / axes) @ frame.T,
        waves=waves,
        stretch=float(axes.max()),
        spicules=_spicules(rng, centre_mm, radius, form.spicules),
        core=core if kind is NoduleKind.PART_SOLID else np.zeros(4),
        cavity_share=rng.uniform(0.35, 0.6) if kind is NoduleKind.CAVITARY else 0.0,
        calcium_pattern=str(rng.choice(["diffuse", "central", "popcorn", "laminated"])),
        grain=rng.uniform(0.2, 0.6),
        counted=counted,
    )


def _spicules(rng: np.random.Generator, centre: Points, radius: float, count: int) -> Points:
    tubes = np.zeros((count, 8))
    for row in tubes:
        ray = rng.standard_normal(3)
        ray /= np.linalg.norm(ray)
        row[0:3] = centre + ray * radius * 0.6
        row[3:6] = centre + ray * radius * rng.uniform(1.25, 1.9)
        row[6:8] = rng.uniform(0.5, 0.9) + 0.02 * radius, 0.25
    return tubes


def malignancy_probability(lesion: Lesion) -> float:
    """Return a made-up likelihood of malignancy, shaped like the Brock model.

    It grows with size, spiculation and a part-solid build and with a place in the upper lung,
    and falls with calcification. It is a synthetic surrogate: no outcome stands behind it.
    """
    score = -4.2 + 0.28 * min(lesion.diameter_mm, 25.0)
    score += {
        NoduleKind.SPICULATED: 1.6,
        NoduleKind.PART_SOLID: 1.0,
        NoduleKind.IRREGULAR: 0.5,
        NoduleKind.CAVITARY: 0.6,
        NoduleKind.GROUND_GLASS: -0.2,
        NoduleKind.CALCIFIED: -3.5,
    }.get(lesion.kind, 0.0)
    score += 0.4 if lesion.centre_mm[2] > 30 else 0.0
    score -= 0.8 if lesion.site is Site.FISSURE else 0.0
    return float(1 / (1 + np.exp(-score)))


def paint_lesion(
    hu: Array,
    grid: Grid,
    lesion: Lesion,
    *,
    inside: Array | None = None,
    modules: ArrayModules = NUMPY,
) -> tuple[Window, Array] | None:
    """Paint a lesion into `hu` in place; it only ever makes the lung denser, cavities apart.

    Parameters
    ----------
    inside
        Signed distance to the lung on the same grid: look-alikes stay inside it.

    Returns
    -------
    tuple or None
        The window painted and the share of each voxel that the lesion fills; None off the grid.
    """
    reach = lesion.reach_mm
    window = grid.window(lesion.centre_mm - reach, lesion.centre_mm + reach)
    if window is None:
        return None
    part = grid.part(window)
    # The window is painted in its own right, then written back, so one code serves both devices.
    values = hu[window]
    edge = grid.edge_mm
    distance, radius = lesion.distance(part, modules)
    veil = lesion.kind in (NoduleKind.GROUND_GLASS, NoduleKind.PART_SOLID)
    share = modules.xp.clip(0.5 - distance / (edge * (1.8 if veil else 1.0)), 0, 1)
    if inside is not None and lesion.site in (Site.SCAR, Site.MICRONODULE, Site.FISSURE):
        share = share * modules.xp.clip(0.5 - inside[window] / edge + 0.5, 0, 1)
    if len(lesion.spicules):
        rays = modules.xp.zeros_like(values)
        draw_tubes(rays, part, lesion.spicules, modules=modules)
        values += rays * 0.8 * (modules.xp.maximum(lesion.hu, values) - values) * (values < 0)
    target = _inside_hu(lesion, part, radius, modules)
    values += share * (modules.xp.maximum(target, values) - values)
    _paint_centre(values, lesion, (part, radius, share), modules)
    return window, share


def _inside_hu(lesion: Lesion, grid: Grid, radius: Array, modules: ArrayModules) -> Array | float:
    xp = modules.xp
    x, y, z = grid.coordinates(modules)
    phase = [float(p) for p in lesion.waves[:3, 3]]
    if lesion.kind in (NoduleKind.GROUND_GLASS, NoduleKind.PART_SOLID):
        base = lesion.hu if lesion.kind is NoduleKind.GROUND_GLASS else -560.0
        waves = xp.cos(x * 1.1 + y * 0.7 + phase[0]) * xp.cos(y * 0.9 - z * 1.2 + phase[1])
        veil: Array = xp.clip(base + 60 * lesion.grain * waves, -800, -250)
        return veil
    if lesion.kind is not NoduleKind.CALCIFIED or lesion.calcium_pattern == "diffuse":
        return lesion.hu
    extra = lesion.hu - 40
    if lesion.calcium_pattern == "central":
        chalk = xp.clip(0.5 - (radius - 0.55 * lesion.radius_mm) * (1 / grid.edge_mm), 0, 1)
    elif lesion.calcium_pattern == "laminated":
        chalk = (xp.cos(radius * (9 / lesion.radius_mm)) > 0).astype(np.float32)
    else:
        k = 5 / lesion.radius_mm
        grains = xp.cos(x * k + phase[0]) * xp.cos(y * k + phase[1]) * xp.cos(z * k + phase[2])
        chalk = xp.clip(3 * grains, 0, 1)
    filled: Array = 40 + chalk * extra
    return filled


def _paint_centre(
    values: Array, lesion: Lesion, seen: tuple[Grid, Array, Array], modules: ArrayModules
) -> None:
    grid, radius, share = seen
    xp = modules.xp
    if lesion.kind is NoduleKind.PART_SOLID:
        x, y, z = grid.coordinates(modules)
        at = [float(c) for c in lesion.centre_mm + lesion.core[:3]]
        away = xp.sqrt((x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2)
        core = xp.clip(0.5 - (away - lesion.core[3]) * (1 / grid.edge_mm), 0, 1) * share
        values += core * (xp.maximum(20.0, values) - values)
    if lesion.cavity_share:
        hole = radius - lesion.cavity_share * lesion.radius_mm
        values += xp.clip(0.5 - hole * (1 / grid.edge_mm), 0, 1) * (-950 - values)
