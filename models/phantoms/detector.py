"""What a digital detector and its maker's processing turn a shadow into.

Scatter, quantum noise and blur come first, then the logarithm, contrast processing and a
characteristic curve, then what is stuck on the patient or written on the image. Input is the path
integral of `models.phantoms.radiograph`; output is brightness 0 to 1, bones bright.
"""

from dataclasses import dataclass

import numpy as np

from models.phantoms.geometry import (
    NUMPY,
    Array,
    ArrayModules,
    Grid,
    apply_separable,
    interpolation_matrix,
)
from models.phantoms.seeds import Domain
from models.phantoms.shapes import draw_tubes

Interval = tuple[float, float]


@dataclass(frozen=True)
class DetectorRange:
    """From which ranges a detector and its processing are drawn."""

    scatter: Interval
    quanta_per_mm2: Interval
    enhancement: Interval
    enhanced_share: float
    device_share: float


DETECTORS = {
    Domain.STANDARD: DetectorRange((0.15, 0.6), (1e5, 2e6), (0.2, 0.7), 0.6, 0.35),
    # Poor grids, low dose, strong processing, and patients of the intensive care unit.
    Domain.SHIFTED: DetectorRange((0.3, 1.1), (2e4, 3e5), (0.2, 1.0), 0.9, 0.7),
}


