"""Running a segmenter over a whole volume: class probabilities on one canonical grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.core.errors import InvalidModel
from workers.inference.batching import run_slabs
from workers.inference.tiling import Plan, blend_windows, padded, plan_windows, window_weights
from workers.kinds.contract import Context, require_shape, sigmoid, take
from workers.kinds.intensity import mapped, padding_of
from workers.kinds.scan import Scan
from workers.volume.grid import Grid, canonical_grid, centred_grid, grid_of

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Place of each direction in the order (z, y, x).
_PATIENT_AXIS = {"S": 0, "I": 0, "P": 1, "A": 1, "L": 2, "R": 2}


@dataclass(frozen=True)
class ClassMaps:
    """Probability of each class on a grid, shape (classes, *grid.shape)."""

    probabilities: Array
    grid: Grid

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel of the grid."""
        return float(np.prod(self.grid.spacing_mm))

    def margin(self, channel: int, *, threshold: float | None = None) -> Array:
        """Return by how much a class leads: 0 on its border, in -1..1.

        Against the strongest other class, or against a threshold.
        """
        own = self.probabilities[channel]
        if threshold is not None:
            return np.asarray(own - np.float32(threshold), dtype=np.float32)
        others = np.delete(np.arange(len(self.probabilities)), channel)
        if not others.size:
            return np.asarray(own - np.float32(0.5), dtype=np.float32)
        strongest = self.probabilities[others[0]].copy()
        for other in others[1:]:
            np.maximum(strongest, self.probabilities[other], out=strongest)
        return np.asarray(own - strongest, dtype=np.float32)


def class_maps(scan: Scan, context: Context) -> ClassMaps:
    """Run the segmenter over the scan, or over the region that the manifest names.

    Raises
    ------
    ContractViolation
        ``MODEL_OUTPUT`` when the network does not give one map a class.
    """
    settings = context.manifest.input
    grid = _grid(scan, context)
    tiling = context.manifest.tiling
    region = scan.region_on(grid, tiling.region, tiling.margin_mm) if tiling else None
    image = mapped(scan.on(grid), settings.intensity, population=scan.volume.voxels)
    if settings.size is not None:
        logits, covered = _whole(image, context)
    elif settings.context_slices:
        logits, covered = _slabs(image, region, context)
    else:
        logits, covered = _windows(image, region, context)
    probabilities = _activated(logits, context)
    background = [spec.kind == "background" for spec in context.manifest.classes]
    for channel, is_background in enumerate(background):
        probabilities[channel][~covered] = float(is_background)
    return ClassMaps(probabilities, grid)


def _grid(scan: Scan, context: Context) -> Grid:
    """Return the network's grid: as large as the scan, or of the one size it takes."""
    settings = context.manifest.input
    wanted = settings.spacing_mm or (0.0, 0.0, 0.0)
    bounding = canonical_grid(scan.volume, wanted, axes=settings.axes)
    if settings.size is None:
        return bounding
    own = grid_of(scan.volume)
    middle = own.patient_mm((np.array(own.shape) - 1) / 2)
    steps = [0.0, 0.0, 0.0]
    for letter, spacing_mm in zip(settings.axes, bounding.spacing_mm, strict=True):
        steps[_PATIENT_AXIS[letter]] = spacing_mm
    depth, height, width = settings.size
    return centred_grid(
        scan.volume, middle, shape=(depth, height, width), spacing_mm=steps, axes=settings.axes
    )


def _whole(image: Array, context: Context) -> tuple[Array, Mask]:
    outputs = context.run("segmenter", image[None, None])
    context.progress("segmenter", 1.0)
    logits = take(outputs, "logits", package=context.package)[0]
    _require_classes(logits, image.shape, context)
    return logits, np.ones(image.shape, dtype=np.bool_)


