"""What a scanner makes of a patient: sharpness, slice profile, and noise with its texture."""

from dataclasses import dataclass

import numpy as np

from models.phantoms.geometry import NUMPY, Array, ArrayModules, Grid, Points
from models.phantoms.painting import add_table, render_thorax, table_position
from models.phantoms.seeds import Domain
from models.phantoms.thorax import Thorax

LOWEST_HU, HIGHEST_HU = -1024, 3071
_FWHM_PER_SIGMA = 2.355


@dataclass(frozen=True)
class Protocol:
    """How a CT was taken and reconstructed.

    Attributes
    ----------
    thickness_mm, increment_mm
        Depth of one slice, and the distance between neighbouring slices.
    pixel_mm
        In-plane spacing.
    blur_mm
        Full width at half maximum of the point spread in plane.
    sharpening
        0 for a soft kernel, about 1 for an edge-enhancing one.
    noise_hu
        Standard deviation of noise in water.
    slice_correlation
        Noise's correlation from slice to slice, in slices.
    grain_hu
        Fine texture of the aerated lung.
    """

    thickness_mm: float = 2.5
    increment_mm: float = 2.5
    pixel_mm: float = 0.7
    blur_mm: float = 1.2
    sharpening: float = 0.1
    noise_hu: float = 20.0
    slice_correlation: float = 0.6
    grain_hu: float = 12.0

    @property
    def kernel(self) -> str:
        """Convolution Kernel (0018,1210) as a vendor-neutral name."""
        return "SHARP" if self.sharpening > 0.5 else "STANDARD"


@dataclass(frozen=True)
class ScannerRange:
    """Ranges from which a protocol is drawn."""

    thickness_mm: tuple[float, ...]
    pixel_mm: tuple[float, float]
    blur_mm: tuple[float, float]
    sharpening: tuple[float, float]
    noise_hu: tuple[float, float]
    overlap: float
    slice_correlation: tuple[float, float]


SCANNERS: dict[Domain, ScannerRange] = {
    Domain.STANDARD: ScannerRange(
        (1.0, 1.25, 1.5, 2.0, 2.5, 3.0),
        (0.62, 0.88),
        (0.85, 1.8),
        (0, 0.6),
        (12, 60),
        0.7,
        (0.4, 1.0),
    ),
    # Edge-enhancing or very smooth kernels, low dose, thick slices.
    Domain.SHIFTED: ScannerRange(
        (1.0, 2.5, 3.0, 4.0, 5.0), (0.5, 0.98), (0.6, 2.3), (0.2, 1.2), (30, 110), 0.6, (0.2, 1.2)
    ),
}


def draw_protocol(
    rng: np.random.Generator, domain: Domain = Domain.STANDARD, *, thickness_mm: float | None = None
) -> Protocol:
    """Draw how a CT is taken; thick slices average noise away."""
    scanner = SCANNERS[domain]
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
        grain_hu=float(rng.uniform(0, 26)),
    )


def ct_noise(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    protocol: Protocol,
    *,
    modules: ArrayModules = NUMPY,
) -> Array:
    """Return noise of unit deviation with a CT's power spectrum, shape ``[z, y, x]``.

    In plane the spectrum is a ramp, from filtered back projection, under the kernel's fall-off.
    """
    sides = (_fft_length(shape[1]), _fft_length(shape[2]))
    white = _white(rng, (shape[0], *sides), protocol, modules)
    spectrum = modules.fft.rfft2(white, axes=(1, 2))
    spectrum *= modules.xp.asarray(_noise_response(sides, protocol))
    noise = modules.fft.irfft2(spectrum, s=sides, axes=(1, 2))[:, : shape[1], : shape[2]]
    unit: Array = noise * (1.0 / (float(noise.std()) + 1e-6))
    return unit


