"""Draws an abdomen on any grid: attenuation in HU without noise, and the truth of every voxel.

Labels: 0 elsewhere, 1 liver, 2 and up the lesions in their order.
"""

import numpy as np
from numpy.typing import NDArray

from models.phantoms.abdomen import Abdomen
from models.phantoms.abdomen_lesions import FattyArea, Lesion, LesionKind, LiverDisease
from models.phantoms.geometry import (
    NUMPY,
    Array,
    ArrayModules,
    Grid,
    Points,
    Window,
    apply_separable,
)
from models.phantoms.shapes import draw_tubes, ellipsoid

Labels = NDArray[np.uint8]

LIVER = 1
FIRST_LESION = 2
_SLAB_VOXELS = 3_000_000  # keeps the slab's dozen of temporaries inside the processor's reach


class _Canvas:
    """A part of one slab while it is painted; `values` is a view that painting changes."""

    def __init__(
        self,
        abdomen: Abdomen,
        grid: Grid,
        values: Array,
        modules: ArrayModules,
        textures: tuple[Array, Array] | None = None,
    ) -> None:
        self.abdomen, self.grid, self.values, self.modules = abdomen, grid, values, modules
        self._matrices = abdomen.lattice.matrices(grid)
        self.at = grid.coordinates(modules)
        both = textures or (self.field("texture"), self.field("texture_fine"))
        self.texture, self.fine = both

    def field(self, name: str) -> Array:
        """Return a lattice field on this part."""
        field = self.abdomen.fields[name]
        return apply_separable(field, self._matrices, self.modules)

    def share(self, distance: Array, edge_mm: float = 0.0) -> Array:
        """Return the share of each voxel inside a surface, from its signed distance."""
        width = max(edge_mm, self.grid.edge_mm)
        filled: Array = np.clip(np.float32(0.5) - distance * np.float32(1 / width), 0, 1)
        return filled

    def put(self, share: Array, value: Array | float) -> None:
        """Blend a tissue over what is there."""
        self.values += share * (value - self.values)

    def part(self, window: Window) -> "_Canvas":
        """Return the canvas of one window of this one; painting it paints this one."""
        textures = (self.texture[window], self.fine[window])
        grid = self.grid.part(window)
        return _Canvas(self.abdomen, grid, self.values[window], self.modules, textures)

    def window_of(self, name: str, margin_mm: float = 10.0) -> Window | None:
        """Return the window in which an organ, widened, lies; None where it does not reach."""
        points = self.abdomen.lattice.points(self.abdomen.fields[name] < margin_mm)
        if not len(points):
            return None
        step = self.abdomen.lattice.step_mm
        return self.grid.window(points.min(0) - step, points.max(0) + step)

    def organ(self, name: str, margin_mm: float = 10.0) -> "_Canvas | None":
        """Return the part of this canvas that holds an organ; None where it does not reach."""
        window = self.window_of(name, margin_mm)
        return None if window is None else self.part(window)

    def tubes(self, tubes: Points) -> Array:
        """Return the share of each voxel filled by tubes."""
        share: Array = self.modules.xp.zeros(self.grid.shape, dtype=np.float32)
        draw_tubes(share, self.grid, tubes, modules=self.modules)
        return share

    def put_tubes(self, tubes: Points, tissue: tuple[float, float]) -> None:
        """Blend tubes over what is there, of an attenuation and a coarseness in HU."""
        reach = tubes[:, 6:8].max() + 2 * self.grid.edge_mm
        ends = np.concatenate([tubes[:, 0:3], tubes[:, 3:6]])
        window = self.grid.window(ends.min(0) - reach, ends.max(0) + reach)
        if window is not None:
            part = self.part(window)
            part.put(part.tubes(tubes), tissue[0] + tissue[1] * part.fine)


def _thinner(tubes: Points, by_mm: float) -> Points:
    inner = tubes.copy()
    inner[:, 6:8] = np.maximum(inner[:, 6:8] - by_mm, 0.05)
    return inner


def _paint_wall(canvas: _Canvas) -> None:
    canvas.values[...] = np.float32(-105) + 8 * canvas.texture
    muscle = 58 + 6 * canvas.fine
    canvas.put(canvas.share(canvas.field("wall") + 2 * canvas.texture, 2.0), muscle)
    canvas.put(canvas.share(canvas.field("cavity") + 2), -103 + 7 * canvas.texture)
    canvas.put(canvas.share(canvas.field("psoas"), 1.7), 60 + 4 * canvas.fine)


def _paint_bowel(canvas: _Canvas) -> None:
    bowel = canvas.abdomen.bowel
    if not len(bowel.tubes):
        return
    canvas.put_tubes(bowel.tubes, (canvas.abdomen.attenuation_hu["bowel"], 8.0))
    for content in np.unique(bowel.content_hu):
        inside = _thinner(bowel.tubes[bowel.content_hu == content], 2.5)
        canvas.put_tubes(inside, (float(content), 18.0))


