"""Feeding a two-dimensional network: slices with their neighbours as channels, several at once."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Run = Callable[[Array], Mapping[str, Array]]


def slab(volume: Array, index: int, context: int) -> Array:
    """Return slice `index` with its neighbours, shape (context, rows, columns).

    Beyond the first and last slice the end slices are repeated.
    """
    half = context // 2
    wanted = np.clip(np.arange(index - half, index + half + 1), 0, len(volume) - 1)
    return volume[wanted]


def run_slabs(
    volume: Array, indices: Sequence[int], run: Run, *, context: int, batch: int
) -> Iterator[tuple[int, Mapping[str, Array]]]:
    """Yield (slice index, outputs of that slice) for the slices asked for, `batch` at a time.

    `run` takes (N, context, rows, columns); outputs are (channels, rows, columns) each.
    """
    for first in range(0, len(indices), batch):
        chosen = indices[first : first + batch]
        outputs = run(np.stack([slab(volume, index, context) for index in chosen]))
        for place, index in enumerate(chosen):
            yield index, {name: output[place] for name, output in outputs.items()}
