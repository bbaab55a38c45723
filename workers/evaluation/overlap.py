"""Agreement of a segmentation with its reference: overlap, surface distance, lesions.

Masks are boolean arrays of one shape, axes (z, y, x) or (row, column); spacings are
in mm in the order of the axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]
Distances = NDArray[np.float64]


@dataclass(frozen=True)
class LesionMatch:
    """Lesion-wise agreement at one overlap: counts of matched and unmatched components."""

    reference: int
    found: int
    reference_hit: int
    found_hit: int

    @property
    def sensitivity(self) -> float:
        """Return the share of reference lesions hit; 1 when there are none."""
        return self.reference_hit / self.reference if self.reference else 1.0

    @property
    def precision(self) -> float:
        """Return the share of found lesions that hit; 1 when nothing was found."""
        return self.found_hit / self.found if self.found else 1.0

    @property
    def f1(self) -> float:
        """Return the harmonic mean of sensitivity and precision."""
        total = self.sensitivity + self.precision
        return 2 * self.sensitivity * self.precision / total if total else 0.0


def _same_shape(found: Mask, reference: Mask) -> tuple[Mask, Mask]:
    found, reference = np.asarray(found, dtype=bool), np.asarray(reference, dtype=bool)
    if found.shape != reference.shape:
        raise ValueError(f"masks differ in shape: {found.shape} and {reference.shape}")
    return found, reference


def dice(found: Mask, reference: Mask) -> float:
    """Return 2|A∩B| / (|A|+|B|); 1 when both are empty.

    Examples
    --------
    >>> dice(np.array([True, True, False]), np.array([False, True, True]))
    0.5
    """
    found, reference = _same_shape(found, reference)
    total = int(found.sum()) + int(reference.sum())
    return 2.0 * int((found & reference).sum()) / total if total else 1.0


def intersection_over_union(found: Mask, reference: Mask) -> float:
    """Return |A∩B| / |A∪B|; 1 when both are empty."""
    found, reference = _same_shape(found, reference)
    union = int((found | reference).sum())
    return int((found & reference).sum()) / union if union else 1.0


def _crop(found: Mask, reference: Mask) -> tuple[slice, ...]:
    boxes = ndimage.find_objects((found | reference).astype(np.uint8))
    return tuple(
        slice(max(0, s.start - 2), min(n, s.stop + 2))
        for s, n in zip(boxes[0], found.shape, strict=True)
    )


def _surface(mask: Mask) -> Mask:
    inner: Mask = ndimage.binary_erosion(mask)
    return mask & ~inner


def surface_distances_mm(
    found: Mask, reference: Mask, spacing_mm: Sequence[float]
) -> tuple[Distances, Distances]:
    """Return distances found→reference and reference→found, one per surface voxel, in mm.

    A surface voxel is a voxel of the mask with a face neighbour outside it (or the border).

    Raises
    ------
    ValueError
        When either mask is empty: there is no surface to measure from.
    """
    found, reference = _same_shape(found, reference)
    if not found.any() or not reference.any():
        raise ValueError("surface distance needs two non-empty masks")
    box = _crop(found, reference)
    a, b = _surface(found[box]), _surface(reference[box])
    to_b = ndimage.distance_transform_edt(~b, sampling=spacing_mm)
    to_a = ndimage.distance_transform_edt(~a, sampling=spacing_mm)
    return np.asarray(to_b[a], dtype=np.float64), np.asarray(to_a[b], dtype=np.float64)


def hausdorff_95_mm(found: Mask, reference: Mask, spacing_mm: Sequence[float]) -> float:
    """Return the larger of the two directed 95th percentiles of surface distance, in mm.

    0 when both masks are empty; infinity when one of them is.
    """
    found, reference = _same_shape(found, reference)
    if not found.any() or not reference.any():
        return 0.0 if found.any() == reference.any() else float("inf")
    forth, back = surface_distances_mm(found, reference, spacing_mm)
    return float(max(np.percentile(forth, 95), np.percentile(back, 95)))


def surface_dice(
    found: Mask, reference: Mask, spacing_mm: Sequence[float], *, tolerance_mm: float = 2.0
) -> float:
    """Return the normalised surface distance: share of both surfaces within the tolerance.

    1 when both masks are empty; 0 when one of them is.
    """
    found, reference = _same_shape(found, reference)
    if not found.any() or not reference.any():
        return 1.0 if found.any() == reference.any() else 0.0
    forth, back = surface_distances_mm(found, reference, spacing_mm)
    within = int((forth <= tolerance_mm).sum()) + int((back <= tolerance_mm).sum())
    return within / (forth.size + back.size)


def match_lesions(found: Mask, reference: Mask, *, minimum_iou: float) -> LesionMatch:
    """Count components (26- or 8-connected) that overlap one of the other mask.

    A pair matches when its intersection over union is greater than `minimum_iou`.
    """
    found, reference = _same_shape(found, reference)
    structure = np.ones((3,) * found.ndim, dtype=bool)
    labelled_found, n_found = ndimage.label(found, structure)
    labelled_reference, n_reference = ndimage.label(reference, structure)
    size_found = np.bincount(labelled_found.ravel(), minlength=n_found + 1)
    size_reference = np.bincount(labelled_reference.ravel(), minlength=n_reference + 1)
    both = found & reference
    code = labelled_reference[both].astype(np.int64) * (n_found + 1) + labelled_found[both]
    pairs, shared = np.unique(code, return_counts=True)
    i, j = np.divmod(pairs, n_found + 1)
    iou = shared / (size_reference[i] + size_found[j] - shared)
    hit = iou > minimum_iou
    return LesionMatch(
        n_reference, n_found, int(np.unique(i[hit]).size), int(np.unique(j[hit]).size)
    )
