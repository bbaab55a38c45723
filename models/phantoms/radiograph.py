"""Frontal chest radiographs by projecting a synthetic thorax through a cone of rays.

A seed goes in; out come the line integrals behind each detector pixel, once per set of findings,
and where each finding lies. Images are (row, column): row 0 at the head, column 0 at the
patient's right, as a radiograph is hung. `models.phantoms.detector` makes grey values of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.phantoms.findings import Finding, draw_chest_disease, draw_chest_options
from models.phantoms.findings_paint import ChestCanvas
from models.phantoms.geometry import (
    NUMPY,
    Array,
    ArrayModules,
    Grid,
    Points,
    apply_separable,
    interpolation_matrix,
)
from models.phantoms.painting import render_thorax
from models.phantoms.seeds import Domain
from models.phantoms.thorax import Thorax

View = Literal["PA", "AP"]

_WATER_PER_MM = 0.0190  # attenuation of water for a chest tube's mean energy, about 70 keV
_BONE_EXCESS = 0.95  # photoelectric absorption above that of equally dense water
_GAP_MM = 40.0  # from the skin to the detector
_RAYS_PER_VOXEL = 0.55  # rays further apart than this many voxels would lose detail
# Along a ray, less of a finding than this leaves no shadow that a reader could point at.
_LEAST_DEPTH_MM = {
    Finding.NODULE_MASS: 5.0,
    Finding.CONSOLIDATION: 18.0,
    Finding.PLEURAL_EFFUSION: 8.0,
    Finding.PNEUMOTHORAX: 8.0,
    Finding.CARDIOMEGALY: 12.0,
    Finding.ATELECTASIS: 5.0,
}


@dataclass(frozen=True)
class Exposure:
    """How the patient stood: view, tube distance, and the detector.

    Attributes
    ----------
    distance_mm
        Distance Source to Detector (0018,1110).
    pixel_mm
        Imager Pixel Spacing (0018,1164), the same both ways.
    shape
        Rows and columns.
    centre_mm
        Where the central ray meets the detector, patient x and z.
    """

    view: View
    distance_mm: float
    pixel_mm: float
    shape: tuple[int, int]
    centre_mm: tuple[float, float]


@dataclass(frozen=True)
class Shadow:
    """One exposure before the detector.

    Attributes
    ----------
    path
        Line integral of attenuation for each pixel, no unit, float32.
    masks
        Where each finding present throws its shadow, boolean, same shape.
    """

    path: Array
    masks: dict[Finding, NDArray[np.bool_]]
    exposure: Exposure


def attenuation_per_mm(hu: Array) -> Array:
    """Return linear attenuation for HU, in 1/mm; bone absorbs more than its density says."""
    water: Array = _WATER_PER_MM * np.maximum(1 + hu * 0.001, 0)
    return water + (_WATER_PER_MM * _BONE_EXCESS * 0.001) * np.maximum(hu - 120, 0)


class Projector:
    """Integrates volumes on one grid along the rays of one exposure.

    The divergence of the rays is kept, their obliquity (under 10 % of length) is not. Detectors
    much finer than the voxels are served by fewer rays and smooth interpolation between them.
    """

    def __init__(self, grid: Grid, exposure: Exposure, modules: ArrayModules = NUMPY) -> None:
        self._modules = modules
        factor = max(1, int(grid.spacing_mm[0] * _RAYS_PER_VOXEL / exposure.pixel_mm))
        rows, columns = (-(-n // factor) for n in exposure.shape)
        pixel_mm = exposure.pixel_mm * factor
        self._enlarge = _enlarging((rows, columns), exposure.shape, factor) if factor > 1 else None
        # Coarse rays stand in the middle of the pixels that they serve.
        shift = (factor - 1) / 2 * exposure.pixel_mm
        x = np.arange(columns) * pixel_mm + shift - (exposure.shape[1] - 1) / 2 * exposure.pixel_mm
        z = (exposure.shape[0] - 1) / 2 * exposure.pixel_mm - np.arange(rows) * pixel_mm - shift
        depths = grid.axis_mm(1)
        detector = depths[-1] + _GAP_MM if exposure.view == "AP" else depths[0] - _GAP_MM
        across: list[Array] = []
        down: list[Array] = []
        for depth in depths:
            shrink = 1 - abs(depth - detector) / exposure.distance_mm
            for matrices, at, axis in ((across, x, 0), (down, z, 2)):
                matrices.append(
                    interpolation_matrix(
                        exposure.centre_mm[axis // 2] + at * shrink,
                        start_mm=grid.origin_mm[axis],
                        step_mm=grid.spacing_mm[axis],
                        count=grid.shape[2 - axis],
                    )
                )
        self._xp, self._step_mm = modules.xp, grid.spacing_mm[1]
        self._down: Array = modules.xp.asarray(np.stack(down))
        flat = np.stack(across).transpose(0, 2, 1).reshape(-1, columns)
        self._across: Array = modules.xp.asarray(np.ascontiguousarray(flat))

    def project(self, volume: Array) -> Array:
        """Return the line integral for each pixel: values of `volume` times mm."""
        planes = self._xp.matmul(self._down, volume.transpose(1, 0, 2))
        depth, rows, width = planes.shape
        path: Array = planes.transpose(1, 0, 2).reshape(rows, depth * width) @ self._across
        if self._enlarge is not None:
            one = np.ones((1, 1), np.float32)
            path = apply_separable(path[None], (one, *self._enlarge), self._modules)[0]
        return path * np.float32(self._step_mm)


def _enlarging(coarse: tuple[int, int], fine: tuple[int, int], factor: int) -> tuple[Array, Array]:
    """Return the matrices that enlarge rows and columns smoothly by `factor`."""
    down, across = (
        interpolation_matrix(
            np.arange(float(wanted)),
            start_mm=(factor - 1) / 2,
            step_mm=factor,
            count=count,
            kernel="cubic",
        )
        for count, wanted in zip(coarse, fine, strict=True)
    )
    return down, across


def make_chest_patient(seed: int, domain: Domain = Domain.STANDARD) -> Thorax:
    """Return the thorax to radiograph: no contrast medium, no CT nodules."""
    thorax = Thorax(seed, domain, draw_chest_options(seed, domain))
    thorax.build = replace(thorax.build, contrast=False, blood_hu=42.0)
    return thorax


def draw_exposure(thorax: Thorax, shape: tuple[int, int], field_mm: float = 400.0) -> Exposure:
    """Return how this patient is exposed; `field_mm` is the detector's mean height."""
    rng = np.random.default_rng([thorax.seed, 203])
    shifted = thorax.domain is Domain.SHIFTED
    anterior_posterior = not thorax.options.upright or rng.random() < (0.6 if shifted else 0.25)
    distance = rng.uniform(1000, 1300) if anterior_posterior else rng.uniform(1700, 2000)
    build = thorax.build
    middle = (build.apex_z + build.bottom_z) / 2 + 18
    larger = 1.06 if shifted else 1.0
    return Exposure(
        view="AP" if anterior_posterior else "PA",
        distance_mm=float(distance),
        pixel_mm=float(field_mm * larger * rng.uniform(0.92, 1.1) / shape[0]),
        shape=shape,
        centre_mm=(float(rng.normal(0, 6)), float(middle + rng.normal(0, 8))),
    )


