"""Train the chest radiograph network on synthetic patients.

    python -m models.training.chest_xray --out runs/chest_xray [--minutes 480] [--device cpu|cuda]

Draws new patients all the while, keeps their images in a replay buffer, resumes from the last
minute when started again with the same folder, and ends with ``chest_xray.onnx``.
"""

import argparse
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.phantoms.detector import develop
from models.phantoms.findings import Finding
from models.phantoms.geometry import ArrayModules
from models.phantoms.radiograph import cast_shadows, draw_exposure, make_chest_patient
from models.phantoms.seeds import SEEDS, Domain, Split
from models.training.chest_xray_network import ChestNetwork
from models.training.generators import Generators, Sample, Seeds
from models.training.runs import Plan, Run, device_of, export_onnx, until_done

SIZE = 320
CELLS = SIZE // 8
FINDINGS = tuple(Finding)
NAME = "chest_xray"
_VARIANTS = 8
_DEVELOPED = 2


def cells_of(mask: "np.ndarray") -> np.ndarray:
    """Return the share of each evidence cell that a mask (SIZE, SIZE) covers, times 255."""
    blocks = mask.reshape(CELLS, SIZE // CELLS, CELLS, SIZE // CELLS)
    return np.asarray(np.rint(blocks.mean((1, 3)) * 255), np.uint8)


def on_host(values: "np.ndarray") -> np.ndarray:
    """Return an array in main memory, wherever it was computed."""
    return np.asarray(values.get() if hasattr(values, "get") else values)


def radiographs(seed: int, domain: Domain, modules: ArrayModules) -> Iterator[Sample]:
    """Yield images (n, SIZE, SIZE) and masks (n, findings, CELLS, CELLS) of one patient, uint8."""
    thorax = make_chest_patient(seed, domain)
    exposure = draw_exposure(thorax, (SIZE, SIZE))
    rng = np.random.default_rng([seed, 302])
    images, masks = [], []
    for shadow in cast_shadows(thorax, exposure, variants=range(_VARIANTS), modules=modules):
        cells = np.zeros((len(FINDINGS), CELLS, CELLS), np.uint8)
        for finding, mask in shadow.masks.items():
            cells[FINDINGS.index(finding)] = cells_of(on_host(mask))
        for _ in range(_DEVELOPED):
            image = develop(
                shadow.path, rng, pixel_mm=exposure.pixel_mm, domain=domain, modules=modules
            )
            images.append(np.rint(on_host(image) * 255).astype(np.uint8))
            masks.append(cells)
    yield np.stack(images), np.stack(masks)


class Replay:
    """The last `capacity` images and masks, on the training device; filled by a thread."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.images = torch.zeros((capacity, SIZE, SIZE), dtype=torch.uint8, device=device)
        shape = (capacity, len(FINDINGS), CELLS, CELLS)
        self.masks = torch.zeros(shape, dtype=torch.uint8, device=device)
        self.seen = 0

    def fill(self, generators: Generators, limit: int) -> None:
        """Take samples until `limit`, then end the generators; meant for a daemon thread."""
        capacity, device = len(self.images), self.images.device
        while self.seen < limit:
            found = generators.take(5.0)
            if found is None:
                continue
            images, masks = found[1]
            at = torch.arange(self.seen, self.seen + len(images), device=device) % capacity
            self.images[at] = torch.from_numpy(images).to(device)
            self.masks[at] = torch.from_numpy(masks).to(device)
            self.seen += len(images)
        generators.close()

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Return `count` random images and masks, 0 to 1."""
        ready = min(self.seen, len(self.images))
        at = torch.randint(0, ready, (count,), device=self.images.device)
        return self.images[at][:, None].float() / 255, self.masks[at].float() / 255


def _uniform(count: int, low: float, high: float, device: torch.device) -> Tensor:
    return low + (high - low) * torch.rand(count, 1, 1, 1, device=device)


def augment(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Turn, scale, shift, letterbox and re-expose; images and masks stay aligned."""
    n, device = len(images), images.device
    angle = (torch.rand(n, device=device) - 0.5) * 0.2
    scale = 0.85 + 0.3 * torch.rand(n, device=device)
    # Detectors are seldom square: a letterboxed image is narrower or lower than the network's.
    slim = 1 + 0.25 * torch.rand(n, device=device) * (torch.rand(n, device=device) < 0.5)
    upright = torch.rand(n, device=device) < 0.6
    move = torch.zeros(n, 2, 3, device=device)
    move[:, 0, 0], move[:, 0, 1] = scale * angle.cos(), -scale * angle.sin()
    move[:, 1, 0], move[:, 1, 1] = scale * angle.sin(), scale * angle.cos()
    move[:, :, 2] = (torch.rand(n, 2, device=device) - 0.5) * 0.2
    warped = functional.affine_grid(move, [n, 1, SIZE, SIZE], align_corners=False)
    images = functional.grid_sample(images, warped, align_corners=False, padding_mode="border")
    coarse = functional.affine_grid(move, [n, 1, CELLS, CELLS], align_corners=False)
    masks = functional.grid_sample(masks, coarse, align_corners=False)
    images = images.clamp(1e-3, 1) ** torch.exp(_uniform(n, -0.5, 0.5, device))
    images = images + torch.randn_like(images) * _uniform(n, 0, 0.05, device)
    ramp = torch.linspace(-1, 1, SIZE, device=device)
    across, down = (_uniform(n, -0.12, 0.12, device) for _ in range(2))
    images = images + across * ramp + down * ramp[:, None]
    band = slim[:, None, None, None]
    outside_x = (ramp.abs() * band[..., 0] > 1)[:, :, None, :]
    outside_y = (ramp.abs() * band[..., 0] > 1)[:, :, :, None]
    outside = torch.where(upright[:, None, None, None], outside_x, outside_y)
    low = images.flatten(1).amin(1)[:, None, None, None]
    images = torch.where(outside, low, images)
    cells = functional.interpolate(outside.float().expand(-1, -1, SIZE, SIZE), size=(CELLS, CELLS))
    return images, masks * (1 - cells)


def standardise(images: Tensor) -> Tensor:
    """Clip each image to its percentiles 0.5 and 99.5, then to mean 0 and deviation 1."""
    flat = images.flatten(1)
    bounds = torch.quantile(flat[:, ::7], torch.tensor([0.005, 0.995], device=flat.device), dim=1)
    flat = torch.minimum(torch.maximum(flat, bounds[0][:, None]), bounds[1][:, None])
    flat = (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-6)
    return flat.view_as(images)


def losses(logits: Tensor, evidence: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of the statements and of the maps."""
    present = (masks.flatten(2).sum(2) > 0.4).float()
    statement = functional.binary_cross_entropy_with_logits(logits, present * 0.98 + 0.01)
    weight = torch.tensor(2.0, device=logits.device)
    cells = functional.binary_cross_entropy_with_logits(evidence, masks, pos_weight=weight)
    share = evidence.sigmoid()
    overlap = (2 * (share * masks).sum((2, 3)) + 1) / (share.sum((2, 3)) + masks.sum((2, 3)) + 1)
    dice = ((1 - overlap) * present).sum() / present.sum().clamp(min=1)
    return statement, 2 * cells + 0.2 * dice


def train(plan: Plan, device: torch.device, processes: int, *, on_gpu: bool, batch: int) -> Run:
    """Train by the clock and return the run."""
    torch.manual_seed(1)
    network = ChestNetwork(len(FINDINGS))
    if plan.start is not None:
        network.load_state_dict(torch.load(plan.start, map_location="cpu", weights_only=True))
    network = network.to(device).to(memory_format=torch.channels_last)
    known = SEEDS[Split.TRAIN]
    generators = Generators(
        radiographs, Seeds(known.first, known.last, 0.5), count=processes, on_gpu=on_gpu
    )
    fast = device.type == "cuda"
    replay = Replay(40_000 if fast else 6_000, device)
    # A GPU learns faster than patients are drawn: once its buffer is full it has it for itself.
    limit = 40_000 if fast else 10**9
    threading.Thread(target=replay.fill, args=(generators, limit), daemon=True).start()
    while replay.seen < 2 * batch:
        threading.Event().wait(0.2)
    run = Run(network, plan, NAME)

    def draw() -> tuple[Tensor, dict[str, float | Tensor]]:
        images, masks = augment(*replay.draw(batch))
        inputs = standardise(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            logits, evidence = network(inputs)
        statement, cells = losses(logits.float(), evidence.float(), masks)
        figures = {"statement": statement.detach(), "cells": cells.detach()}
        return statement + cells, {**figures, "images": float(replay.seen)}

    until_done(run, draw)
    generators.close()
    return run


def main() -> None:
    """Train, then export."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--minutes", type=float, default=480)
    arguments.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    arguments.add_argument("--processes", type=int, default=2, help="that draw patients")
    arguments.add_argument("--render", choices=("numpy", "cupy"), default="numpy")
    arguments.add_argument("--batch", type=int, default=64)
    arguments.add_argument("--start", type=Path, help="weights (.pt) to go on from")
    given = arguments.parse_args()
    device = device_of(given.device)
    plan = Plan(given.out, given.minutes, 2e-3, start=given.start)
    on_gpu = given.render == "cupy"
    run = train(plan, device, given.processes, on_gpu=on_gpu, batch=given.batch)
    example = torch.randn(2, 1, SIZE, SIZE)
    names = ("image", ("logits", "evidence"))
    gap = export_onnx(run.averaged(), example, given.out / f"{NAME}.onnx", names)
    print(f"{NAME}: {run.steps} steps, largest difference to onnxruntime {gap:.2g}")


if __name__ == "__main__":
    main()
