"""Judging candidates one by one on crops round their centres.

Is it a lesion at all (reduction), which voxels belong to it (segmentation), and, kept apart from
both, how likely is it malignant.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cc3d
import numpy as np
from numpy.typing import NDArray

from service.core.errors import InvalidModel
from service.core.findings import FindingMask
from service.core.manifest_input import Crop
from service.core.manifest_output import ClassSpec, DetectionDecoding
from workers.kinds.contract import Context, require_shape, sigmoid, take
from workers.kinds.intensity import mapped
from workers.kinds.scan import Scan
from workers.kinds.statements import lowest_threshold
from workers.volume.grid import Grid, centred_grid
from workers.volume.resample import mask_from_grid

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

_CROPS_AT_ONCE = 16
# A segmentation may miss the very centre of a ring or a cavity, not by more than this.
_CENTER_TOLERANCE_MM = 4.0


@dataclass(frozen=True)
class Candidate:
    """A possible lesion: its centre in LPS mm, its diameter, and its calibrated probability."""

    spec: ClassSpec
    center_mm: Floats
    diameter_mm: float
    logit: float
    probability: float = 0.0


def decoding_of(context: Context) -> DetectionDecoding:
    """Return the manifest's decoding, which for this kind is that of a detection."""
    decoding = context.manifest.decoding
    if not isinstance(decoding, DetectionDecoding):
        raise InvalidModel("MANIFEST", f"{context.package}: decoding.kind: found {decoding.kind}")
    return decoding


def weighed(candidates: Sequence[Candidate], scan: Scan, context: Context) -> list[Candidate]:
    """Return the candidates above the floor with calibrated probabilities, most probable first."""
    calibration = context.manifest.calibration
    combined = np.array([calibration.detector * candidate.logit for candidate in candidates])
    second = list(_logits("reduction", candidates, scan, context))
    if second:
        combined = combined + calibration.reduction * np.array(second)
    probabilities = sigmoid(np.asarray(combined + calibration.bias, dtype=np.float32))
    judged = [
        replace(candidate, probability=float(probability))
        for candidate, probability in zip(candidates, probabilities, strict=True)
        if probability >= decoding_of(context).floor
    ]
    return sorted(judged, key=lambda candidate: -candidate.probability)


def outlined(
    candidates: Sequence[Candidate], scan: Scan, context: Context
) -> list[FindingMask | None]:
    """Return each candidate's voxels on the source planes, or nothing.

    Candidates that no operating point would show are not worth the network's time.
    """
    spec = context.manifest.network("segmentation")
    masks: list[FindingMask | None] = [None] * len(candidates)
    if spec is None or spec.crop is None:
        return masks
    worth = [
        index
        for index, candidate in enumerate(candidates)
        if candidate.probability >= lowest_threshold(context, candidate.spec.name)
    ]
    threshold = decoding_of(context).mask_threshold
    chosen = [candidates[index] for index in worth]
    for index, said in zip(worth, _judged("segmentation", chosen, scan, context), strict=True):
        grid = crop_grid(candidates[index].center_mm, spec.crop, scan)
        logits = take(said, "logits", package=context.package)
        require_shape(logits, (1, *grid.shape), name="logits", package=context.package)
        lesion = _piece_at_center(sigmoid(logits[0]), grid, threshold)
        if lesion is not None:
            mask = mask_from_grid(lesion, grid, scan.volume, threshold=threshold)
            masks[index] = mask if mask.voxels.size else None
    return masks


def malignancies(
    candidates: Sequence[Candidate], scan: Scan, context: Context
) -> list[float | None]:
    """Return each candidate's calibrated probability of malignancy, where a network gives one."""
    if context.manifest.network("malignancy") is None:
        return [None] * len(candidates)
    own = context.manifest.calibration.malignancy
    logits = np.array(list(_logits("malignancy", candidates, scan, context)), dtype=np.float32)
    scaled = logits / np.float32(own.temperature) + np.float32(own.bias)
    return [float(value) for value in sigmoid(scaled)]


def crop_grid(center_mm: Floats, crop: Crop, scan: Scan) -> Grid:
    """Return the grid of a crop: its middle, index (size - 1) / 2, lies at the centre."""
    return centred_grid(scan.volume, center_mm, shape=crop.size, spacing_mm=crop.spacing_mm)


def _logits(
    role: str, candidates: Sequence[Candidate], scan: Scan, context: Context
) -> Iterator[float]:
    for said in _judged(role, candidates, scan, context):
        yield float(take(said, "logit", package=context.package).ravel()[0])


def _judged(
    role: str, candidates: Sequence[Candidate], scan: Scan, context: Context
) -> Iterator[Mapping[str, Array]]:
    """Yield what the network of a role says of each candidate's crop; nothing without one."""
    spec = context.manifest.network(role)
    if spec is None or spec.crop is None:
        return
    for first in range(0, len(candidates), _CROPS_AT_ONCE):
        chosen = candidates[first : first + _CROPS_AT_ONCE]
        crops = np.stack([_crop(candidate, spec.crop, scan) for candidate in chosen])
        outputs = context.run(role, crops[:, None])
        for place in range(len(chosen)):
            yield {name: output[place] for name, output in outputs.items()}
        context.progress(role, (first + len(chosen)) / len(candidates))


def _crop(candidate: Candidate, crop: Crop, scan: Scan) -> Array:
    return mapped(scan.on(crop_grid(candidate.center_mm, crop, scan)), crop.intensity)


def _piece_at_center(probability: Array, grid: Grid, threshold: float) -> Array | None:
    """Return the map of the connected piece at the middle of a crop, or nearest to it.

    Other lesions and vessels in the same crop are set to 0; the soft edge of the piece is kept,
    for the mask on the source planes is cut from it.
    """
    labels = cc3d.connected_components(probability >= threshold, connectivity=18)
    places = np.argwhere(labels)
    if not len(places):
        return None
    middle = (np.array(probability.shape) - 1) / 2
    distances_mm = np.linalg.norm((places - middle) * np.asarray(grid.spacing_mm), axis=1)
    nearest = int(distances_mm.argmin())
    if distances_mm[nearest] > _CENTER_TOLERANCE_MM:
        return None
    others = (labels != 0) & (labels != labels[tuple(places[nearest])])
    return np.where(others, np.float32(0), probability)
