"""Paint a synthetic chest into any grid as noise-free Hounsfield units.

Each painter lays one kind of tissue over what is there, weighted by the share of the voxel that
the tissue fills. Painters run from the outside in; bones come last because nothing covers them.
"""

from dataclasses import dataclass

import numpy as np

from models.phantoms.bones import paint_bones
from models.phantoms.canvas import Canvas, blend
from models.phantoms.geometry import NUMPY, Array, ArrayModules, Grid, Points, Window
from models.phantoms.lungs import paint_lungs
from models.phantoms.nodules import paint_lesion
from models.phantoms.population import Site
from models.phantoms.shapes import draw_tubes
from models.phantoms.thorax import Thorax

AIR_HU = -1000.0
_SLAB_VOXELS = 2_000_000


@dataclass(frozen=True)
class Painting:
    """What was painted.

    Attributes
    ----------
    hu
        Noise-free Hounsfield units, float32, indexed ``[z, y, x]``.
    labels
        0 outside nodules, n + 1 inside ``thorax.lesions[n]``; uint8, same shape. None unless
        asked for.
    """

    hu: Array
    labels: np.ndarray | None


def render_thorax(
    thorax: Thorax, grid: Grid, *, labels: bool = True, modules: ArrayModules = NUMPY
) -> Painting:
    """Paint a patient into `grid`; arrays live where `modules` keeps them."""
    xp = modules.xp
    hu = xp.full(grid.shape, AIR_HU, dtype=np.float32)
    marks = xp.zeros(grid.shape, dtype=np.uint8) if labels else None
    low, high = thorax.body_box_mm()
    window = grid.window(low - 6, high + 6)
    if window is None:
        return Painting(hu, marks)
    rows, columns = window[1], window[2]
    across = (rows.stop - rows.start) * (columns.stop - columns.start)
    # On a processor, slabs that fit its cache paint several times faster than whole volumes.
    step = grid.shape[0] if modules.on_gpu else max(4, _SLAB_VOXELS // across)
    for first in range(window[0].start, window[0].stop, step):
        slab: Window = (slice(first, min(first + step, window[0].stop)), rows, columns)
        part = grid.part(slab)
        painted, marked = _paint_slab(thorax, part, labels, modules)
        hu[slab] = painted
        if marks is not None and marked is not None:
            marks[slab] = marked
    return Painting(hu, marks)


def _paint_slab(
    thorax: Thorax, grid: Grid, labels: bool, modules: ArrayModules
) -> tuple[Array, np.ndarray | None]:
    canvas = Canvas(thorax.anatomy, grid, modules)
    _paint_soft_tissue(canvas, thorax)
    _paint_organs(canvas, thorax)
    _paint_lymph_nodes(canvas, thorax)
    _paint_chest_inside(canvas, thorax)
    _paint_lesions(canvas, thorax)
    marks = _mark_lesions(canvas, thorax) if labels else None
    paint_bones(canvas, thorax)
    body = canvas.inside("body")
    hu = AIR_HU + body * (canvas.hu - AIR_HU)
    skin = modules.xp.clip(1 - abs(canvas.field("body") + 1) * 0.6, 0, 1) * body
    return hu + skin * 90, marks


def _paint_soft_tissue(canvas: Canvas, thorax: Thorax) -> None:
    b, xp = thorax.build, canvas.modules.xp
    texture = canvas.field("texture")
    canvas.hu = -102 + 9 * texture
    muscle = canvas.field("cavity") - b.muscle
    if canvas.is_near("spine", 75):
        x, y, z = canvas.coordinates
        aside = (abs(x - canvas.device(b.spine_x(canvas.heights))) - 27) ** 2 * 0.55
        behind = (y - canvas.device(b.spine_y(canvas.heights)) - b.vertebra_radius - 15) ** 2
        muscle = xp.minimum(muscle, xp.sqrt(aside + behind) - 21)
        del z
    # Fat marbles the muscle: the texture shifts its surface as well as its density.
    share = xp.clip(0.5 - (muscle + 3 * texture) * 0.4, 0, 1)
    canvas.hu += share * (158 - 4 * canvas.field("unevenness"))
    fat = xp.clip(0.35 + 0.4 * texture, 0, 1)
    blend(canvas.hu, canvas.share(canvas.field("cavity") + 1, 0.7), 30 - 90 * fat)


def _paint_organs(canvas: Canvas, thorax: Thorax) -> None:
    b = thorax.build
    bright = 1.0 if b.contrast else 0.0
    texture = canvas.field("texture")
    if canvas.is_near("heart"):
        blend(canvas.hu, canvas.inside("heart", 0.6), 42 + 60 * bright)
    if canvas.is_near("blood"):
        blend(canvas.hu, canvas.inside("blood", 0.7), b.blood_hu)
    if canvas.heights.min() > b.right_dome_z + 15:
        return
    if canvas.is_near("liver"):
        blend(canvas.hu, canvas.inside("liver", 0.6), 58 + 35 * bright + 3 * texture)
    if canvas.is_near("spleen"):
        blend(canvas.hu, canvas.inside("spleen", 0.6), 50 + 50 * bright)
    if canvas.is_near("stomach"):
        blend(canvas.hu, canvas.inside("stomach", 0.6), 25)
        if b.gas_in_stomach:
            _, y, z = canvas.coordinates
            above = z > b.left_dome_z - 28 * b.size if thorax.options.upright else y < -2
            gas = canvas.share(canvas.field("stomach") + 3, 0.6) * above
            blend(canvas.hu, gas, -950)


def _paint_lymph_nodes(canvas: Canvas, thorax: Thorax) -> None:
    for lesion in thorax.look_alikes:
        if lesion.site is Site.NODE:
            paint_lesion(canvas.hu, canvas.grid, lesion, modules=canvas.modules)


def _paint_chest_inside(canvas: Canvas, thorax: Thorax) -> None:
    xp = canvas.modules.xp
    walls, lumens = xp.zeros_like(canvas.hu), xp.zeros_like(canvas.hu)
    outer = thorax.airways.copy()
    outer[:, 6:8] += np.clip(0.3 + 0.11 * outer[:, 6:7], 0.35, 1.1)
    draw_tubes(walls, canvas.grid, outer, modules=canvas.modules)
    draw_tubes(lumens, canvas.grid, thorax.airways, modules=canvas.modules)
    walls *= 1 - lumens
    if canvas.is_near("lung", 2.0):
        paint_lungs(canvas, thorax, walls)
    else:
        blend(canvas.hu, walls, 20)
    blend(canvas.hu, lumens, -985)


def _paint_lesions(canvas: Canvas, thorax: Thorax) -> None:
    for lesion in thorax.look_alikes:
        if lesion.site is not Site.NODE:
            paint_lesion(
                canvas.hu, canvas.grid, lesion, inside=canvas.field("lung"), modules=canvas.modules
            )
    for lesion in thorax.lesions:
        paint_lesion(canvas.hu, canvas.grid, lesion, modules=canvas.modules)


def _mark_lesions(canvas: Canvas, thorax: Thorax) -> np.ndarray:
    marks: np.ndarray = canvas.modules.xp.zeros(canvas.grid.shape, dtype=np.uint8)
    for number, lesion in enumerate(thorax.lesions, start=1):
        reach = lesion.reach_mm
        window = canvas.grid.window(lesion.centre_mm - reach, lesion.centre_mm + reach)
        if window is not None:
            distance, _ = lesion.distance(canvas.grid.part(window), canvas.modules)
            marks[window][distance < 0] = number
    return marks


def add_table(hu: Array, grid: Grid, back_y_mm: float, *, modules: ArrayModules = NUMPY) -> None:
    """Paint a curved couch of two thin shells round foam under the patient, in place."""
    low = np.array([-215.0, back_y_mm - 30, grid.axis_mm(2)[0] - 1])
    high = np.array([215.0, back_y_mm + 55, grid.axis_mm(2)[-1] + 1])
    window = grid.window(low, high)
    if window is None:
        return
    x, y, _ = grid.part(window).coordinates(modules)
    height = y - (back_y_mm + 10) + (x / 260.0) ** 2 * 40
    part, xp = hu[window], modules.xp
    foam = xp.clip(0.5 - (abs(height - 17.0) - 16) / grid.edge_mm, 0, 1)
    part += foam * 70 * (part < -940)
    for offset in (0.0, 34.0):
        shell = xp.clip(0.5 - (abs(height - offset) - 1.2) / grid.edge_mm, 0, 1)
        part += shell * (-150 - part) * (part < -200)


def table_position(thorax: Thorax) -> Points:
    """Return the corner of the body that touches the table, its back, as (x, y, z) in mm."""
    return thorax.body_box_mm()[1]
