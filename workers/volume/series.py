"""A CT or MR series becomes voxels with a place in the patient.

Everything that headers can tell is settled first (`workers.volume.plan`); then frames are decoded
in threads straight into the preallocated volume.
"""

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from service.core.geometry import Floats, Stack, affine_of
from service.core.headers import SourceFrame
from workers.volume.pixels import SourceInstance, read_frames
from workers.volume.plan import Plan, VolumeRules, plan_volume
from workers.volume.straighten import straighten
from workers.volume.values import Values, scale_into, shift_in_place, value_type

_LOSSY = "01"


@dataclass(frozen=True)
class Volume:
    """Voxels of a series and where they lie.

    ``voxels`` has shape (slices, rows, columns), int16 or float32, in ``unit`` (empty when the
    series states none); slices are in order along the normal of the planes. ``affine`` maps
    (column, row, slice) to LPS mm and has orthogonal axes. ``frames`` are the planes that were
    read, in the order of ``stack``; unless the volume ``is_resampled`` they are its slices.
    ``remarks`` say in plain words what was left out or resampled.
    """

    voxels: Values
    affine: Floats
    unit: str
    frames: tuple[SourceFrame, ...]
    stack: Stack
    is_resampled: bool = False
    is_lossy: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between the centres of neighbouring (slices, rows, columns)."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(lengths[2]), float(lengths[1]), float(lengths[0])

    @property
    def source_shape(self) -> tuple[int, int, int]:
        """Shape (frames, rows, columns) of the planes that were read."""
        header = self.frames[0].instance
        return len(self.frames), header.rows or 0, header.columns or 0


def load_volume(
    instances: Sequence[SourceInstance],
    rules: VolumeRules,
    *,
    verify: bool = False,
    threads: int | None = None,
) -> Volume:
    """Read a series, in whatever order its instances come.

    Parameters
    ----------
    instances
        Single-frame or enhanced multi-frame images of one series.
    verify
        Compare every file with the digest it was received with; costs reading it once whole.
    threads
        How many frames are decoded at a time; by default one per processor, at most 8.

    Raises
    ------
    UnsuitableSeries
        With a reason of `service.core.geometry`, `.pixels` or `.values`, or
        ``TOO_FEW_SLICES``, ``TOO_LARGE``, ``INCONSISTENT_SIZE``, ``GANTRY_TILT``,
        ``INCONSISTENT_FRAME_OF_REFERENCE``, ``CONFLICTING_INSTANCES`` or ``UNIT``.
    ContractViolation
        ``DIGEST`` when a file is gone or, with `verify`, changed.
    """
    plan = plan_volume(instances, rules)
    first = plan.formats[0]
    kind = value_type(plan.formats, plan.meanings, plan.unit)
    voxels: Values = np.empty((len(plan.frames), first.rows, first.columns), kind)
    threads = threads or default_threads()
    with ThreadPoolExecutor(threads) as executor:
        _read(plan, voxels, executor, verify=verify, threads=threads)
        if plan.regular:
            affine = affine_of(
                plan.stack, origin_mm=plan.stack.origins_mm[0], slice_spacing_mm=plan.spacing_mm
            )
        else:
            voxels, affine = straighten(
                voxels, plan.stack, slice_spacing_mm=plan.spacing_mm, executor=executor
            )
    return Volume(
        voxels=voxels,
        affine=affine,
        unit=plan.unit,
        frames=plan.frames,
        stack=plan.stack,
        is_resampled=not plan.regular,
        is_lossy=any(is_lossy(frame) for frame in plan.frames),
        remarks=plan.remarks,
    )


def default_threads() -> int:
    """Return how many frames to decode at a time: one per processor this process may use."""
    return min(8, len(os.sched_getaffinity(0)))


def is_lossy(frame: SourceFrame) -> bool:
    """Whether the frame ever went through lossy compression, by its header."""
    return frame.instance.lossy_image_compression == _LOSSY


def _read(plan: Plan, voxels: Values, executor: Executor, *, verify: bool, threads: int) -> None:
    """Fill the slices of the volume; after a failure no thread begins another one."""
    # A list's iterator hands each share to one thread only.
    shares = iter(_shares(plan))

    def work() -> None:
        try:
            for slices, whole in shares:
                _read_slices(plan, voxels, slices, verify=verify and whole)
        except BaseException:
            deque(shares, maxlen=0)
            raise

    for task in [executor.submit(work) for _ in range(threads)]:
        task.result()


def _shares(plan: Plan) -> list[tuple[list[int], bool]]:
    """Return slices of one instance to read together, and whether they are the first of it.

    A multi-frame instance is read in shares of 32 frames, so that threads can divide it.
    """
    by_instance: dict[str, list[int]] = {}
    for index, frame in enumerate(plan.frames):
        by_instance.setdefault(frame.instance.sop_instance_uid, []).append(index)
    return [
        (slices[start : start + 32], start == 0)
        for slices in by_instance.values()
        for start in range(0, len(slices), 32)
    ]


def _read_slices(plan: Plan, voxels: Values, slices: Sequence[int], *, verify: bool) -> None:
    stored = plan.formats[slices[0]]
    in_place = voxels.dtype == np.int16 and stored.bits_allocated == 16
    targets = [
        voxels[index] if in_place else np.empty((stored.rows, stored.columns), stored.dtype)
        for index in slices
    ]
    numbers = [plan.frames[index].frame_number for index in slices]
    read_frames(plan.sources[slices[0]], list(zip(numbers, targets, strict=True)), verify=verify)
    for index, target in zip(slices, targets, strict=True):
        if in_place:
            shift_in_place(target, stored, plan.meanings[index], unit=plan.unit)
        else:
            scale_into(voxels[index], target, stored, plan.meanings[index], unit=plan.unit)
