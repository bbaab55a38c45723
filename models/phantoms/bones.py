"""Paint the spine, ribs, clavicles, sternum and shoulder blades."""

import math

import numpy as np

from models.phantoms.canvas import Canvas, blend
from models.phantoms.geometry import Array, Points
from models.phantoms.shapes import draw_tubes, ellipsoid
from models.phantoms.thorax import Thorax


def paint_bones(canvas: Canvas, thorax: Thorax) -> None:
    """Paint every bone that meets the canvas."""
    if canvas.is_near("spine", 60):
        _paint_spine(canvas, thorax)
    _paint_tubes(canvas, thorax)
    centre, radii = thorax.skeleton.sternum
    _paint_ellipsoid(canvas, centre, radii, (0.0, 330.0))
    for blade in thorax.skeleton.shoulder_blades:
        _paint_ellipsoid(canvas, blade.centre_mm, np.asarray(blade.radii_mm), (blade.angle, 450.0))


def _paint_spine(canvas: Canvas, thorax: Thorax) -> None:
    b, xp = thorax.build, canvas.modules.xp
    x, y, _ = canvas.coordinates
    # Work only beside the spine: the rest of the slab is ten times larger.
    middle_x, middle_y = b.spine_x(canvas.heights), b.spine_y(canvas.heights)
    reach = np.array([50.0, 0.0, 0.0])
    low = np.array([middle_x.min() - reach[0], middle_y.min() - 45, canvas.heights.min()])
    high = np.array([middle_x.max() + reach[0], middle_y.max() + 75, canvas.heights.max()])
    window = canvas.grid.window(low, high)
    if window is None:
        return
    hu = canvas.hu[window]
    x, y = x[:, :, window[2]], y[:, window[1], :]
    phase = canvas.device((canvas.heights / b.vertebra_height + b.vertebra_phase) % 1.0)[window[0]]
    aside = x - canvas.device(middle_x)[window[0]]
    behind = y - canvas.device(middle_y)[window[0]]
    spine, texture = canvas.field("spine")[window], canvas.field("texture")[window]
    disc = xp.clip((abs(phase - 0.5) - 0.36) * 14, 0, 1)
    cortex = xp.clip((spine + 2.2) * 0.6, 0, 1)
    end_plate = xp.clip(1 - abs(abs(phase - 0.5) - 0.35) * 16, 0, 1)
    bone = 170 + 25 * texture + 380 * xp.maximum(cortex, end_plate * 0.8)
    blend(hu, canvas.share(spine), bone * (1 - disc) + 80 * disc)
    canal = xp.sqrt(aside**2 + (behind - b.vertebra_radius - 9) ** 2) - 9
    arch = xp.maximum(abs(canal - 3.5) - 3.5, 0) + 6 * (abs(phase - 0.55) > 0.42)
    blend(hu, canvas.share(arch - 0.5), 420)
    blend(hu, canvas.share(canal), 25)
    along = (phase - 0.5) * b.vertebra_height
    spinous = (aside, behind - b.vertebra_radius - 32, along)
    blend(hu, canvas.share(ellipsoid(spinous, (0, 0, 0), (4, 16, 7), modules=canvas.modules)), 450)
    transverse = (abs(aside) - 24, behind - b.vertebra_radius - 8, along)
    blend(
        hu, canvas.share(ellipsoid(transverse, (0, 0, 0), (15, 6, 6), modules=canvas.modules)), 380
    )


def _paint_tubes(canvas: Canvas, thorax: Thorax) -> None:
    ribs = thorax.skeleton.ribs
    marrow = ribs.copy()
    marrow[:, 6:8] -= thorax.build.cortex
    for tubes, hu in ((ribs, 900.0), (marrow, 230.0), (thorax.skeleton.clavicles, 600.0)):
        share: Array = canvas.modules.xp.zeros_like(canvas.hu)
        draw_tubes(share, canvas.grid, tubes, modules=canvas.modules)
        blend(canvas.hu, share, hu)


def _paint_ellipsoid(
    canvas: Canvas, centre: Points, radii: Points, look: tuple[float, float]
) -> None:
    angle, density = look
    reach = float(radii.max()) + 6
    window = canvas.grid.window(centre - reach, centre + reach)
    if window is None:
        return
    x, y, z = canvas.grid.part(window).coordinates(canvas.modules)
    x, y, z = x - float(centre[0]), y - float(centre[1]), z - float(centre[2])
    c, s = math.cos(angle), math.sin(angle)
    turned = (c * x + s * y, c * y - s * x, z)
    size = (float(radii[0]), float(radii[1]), float(radii[2]))
    distance = ellipsoid(turned, (0, 0, 0), size, modules=canvas.modules)
    # No bone of the shoulder reaches into the chest.
    outside = canvas.share(3.0 - canvas.field("cavity")[window])
    blend(canvas.hu[window], canvas.share(distance) * outside, density)
