"""The grid and greys that the liver lesion network sees, and how a scan is brought to it."""

import numpy as np

from models.phantoms.abdomen_render import FIRST_LESION, LIVER
from models.phantoms.acquisition import Scan
from models.phantoms.geometry import ArrayModules, Grid, resample

SPACING_MM = (2.5, 1.5, 1.5)  # z, y, x
CONTEXT = 5
WINDOW_HU = (-160.0, 240.0)


def network_grid(scan: Scan) -> Grid:
    """Return the grid the network works on, over the same box as the scan."""
    dz, dy, dx = SPACING_MM
    extent = [(n - 1) * s for n, s in zip(scan.grid.shape[::-1], scan.grid.spacing_mm, strict=True)]
    count = [int(e / s) + 1 for e, s in zip(extent, (dx, dy, dz), strict=True)]
    return Grid(scan.grid.origin_mm, (dx, dy, dz), (count[2], count[1], count[0]))


def resampled(scan: Scan, modules: ArrayModules) -> tuple[np.ndarray, np.ndarray]:
    """Return HU (int16) and classes (uint8: 0, 1 liver, 2 lesion) on the network's grid."""
    xp, grid = modules.xp, network_grid(scan)
    hu = resample(scan.hu.astype(np.float32), scan.grid, grid, modules=modules)
    assert scan.labels is not None
    lesion = (scan.labels >= FIRST_LESION).astype(np.float32)
    liver = (scan.labels >= LIVER).astype(np.float32)
    liver_here = resample(liver, scan.grid, grid, modules=modules) > 0.5
    lesion_here = resample(lesion, scan.grid, grid, modules=modules) > 0.5
    classes = liver_here.astype(np.uint8) + (liver_here & lesion_here).astype(np.uint8)
    return xp.rint(hu).astype(np.int16), classes
