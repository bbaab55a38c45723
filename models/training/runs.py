"""One training run: its clock, averaged weights, checkpoints and log; and the export to ONNX."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from models.training.exporting import drop_traces


@dataclass(frozen=True)
class Plan:
    """How long and how hard to train."""

    out: Path
    minutes: float
    learning_rate: float
    weight_decay: float = 1e-3
    warm_up: float = 0.03
    start: Path | None = None


def device_of(name: str) -> torch.device:
    """Return the device asked for; `auto` takes a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    return torch.device(name)


class Run:
    """Steps an optimiser by the clock, keeps an exponential mean of the weights, and resumes.

    The learning rate rises over the first `warm_up` of the time and falls as a cosine to zero, so
    a run of any length ends well. Time spent before an interruption counts.
    """

    def __init__(self, network: nn.Module, plan: Plan, name: str) -> None:
        self.network, self.plan, self.name = network, plan, name
        self.optimiser = torch.optim.AdamW(
            network.parameters(), plan.learning_rate, weight_decay=plan.weight_decay
        )
        self.mean = {k: v.clone() for k, v in network.state_dict().items()}
        self.steps, self.spent_s, self.log = 0, 0.0, list[dict[str, float]]()
        plan.out.mkdir(parents=True, exist_ok=True)
        self._state = plan.out / f"{name}.state.pt"
        if self._state.exists():
            self._load()
        self._started = time.monotonic()
        self._saved = self._started

    @property
    def elapsed_s(self) -> float:
        """Seconds trained, earlier sessions included."""
        return self.spent_s + time.monotonic() - self._started

    @property
    def progress(self) -> float:
        """Share of the time that is over, 0 to 1."""
        return min(1.0, self.elapsed_s / (60 * self.plan.minutes))

    def step(self, loss: Tensor, figures: dict[str, float | Tensor]) -> None:
        """Take one optimiser step; logs every 100 and saves every minute."""
        share = min(1.0, (self.progress + 0.002) / self.plan.warm_up)
        rate = share * 0.5 * (1 + np.cos(np.pi * self.progress))
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.learning_rate * float(rate) + 1e-7
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self.steps += 1
        self._average()
        if self.steps % 100 == 0 or self.steps <= 3:
            row = {k: float(v) for k, v in figures.items()}
            self.log.append({"step": self.steps, "s": round(self.elapsed_s, 1), **row})
            text = " ".join(f"{k} {v:.4g}" for k, v in self.log[-1].items())
            print(f"{self.name} {100 * self.progress:3.0f} %  {text}", flush=True)
        if time.monotonic() - self._saved > 60:
            self.save()

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(0.999, self.steps / (self.steps + 20))
        floats = [k for k, v in self.mean.items() if v.dtype.is_floating_point]
        now = self.network.state_dict()
        torch._foreach_lerp_([self.mean[k] for k in floats], [now[k] for k in floats], 1 - decay)
        for key in self.mean.keys() - set(floats):
            self.mean[key].copy_(now[key])

    def save(self) -> None:
        """Write averaged weights, full state and log; replaces the last ones whole."""
        self._saved = time.monotonic()
        weights = self.plan.out / f"{self.name}.pt"
        _replace(weights, {k: v.cpu() for k, v in self.mean.items()})
        state = {
            "network": self.network.state_dict(),
            "mean": self.mean,
            "optimiser": self.optimiser.state_dict(),
            "steps": self.steps,
            "spent_s": self.elapsed_s,
            "log": self.log,
        }
        _replace(self._state, state)
        (self.plan.out / f"{self.name}.log.json").write_text(json.dumps(self.log))

    def _load(self) -> None:
        state: dict[str, Any] = torch.load(self._state, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        for key, value in state["mean"].items():
            self.mean[key].copy_(value)
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps, self.spent_s, self.log = state["steps"], state["spent_s"], state["log"]
        print(f"{self.name}: resumed after {self.spent_s:.0f} s, {self.steps} steps", flush=True)

    def averaged(self) -> nn.Module:
        """Return the network with the averaged weights, on the processor, for inference."""
        self.network.load_state_dict(self.mean)
        return self.network.eval().float().cpu().to(memory_format=torch.contiguous_format)


def _replace(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    torch.save(content, part)
    part.replace(path)


def export_onnx(
    network: nn.Module, example: Tensor, path: Path, names: tuple[str, tuple[str, ...]]
) -> float:
    """Write `network` as ONNX and return the largest difference to onnxruntime on `example`.

    Batch, height and width stay free; `names` are those of the input and of the outputs.
    """
    inputs, outputs = names
    free = {i: torch.export.Dim.AUTO for i in (0, *range(2, example.dim()))}
    torch.onnx.export(
        network,
        (example,),
        path,
        input_names=[inputs],
        output_names=list(outputs),
        dynamic_shapes=(free,),
        dynamo=True,
        opset_version=20,
        external_data=False,
        verbose=False,
    )
    model = onnx.load(path)
    drop_traces(model)
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {inputs: example.numpy()})
    with torch.no_grad():
        wanted = network(example)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    return max(float(np.abs(f - w.numpy()).max()) for f, w in zip(found, wanted, strict=True))


def until_done(run: Run, draw: Callable[[], tuple[Tensor, dict[str, float | Tensor]]]) -> None:
    """Step until the run's time is over, then save."""
    while run.progress < 1:
        loss, figures = draw()
        run.step(loss, figures)
    run.save()
