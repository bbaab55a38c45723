"""From the boxes of an anchor-based detector to candidates.

Such a network (RetinaNet and its kin, non-maximum suppression in the graph) gives of one window
``boxes`` (M, 6) or (1, M, 6), corners (lowest of the three array axes, then highest) in voxels of
the window, and ``scores`` (M,) or (1, M), probabilities. M may be 0.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.core.errors import ContractViolation
from service.core.manifest_output import DetectionDecoding
from workers.inference.tiling import Plan
from workers.kinds.contract import Context, logit, take
from workers.kinds.peaks import Peak

Array = NDArray[np.float32]


def box_peaks(
    volume: Array, plan: Plan, spacing_mm: Sequence[float], context: Context
) -> list[Peak]:
    """Run the detector on every window; return its boxes as peaks, strongest first.

    A box's centre is the peak's place, in voxels of the volume; its mean edge the diameter.
    """
    decoding = context.manifest.decoding
    assert isinstance(decoding, DetectionDecoding)
    peaks: list[Peak] = []
    for done, start in enumerate(plan.starts, start=1):
        box = tuple(slice(at, at + edge) for at, edge in zip(start, plan.patch, strict=True))
        outputs = context.run("detector", volume[box][None, None])
        boxes = _rows(take(outputs, "boxes", package=context.package), 6, context)
        scores = _rows(take(outputs, "scores", package=context.package), 1, context)[:, 0]
        if len(scores) != len(boxes):
            raise ContractViolation(
                "MODEL_OUTPUT",
                f"{context.package}: scores: found {len(scores)}, allowed {len(boxes)}, as boxes",
            )
        peaks += [
            _peak(corners, float(score), start, spacing_mm)
            for corners, score in zip(boxes, scores, strict=True)
            if score >= decoding.candidate_floor
        ]
        context.progress("detector", done / len(plan.starts))
    sized = [peak for peak in peaks if decoding.diameter_mm.holds(peak.diameter_mm)]
    return sorted(sized, key=lambda peak: -peak.logit)


def _rows(output: Array, width: int, context: Context) -> Array:
    """Return an output as rows, whether it has a batch axis of one or none."""
    if output.size % width or output.ndim > (3 if width == 6 else 2):
        raise ContractViolation(
            "MODEL_OUTPUT", f"{context.package}: found {output.shape}, allowed rows of {width}"
        )
    return output.reshape(-1, width)


def _peak(corners: Array, score: float, start: Sequence[int], spacing_mm: Sequence[float]) -> Peak:
    low, high = corners[:3].astype(np.float64), corners[3:].astype(np.float64)
    # Corners lie between voxels: voxel i covers i to i + 1, and its centre is i + 0.5.
    z, y, x = (low + high) / 2 - 0.5 + np.asarray(start)
    edges_mm = np.abs(high - low) * np.asarray(spacing_mm)
    return Peak((float(z), float(y), float(x)), float(edges_mm.mean()), logit(score), 0)
