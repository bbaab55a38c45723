"""From a heat map with offsets and diameters to candidates, each once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.core.manifest_output import DetectionDecoding
from workers.kinds.contract import sigmoid

Array = NDArray[np.float32]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Peak:
    """A local maximum: (z, y, x) in voxels of the network's grid, and what it says."""

    index: tuple[float, float, float]
    diameter_mm: float
    logit: float
    channel: int


@dataclass(frozen=True)
class Heat:
    """Blended outputs over a box of cells whose first cell starts at voxel `start`.

    ``heat`` (classes, z, y, x) in logits, ``offset`` (3, z, y, x) in voxels, ``log_diameter``
    (1, z, y, x); ``covered`` tells the cells that the network saw.
    """

    start: tuple[int, int, int]
    heat: Array
    offset: Array
    log_diameter: Array
    covered: NDArray[np.bool_]


def find_peaks(field: Heat, decoding: DetectionDecoding) -> list[Peak]:
    """Return the local maxima at or above the candidate floor, strongest first."""
    peaks = []
    for channel, logits in enumerate(field.heat):
        heat = np.where(field.covered, sigmoid(logits), np.float32(0))
        highest = ndimage.maximum_filter(heat, size=2 * decoding.peak_radius + 1, mode="constant")
        cells = np.argwhere((heat == highest) & (heat >= max(decoding.candidate_floor, 1e-6)))
        peaks += [_peak(field, tuple(cell), channel, decoding.stride) for cell in cells.tolist()]
    sized = [peak for peak in peaks if decoding.diameter_mm.holds(peak.diameter_mm)]
    return sorted(sized, key=lambda peak: -peak.logit)


def merge_peaks(
    peaks: Sequence[Peak], *, spacing_mm: Sequence[float], distance_mm: float, limit: int
) -> list[Peak]:
    """Return the first `limit` peaks, without those that a stronger one of their class covers.

    A peak is covered within `distance_mm` of a stronger one, or within its radius. What is beyond
    the limit is not looked at: a network gone wild has peaks by the thousand.
    """
    kept: list[Peak] = []
    places = np.empty((limit, 3))
    reaches = np.empty(limit)
    channels = np.empty(limit, dtype=int)
    for peak in peaks:
        count = len(kept)
        if count == limit:
            break
        place = np.asarray(peak.index) * np.asarray(spacing_mm)
        near = ((places[:count] - place) ** 2).sum(axis=1) < reaches[:count] ** 2
        if not (near & (channels[:count] == peak.channel)).any():
            kept.append(peak)
            places[count], channels[count] = place, peak.channel
            reaches[count] = max(distance_mm, peak.diameter_mm / 2)
    return kept


def _peak(field: Heat, cell: tuple[int, ...], channel: int, stride: int) -> Peak:
    z, y, x = cell
    middle = (np.asarray(cell) + 0.5) * stride - 0.5
    index = middle + field.start + field.offset[:, z, y, x]
    # The exponent is bounded so that a wild output stays a number.
    diameter = float(np.exp(np.clip(field.log_diameter[0, z, y, x], -5, 6)))
    logit = float(field.heat[channel, z, y, x])
    return Peak((float(index[0]), float(index[1]), float(index[2])), diameter, logit, channel)
