"""Candidates of a whole scan: run the detector, take its heat map's peaks, merge neighbours."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from models.training.nodule_batches import normalised
from models.training.nodule_matching import matches, merged
from models.training.nodule_networks import DETECTOR_STRIDE
from models.training.nodule_scans import LabelledScan

REDUCTION_VOXELS = 32
_SIDE_MULTIPLE = 16


@torch.no_grad()
def find_candidates(
    detector: nn.Module, voxels: Tensor, *, floor: float = 0.01, most: int = 200
) -> np.ndarray:
    """Return rows (z, y, x in voxels, diameter in mm, heat logit), most likely first.

    `voxels` are HU at 1 mm. Of two candidates nearer than 5 mm only the likelier stays.
    """
    padding: list[int] = []
    for size in reversed(voxels.shape):
        padding += [0, -size % _SIDE_MULTIPLE]
    x = fn.pad(normalised(voxels.float())[None, None], padding, value=-1.0)
    heat, offset, log_diameter = (part.float() for part in detector(x))
    peaks = (heat == fn.max_pool3d(heat, 3, 1, 1)) & (torch.sigmoid(heat) >= floor)
    at = peaks[0, 0].nonzero()
    scores = heat[0, 0][at[:, 0], at[:, 1], at[:, 2]]
    order = scores.argsort(descending=True)[:most]
    at, scores = at[order], scores[order]
    moved = offset[0][:, at[:, 0], at[:, 1], at[:, 2]].T
    centres = (at + 0.5) * DETECTOR_STRIDE - 0.5 + moved
    diameters = log_diameter[0, 0][at[:, 0], at[:, 1], at[:, 2]].exp()
    rows = torch.cat([centres, diameters[:, None], scores[:, None]], 1).cpu().numpy()
    return merged(rows)


def crops_around(voxels: Tensor, centres: np.ndarray, side: int) -> Tensor:
    """Return cubes of `side` voxels at whole-voxel positions, int16, air outside the scan."""
    half = side // 2
    padded = fn.pad(voxels, [side] * 6, value=-1000)
    cubes = []
    for centre in centres:
        z, y, x = (
            int(np.clip(round(float(c)), 0, n - 1)) + side - half
            for c, n in zip(centre, voxels.shape, strict=True)
        )
        cubes.append(padded[z : z + side, y : y + side, x : x + side])
    if not cubes:
        return padded.new_zeros((0, side, side, side))
    return torch.stack(cubes)


@torch.no_grad()
def reduction_logits(network: nn.Module, voxels: Tensor, rows: np.ndarray) -> np.ndarray:
    """Return the second stage's logit of each candidate."""
    cubes = crops_around(voxels, rows[:, :3], REDUCTION_VOXELS)
    if not len(cubes):
        return np.zeros(0, np.float32)
    found: np.ndarray = network(normalised(cubes.float())[:, None])[:, 0].float().cpu().numpy()
    return found


def labelled_crops(detector: nn.Module, scan: LabelledScan, side: int) -> tuple[Tensor, np.ndarray]:
    """Return crops of a scan's candidates and of all its nodules, with 1 for nodules."""
    rows = find_candidates(detector, scan.voxels, floor=0.02, most=40)
    hits, skipped = matches(rows, scan.nodules)
    counted = scan.nodules[scan.nodules[:, 4] > 0, :3]
    shaken = counted + np.random.uniform(-1, 1, counted.shape)
    centres = np.concatenate([rows[~skipped, :3], shaken])
    labels = np.concatenate([hits[~skipped], np.ones(len(counted), bool)])
    return crops_around(scan.voxels, centres, side), labels.astype(np.float32)
