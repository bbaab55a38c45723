"""Paint the lungs: parenchyma, vessels, fissures, emphysema, and what fills or empties them."""

import math

from models.phantoms.canvas import Canvas, blend
from models.phantoms.geometry import Array
from models.phantoms.shapes import draw_tubes
from models.phantoms.thorax import Thorax


def paint_lungs(canvas: Canvas, thorax: Thorax, walls: Array) -> None:
    """Replace what lies inside the lungs; `walls` is each voxel's share of airway wall."""
    b, xp = thorax.build, canvas.modules.xp
    _, y, _ = canvas.coordinates
    lung = _parenchyma(canvas, thorax, y)
    vessels = xp.zeros_like(canvas.hu)
    draw_tubes(vessels, canvas.grid, thorax.vessels, modules=canvas.modules)
    _paint_consolidations(lung, canvas, thorax)
    _paint_bullae(lung, canvas, thorax)
    _paint_fissures(lung, canvas, thorax)
    for side, gap_mm in thorax.options.pneumothorax_mm.items():
        vessels *= 1 - _paint_pneumothorax(lung, canvas, thorax, (side, gap_mm))
    blend(lung, vessels, max(b.blood_hu, 40.0))
    blend(lung, walls, -60)
    for side, height_mm in thorax.options.effusion_mm.items():
        _paint_effusion(lung, canvas, thorax, (side, height_mm))
    blend(canvas.hu, canvas.inside("lung"), lung)


def _parenchyma(canvas: Canvas, thorax: Thorax, y: Array) -> Array:
    uneven = thorax.people.unevenness_hu * 0.5 * canvas.field("unevenness")
    lung: Array = thorax.build.lung_hu + uneven + 14 * canvas.field("texture")
    # The back of a lying patient's lung is denser.
    lung += thorax.dependent_hu / 100.0 * (y + 20)
    return lung


def _paint_consolidations(lung: Array, canvas: Canvas, thorax: Thorax) -> None:
    xp = canvas.modules.xp
    for patch in thorax.consolidations:
        body = patch.body
        window = canvas.grid.window(body.centre_mm - body.reach_mm, body.centre_mm + body.reach_mm)
        if window is None:
            continue
        part = canvas.grid.part(window)
        distance, _ = body.distance(part, canvas.modules)
        texture = canvas.field("texture")[window]
        share = xp.clip(0.5 - (distance + 8 * texture) / 14, 0, 1) * patch.density
        share = share * xp.clip(0.75 + 0.35 * texture, 0.2, 1)
        x = part.coordinates(canvas.modules)[0]
        share = share * (x * math.copysign(1.0, body.centre_mm[0]) > 0)
        lung[window] += share * (body.hu - lung[window])


def _paint_bullae(lung: Array, canvas: Canvas, thorax: Thorax) -> None:
    for row in thorax.bullae:
        window = canvas.grid.window(row[:3] - row[3] - 2, row[:3] + row[3] + 2)
        if window is None:
            continue
        x, y, z = canvas.grid.part(window).coordinates(canvas.modules)
        at = row.tolist()
        away = canvas.modules.xp.sqrt((x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2)
        share = canvas.modules.xp.clip(0.5 - (away - at[3]) * 0.5, 0, 1) * 0.8
        lung[window] += share * (-985 - lung[window])


def _paint_fissures(lung: Array, canvas: Canvas, thorax: Thorax) -> None:
    xp, edge = canvas.modules.xp, canvas.grid.edge_mm
    half, uneven = thorax.fissure_half_mm, canvas.field("unevenness")
    strength = min(1.0, 2 * half / edge)
    oblique = canvas.field("oblique_fissure")

    def sheet(distance: Array) -> Array:
        share: Array = xp.clip((half + 0.5 * edge - abs(distance)) / edge, 0, 1) * strength
        return share

    shown = sheet(oblique) * (uneven > -0.9)
    x = canvas.coordinates[0]
    if canvas.grid.origin_mm[0] < 0:
        minor = sheet(canvas.field("minor_fissure")) * (x < 0) * (oblique > 0) * (uneven > -0.5)
        shown = xp.maximum(shown, minor)
    blend(lung, shown, -250)


def _paint_pneumothorax(
    lung: Array, canvas: Canvas, thorax: Thorax, where: tuple[int, float]
) -> Array:
    """Let the lung shrink away from the wall; returns the share of free gas."""
    side, gap_mm = where
    b, xp = thorax.build, canvas.modules.xp
    x, _, z = canvas.coordinates
    height = (z - (b.right_dome_z + 10)) / (b.apex_z - b.right_dome_z - 30)
    gap = gap_mm * xp.clip(height, 0.12, 1) + 3 * canvas.field("unevenness")
    depth = -canvas.field("cavity") - gap
    this_side = (side * x > 0) & (canvas.field("lung") < 0)
    edge = canvas.grid.edge_mm
    gas: Array = xp.clip(0.5 - depth / edge, 0, 1) * this_side
    pleura = xp.clip((1.0 - abs(depth - 0.6)) / edge + 0.5, 0, 1) * this_side
    lung += this_side * (depth > 0) * gap_mm * 3.0
    blend(lung, pleura, -80)
    blend(lung, gas, -1000)
    return gas


def _paint_effusion(lung: Array, canvas: Canvas, thorax: Thorax, where: tuple[int, float]) -> None:
    """Fill the base of one side with fluid that climbs the wall."""
    side, height_mm = where
    b, xp = thorax.build, canvas.modules.xp
    x, _, z = canvas.coordinates
    dome = b.right_dome_z if side < 0 else b.left_dome_z
    climb = 40 * xp.exp(-xp.clip(-canvas.field("cavity"), 0, 80) / 14)
    surface = dome - 55 * b.size + height_mm + climb + 2 * canvas.field("unevenness")
    blend(lung, xp.clip(0.5 + (surface - z) * 0.35, 0, 1) * (side * x > 0), 12)
