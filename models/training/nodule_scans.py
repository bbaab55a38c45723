"""Scans of synthetic chest patients for training and measuring, made as fast as they are used.

Patients are built by processes of their own; painting and scanning runs where training runs, with
cupy on a GPU and with numpy otherwise.
"""

import multiprocessing as mp
import os
import queue
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from models.phantoms.acquisition import Protocol, acquire, draw_protocol
from models.phantoms.geometry import (
    NUMPY,
    ArrayModules,
    Grid,
    apply_separable,
    cupy_modules,
    resample,
)
from models.phantoms.nodules import Lesion, malignancy_probability
from models.phantoms.population import Site, ThoraxOptions
from models.phantoms.seeds import SEEDS, Split, seed_of
from models.phantoms.thorax import Thorax

SCAN_SPACING_MM = 1.0
CROP_SPACING_MM = 0.7
CROP_VOXELS = 72
_MARGIN_MM = 12.0


@dataclass
class LabelledScan:
    """One scan at 1 mm with its truth.

    Attributes
    ----------
    voxels
        HU, int16 tensor indexed ``[z, y, x]``, on the training device.
    nodules
        Rows (z, y, x, diameter mm, 1) in voxels; look-alikes that do not count end in 0.
    lesions
        What the first rows of `nodules` describe.
    crops, masks
        For each nodule a crop at 0.7 mm, HU int16, and the truth's mask, uint8.
    """

    seed: int
    voxels: torch.Tensor
    origin_mm: tuple[float, float, float]
    nodules: np.ndarray
    lesions: list[Lesion]
    protocol: Protocol
    crops: list[torch.Tensor] = field(default_factory=list)
    masks: list[torch.Tensor] = field(default_factory=list)


def modules_for(device: torch.device) -> ArrayModules:
    """Return cupy's modules for a CUDA device and numpy's otherwise."""
    return cupy_modules() if device.type == "cuda" else NUMPY


def _to_tensor(array: np.ndarray, modules: ArrayModules) -> torch.Tensor:
    if modules.on_gpu:
        return torch.from_dlpack(modules.xp.ascontiguousarray(array)).clone()
    return torch.from_numpy(np.ascontiguousarray(array))


def scan_patient(thorax: Thorax, device: torch.device, *, crops: bool) -> LabelledScan:
    """Scan a patient by a protocol drawn from its seed and bring the scan to 1 mm."""
    modules = modules_for(device)
    rng = np.random.default_rng([thorax.seed, 78])
    protocol = draw_protocol(rng, thorax.domain)
    low, high = thorax.lung_box_mm()
    scan = acquire(
        thorax, rng, protocol, box_mm=(low - _MARGIN_MM, high + _MARGIN_MM),
        labels=False, table=True, modules=modules,
    )  # fmt: skip
    shape = tuple(
        int(scan.grid.spacing_mm[a] * (scan.grid.shape[2 - a] - 1) / SCAN_SPACING_MM) + 1
        for a in (2, 1, 0)
    )
    grid = Grid(scan.grid.origin_mm, (SCAN_SPACING_MM,) * 3, (shape[0], shape[1], shape[2]))
    native = modules.xp.asarray(scan.hu, dtype=np.float32)
    voxels = modules.xp.rint(resample(native, scan.grid, grid, modules=modules))
    found = LabelledScan(
        thorax.seed, _to_tensor(voxels.astype(np.int16), modules), grid.origin_mm,
        _nodule_rows(thorax, grid), list(thorax.lesions), protocol,
    )  # fmt: skip
    if crops:
        for lesion in thorax.lesions:
            crop, mask = _crop_with_mask(thorax, lesion, (native, scan.grid), modules)
            found.crops.append(_to_tensor(crop, modules))
            found.masks.append(_to_tensor(mask, modules))
    return found


