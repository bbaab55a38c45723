"""Processes that keep drawing synthetic patients while a network trains.

Each process takes every n-th seed of a range and hands over tuples of numpy arrays. The same
program renders with numpy on processor cores or with cupy on the GPU that trains.
"""

import multiprocessing
import os
import queue
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from models.phantoms.geometry import NUMPY, ArrayModules, cupy_modules
from models.phantoms.seeds import Domain

Sample = tuple[np.ndarray, ...]
Produce = Callable[[int, Domain, ArrayModules], Iterator[Sample]]


@dataclass(frozen=True)
class Seeds:
    """Which patients are drawn: `first` and up, and the share drawn from the shifted domain.

    A training set may mix domains (`shifted_share` above 0, domain randomisation); its seeds stay
    those of the training range, so no patient of a test set is ever drawn.
    """

    first: int
    last: int
    shifted_share: float = 0.0
    domain: Domain = Domain.STANDARD

    def domain_of(self, seed: int) -> Domain:
        """Return the domain that a seed is drawn from."""
        mixed = np.random.default_rng([seed, 301]).random() < self.shifted_share
        return Domain.SHIFTED if mixed else self.domain


def _work(
    produce: Produce, seeds: tuple[Seeds, int, int], on_gpu: bool, samples: "multiprocessing.Queue"
) -> None:
    modules = cupy_modules() if on_gpu else NUMPY
    which, start, step = seeds
    for seed in range(which.first + start, which.last + 1, step):
        try:
            for sample in produce(seed, which.domain_of(seed), modules):
                samples.put((seed, sample))
        except Exception:  # noqa: BLE001 - one bad patient must not end hours of training
            print(f"patient {seed}:", traceback.format_exc(), flush=True)
    samples.put((None, ()))


class Generators:
    """A bounded queue that `count` processes fill; iterate it, or call `close`."""

    def __init__(self, produce: Produce, seeds: Seeds, *, count: int, on_gpu: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._samples = context.Queue(maxsize=4 * count)
        self._left = count
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = "1"  # inherited: one core for each process
        self._processes = [
            context.Process(
                target=_work, args=(produce, (seeds, k, count), on_gpu, self._samples), daemon=True
            )
            for k in range(count)
        ]
        for process in self._processes:
            process.start()

    def take(self, timeout_s: float = 1.0) -> tuple[int, Sample] | None:
        """Return the next sample with its seed, or None after `timeout_s`."""
        try:
            seed, sample = self._samples.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if seed is None:
            self._left -= 1
            return self.take(timeout_s) if self._left else None
        return seed, sample

    def __iter__(self) -> Iterator[tuple[int, Sample]]:
        """Yield samples until every process is done or has died."""
        while self._left:
            found = self.take(2.0)
            if found is not None:
                yield found
            elif not any(process.is_alive() for process in self._processes):
                return

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.terminate()
