"""CT scans of the synthetic abdomen: protocols of body scanners, slices, noise."""

from dataclasses import replace

import numpy as np

from models.phantoms.abdomen import Abdomen, make_abdomen
from models.phantoms.abdomen_lesions import LiverDisease, make_liver_disease
from models.phantoms.abdomen_render import Labels, render_abdomen
from models.phantoms.acquisition import Protocol, Scan, ScannerRange, degrade
from models.phantoms.geometry import NUMPY, Array, ArrayModules, Grid
from models.phantoms.seeds import Domain

ABDOMEN_SCANNERS: dict[Domain, ScannerRange] = {
    Domain.STANDARD: ScannerRange(
        (1.0, 1.5, 2.0, 2.5, 3.0, 5.0),
        (0.66, 0.88),
        (0.95, 1.6),
        (0, 0.15),
        (7, 20),
        0.8,
        (0.4, 1.0),
    ),
    # Smooth or edge-enhancing kernels, less dose, mostly thick slices.
    Domain.SHIFTED: ScannerRange(
        (1.0, 3.0, 4.0, 5.0), (0.58, 0.98), (0.8, 2.2), (0, 0.6), (12, 36), 0.7, (0.2, 1.2)
    ),
}


def draw_abdomen_protocol(
    rng: np.random.Generator, domain: Domain = Domain.STANDARD, *, thickness_mm: float | None = None
) -> Protocol:
    """Draw how an abdomen is scanned; thick slices average noise away."""
    scanner = ABDOMEN_SCANNERS[domain]
    thickness = float(rng.choice(scanner.thickness_mm)) if thickness_mm is None else thickness_mm
    noise = float(np.exp(rng.uniform(*np.log(scanner.noise_hu))))
    return Protocol(
        thickness_mm=thickness,
        increment_mm=float(thickness * rng.choice([scanner.overlap, 1.0])),
        pixel_mm=float(rng.uniform(*scanner.pixel_mm)),
        blur_mm=float(rng.uniform(*scanner.blur_mm)),
        sharpening=float(rng.uniform(*scanner.sharpening)),
        noise_hu=noise * (1.0 if thickness < 2 else (1.6 / thickness) ** 0.35),
        slice_correlation=float(rng.uniform(*scanner.slice_correlation)),
        grain_hu=0.0,
    )


def _scan_grid(abdomen: Abdomen, protocol: Protocol, columns: int | None) -> Grid:
    """Return a grid round the body, or a square one of `columns` pixels about its middle."""
    low, high = abdomen.corners_mm()
    px = protocol.pixel_mm
    size = np.ceil((high - low) / [px, px, protocol.increment_mm]).astype(int) + 1
    if columns is not None:
        middle = (low + high) / 2
        low[:2] = middle[:2] - (columns - 1) / 2 * px
        size[:2] = columns
    return Grid(
        (float(low[0]), float(low[1]), float(low[2])),
        (px, px, protocol.increment_mm),
        (int(size[2]), int(size[1]), int(size[0])),
    )


def _averaged_slices(
    patient: tuple[Abdomen, LiverDisease], grid: Grid, protocol: Protocol, modules: ArrayModules
) -> tuple[Array, Labels]:
    """Draw each slice as the mean of thinner ones across its thickness."""
    count = max(1, round(protocol.thickness_mm / 1.7))
    offsets = (np.arange(count) - (count - 1) / 2) * protocol.thickness_mm / count
    total: Array | None = None
    labels: Labels | None = None
    for number, offset in enumerate(offsets):
        x, y, z = grid.origin_mm
        thin = Grid((x, y, z + float(offset)), grid.spacing_mm, grid.shape)
        values, marks = render_abdomen(*patient, thin, modules=modules)
        total = values if total is None else total + values
        labels = marks if number == count // 2 else labels
    assert total is not None
    assert labels is not None
    return total * np.float32(1 / count), labels


def scan_abdomen(
    abdomen: Abdomen,
    disease: LiverDisease,
    protocol: Protocol,
    *,
    columns: int | None = None,
    modules: ArrayModules = NUMPY,
) -> Scan:
    """Scan the upper abdomen.

    Parameters
    ----------
    columns
        Size of a square image about the body's middle; None crops the field to the body.

    Returns
    -------
    Scan
        `labels` are those of `models.phantoms.abdomen_render`: 1 liver, 2 and up lesions.
    """
    grid = _scan_grid(abdomen, protocol, columns)
    values, labels = _averaged_slices((abdomen, disease), grid, protocol, modules)
    rng = np.random.default_rng([abdomen.seed, 103])
    return Scan(degrade(values, rng, protocol, modules=modules), grid, labels, protocol)


def abdomen_scan(
    seed: int,
    domain: Domain = Domain.STANDARD,
    *,
    pixel_mm: float | None = None,
    modules: ArrayModules = NUMPY,
) -> tuple[Abdomen, LiverDisease, Scan]:
    """Return the patient, the disease and the scan that a seed stands for.

    `pixel_mm` replaces the protocol's pixel size, for training without a GPU.
    """
    abdomen = make_abdomen(seed, domain)
    disease = make_liver_disease(abdomen)
    protocol = draw_abdomen_protocol(np.random.default_rng([seed, 104]), domain)
    if pixel_mm is not None:
        protocol = replace(protocol, pixel_mm=pixel_mm)
    return abdomen, disease, scan_abdomen(abdomen, disease, protocol, modules=modules)