def _nodule_rows(thorax: Thorax, grid: Grid) -> np.ndarray:
    skipped = [lesion for lesion in thorax.look_alikes if not lesion.counted]
    rows = [
        [*((lesion.centre_mm - grid.origin_mm) / SCAN_SPACING_MM)[::-1], lesion.diameter_mm, counts]
        for group, counts in ((thorax.lesions, 1.0), (skipped, 0.0))
        for lesion in group
    ]
    return np.array(rows, np.float32).reshape(-1, 5)


def _crop_with_mask(
    thorax: Thorax, lesion: Lesion, scan: tuple[np.ndarray, Grid], modules: ArrayModules
) -> tuple[np.ndarray, np.ndarray]:
    half = CROP_SPACING_MM * (CROP_VOXELS - 1) / 2
    corner = lesion.centre_mm - half
    grid = Grid(
        (float(corner[0]), float(corner[1]), float(corner[2])),
        (CROP_SPACING_MM,) * 3, (CROP_VOXELS,) * 3,
    )  # fmt: skip
    crop = modules.xp.rint(resample(scan[0], scan[1], grid, modules=modules)).astype(np.int16)
    distance, _ = lesion.distance(grid, modules)
    mask = distance < 0
    if lesion.site is Site.PLEURA:
        # Readers outline what lies in the lung; the part inside the chest wall is not seen.
        matrices = thorax.lattice.matrices(grid)
        lung = apply_separable(thorax.anatomy.fields["lung"], matrices, modules)
        mask = mask & (lung < 0.5)
    return crop, mask.astype(np.uint8)


def malignancy_targets(scan: LabelledScan) -> np.ndarray:
    """Return the synthetic likelihood of malignancy of each nodule."""
    return np.array([malignancy_probability(lesion) for lesion in scan.lesions], np.float32)


def _build(todo: "mp.Queue[tuple[int, Split, int]]", done: "mp.Queue[Thorax]") -> None:
    """Build patients until told to stop; runs in a process of its own."""
    while True:
        index, split, nodules = todo.get()
        if index < 0:
            return
        options = ThoraxOptions(nodules=None if nodules < 0 else nodules)
        if split is Split.TRAIN:
            options = ThoraxOptions(nodules=nodules, larger_share=0.35)
        try:
            done.put(Thorax(seed_of(split, index), SEEDS[split].domain, options))
        except (ValueError, IndexError) as fault:
            print(f"patient {split} {index} could not be built: {fault}", flush=True)


class PatientFactory:
    """Processes that build patients ahead of their use.

    `order` says which patients; `patients` yields them as they are finished, in any order.
    """

    def __init__(self, processes: int) -> None:
        # Every process must use one core: numpy's own threads would fight over them.
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")
        self._processes = processes
        self._start()

    def _start(self) -> None:
        context = mp.get_context("spawn")
        self._todo = context.Queue()
        self._done = context.Queue(maxsize=64)
        self._workers = [
            context.Process(target=_build, args=(self._todo, self._done), daemon=True)
            for _ in range(self._processes)
        ]
        for worker in self._workers:
            worker.start()

    def restart(self) -> None:
        """Forget what is on order and begin anew."""
        self.close()
        self._start()

    def order(self, split: Split, indices: range, *, nodules: int = -1) -> None:
        """Ask for patients of a split; `nodules` below 0 leaves the number to the seed."""
        for index in indices:
            count = nodules
            if split is Split.TRAIN:
                count = 5 + seed_of(split, index) % 8
            self._todo.put((index, split, count))

    def patients(self, count: int, *, timeout_s: float = 120.0) -> Iterator[Thorax]:
        """Yield the next `count` patients; stops early when none comes within the time."""
        for _ in range(count):
            thorax = self.next_patient(timeout_s)
            if thorax is None:
                return
            yield thorax

    def next_patient(self, wait_s: float) -> Thorax | None:
        """Return the next patient finished within `wait_s` seconds, or None."""
        try:
            return self._done.get(timeout=wait_s) if wait_s > 0 else self._done.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.terminate()
        # Orders that nobody will take must not keep this process from ending.
        self._todo.cancel_join_thread()
