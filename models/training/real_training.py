"""Train a small network on real images.

    python -m models.training.real_training TASK --data FOLDER --out runs/TASK [--minutes N]

TASK is `luna16_candidates`, `pneumonia`, `nodule_outlines` or `brain_slices`; FOLDER holds the
set. A run resumes when started again with the same folder. Validation images are never trained
on; `real_scores` measures on them.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.training import real_sets
from models.training.real_networks import PatchClassifier, SliceNetwork
from models.training.real_sets import RealSet
from models.training.runs import Plan, Run, device_of, until_done


@dataclass(frozen=True)
class Task:
    """One set, the network for it, and how images may be bent and turned without lying."""

    read: Callable[[Path], RealSet]
    network: Callable[[], nn.Module]
    batch: int
    turn: float
    scale: float
    shift: float
    quarter_turns: bool = False
    upside_down: bool = False
    mirror: bool = True
    balanced: float | None = None
    grey: float = 0.15
    noise: float = 0.03


TASKS = {
    "luna16_candidates": Task(
        real_sets.luna16_candidates, lambda: PatchClassifier(28), 64, 0.5, 0.18, 0.05,
        quarter_turns=True, upside_down=True, balanced=0.33,
    ),
    "pneumonia": Task(
        real_sets.pneumonia, lambda: PatchClassifier(24), 64, 0.18, 0.15, 0.09, balanced=0.5,
        grey=0.25,
    ),
    "nodule_outlines": Task(
        real_sets.nodule_outlines, lambda: SliceNetwork(20, 4), 16, 0.4, 0.2, 0.03,
        quarter_turns=True, upside_down=True, grey=0.3,
    ),
    "brain_slices": Task(
        real_sets.brain_slices, lambda: SliceNetwork(16, 5), 8, 0.35, 0.22, 0.08, grey=0.3,
        noise=0.04,
    ),
}  # fmt: skip


class Augmented:
    """Draws batches, turned, scaled, moved, mirrored, and with other greys."""

    def __init__(self, known: RealSet, task: Task, seed: int) -> None:
        images, targets = known.part(validation=False)
        self.images = torch.from_numpy(images)[:, None]
        self.targets, self.task = torch.from_numpy(targets), task
        self.random = torch.Generator().manual_seed(seed)
        weights = torch.ones(len(images))
        if task.balanced is not None:
            positive = self.targets > 0.5
            weights[positive] = task.balanced / float(positive.float().mean())
            weights[~positive] = (1 - task.balanced) / float((~positive).float().mean())
        self.weights = weights

    def _uniform(self, count: int, width: float) -> Tensor:
        return (2 * torch.rand(count, generator=self.random) - 1) * width

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return images (N, 1, H, W) and targets, (N,) or (N, 1, H, W)."""
        n = self.task.batch
        chosen = torch.multinomial(self.weights, n, generator=self.random)
        images, targets = self.images[chosen], self.targets[chosen]
        masks = targets[:, None] if targets.dim() == 3 else None
        grid = functional.affine_grid(self._moves(n), list(images.shape), align_corners=False)
        images = functional.grid_sample(images, grid, align_corners=False, padding_mode="border")
        if masks is not None:
            targets = functional.grid_sample(masks, grid, align_corners=False)
        return self._greys(images), targets

    def _moves(self, n: int) -> Tensor:
        task = self.task
        angle = self._uniform(n, task.turn)
        if task.quarter_turns:
            angle = angle + torch.pi / 2 * torch.randint(4, (n,), generator=self.random)
        scale = torch.exp(self._uniform(n, task.scale))
        stretch = torch.exp(self._uniform(n, task.scale / 3))
        moves = torch.zeros(n, 2, 3)
        moves[:, 0, 0], moves[:, 0, 1] = scale * angle.cos(), -scale * angle.sin() * stretch
        moves[:, 1, 0], moves[:, 1, 1] = scale * angle.sin(), scale * angle.cos() * stretch
        if task.mirror:
            moves[:, :, 0] *= torch.sign(self._uniform(n, 1))[:, None]
        if task.upside_down:
            moves[:, :, 1] *= torch.sign(self._uniform(n, 1))[:, None]
        moves[:, 0, 2], moves[:, 1, 2] = self._uniform(n, task.shift), self._uniform(n, task.shift)
        return moves

    def _greys(self, images: Tensor) -> Tensor:
        """Other brightness, contrast, curve and slope of the field; blur, noise, low resolution."""
        task, n = self.task, len(images)
        column = lambda width: self._uniform(n, width)[:, None, None, None]  # noqa: E731
        images = images.clamp(0, 1) ** torch.exp(column(1.5 * task.grey))
        mean = images.mean((2, 3), keepdim=True)
        images = (images - mean) * torch.exp(column(task.grey)) + mean + column(0.6 * task.grey)
        rows = torch.linspace(-1, 1, images.shape[2])[None, None, :, None]
        columns = torch.linspace(-1, 1, images.shape[3])[None, None, None, :]
        images = images * (1 + column(task.grey) * rows + column(task.grey) * columns)
        soft = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
        share = (column(1.0)).clamp(0, 1)
        images = images + (soft - images) * share
        noise = torch.randn(images.shape, generator=self.random)
        return images + noise * column(task.noise).clamp(0, 1)