def _paint_kidneys(canvas: _Canvas | None, disease: LiverDisease) -> None:
    if canvas is None:
        return
    cortex_hu = canvas.abdomen.attenuation_hu["kidney"]
    kidney = canvas.field("kidney")
    canvas.put(canvas.share(kidney), cortex_hu)
    canvas.put(canvas.share(kidney + 9 + 2 * canvas.fine, 2.5), cortex_hu * 0.8)
    canvas.put(canvas.share(kidney + 15 + 3 * canvas.fine, 2.5), -60.0)
    for centre, radius in disease.renal_cysts:
        place = (float(centre[0]), float(centre[1]), float(centre[2]))
        ball = ellipsoid(canvas.at, place, (radius,) * 3, modules=canvas.modules)
        canvas.put(canvas.share(ball) * canvas.share(-canvas.field("liver")), 8.0)


def _paint_stomach(canvas: _Canvas | None) -> None:
    if canvas is None:
        return
    stomach = canvas.field("stomach")
    canvas.put(canvas.share(stomach), canvas.abdomen.attenuation_hu["bowel"])
    lumen = canvas.share(stomach + 4)
    canvas.put(lumen, canvas.abdomen.stomach_hu + 22 * canvas.fine)
    # Supine patients: gas rises to the front, below a level of fluid.
    gas = np.clip(0.5 + (canvas.abdomen.gas_level_y_mm - canvas.at[1]) * 0.5, 0, 1)
    canvas.put(lumen * gas, -940.0)


def _paint_organs(canvas: _Canvas) -> None:
    hu = canvas.abdomen.attenuation_hu
    if (pancreas := canvas.organ("pancreas")) is not None:
        tissue = hu["pancreas"] + 8 * pancreas.fine
        pancreas.put(pancreas.share(pancreas.field("pancreas"), 1.7), tissue)
    _paint_stomach(canvas.organ("stomach"))
    if (spleen := canvas.organ("spleen")) is not None:
        spleen.put(spleen.share(spleen.field("spleen")), hu["spleen"] + 2.5 * spleen.texture)
    vessels = (("cava", hu["hepatic"] * 0.9), ("aorta", hu["aorta"]), ("portal", hu["portal"]))
    for name, value in vessels:
        if (vessel := canvas.organ(name)) is not None:
            vessel.put(vessel.share(vessel.field(name)), value)


def _fatty_area(canvas: _Canvas, tissue: Array, area: FattyArea) -> None:
    reach = area.radius_mm * 2
    window = canvas.grid.window(area.centre_mm - reach, area.centre_mm + reach)
    if window is None:
        return
    x, y, z = canvas.grid.part(window).coordinates(canvas.modules)
    cx, cy, cz = (float(c) for c in area.centre_mm)
    away = np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + ((z - cz) / 0.7) ** 2) - area.radius_mm
    haze = np.clip(0.5 - (away + 6 * canvas.texture[window]) / 10, 0, 1)
    tissue[window] += haze * area.change_hu


def _liver_tissue(canvas: _Canvas, disease: LiverDisease) -> Array:
    hu = canvas.abdomen.attenuation_hu
    wide = canvas.field("texture_wide")
    tissue = np.float32(hu["liver"]) + 3 * wide + 2 * canvas.texture + 1.5 * canvas.fine
    for area in disease.fatty_areas:
        _fatty_area(canvas, tissue, area)
    for tree, name in (
        (canvas.abdomen.portal_tree, "portal"),
        (canvas.abdomen.hepatic_tree, "hepatic"),
    ):
        tissue += canvas.tubes(tree) * (np.float32(hu[name]) - tissue)
    return tissue


def _lesion_tissue(
    lesion: Lesion, at: tuple[Array, Array, Array], fine: Array, abdomen: Abdomen
) -> tuple[Array, Array]:
    """Return the lesion's signed distance and its attenuation, on its window."""
    surface, length = lesion.distances(at)
    hu = abdomen.attenuation_hu
    rough = 0.0 if lesion.kind is LesionKind.CYST else 5.0
    tissue = np.float32(lesion.attenuation_hu) + rough * fine
    if lesion.rim_hu:
        height = lesion.rim_hu + max(0.0, hu["liver"] - lesion.attenuation_hu)
        tissue = tissue + height * np.exp(-(((surface + 2.5) / 2.0) ** 2))
    if lesion.necrosis:
        core = length - lesion.necrosis * lesion.diameter_mm / 2 + 2 * fine
        tissue = tissue + np.clip(0.5 - core / 4, 0, 1) * (18 - tissue)
    if lesion.kind is LesionKind.HEMANGIOMA and abdomen.phase != "none":
        k = 8.0 / lesion.diameter_mm
        beads = sum(np.cos(c * k + float(p)) for c, p in zip(at, lesion.waves[:3, 3], strict=True))
        rim = np.exp(-(((surface + 3) / 4) ** 2))
        tissue = tissue + np.clip(beads - 0.6, 0, 1) * rim * (hu["aorta"] * 0.8 - tissue)
    return surface, tissue


