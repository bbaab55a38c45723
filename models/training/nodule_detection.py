"""Train the lung nodule package's networks on synthetic patients and measure them on unseen ones.

``python -m models.training.nodule_detection --out DIR [--minutes N] [--device cuda|cpu]``

Written to DIR: ``detector.pt``, ``reduction.pt``, ``segmentation.pt``, ``malignancy.pt`` (weights),
``candidates.json`` (every candidate and every nodule of the measured scans) and ``run.json`` (what
was done). A second call with the same DIR and ``--state`` goes on where the first one stopped;
stages whose weights exist are not repeated. `models.training.nodule_package` makes the package.
"""

import argparse
import json
import multiprocessing as mp
import os
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from models.phantoms.seeds import Split
from models.training.fitting import Schedule, fit
from models.training.nodule_batches import (
    augmented,
    detector_batch,
    detector_loss,
    normalised,
    random_crops,
    segmentation_loss,
)
from models.training.nodule_candidates import (
    REDUCTION_VOXELS,
    find_candidates,
    labelled_crops,
    reduction_logits,
)
from models.training.nodule_networks import CropClassifier, NoduleDetector, NoduleSegmenter
from models.training.nodule_scans import (
    LabelledScan,
    PatientFactory,
    malignancy_targets,
    scan_patient,
)

SEGMENTATION_VOXELS = 64
MALIGNANCY_VOXELS = 48
_MEASURED = (Split.VALIDATION, Split.TEST, Split.SHIFT)


@dataclass(frozen=True)
class Plan:
    """How much of everything; seconds of each stage sum to about the time asked for."""

    first_scans: int
    most_scans: int
    fill_s: float
    detector_s: float
    collect_s: float
    reduction_s: float
    segmentation_s: float
    malignancy_s: float
    measure_s: float
    measured_scans: tuple[int, int, int]
    channels: int = 24
    cube: int = 80
    batch: int = 24
    steps_per_scan: int = 8


def plan_for(minutes: float, device: torch.device, tiny: bool) -> Plan:
    """Return how to spend `minutes`; `tiny` rehearses every stage in about two minutes."""
    s = minutes * 60
    shares = (0.12 * s, 0.46 * s, 0.07 * s, 0.07 * s, 0.08 * s, 0.03 * s, 0.15 * s)
    if tiny:
        return Plan(2, 4, *shares, (2, 2, 2), channels=8, cube=48, batch=2, steps_per_scan=50)
    if device.type == "cpu":
        return Plan(20, 400, *shares, (30, 60, 60), channels=16, cube=64, batch=4)
    return Plan(400, 1100, *shares, (60, 100, 100))


class Pool:
    """Scans in memory; each new one beyond the limit replaces the oldest."""

    def __init__(self, factory: PatientFactory, device: torch.device, most: int) -> None:
        self.scans: list[LabelledScan] = []
        self._factory, self._device, self._most = factory, device, most
        self._ordered = self._made = 0
        self._order(2 * most if most < 40 else 64)

    def _order(self, count: int) -> None:
        self._factory.order(Split.TRAIN, range(self._ordered, self._ordered + count))
        self._ordered += count

    def add(self, *, wait_s: float = 0.0) -> bool:
        """Scan the next patient, if one is ready within the time."""
        thorax = self._factory.next_patient(wait_s)
        if thorax is None:
            return False
        self._order(1)
        scan = scan_patient(thorax, self._device, crops=True)
        if len(self.scans) < self._most:
            self.scans.append(scan)
        else:
            self.scans[self._made % self._most] = scan
        self._made += 1
        return True

    @property
    def made(self) -> int:
        """How many scans were ever made."""
        return self._made


def fill(pool: Pool, plan: Plan) -> None:
    """Make the first scans."""
    started = time.monotonic()
    while len(pool.scans) < plan.first_scans:
        late = time.monotonic() - started > plan.fill_s
        if late and len(pool.scans) >= 2:
            break
        pool.add(wait_s=60.0)
        if len(pool.scans) % 50 == 0:
            print(f"{len(pool.scans)} scans, {time.monotonic() - started:.0f} s", flush=True)


def train_detector(pool: Pool, plan: Plan, device: torch.device, state: Path | None) -> nn.Module:
    """Train the first stage while new scans keep coming."""
    network = NoduleDetector(plan.channels).to(device, memory_format=torch.channels_last_3d)

    def loss_of(net: nn.Module) -> tuple[Tensor, ...]:
        x, wanted = detector_batch(pool.scans, plan.batch, plan.cube)
        return detector_loss(net(x.contiguous(memory_format=torch.channels_last_3d)), wanted)

    def between(step: int) -> None:
        if step % plan.steps_per_scan == 0:
            pool.add()

    schedule = Schedule(plan.detector_s)
    return fit(network, loss_of, schedule, name="detector", state_folder=state, between=between)