def class_loss(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross-entropy of patches, two of them mixed at times, and its plain value."""
    share = torch.distributions.Beta(0.3, 0.3).sample((len(images),)).to(images.dtype)
    other = torch.randperm(len(images))
    mixed = images * share[:, None, None, None] + images[other] * (1 - share)[:, None, None, None]
    soft = labels * share + labels[other] * (1 - share)
    with torch.autocast(images.device.type, torch.bfloat16):
        logits = network(mixed)[0][:, 0]
    loss = functional.binary_cross_entropy_with_logits(logits.float(), 0.02 + 0.96 * soft)
    return loss, loss.detach()


def mask_loss(network: nn.Module, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross-entropy and Dice loss at three sizes, and the Dice loss at full size."""
    assert isinstance(network, SliceNetwork)
    with torch.autocast(images.device.type, torch.bfloat16):
        logits = [level.float() for level in network.levels(images)]
    total, first = images.new_zeros(()), None
    for k, level in enumerate(logits):
        wanted = functional.avg_pool2d(masks, 2**k) if k else masks
        entropy = functional.binary_cross_entropy_with_logits(level, wanted)
        share = level.sigmoid()
        inside = (share * wanted).sum((1, 2, 3))
        both = (share**2).sum((1, 2, 3)) + (wanted**2).sum((1, 2, 3))
        dice = 1 - ((2 * inside + 1) / (both + 1)).mean()
        total = total + (entropy * 4 + dice) / 2**k
        first = dice.detach() if first is None else first
    assert first is not None
    return total, first


def train(name: str, data: Path, plan: Plan, *, seed: int) -> Run:
    """Train one network by the clock and return its run."""
    task = TASKS[name]
    torch.manual_seed(seed)
    batches = Augmented(task.read(data), task, seed)
    network = task.network().to(memory_format=torch.channels_last)
    run = Run(network, plan, f"{name}_{seed}")
    loss_of = mask_loss if batches.targets.dim() == 3 else class_loss

    def draw() -> tuple[Tensor, dict[str, float | Tensor]]:
        images, targets = batches.draw()
        loss, plain = loss_of(
            network, images.contiguous(memory_format=torch.channels_last), targets
        )
        return loss, {"loss": loss.detach(), "plain": plain}

    until_done(run, draw)
    return run


def main() -> None:
    """Read the command line and train."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("task", choices=TASKS)
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--minutes", type=float, default=30)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--rate", type=float, default=3e-3)
    given = arguments.parse_args()
    device_of("cpu")
    train(given.task, given.data, Plan(given.out, given.minutes, given.rate, 1e-2), seed=given.seed)


if __name__ == "__main__":
    main()