def _paint_liver(slab: _Canvas, disease: LiverDisease, labels: Labels) -> None:
    place = slab.window_of("liver")
    if place is None:
        return
    canvas, labels = slab.part(place), labels[place]
    liver = canvas.field("liver")
    inside = canvas.share(liver)
    canvas.put(inside, _liver_tissue(canvas, disease))
    labels[liver < 0] = LIVER
    for number, lesion in enumerate(disease.lesions):
        reach = lesion.reach_mm
        window = canvas.grid.window(lesion.centre_mm - reach, lesion.centre_mm + reach)
        if window is None:
            continue
        at = canvas.grid.part(window).coordinates(canvas.modules)
        surface, tissue = _lesion_tissue(lesion, at, canvas.fine[window], canvas.abdomen)
        share = canvas.share(surface, lesion.edge_mm) * inside[window]
        view = canvas.values[window]
        view += share * (tissue - view)
        labels[window][(surface < 0) & (liver[window] < 0)] = FIRST_LESION + number


def _paint_spine(canvas: _Canvas | None) -> None:
    if canvas is None:
        return
    abdomen, s = canvas.abdomen, canvas.abdomen.scale
    radius, pitch = abdomen.spine_radius_mm, 30 * s
    x, y, z = canvas.at
    spine = canvas.field("spine")
    phase = z / pitch - np.floor(z / pitch)
    disc = np.clip((np.abs(phase - 0.5) - 0.37) * 14, 0, 1)
    cortex = np.clip((spine + 2.2) * 0.6, 0, 1)
    bone = 165 + 25 * canvas.fine + 350 * cortex
    canvas.put(canvas.share(spine), bone * (1 - disc) + 85 * disc)
    y = y - abdomen.spine_y_mm
    canal = np.sqrt(x**2 + (y - radius - 9) ** 2) - 9 + 0 * z
    canvas.put(canvas.share(np.abs(canal - 3.5) - 3.5), 420.0)
    canvas.put(canvas.share(canal), 25.0)
    level = (phase - 0.5) * pitch
    process = ellipsoid((x, y - radius - 34, level), (0, 0, 0), (4, 17, 9), modules=canvas.modules)
    canvas.put(canvas.share(process), 420.0)
    wings = ellipsoid(
        (np.abs(x) - 28, y - radius - 6, level), (0, 0, 0), (20, 5, 6), modules=canvas.modules
    )
    canvas.put(canvas.share(wings), 380.0)


def _paint_slab(canvas: _Canvas, disease: LiverDisease, labels: Labels) -> None:
    _paint_wall(canvas)
    _paint_bowel(canvas)
    # Cysts grow out of the kidneys, by at most 18 mm.
    _paint_kidneys(canvas.organ("kidney", 30.0), disease)
    _paint_organs(canvas)
    _paint_liver(canvas, disease, labels)
    if (gallbladder := canvas.organ("gallbladder")) is not None:
        gallbladder.put(gallbladder.share(gallbladder.field("gallbladder")), 12.0)
    if (lung := canvas.organ("lung")) is not None:
        lung.put(lung.share(lung.field("lung")), -850 + 25 * lung.texture)
    # The vertebral processes reach this far beyond the bodies.
    _paint_spine(canvas.organ("spine", 60.0))
    canvas.put(canvas.tubes(canvas.abdomen.ribs), 900.0)
    canvas.put(canvas.tubes(_thinner(canvas.abdomen.ribs, 1.6)), 230.0)
    body = canvas.share(canvas.field("body"))
    canvas.values[...] = -1000 + body * (canvas.values + 1000)


def render_abdomen(
    abdomen: Abdomen, disease: LiverDisease, grid: Grid, *, modules: ArrayModules = NUMPY
) -> tuple[Array, Labels]:
    """Return attenuation (HU, float32) and labels (uint8) on `grid`, axes (z, y, x).

    The arrays live where `modules` computes.
    """
    values: Array = modules.xp.empty(grid.shape, dtype=np.float32)
    labels: Labels = modules.xp.zeros(grid.shape, dtype=np.uint8)
    slices, rows, columns = grid.shape
    step = slices if modules.on_gpu else max(4, _SLAB_VOXELS // (rows * columns))
    for start in range(0, slices, step):
        window = (slice(start, min(slices, start + step)), slice(0, rows), slice(0, columns))
        part = grid.part(window)
        canvas = _Canvas(abdomen, part, values[window], modules)
        _paint_slab(canvas, disease, labels[window])
    return values, labels