def train_reduction(pool: Pool, plan: Plan, detector: nn.Module, device: torch.device) -> nn.Module:
    """Train the second stage on the first one's candidates, half of them from scans new to it."""
    side, started = REDUCTION_VOXELS + 8, time.monotonic()
    crops, labels, turn = [], [], 0
    order = random.sample(range(len(pool.scans)), len(pool.scans))
    while time.monotonic() - started < plan.collect_s:
        fresh = turn % 2 == 0 and pool.add(wait_s=1.0)
        number = (pool.made - 1) % len(pool.scans) if fresh else order[turn % len(order)]
        found = labelled_crops(detector, pool.scans[number], side)
        crops.append(found[0])
        labels.append(found[1])
        turn += 1
    x, y = torch.cat(crops), torch.from_numpy(np.concatenate(labels)).to(device)
    positives, negatives = (y > 0.5).nonzero()[:, 0], (y < 0.5).nonzero()[:, 0]
    print(f"{len(positives)} nodules, {len(negatives)} others, {turn} scans", flush=True)
    network = CropClassifier(20).to(device, memory_format=torch.channels_last_3d)

    def loss_of(net: nn.Module) -> tuple[Tensor, ...]:
        half = plan.batch * 3
        some = [
            g[torch.randint(len(g), (half,), device=device)]
            for g in (positives, negatives)
            if len(g)
        ]
        which = torch.cat(some)
        cut, _ = random_crops(x[which], REDUCTION_VOXELS)
        return (_logit_loss(net, cut, y[which]),)

    return fit(network, loss_of, Schedule(plan.reduction_s, rate=2e-3), name="reduction")


def _logit_loss(net: nn.Module, crops: Tensor, labels: Tensor) -> Tensor:
    x = normalised(augmented(crops.float()))[:, None]
    logits = net(x.contiguous(memory_format=torch.channels_last_3d))[:, 0].float()
    return fn.binary_cross_entropy_with_logits(logits, labels)


def train_segmentation(pool: Pool, plan: Plan, device: torch.device) -> nn.Module:
    """Train the outline of a nodule in a crop centred on it."""
    crops = torch.stack([crop for scan in pool.scans for crop in scan.crops])
    masks = torch.stack([mask for scan in pool.scans for mask in scan.masks])
    network = NoduleSegmenter().to(device, memory_format=torch.channels_last_3d)

    def loss_of(net: nn.Module) -> tuple[Tensor, ...]:
        which = torch.randint(len(crops), (plan.batch,), device=device)
        both = torch.stack([crops[which].float(), masks[which].float()])
        cut, _ = random_crops(both, SEGMENTATION_VOXELS)
        x = normalised(augmented(cut[0]))[:, None]
        logits = net(x.contiguous(memory_format=torch.channels_last_3d))
        return (segmentation_loss(logits, cut[1][:, None]),)

    return fit(network, loss_of, Schedule(plan.segmentation_s, rate=2e-3), name="segmentation")


def train_malignancy(pool: Pool, plan: Plan, device: torch.device) -> nn.Module:
    """Train the synthetic surrogate of malignancy; labels are drawn anew at each step."""
    crops = torch.stack([crop for scan in pool.scans for crop in scan.crops])
    likely = np.concatenate([malignancy_targets(scan) for scan in pool.scans])
    targets = torch.from_numpy(likely).to(device)
    network = CropClassifier(12).to(device, memory_format=torch.channels_last_3d)

    def loss_of(net: nn.Module) -> tuple[Tensor, ...]:
        which = torch.randint(len(crops), (plan.batch * 2,), device=device)
        cut, _ = random_crops(crops[which], MALIGNANCY_VOXELS)
        return (_logit_loss(net, cut, torch.bernoulli(targets[which])),)

    return fit(network, loss_of, Schedule(plan.malignancy_s, rate=2e-3), name="malignancy")


@torch.no_grad()
def measure(
    factory: PatientFactory, plan: Plan, networks: dict[str, nn.Module], device: torch.device
) -> list[dict[str, object]]:
    """Return every candidate and every nodule of unseen scans, for calibration and metrics.

    Patients come in the order in which they are finished; the seed says which set one belongs to.
    """
    started, rows = time.monotonic(), []
    for split, count in zip(_MEASURED, plan.measured_scans, strict=True):
        done = 0
        for thorax in factory.patients(count):
            scan = scan_patient(thorax, device, crops=True)
            rows.append(_measured(scan, networks))
            done += 1
            if time.monotonic() - started > plan.measure_s * 1.5:
                break
        print(f"{split}: {done} scans, {time.monotonic() - started:.0f} s", flush=True)
    return rows


