"""Train the liver lesion network on synthetic abdomens.

    python -m models.training.lesion_segmentation --out runs/lesion [--minutes 900] [--device ...]

Draws new patients all the while, keeps their volumes in a replay buffer, resumes from the last
minute when started again with the same folder, and ends with ``lesion_segmentation.onnx``.
"""

import argparse
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.phantoms.abdomen_scan import abdomen_scan
from models.phantoms.geometry import ArrayModules
from models.phantoms.seeds import SEEDS, Domain, Split
from models.training.generators import Generators, Sample, Seeds
from models.training.lesion_grid import CONTEXT, SPACING_MM, WINDOW_HU, resampled
from models.training.lesion_network import LesionNetwork
from models.training.runs import Plan, Run, device_of, export_onnx, until_done

NAME = "lesion_segmentation"
EDGE = 192


def studies(seed: int, domain: Domain, modules: ArrayModules) -> Iterator[Sample]:
    """Yield HU and classes of one patient on the network's grid, axes (z, y, x)."""
    coarse = None if modules.on_gpu else SPACING_MM[1]
    _, _, scan = abdomen_scan(seed, domain, pixel_mm=coarse, modules=modules)
    hu, classes = resampled(scan, modules)
    if modules.on_gpu:
        hu, classes = hu.get(), classes.get()  # type: ignore[attr-defined]
    yield hu, classes


@dataclass
class Study:
    """One patient in the buffer, and which of its slices show liver and lesion."""

    hu: Tensor
    classes: Tensor
    liver: np.ndarray
    lesion: np.ndarray


class Replay:
    """The last `capacity` patients on the training device; filled by a thread."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.studies: list[Study] = []
        self.capacity, self.device, self.seen = capacity, device, 0
        self._rng = np.random.default_rng(7)

    def fill(self, generators: Generators, limit: int) -> None:
        """Take patients until `limit`, then end the generators; meant for a daemon thread."""
        while self.seen < limit:
            found = generators.take(5.0)
            if found is None:
                continue
            study = self._study(*found[1])
            if len(self.studies) < self.capacity:
                self.studies.append(study)
            else:
                self.studies[self.seen % self.capacity] = study
            self.seen += 1
        generators.close()

    def _study(self, hu: np.ndarray, classes: np.ndarray) -> Study:
        """Pad to hold a window, and note the slices worth visiting."""
        pad = [max(0, EDGE - n) for n in hu.shape[1:]]
        ends = ((CONTEXT // 2, CONTEXT // 2), (0, pad[0]), (0, pad[1]))
        hu = np.pad(hu, ends, mode="edge")
        classes = np.pad(classes, (ends[0], *ends[1:]))
        return Study(
            torch.from_numpy(hu).to(self.device),
            torch.from_numpy(classes).to(self.device),
            np.flatnonzero((classes == 1).any((1, 2))),
            np.flatnonzero((classes == 2).any((1, 2))),
        )

    def _slab(self) -> tuple[Tensor, Tensor]:
        rng, half = self._rng, CONTEXT // 2
        study = self.studies[rng.integers(len(self.studies))]
        draw = rng.random()
        z = int(rng.integers(half, len(study.hu) - half))
        if draw < 0.6 and len(study.lesion):
            z = int(rng.choice(study.lesion))
        elif draw < 0.9 and len(study.liver):
            z = int(rng.choice(study.liver))
        _, rows, columns = study.hu.shape
        top = int(rng.integers(0, rows - EDGE + 1))
        # The liver lies on the patient's right, low columns: visit that side more often.
        left = int((columns - EDGE) * rng.random() ** 1.6)
        there = (slice(top, top + EDGE), slice(left, left + EDGE))
        return study.hu[z - half : z + half + 1, *there], study.classes[z, *there]

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Return HU (count, CONTEXT, EDGE, EDGE) and classes (count, EDGE, EDGE)."""
        slabs = [self._slab() for _ in range(count)]
        return (
            torch.stack([s[0] for s in slabs]).float(),
            torch.stack([s[1] for s in slabs]).long(),
        )


def _uniform(count: int, low: float, high: float, device: torch.device) -> Tensor:
    return low + (high - low) * torch.rand(count, 1, 1, 1, device=device)