def _chest_grid(thorax: Thorax, detail_mm: float) -> Grid:
    low, high = thorax.body_box_mm()
    spacing: Points = np.array([detail_mm, 2 * detail_mm, detail_mm])
    counts = np.ceil((high - low) / spacing).astype(int) + 1
    shape = (int(counts[2]), int(counts[1]), int(counts[0]))
    origin = (float(low[0]), float(low[1]), float(low[2]))
    return Grid(origin, (float(spacing[0]), float(spacing[1]), float(spacing[2])), shape)


def cast_shadows(
    thorax: Thorax,
    exposure: Exposure,
    *,
    variants: range = range(1),
    detail_mm: float = 2.0,
    modules: ArrayModules = NUMPY,
) -> Iterator[Shadow]:
    """Yield one exposure of the patient for each set of findings, on `modules`' device.

    Parameters
    ----------
    detail_mm
        Voxel size across the rays; voxels are twice as deep along them.
    """
    grid = _chest_grid(thorax, detail_mm)
    healthy = render_thorax(thorax, grid, labels=False, modules=modules).hu
    canvas = ChestCanvas(thorax, grid, healthy, modules)
    projector = Projector(grid, exposure, modules)
    for variant in variants:
        hu, truth = canvas.paint(draw_chest_disease(thorax, variant))
        path = projector.project(attenuation_per_mm(hu))
        depths = {f: projector.project(share) for f, share in truth.items()}
        masks = {f: depth > _LEAST_DEPTH_MM[f] for f, depth in depths.items()}
        yield Shadow(path, masks, exposure)
