"""One training loop for all networks: time-bounded, resumable, averaged over its last weights."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes
    ----------
    seconds
        Time spent in steps, over all runs of a resumed training.
    rate
        Highest learning rate; it rises over the first 4 % of the time and falls as a cosine.
    report_every
        Steps between lines of progress and saved states.
    """

    seconds: float
    rate: float = 3e-3
    weight_decay: float = 1e-3
    report_every: int = 100


class Averaged:
    """Exponential average of a network's weights, which is what is measured and shipped."""

    def __init__(self, network: nn.Module) -> None:
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.steps = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the network's present weights, faster at first."""
        self.steps += 1
        keep = min(0.998, self.steps / (self.steps + 20))
        mine, theirs = [], []
        for name, value in network.state_dict().items():
            if value.dtype.is_floating_point:
                mine.append(self.state[name])
                theirs.append(value)
            else:
                self.state[name].copy_(value)
        torch._foreach_lerp_(mine, theirs, 1 - keep)


def fit(
    network: nn.Module,
    loss_of: Callable[[nn.Module], tuple[Tensor, ...]],
    schedule: Schedule,
    *,
    name: str,
    state_folder: Path | None = None,
    between: Callable[[int], None] | None = None,
) -> nn.Module:
    """Train until the time is over and return the network with averaged weights, in eval mode.

    `loss_of` draws a batch and returns its losses, whose sum is minimised. A state found in
    `state_folder` is continued. `between` is called after each step, to make new training data.
    """
    device = next(network.parameters()).device
    optimiser = torch.optim.AdamW(
        network.parameters(), schedule.rate, weight_decay=schedule.weight_decay
    )
    average = Averaged(network)
    state = state_folder / f"{name}_state.pt" if state_folder else None
    spent = _restore(state, network, optimiser, average) if state else 0.0
    started, losses = time.monotonic() - spent, []
    network.train()
    while (spent := time.monotonic() - started) < schedule.seconds:
        _set_rate(optimiser, schedule, spent / schedule.seconds)
        with _half_precision(device):
            parts = loss_of(network)
        loss = torch.stack([part.float() for part in parts]).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        average.update(network)
        losses.append([part.detach() for part in parts])
        if average.steps in (1, 10) or average.steps % schedule.report_every == 0:
            _report(name, (average.steps, spent), losses)
            losses.clear()
        if state and average.steps % (5 * schedule.report_every) == 0:
            _save(state, (network, optimiser, average), spent)
        if between:
            between(average.steps)
    if state:
        _save(state, (network, optimiser, average), spent)
    print(f"{name}: {average.steps} steps", flush=True)
    network.load_state_dict(average.state)
    return network.eval()


def _half_precision(device: torch.device) -> "torch.autocast | nullcontext[None]":
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def _set_rate(optimiser: torch.optim.Optimizer, schedule: Schedule, done: float) -> None:
    rate = schedule.rate * min(1.0, (done + 0.003) / 0.04)
    rate *= 0.5 + 0.5 * float(np.cos(np.pi * done))
    for group in optimiser.param_groups:
        group["lr"] = rate + 1e-6


def _report(name: str, where: tuple[int, float], losses: list[list[Tensor]]) -> None:
    means = torch.stack([torch.stack([p.float() for p in row]) for row in losses]).mean(0)
    numbers = " ".join(f"{value:.4f}" for value in means.tolist())
    print(f"{name}: step {where[0]}, {where[1]:.0f} s, loss {numbers}", flush=True)


def _save(
    path: Path, what: tuple[nn.Module, torch.optim.Optimizer, Averaged], spent: float
) -> None:
    network, optimiser, average = what
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "network": network.state_dict(), "optimiser": optimiser.state_dict(),
        "average": average.state, "steps": average.steps, "spent": spent,
    }  # fmt: skip
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def _restore(
    path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, average: Averaged
) -> float:
    if not path.exists():
        return 0.0
    state = torch.load(path, map_location=next(network.parameters()).device, weights_only=True)
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    average.state, average.steps = state["average"], state["steps"]
    print(f"continuing {path.name} at step {average.steps}", flush=True)
    return float(state["spent"])