def _smoothed(values: Array, sigma_px: float, modules: ArrayModules) -> Array:
    """Blur widely at low cost: shrink, blur, enlarge."""
    factor = max(1, int(sigma_px / 4))
    if factor == 1:
        blurred: Array = modules.ndimage.gaussian_filter(values, sigma_px, mode="nearest")
        return blurred
    rows, columns = (n // factor * factor for n in values.shape)
    small = values[:rows, :columns]
    small = small.reshape(rows // factor, factor, columns // factor, factor).mean((1, 3))
    small = modules.ndimage.gaussian_filter(small, sigma_px / factor, mode="nearest")
    down, across = (
        interpolation_matrix(
            np.arange(float(n)), start_mm=(factor - 1) / 2, step_mm=factor, count=n // factor
        )
        for n in values.shape
    )
    one = np.ones((1, 1), np.float32)
    enlarged: Array = apply_separable(small[None], (one, down, across), modules)[0]
    return enlarged


def _white(rng: np.random.Generator, shape: tuple[int, ...], modules: ArrayModules) -> Array:
    source = rng
    if modules.on_gpu:
        source = modules.xp.random.default_rng(int(rng.integers(2**31)))
    noise: Array = source.standard_normal(shape, dtype=np.float32)
    return noise


def _add_devices(path: Array, rng: np.random.Generator, modules: ArrayModules) -> None:
    """Lay catheters, leads and electrodes over the patient, in place."""
    rows, columns = path.shape
    grid = Grid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (rows, 1, columns))
    t = np.linspace(0, 1, 60)[:, None]
    scale = rows / 320
    for _ in range(int(rng.integers(1, 5))):
        ends = rng.uniform(0.12, 0.88, (3, 2)) * [columns, rows]
        curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
        radius = rng.uniform(0.4, 1.1) * scale
        points = np.stack([curve[:, 0], np.zeros(60), curve[:, 1]], 1)
        tubes = np.concatenate([points[:-1], points[1:], np.full((59, 2), radius)], 1)
        if rng.random() < 0.4:  # an electrode at the lead's end: round as a nodule, but denser
            tip = rng.uniform(2.5, 5) * scale
            tubes = np.concatenate([tubes, [[*points[-1], *points[-1] + 0.1, tip, tip]]])
        share: Array = modules.xp.zeros((rows, 1, columns), dtype=np.float32)
        draw_tubes(share, grid, tubes, modules=modules)
        path += share[:, 0] * np.float32(rng.uniform(0.25, 1.4))


def _quanta(
    path: Array, rng: np.random.Generator, pixel_mm: float, look: DetectorRange
) -> tuple[float, float]:
    """Return scatter share and the number of quanta that an empty pixel receives."""
    scatter = float(rng.uniform(*look.scatter))
    density = float(np.exp(rng.uniform(*np.log(look.quanta_per_mm2))))
    return scatter, density * pixel_mm**2


def _process(
    log_signal: Array,
    rng: np.random.Generator,
    pixel_mm: float,
    how: tuple[bool, float, ArrayModules],
) -> Array:
    """Equalise, window and bend as a maker's processing does; returns 0 to 1."""
    enhanced, strength, modules = how
    xp = modules.xp
    if enhanced:
        broad = _smoothed(log_signal, float(rng.uniform(15, 50)) / pixel_mm, modules)
        flat = float(rng.uniform(0, 0.35)) * (broad - xp.median(broad))
        log_signal = log_signal + strength * (log_signal - broad) - flat
    rows, columns = log_signal.shape
    middle = log_signal[rows // 16 : -rows // 16, columns // 16 : -columns // 16]
    low, high = (
        float(xp.percentile(middle, q)) for q in (rng.uniform(0.5, 4), rng.uniform(96, 99.7))
    )
    grey = (log_signal - low) / (high - low + 1e-6)
    if rng.random() < 0.6:
        steep, at = float(rng.uniform(2.5, 6)), float(rng.uniform(0.4, 0.6))
        grey = 1 / (1 + xp.exp(-steep * (grey - at)))
    else:
        grey = xp.clip(grey, 0, 1) ** float(rng.uniform(0.7, 1.4))
    clipped: Array = xp.clip(grey, 0, 1)
    return clipped


def _annotate(image: Array, rng: np.random.Generator) -> None:
    """Write a side marker and, at times, leave collimated borders."""
    rows, columns = image.shape
    if rng.random() < 0.7:
        unit = max(1, rows // 110)
        top = int(rng.uniform(0.04, 0.15) * rows)
        where = rng.uniform(0.03, 0.12) if rng.random() < 0.5 else rng.uniform(0.85, 0.95)
        left = int(where * columns)
        image[top : top + 4 * unit, left : left + unit] = 1
        if rng.random() < 0.5:
            image[top + 3 * unit : top + 4 * unit, left : left + 3 * unit] = 1
    if rng.random() < 0.3:
        top, bottom, left, right = (rng.uniform(0, 0.045, 4) * rows).astype(int)
        image[:top] = 0
        image[rows - bottom :] = 0
        image[:, :left] = 0
        image[:, columns - right :] = 0


def develop(
    path: Array,
    rng: np.random.Generator,
    *,
    pixel_mm: float,
    domain: Domain = Domain.STANDARD,
    modules: ArrayModules = NUMPY,
) -> Array:
    """Return the image a reader would see, 0 to 1 with bones bright, same shape as `path`.

    Parameters
    ----------
    path
        Line integrals; not changed.
    pixel_mm
        Detector pixel size: dose per pixel and the reach of scatter depend on it.
    """
    xp, look = modules.xp, DETECTORS[domain]
    path = path.copy()
    if rng.random() < look.device_share:
        _add_devices(path, rng, modules)
    scatter, quanta = _quanta(path, rng, pixel_mm, look)
    primary = xp.exp(-path)
    signal = primary + np.float32(scatter * 0.8) * _smoothed(primary, 35 / pixel_mm, modules)
    counts = signal * np.float32(quanta)
    counts += xp.sqrt(counts) * _white(rng, path.shape, modules)
    blur = float(rng.uniform(0.12, 0.3)) / pixel_mm
    signal = modules.ndimage.gaussian_filter(counts / np.float32(quanta), min(blur, 2.0))
    log_signal = -xp.log(xp.maximum(signal, 2e-5))
    enhanced = bool(rng.random() < look.enhanced_share)
    strength = float(rng.uniform(*look.enhancement))
    image = _process(log_signal, rng, pixel_mm, (enhanced, strength, modules))
    _annotate(image, rng)
    return image
