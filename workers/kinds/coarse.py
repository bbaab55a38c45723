"""A whole scan on a small grid: where the body and the lungs are, at a few millimetres.

Arrays are (z, y, x) in canonical order: z to the head, y to the back, x to the patient's left.
"""

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

SPACING_MM = 4.0

# Between air and fat; the body's outline is insensitive to it.
_BODY_HU = -400.0
# Lung parenchyma lies between about -950 and -600 HU; gas in bowel or under a curved table is
# nearer to -1000.
_LUNG_HU = -400.0
_GAS_HU = -965.0
_LUNG_PIECE_ML = 80.0
# Nodules and masses on the pleura are not air; a lung closed by this much takes them in.
_LUNG_CLOSING_MM = 16.0


@dataclass(frozen=True)
class Coarse:
    """A scan resampled to `SPACING_MM`; `origin_mm` is the centre of voxel (0, 0, 0) in LPS."""

    values: Array
    origin_mm: Floats

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return SPACING_MM**3 / 1000

    def indices(self, points_mm: Floats) -> Floats:
        """Map LPS millimetres (x, y, z), shape (..., 3), to (z, y, x) indices."""
        indices: Floats = (np.asarray(points_mm)[..., ::-1] - self.origin_mm[::-1]) / SPACING_MM
        return indices


@dataclass(frozen=True)
class Anatomy:
    """Masks on the coarse grid; `lungs` is closed over what lies on the pleura."""

    body: Mask
    air: Mask
    lungs: Mask


def coarsen(voxels: NDArray[np.generic], affine: Floats) -> Coarse:
    """Return a scan on the coarse canonical grid that bounds it.

    Blocks of source voxels are averaged first, so that noise does not alias into the coarse grid.

    Parameters
    ----------
    voxels
        Shape (slices, rows, columns).
    affine
        4x4, (column, row, slice) to LPS mm.
    """
    steps = affine[:3, :3]
    lengths_mm = np.linalg.norm(steps, axis=0)[::-1]
    factors = np.maximum(1, np.round(SPACING_MM / lengths_mm)).astype(int)
    factors = np.minimum(factors, voxels.shape)
    reduced = _block_means(voxels, factors)
    small = affine.copy()
    small[:3, :3] = steps * factors[::-1]
    small[:3, 3] += steps @ ((factors[::-1] - 1) / 2)
    corners = np.array(
        [
            small @ [*(corner * (np.array(reduced.shape[::-1]) - 1)), 1.0]
            for corner in np.ndindex(2, 2, 2)
        ]
    )[:, :3]
    low, high = corners.min(axis=0), corners.max(axis=0)
    shape = np.floor((high - low)[::-1] / SPACING_MM).astype(int) + 1
    # From a coarse index (z, y, x) to an index (slice, row, column) of the reduced scan.
    inverse = np.linalg.inv(small[:3, :3])
    matrix = (inverse * SPACING_MM)[::-1, ::-1]
    offset = (inverse @ (low - small[:3, 3]))[::-1]
    values = ndimage.affine_transform(
        reduced, matrix, offset, output_shape=tuple(shape), order=1, mode="constant",
        cval=float(reduced.min()), output=np.float32,
    )  # fmt: skip
    return Coarse(values, low)


def find_anatomy(coarse: Coarse) -> Anatomy:
    """Find body and lungs of a CT scan by threshold and connected pieces."""
    body = _body(coarse.values)
    air = _lung_air(coarse, body)
    lungs = _closed(air, _LUNG_CLOSING_MM / SPACING_MM)
    return Anatomy(body, air, lungs)


def widened(mask: Mask, margin_mm: float) -> Mask:
    """Return the mask grown by a margin."""
    if not mask.any() or margin_mm <= 0:
        return mask
    grown: Mask = ndimage.distance_transform_edt(~mask) * SPACING_MM <= margin_mm
    return grown


def _block_means(voxels: NDArray[np.generic], factors: NDArray[np.int_]) -> Array:
    counts = np.array(voxels.shape) // factors
    cut = voxels[tuple(slice(0, n) for n in counts * factors)]
    shape = [size for pair in zip(counts, factors, strict=True) for size in pair]
    means: Array = cut.reshape(shape).mean(axis=(1, 3, 5), dtype=np.float32)
    return means


def _body(values: Array) -> Mask:
    solid = values > _BODY_HU
    # No opening to part the table from the back: a thin chest wall would open with it, and the
    # table's air is told from lung by its density.
    labels, count = cc3d.connected_components(solid, connectivity=6, return_N=True)
    if count == 0:
        return np.zeros_like(solid)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body = labels == sizes.argmax()
    return np.stack([ndimage.binary_fill_holes(plane) for plane in body])


def _lung_air(coarse: Coarse, body: Mask) -> Mask:
    labels = cc3d.connected_components((coarse.values < _LUNG_HU) & body, connectivity=6)
    sizes = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), weights=coarse.values.ravel())
    means = sums / np.maximum(sizes, 1)
    lung = (sizes * coarse.voxel_ml >= _LUNG_PIECE_ML) & (means > _GAS_HU)
    lung[0] = False
    return np.asarray(lung[labels], dtype=np.bool_)


def _closed(mask: Mask, radius: float) -> Mask:
    """Close a mask with a ball, without growing it out of the field."""
    if not mask.any():
        return mask
    border = int(np.ceil(radius)) + 1
    padded = np.pad(mask, border)
    grown = ndimage.distance_transform_edt(~padded) <= radius
    kept = ndimage.distance_transform_edt(grown) > radius
    inner = tuple(slice(border, -border) for _ in range(3))
    closed: Mask = (kept | padded)[inner]
    return closed
