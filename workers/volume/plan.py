"""Which planes of a series make a volume, settled from headers before any pixel is read.

Which instances belong to the stack, whether their planes make one grid, whether sizes, units and
frames of reference agree: every refusal names what is wrong.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.core.errors import UnsuitableSeries
from service.core.geometry import Stack, duplicate_gaps, slice_spacing_mm, stack_planes
from service.core.headers import SourceFrame
from workers.volume.pixels import FrameFormat, SourceInstance, frame_format
from workers.volume.values import Meaning, meaning_of, unit_of

_IRREGULAR = frozenset(["SLICE_GAP", "INCONSISTENT_SPACING", "DUPLICATE_POSITION"])


@dataclass(frozen=True)
class VolumeRules:
    """What a model asks of a series beyond being readable.

    ``unit`` names the unit that voxels must have (``HU``); an empty one asks for none.
    ``allow_resampling`` lets missing slices be interpolated and duplicates be dropped; without it
    they are refused by name. Gantry tilt is resampled unless ``allow_tilt`` is off, because it
    loses nothing but interpolation.
    """

    unit: str = "HU"
    minimum_slices: int = 2
    maximum_voxels: int = 1 << 31
    allow_resampling: bool = False
    allow_tilt: bool = True
    slice_tolerance: float = 0.1
    orientation_tolerance_degrees: float = 0.5


@dataclass(frozen=True)
class Plan:
    """The planes to read, in order along the normal, and how.

    ``regular`` says that they are the slices of the volume; otherwise it is resampled from them
    with ``spacing_mm`` between its slices.
    """

    frames: tuple[SourceFrame, ...]
    sources: tuple[SourceInstance, ...]
    formats: tuple[FrameFormat, ...]
    meanings: tuple[Meaning, ...]
    stack: Stack
    spacing_mm: float
    regular: bool
    unit: str
    remarks: tuple[str, ...]


def plan_volume(instances: Sequence[SourceInstance], rules: VolumeRules) -> Plan:
    """Settle which frames make the volume, in which order and on which grid.

    Raises
    ------
    UnsuitableSeries
        As `workers.volume.series.load_volume` does, short of broken pixel data.
    """
    remarks: list[str] = []
    kept = _without_localizers(_distinct(instances), remarks)
    formats = {id(source): frame_format(source.header) for source in kept}
    count = sum(source.header.number_of_frames for source in kept)
    _require_one_grid(list(formats.values()), count, rules)
    _require_one_frame_of_reference(kept)
    pairs = [
        (SourceFrame(source.header, number), source)
        for source in kept
        for number in range(1, source.header.number_of_frames + 1)
    ]
    stack, order = stack_planes(
        [frame.geometry for frame, _ in pairs],
        orientation_tolerance_degrees=rules.orientation_tolerance_degrees,
    )
    stack, order, spacing_mm, regular = _regular_spacing(stack, order, rules, remarks)
    pairs = [pairs[index] for index in order]
    frames = tuple(frame for frame, _ in pairs)
    unit = unit_of(frames)
    if rules.unit and unit != rules.unit:
        raise UnsuitableSeries(
            "UNIT", f"voxels are in {unit or 'no stated unit'}, not in {rules.unit}"
        )
    return Plan(
        frames=frames,
        sources=tuple(source for _, source in pairs),
        formats=tuple(formats[id(source)] for _, source in pairs),
        meanings=tuple(meaning_of(frame) for frame in frames),
        stack=stack,
        spacing_mm=spacing_mm,
        regular=regular,
        unit=unit,
        remarks=tuple(remarks),
    )


def _distinct(instances: Iterable[SourceInstance]) -> list[SourceInstance]:
    """Return each instance once; two contents under one UID cannot both be meant."""
    found: dict[str, SourceInstance] = {}
    for source in instances:
        known = found.setdefault(source.header.sop_instance_uid, source)
        if known.sha256 != source.sha256:
            raise UnsuitableSeries(
                "CONFLICTING_INSTANCES",
                f"two different instances bear the UID {source.header.sop_instance_uid}",
            )
    return list(found.values())


def _without_localizers(
    instances: list[SourceInstance], remarks: list[str]
) -> list[SourceInstance]:
    images = [source for source in instances if "LOCALIZER" not in source.header.image_type]
    if not images:
        raise UnsuitableSeries("TOO_FEW_SLICES", "the series holds no images but localizers")
    if len(images) < len(instances):
        remarks.append(f"localizers left out: {len(instances) - len(images)}")
    return images


def _require_one_grid(formats: Sequence[FrameFormat], frames: int, rules: VolumeRules) -> None:
    sizes = {(stored.rows, stored.columns) for stored in formats}
    if len(sizes) > 1:
        listed = ", ".join(f"{rows} x {columns}" for rows, columns in sorted(sizes))
        raise UnsuitableSeries("INCONSISTENT_SIZE", f"slices differ in size: {listed}")
    if frames < rules.minimum_slices:
        raise UnsuitableSeries(
            "TOO_FEW_SLICES", f"{frames} slices where {rules.minimum_slices} are needed"
        )
    rows, columns = sizes.pop()
    if frames * rows * columns > rules.maximum_voxels:
        raise UnsuitableSeries(
            "TOO_LARGE", f"{frames} x {rows} x {columns} voxels are more than can be held"
        )


def _require_one_frame_of_reference(instances: Sequence[SourceInstance]) -> None:
    if len({source.header.frame_of_reference_uid for source in instances}) > 1:
        raise UnsuitableSeries(
            "INCONSISTENT_FRAME_OF_REFERENCE", "slices lie in different frames of reference"
        )


def _regular_spacing(
    stack: Stack, order: NDArray[np.intp], rules: VolumeRules, remarks: list[str]
) -> tuple[Stack, NDArray[np.intp], float, bool]:
    """Return the planes to use, their spacing, and whether they are the volume's slices."""
    try:
        spacing_mm = slice_spacing_mm(
            stack.origins_mm, stack.normal, tolerance_fraction=rules.slice_tolerance
        )
        regular = True
    except UnsuitableSeries as error:
        if not rules.allow_resampling or error.reason not in _IRREGULAR:
            raise
        remarks.append(f"resampled evenly: {error.message}")
        again = duplicate_gaps(np.diff(stack.distances_mm)) + 1
        kept = np.setdiff1d(np.arange(len(order)), again)
        if len(kept) < max(2, rules.minimum_slices):
            raise UnsuitableSeries(
                "TOO_FEW_SLICES", f"{len(kept)} slices at different positions"
            ) from error
        stack, order = stack.taking(kept), order[kept]
        spacing_mm, regular = float(np.median(np.diff(stack.distances_mm))), False
    if not stack.is_perpendicular:
        tilt = f"gantry tilt of {stack.tilt_degrees:.1f} degrees"
        if not rules.allow_tilt:
            raise UnsuitableSeries("GANTRY_TILT", tilt)
        remarks.append(f"resampled upright: {tilt}")
        regular = False
    return stack, order, spacing_mm, regular