def augment(hu: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Turn, scale, shift the greys, add noise; turn the slab upside down at times."""
    n, device = len(hu), hu.device
    angle = (torch.rand(n, device=device) - 0.5) * 0.3
    scale = 0.88 + 0.24 * torch.rand(n, device=device)
    move = torch.zeros(n, 2, 3, device=device)
    move[:, 0, 0], move[:, 0, 1] = scale * angle.cos(), -scale * angle.sin()
    move[:, 1, 0], move[:, 1, 1] = scale * angle.sin(), scale * angle.cos()
    warped = functional.affine_grid(move, [n, 1, EDGE, EDGE], align_corners=False)
    # Interpolation smooths noise away; half of the batch keeps the scanner's own.
    turned = torch.rand(n, device=device) < 0.5
    bent = functional.grid_sample(hu, warped, align_corners=False, padding_mode="border")
    bent_classes = functional.grid_sample(
        classes[:, None].float(), warped, mode="nearest", align_corners=False
    )
    hu = torch.where(turned[:, None, None, None], bent, hu)
    classes = torch.where(turned[:, None, None], bent_classes[:, 0].long(), classes)
    over = torch.rand(n, device=device)[:, None, None, None] < 0.5
    hu = torch.where(over, hu.flip(1), hu)
    hu = hu * _uniform(n, 0.94, 1.06, device) + _uniform(n, -10, 10, device)
    noise = torch.randn_like(hu)
    smooth = functional.avg_pool2d(noise, 3, 1, 1) * 2.2
    rough = torch.rand(n, device=device)[:, None, None, None] < 0.4
    strength = _uniform(n, 0, 14, device) * (_uniform(n, 0, 1, device) < 0.5)
    return hu + strength * torch.where(rough, noise, smooth), classes


def windowed(hu: Tensor) -> Tensor:
    """Map the window to 0..1, as the manifest says."""
    low, high = WINDOW_HU
    return ((hu - low) / (high - low)).clamp(0, 1)


def losses(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross-entropy and the Dice losses of liver (with lesions) and lesions."""
    weights = torch.tensor([1.0, 1.0, 3.0], device=logits.device)
    entropy = functional.cross_entropy(logits, classes, weight=weights)
    share = logits.softmax(1)
    lesion, lesion_true = share[:, 2], (classes == 2).float()
    liver, liver_true = share[:, 1] + lesion, (classes > 0).float()
    dice = [
        1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
        for p, t in ((liver, liver_true), (lesion, lesion_true))
    ]
    return entropy, 0.5 * dice[0] + dice[1]


def train(plan: Plan, device: torch.device, processes: int, *, on_gpu: bool, batch: int) -> Run:
    """Train by the clock and return the run."""
    torch.manual_seed(2)
    network = LesionNetwork(CONTEXT)
    if plan.start is not None:
        network.load_state_dict(torch.load(plan.start, map_location="cpu", weights_only=True))
    network = network.to(device).to(memory_format=torch.channels_last)
    known = SEEDS[Split.TRAIN]
    generators = Generators(
        studies, Seeds(known.first, known.last, 0.5), count=processes, on_gpu=on_gpu
    )
    fast = device.type == "cuda"
    replay = Replay(1_200 if fast else 60, device)
    # A GPU learns faster than patients are drawn: once its buffer is full it has it for itself.
    limit = 1_200 if fast else 10**9
    threading.Thread(target=replay.fill, args=(generators, limit), daemon=True).start()
    while replay.seen < 4:
        threading.Event().wait(0.2)
    run = Run(network, plan, NAME)

    def draw() -> tuple[Tensor, dict[str, float | Tensor]]:
        hu, classes = augment(*replay.draw(batch))
        inputs = windowed(hu).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            logits = network(inputs)
        entropy, dice = losses(logits.float(), classes)
        figures = {"entropy": entropy.detach(), "dice": dice.detach()}
        return entropy + dice, {**figures, "patients": float(replay.seen)}

    until_done(run, draw)
    generators.close()
    return run


def main() -> None:
    """Train, then export."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--minutes", type=float, default=900)
    arguments.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments.add_argument("--processes", type=int, default=2, help="that draw patients")
    arguments.add_argument("--render", choices=("numpy", "cupy"), default="numpy")
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--start", type=Path, help="weights (.pt) to go on from")
    given = arguments.parse_args()
    device = device_of(given.device)
    plan = Plan(given.out, given.minutes, 1.5e-3, start=given.start)
    on_gpu = given.render == "cupy"
    run = train(plan, device, given.processes, on_gpu=on_gpu, batch=given.batch)
    example = torch.rand(2, CONTEXT, 64, 96)
    gap = export_onnx(run.averaged(), example, given.out / f"{NAME}.onnx", ("slab", ("logits",)))
    print(f"{NAME}: {run.steps} steps, largest difference to onnxruntime {gap:.2g}")


if __name__ == "__main__":
    main()
