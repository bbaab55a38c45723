"""Whether something like a lesion is seen at a place of a scan where no lesion was found.

A network misses lesions that are there. Before a lesion is called new, or gone, the place is looked
at in the other scan: what stands out there as it does in this one is not gone.
"""

from itertools import product
from typing import Final

import numpy as np

from service.core.geometry import Floats
from workers.volume.axes import Voxels
from workers.volume.grid import Grid
from workers.volume.resample import to_grid
from workers.volume.series import Volume

_SPACING_MM: Final = 1.0
# Registration may be wrong by this much; the place is searched as far.
_SEARCH_MM: Final = 1.5
# The core of a lesion, free of what its edge shares with the surroundings.
_CORE: Final = 0.8
# What stands out by this share of the lesion's own contrast is as good as seen.
_SHARE: Final = 0.6
_LEAST_CONTRAST_HU: Final = 20.0


def contrast_hu(
    volume: Volume, center_mm: Floats, radius_mm: float, *, sense: float = 0.0
) -> float:
    """Return by how much the core of a place stands out of its surroundings, in HU.

    `sense` 0 looks at the very place; 1 and -1 take what stands out most, brighter or darker,
    within 1.5 mm of it.
    """
    values, away = _patch(volume, center_mm, radius_mm + 6.0)
    core = away <= max(_CORE * radius_mm, 1.5 * _SPACING_MM)
    # The wall or a vessel may be beside a lesion; the darker part of its surroundings is lung.
    around = float(np.percentile(values[(away > radius_mm + 2.0) & (away <= radius_mm + 6.0)], 25))
    if sense == 0:
        return float(values[core].mean()) - around
    tried = [
        float(np.roll(values, offset, (0, 1, 2))[core].mean()) - around
        for offset in product((-1, 0, 1), repeat=3)
        if np.linalg.norm(offset) * _SPACING_MM <= _SEARCH_MM
    ]
    return max(tried) if sense > 0 else min(tried)


def is_seen_as_well(
    where: tuple[Volume, Floats], other: tuple[Volume, Floats], *, radius_mm: float
) -> bool:
    """Return whether a lesion of one scan stands out at its place in the other one too."""
    own = contrast_hu(*where, radius_mm)
    if abs(own) < _LEAST_CONTRAST_HU:
        return False
    there = contrast_hu(*other, radius_mm, sense=float(np.sign(own)))
    return there / own >= _SHARE


def _patch(volume: Volume, center_mm: Floats, reach_mm: float) -> tuple[Voxels, Floats]:
    """Return a cube round a place, and each voxel's distance from it."""
    size = 2 * int(np.ceil(reach_mm / _SPACING_MM)) + 1
    affine = np.diag([_SPACING_MM] * 3 + [1.0])
    affine[:3, 3] = np.asarray(center_mm) - _SPACING_MM * (size - 1) / 2
    axis = (np.arange(size) - (size - 1) / 2) * _SPACING_MM
    away = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    return to_grid(volume, Grid((size, size, size), affine)), away
