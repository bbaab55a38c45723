"""Training batches for the nodule networks: crops, augmentation, targets and losses."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as fn

from models.training.nodule_networks import DETECTOR_STRIDE
from models.training.nodule_scans import LabelledScan

LOWEST_HU, HIGHEST_HU = -1000.0, 400.0
_PADDING_ROWS = 16
_FAR = -1e3


def normalised(hu: Tensor) -> Tensor:
    """Map HU -1000..400 to -1..1, as the manifest's intensity window does."""
    middle, half = (HIGHEST_HU + LOWEST_HU) / 2, (HIGHEST_HU - LOWEST_HU) / 2
    return (hu.clamp(LOWEST_HU, HIGHEST_HU) - middle) / half


@dataclass(frozen=True)
class DetectorTargets:
    """What the detector should say on its cells, ``(N, D, H, W)``; `offset` has 3 after N."""

    heat: Tensor
    weight: Tensor
    offset: Tensor
    log_diameter: Tensor


def detector_batch(
    scans: Sequence[LabelledScan], count: int, side: int
) -> tuple[Tensor, DetectorTargets]:
    """Draw `count` cubes of `side` voxels from random scans, most with a nodule in them."""
    voxels, rows = [], []
    for _ in range(count):
        scan = random.choice(scans)
        start = _cube_start(scan, side)
        window = tuple(slice(s, s + side) for s in start)
        voxels.append(scan.voxels[window])
        rows.append(_rows_in(scan.nodules, start, side))
    x = torch.stack(voxels).float()
    nodules = torch.from_numpy(np.stack(rows)).to(x.device, non_blocking=True)
    x, nodules = _flipped(x, nodules, side)
    return normalised(augmented(x))[:, None], _targets(nodules, side)


def _cube_start(scan: LabelledScan, side: int) -> np.ndarray:
    room = np.maximum(np.array(scan.voxels.shape) - side, 0)
    counted = scan.nodules[scan.nodules[:, 4] > 0]
    if len(counted) and random.random() < 0.75:
        centre = counted[random.randrange(len(counted)), :3]
        inset = np.random.uniform(6, side - 6, 3)
        return np.clip(np.rint(centre - inset), 0, room).astype(int)
    return np.array([random.randint(0, int(r)) for r in room])


def _rows_in(nodules: np.ndarray, start: np.ndarray, side: int) -> np.ndarray:
    rows = np.full((_PADDING_ROWS, 5), _FAR, np.float32)
    rows[:, 3:] = [1.0, 0.0]
    moved = nodules.copy()
    moved[:, :3] -= start
    near = moved[((moved[:, :3] > -16) & (moved[:, :3] < side + 16)).all(1)][:_PADDING_ROWS]
    rows[: len(near)] = near
    return rows


def _flipped(x: Tensor, nodules: Tensor, side: int) -> tuple[Tensor, Tensor]:
    for axis in range(3):
        if random.random() < 0.5:
            x = x.flip(axis + 1)
            column = nodules[..., axis]
            nodules[..., axis] = torch.where(column > _FAR / 2, side - 1 - column, column)
    if random.random() < 0.5:
        x = x.transpose(2, 3)
        nodules = nodules[..., [0, 2, 1, 3, 4]]
    return x, nodules