def _measured(scan: LabelledScan, networks: dict[str, nn.Module]) -> dict[str, object]:
    found = find_candidates(networks["detector"], scan.voxels)
    second = reduction_logits(networks["reduction"], scan.voxels, found)
    return {
        "seed": scan.seed,
        "protocol": asdict(scan.protocol),
        "candidates": np.column_stack([found, second]).round(4).tolist(),
        "nodules": scan.nodules.round(3).tolist(),
        "kinds": [lesion.kind.value for lesion in scan.lesions],
        "sites": [lesion.site.value for lesion in scan.lesions],
        "dice": _dice(scan, networks["segmentation"]),
        "malignancy": {
            "likelihood": malignancy_targets(scan).round(4).tolist(),
            "logit": _malignancy(scan, networks["malignancy"]),
        },
    }


def _middle(crops: list[Tensor], side: int) -> Tensor:
    room = (crops[0].shape[-1] - side) // 2
    cut = slice(room, room + side)
    return torch.stack(crops)[:, cut, cut, cut]


def _dice(scan: LabelledScan, network: nn.Module) -> list[float]:
    if not scan.crops:
        return []
    crops = _middle(scan.crops, SEGMENTATION_VOXELS)
    wanted = _middle(scan.masks, SEGMENTATION_VOXELS) > 0
    found = network(normalised(crops.float())[:, None])[:, 0] > 0
    both = 2 * (found & wanted).flatten(1).sum(1) + 1e-6
    total = found.flatten(1).sum(1) + wanted.flatten(1).sum(1) + 1e-6
    return [round(v, 4) for v in (both / total).tolist()]


def _malignancy(scan: LabelledScan, network: nn.Module) -> list[float]:
    if not scan.crops:
        return []
    crops = _middle(scan.crops, MALIGNANCY_VOXELS)
    logits = network(normalised(crops.float())[:, None])[:, 0]
    return [round(v, 4) for v in logits.float().tolist()]


def _save(network: nn.Module, path: Path) -> None:
    """Save weights for export; called after each stage, so that a broken run leaves its work."""
    state = {k: v.cpu().contiguous() for k, v in network.state_dict().items()}
    torch.save({"channels": network.channels, "state": state}, path)


def _stage(name: str, out: Path, empty: nn.Module, device: torch.device) -> nn.Module | None:
    path = out / f"{name}.pt"
    if not path.exists():
        return None
    empty.load_state_dict(torch.load(path, weights_only=True)["state"])
    return empty.to(device, memory_format=torch.channels_last_3d).eval()


def main() -> None:
    """Run all stages that are not done yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--state", type=Path, help="folder of resumable states")
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--tiny", action="store_true", help="rehearse every stage")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    chosen.out.mkdir(parents=True, exist_ok=True)
    plan = plan_for(chosen.minutes, device, chosen.tiny)
    started = time.monotonic()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = False
    factory = PatientFactory(chosen.processes)
    try:
        run(factory, plan, (chosen.out, chosen.state, device), started)
    finally:
        factory.close()


def run(
    factory: PatientFactory,
    plan: Plan,
    where: tuple[Path, Path | None, torch.device],
    started: float,
) -> None:
    """Train what is missing, then measure."""
    out, state, device = where
    pool = Pool(factory, device, plan.most_scans)
    fill(pool, plan)
    kinds = {
        "detector": lambda: NoduleDetector(plan.channels), "reduction": lambda: CropClassifier(20),
        "segmentation": NoduleSegmenter, "malignancy": lambda: CropClassifier(12),
    }  # fmt: skip
    networks: dict[str, nn.Module] = {}
    makers = {
        "detector": lambda: train_detector(pool, plan, device, state),
        "reduction": lambda: train_reduction(pool, plan, networks["detector"], device),
        "segmentation": lambda: train_segmentation(pool, plan, device),
        "malignancy": lambda: train_malignancy(pool, plan, device),
    }
    for name, make in makers.items():
        if name == "segmentation":
            # Scans to measure on are built while the crops' networks train.
            factory.restart()
            for split, count in zip(_MEASURED, plan.measured_scans, strict=True):
                factory.order(split, range(count))
        trained = _stage(name, out, kinds[name](), device)
        if trained is None:
            trained = make()
            _save(trained, out / f"{name}.pt")
        networks[name] = trained
        print(f"{name} ready after {time.monotonic() - started:.0f} s", flush=True)
    rows = measure(factory, plan, networks, device)
    (out / "candidates.json").write_text(json.dumps(rows))
    summary = {
        "plan": asdict(plan), "scans_trained_on": pool.made, "device": _device_name(device),
        "seconds": round(time.monotonic() - started), "torch": torch.__version__,
    }  # fmt: skip
    (out / "run.json").write_text(json.dumps(summary, indent=1))
    print(json.dumps(summary), flush=True)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"


if __name__ == "__main__":
    mp.freeze_support()
    main()