def _windows(image: Array, region: Mask | None, context: Context) -> tuple[Array, Mask]:
    """Return logits and the voxels that a window reached, for a three-dimensional network."""
    tiling = context.manifest.tiling
    if tiling is None:
        raise InvalidModel("MANIFEST", f"{context.package}: tiling is needed")
    volume = padded(image, tiling.patch, stride=1, value=padding_of(context.manifest.input))
    plan = plan_windows(
        volume.shape, tiling.patch, overlap=tiling.overlap, region=_grown(region, volume.shape)
    )
    blend = blend_windows(
        volume, plan, lambda windows: context.run("segmenter", windows),
        blending=tiling.blending, batch=tiling.batch,
        on_window=lambda done, total: context.progress("segmenter", done / total),
    )  # fmt: skip
    logits = np.zeros((len(context.manifest.classes), *volume.shape), dtype=np.float32)
    covered = np.zeros(volume.shape, dtype=np.bool_)
    if plan.starts:
        held = take(blend.maps, "logits", package=context.package)
        _require_classes(held, blend.covered.shape, context)
        logits[(slice(None), *plan.frame)] = held
        covered[plan.frame] = blend.covered
    inner = tuple(slice(0, length) for length in image.shape)
    return logits[(slice(None), *inner)], covered[inner]


def _slabs(image: Array, region: Mask | None, context: Context) -> tuple[Array, Mask]:
    """Return logits and the voxels that were reached, for a network that takes few slices."""
    settings, tiling = context.manifest.input, context.manifest.tiling
    if tiling is None:
        raise InvalidModel("MANIFEST", f"{context.package}: tiling is needed")
    patch = (1, *tiling.patch)
    volume = padded(image, patch, stride=1, value=padding_of(settings))
    region = _grown(region, volume.shape)
    flat = None if region is None else np.asarray(region.any(axis=0))
    plan = plan_windows(volume.shape[1:], tiling.patch, overlap=tiling.overlap, region=flat)
    slices = _slices(region, len(volume))
    logits = np.zeros((len(context.manifest.classes), *volume.shape), dtype=np.float32)
    weights = np.zeros(volume.shape[1:], dtype=np.float32)
    weight = window_weights(tiling.patch, tiling.blending)
    for done, start in enumerate(plan.starts):
        rows, columns = _window(start, plan)
        weights[rows, columns] += weight
        stack = volume[:, rows, columns]
        for index, outputs in run_slabs(
            stack, slices, lambda slabs: context.run("segmenter", slabs),
            context=settings.context_slices, batch=tiling.batch,
        ):  # fmt: skip
            said = take(outputs, "logits", package=context.package)
            _require_classes(said, plan.patch, context)
            logits[:, index, rows, columns] += said * weight
        context.progress("segmenter", (done + 1) / len(plan.starts))
    logits /= np.maximum(weights, np.finfo(np.float32).tiny)
    covered = np.zeros(volume.shape, dtype=np.bool_)
    covered[slices] = weights > 0
    inner = tuple(slice(0, length) for length in image.shape)
    return logits[(slice(None), *inner)], covered[inner]


def _window(start: Sequence[int], plan: Plan) -> tuple[slice, slice]:
    rows, columns = (slice(at, at + edge) for at, edge in zip(start, plan.patch, strict=True))
    return rows, columns


def _slices(region: Mask | None, count: int) -> list[int]:
    if region is None:
        return list(range(count))
    return [int(index) for index in np.flatnonzero(region.any(axis=(1, 2)))]


def _grown(region: Mask | None, shape: Sequence[int]) -> Mask | None:
    """Return the region on the padded volume."""
    if region is None:
        return None
    return np.pad(region, [(0, b - a) for a, b in zip(region.shape, shape, strict=True)])


def _activated(logits: Array, context: Context) -> Array:
    decoding = context.manifest.decoding
    if getattr(decoding, "activation", "softmax") == "sigmoid":
        return sigmoid(logits)
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0)
    return logits


def _require_classes(logits: Array, shape: Sequence[int], context: Context) -> None:
    classes = len(context.manifest.classes)
    require_shape(logits, (classes, *shape), name="logits", package=context.package)