def augmented(x: Tensor) -> Tensor:
    """Vary calibration, noise and slice thickness of a batch of HU cubes ``(N, z, y, x)``."""
    count = x.shape[0]

    def drawn(low: float, high: float) -> Tensor:
        return torch.rand(count, 1, 1, 1, device=x.device) * (high - low) + low

    if random.random() < 0.3:
        # Thick slices: average along z, by a share that differs from cube to cube.
        width = random.choice((3, 5))
        thick = fn.avg_pool3d(x[:, None], (width, 1, 1), 1, (width // 2, 0, 0))[:, 0]
        share = drawn(-0.5, 1.0).clamp(min=0)
        x = x + share * (thick - x)
    if random.random() < 0.3:
        soft = fn.avg_pool3d(x[:, None], (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)[:, 0]
        x = x + drawn(-0.6, 0.8) * (soft - x)
    x = (x + 1000) * drawn(0.93, 1.07) - 1000 + drawn(-40, 40)
    noise = torch.randn_like(x)
    if random.random() < 0.6:
        noise = fn.avg_pool3d(noise[:, None], (1, 3, 3), 1, (0, 1, 1))[:, 0] * 2.4
    return x + noise * drawn(-25, 60).clamp(min=0)


def _targets(nodules: Tensor, side: int) -> DetectorTargets:
    cells = side // DETECTOR_STRIDE
    at = (torch.arange(cells, device=nodules.device) + 0.5) * DETECTOR_STRIDE - 0.5
    dz = (nodules[..., 0, None] - at)[..., :, None, None]
    dy = (nodules[..., 1, None] - at)[..., None, :, None]
    dx = (nodules[..., 2, None] - at)[..., None, None, :]
    squared = dz**2 + dy**2 + dx**2
    diameter = nodules[..., 3].clamp(min=0.5)[..., None, None, None]
    counts = (nodules[..., 4] > 0)[..., None, None, None]
    spread = (diameter / 5).clamp(1.3, 4.0)
    bumps = torch.exp(-squared / (2 * spread**2)) * counts
    inside = ((nodules[..., :3] >= -1) & (nodules[..., :3] < side + 1)).all(-1)
    flat = bumps.flatten(2)
    peak = flat.argmax(2, keepdim=True)
    # The cell next to a nodule's centre is the positive one, whatever the centre's fraction.
    top = torch.where(
        (inside & (nodules[..., 4] > 0))[..., None],
        torch.ones_like(flat[..., :1]),
        flat.gather(2, peak),
    )
    bumps = flat.scatter(2, peak, top).view_as(bumps)
    heat, which = bumps.max(1)

    def of_nearest(values: Tensor) -> Tensor:
        return torch.gather(values.expand_as(bumps), 1, which[:, None])[:, 0]

    offset = torch.stack([of_nearest(d) for d in (dz, dy, dx)], 1)
    real = (nodules[..., 0] > _FAR / 2)[..., None, None, None]
    ignored = ((squared < (diameter / 2 + 3) ** 2) & ~counts & real).any(1)
    return DetectorTargets(heat, (~ignored).float(), offset, of_nearest(diameter.log()))


def detector_loss(
    found: tuple[Tensor, Tensor, Tensor], wanted: DetectorTargets
) -> tuple[Tensor, Tensor]:
    """Return the focal loss of the heat map and the loss of offset and diameter near nodules."""
    heat = found[0][:, 0].float()
    offset, log_diameter = found[1].float(), found[2][:, 0].float()
    p = torch.sigmoid(heat).clamp(1e-5, 1 - 1e-5)
    positive = (wanted.heat > 0.999).float() * wanted.weight
    negative = (1 - wanted.heat) ** 4 * (wanted.heat <= 0.999) * wanted.weight
    hits = -(torch.log(p) * (1 - p) ** 2 * positive).sum()
    alarms = -(torch.log(1 - p) * p**2 * negative).sum()
    near = wanted.heat * (wanted.heat > 0.4) * wanted.weight
    shift = fn.smooth_l1_loss(offset / 2, wanted.offset / 2, reduction="none", beta=0.3).sum(1)
    size = fn.smooth_l1_loss(log_diameter, wanted.log_diameter, reduction="none", beta=0.3)
    regression = ((shift + 1.5 * size) * near).sum() / near.sum().clamp(min=1)
    return (hits + alarms) / positive.sum().clamp(min=1), regression


def random_crops(crops: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Cut centred cubes of `side`, shifted by up to 2 voxels, flipped; returns starts too."""
    room = (crops.shape[-1] - side) // 2
    reach = min(2, room)
    start = room + torch.randint(-reach, reach + 1, (3,))
    z, y, x = (slice(int(s), int(s) + side) for s in start)
    cut = crops[..., z, y, x]
    axes = [a for a in (-1, -2, -3) if random.random() < 0.5]
    cut = cut.flip(axes) if axes else cut
    return (cut.transpose(-1, -2) if random.random() < 0.5 else cut), start


def segmentation_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Return cross-entropy plus soft Dice, each crop counting alike."""
    logits = logits.float()
    overlap = torch.sigmoid(logits)
    both = (overlap * mask).flatten(1).sum(1)
    dice = 1 - (2 * both + 1) / (overlap.flatten(1).sum(1) + mask.flatten(1).sum(1) + 1)
    weight = 1 + 4 * mask
    return fn.binary_cross_entropy_with_logits(logits, mask, weight=weight) + dice.mean()
