"""Which candidates say the same thing twice, and which hit a nodule; numpy only.

Candidates are rows that begin (z, y, x, diameter); nodules are rows (z, y, x, diameter, counted).
Places are in voxels of 1 mm, diameters in mm.
"""

import numpy as np

MERGE_DISTANCE_MM = 5.0
_SMALLEST_EXCLUDED_MM = 5.0


def merged(rows: np.ndarray) -> np.ndarray:
    """Drop candidates that a likelier one covers: within 5 mm of it, or within its radius."""
    kept: list[int] = []
    for i, row in enumerate(rows):
        away = np.linalg.norm(rows[kept, :3] - row[:3], axis=1)
        if (away >= np.maximum(MERGE_DISTANCE_MM, rows[kept, 3] / 2)).all():
            kept.append(i)
    return rows[kept]


def matches(rows: np.ndarray, nodules: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tell for each candidate whether it hits a counted nodule, and whether it is to be skipped.

    A candidate hits when its centre lies within the nodule's radius; one that only hits what does
    not count (`LabelledScan.nodules` with 0 at the end) is skipped.
    """
    if not len(rows) or not len(nodules):
        return np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    away = np.linalg.norm(rows[:, None, :3] - nodules[None, :, :3], axis=2)
    counted = nodules[:, 4] > 0
    hits = ((away < nodules[:, 3] / 2) & counted).any(1)
    reach = np.maximum(nodules[:, 3], _SMALLEST_EXCLUDED_MM) / 2
    return hits, ((away < reach) & ~counted).any(1) & ~hits