def _white(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    protocol: Protocol,
    modules: ArrayModules,
) -> Array:
    """Return white noise, correlated from slice to slice only, of unit deviation."""
    xp = modules.xp
    generator = xp.random.default_rng(int(rng.integers(2**31))) if modules.on_gpu else rng
    white: Array = generator.standard_normal(shape, dtype=np.float32)
    if protocol.slice_correlation > 0 and shape[0] > 1:
        sigma = protocol.slice_correlation * 0.6
        white = modules.ndimage.gaussian_filter1d(white, sigma, axis=0, mode="wrap", truncate=3)
        white *= 1.0 / float(white[: max(1, shape[0] // 4)].std())
    return white


def _fft_length(count: int) -> int:
    return int(NUMPY.fft.next_fast_len(count, real=True))


def _frequency(sides: tuple[int, int], pixel_mm: float) -> Points:
    """Return the distance from the origin of each coefficient of `rfft2`, in cycles per mm."""
    return np.asarray(
        np.hypot(
            np.fft.fftfreq(sides[0], pixel_mm)[:, None],
            np.fft.rfftfreq(sides[1], pixel_mm)[None, :],
        )
    )


def _noise_response(sides: tuple[int, int], protocol: Protocol) -> Array:
    """Return the filter that turns white noise into CT noise of the same deviation."""
    frequency = _frequency(sides, protocol.pixel_mm)
    sigma = protocol.blur_mm / _FWHM_PER_SIGMA
    fall_off = np.exp(-2 * (np.pi * sigma * frequency) ** 2)
    edges = 1 + protocol.sharpening * np.exp(-(((frequency - 0.45) / 0.25) ** 2))
    response = np.sqrt(frequency + 0.01) * fall_off * edges
    # The half spectrum stands for the whole one: all but its first and last column count twice.
    weight = np.full(response.shape[1], 2.0)
    weight[0] = 1.0
    if sides[1] % 2 == 0:
        weight[-1] = 1.0
    power = (response**2 * weight).sum() / (sides[0] * sides[1])
    return np.asarray(response / np.sqrt(power), np.float32)


def _image_response(sides: tuple[int, int], protocol: Protocol) -> Array:
    """Return the filter that blurs, and with a sharp kernel sharpens, an image."""
    px = protocol.pixel_mm
    frequency = _frequency(sides, px)

    def gaussian(sigma_mm: float) -> Points:
        return np.asarray(np.exp(-2 * (np.pi * sigma_mm * frequency) ** 2))

    # Painting has blurred by about half a pixel already.
    sigma = np.sqrt(max(protocol.blur_mm**2 - px**2 * 0.5, 0.05)) / _FWHM_PER_SIGMA
    response = gaussian(sigma)
    if protocol.sharpening > 0.05:
        response = response * (1 + protocol.sharpening * (1 - gaussian(1.6 * sigma + 0.3 * px)))
    return np.asarray(response, np.float32)


@dataclass(frozen=True)
class Scan:
    """A CT of a synthetic patient.

    Attributes
    ----------
    hu
        int16, indexed ``[z, y, x]``.
    grid
        Where the voxels lie.
    labels
        0 outside nodules, n + 1 inside ``thorax.lesions[n]``; None unless asked for.
    """

    hu: np.ndarray
    grid: Grid
    labels: np.ndarray | None
    protocol: Protocol


def acquire(
    thorax: Thorax,
    rng: np.random.Generator,
    protocol: Protocol,
    *,
    box_mm: tuple[Points, Points],
    labels: bool = True,
    table: bool = False,
    modules: ArrayModules = NUMPY,
) -> Scan:
    """Scan the part of a patient between two corners.

    Slices thicker than about a millimetre are averaged over several painted ones.
    """
    low, high = (np.asarray(corner, float) for corner in box_mm)
    px, step = protocol.pixel_mm, protocol.increment_mm
    counts = np.ceil((high - low) / [px, px, step]).astype(int) + 1
    grid = Grid(
        (float(low[0]), float(low[1]), float(low[2])),
        (px, px, step),
        (int(counts[2]), int(counts[1]), int(counts[0])),
    )
    hu, marks = _paint_slices(thorax, grid, protocol, (labels, table, modules))
    hu = degrade(hu, rng, protocol, modules=modules)
    return Scan(hu, grid, marks, protocol)


def _paint_slices(
    thorax: Thorax, grid: Grid, protocol: Protocol, how: tuple[bool, bool, ArrayModules]
) -> tuple[Array, np.ndarray | None]:
    labels, table, modules = how
    # Painting finer than the pixels gains nothing.
    per_slice = max(1, round(grid.spacing_mm[2] / max(1.1, grid.spacing_mm[0])))
    fine_step = grid.spacing_mm[2] / per_slice
    window = max(1, round(protocol.thickness_mm / fine_step))
    # Slice k is the mean of `window` fine slices about its middle; an odd count keeps the middle.
    window += (window + 1) % 2 if per_slice == 1 else (window + per_slice) % 2
    margin = max(0, (window - per_slice + 1) // 2)
    count = grid.shape[0] * per_slice + 2 * margin
    start = grid.origin_mm[2] - (margin + (per_slice - 1) / 2) * fine_step
    fine = Grid(
        (grid.origin_mm[0], grid.origin_mm[1], start),
        (grid.spacing_mm[0], grid.spacing_mm[1], fine_step),
        (count, grid.shape[1], grid.shape[2]),
    )
    painting = render_thorax(thorax, fine, labels=labels, modules=modules)
    if table:
        add_table(painting.hu, fine, float(table_position(thorax)[1]), modules=modules)
    if count == grid.shape[0]:
        return painting.hu, painting.labels
    hu = modules.xp.zeros(grid.shape, dtype=np.float32)
    before = (window - per_slice) // 2
    for first in range(margin - before, margin - before + window):
        hu += painting.hu[first : first + grid.shape[0] * per_slice : per_slice]
    hu *= 1 / window
    middle = margin + per_slice // 2
    marks = painting.labels
    if marks is not None:
        marks = marks[middle : middle + grid.shape[0] * per_slice : per_slice]
    return hu, marks


def degrade(
    hu: Array, rng: np.random.Generator, protocol: Protocol, *, modules: ArrayModules = NUMPY
) -> np.ndarray:
    """Blur, sharpen and add noise to painted slices; returns int16 Hounsfield units."""
    xp, fft = modules.xp, modules.fft
    rows, columns = hu.shape[1:]
    sides = (_fft_length(rows), _fft_length(columns))
    air = xp.clip((-500 - hu) / 150, 0, 1) if protocol.grain_hu > 0 else None
    padding = ((0, 0), (0, sides[0] - rows), (0, sides[1] - columns))
    spectrum = fft.rfft2(xp.pad(hu, padding, mode="edge"), axes=(1, 2))
    spectrum *= xp.asarray(_image_response(sides, protocol))
    white = fft.rfft2(_white(rng, (hu.shape[0], *sides), protocol, modules), axes=(1, 2))
    spectrum += white * xp.asarray(protocol.noise_hu * _noise_response(sides, protocol))
    image = fft.irfft2(spectrum, s=sides, axes=(1, 2))[:, :rows, :columns]
    if air is not None:
        # The lung's own texture: the same noise seen through a soft filter, in aerated lung only.
        grain = Protocol(pixel_mm=protocol.pixel_mm, blur_mm=3.2, sharpening=0)
        white *= xp.asarray(protocol.grain_hu * _noise_response(sides, grain))
        image += air * fft.irfft2(white, s=sides, axes=(1, 2))[:, :rows, :columns]
    rounded: np.ndarray = xp.clip(xp.rint(image), LOWEST_HU, HIGHEST_HU).astype(np.int16)
    return rounded
