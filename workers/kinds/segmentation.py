"""Segmentation: class maps become lesion instances inside their organs, each one measured."""

from collections.abc import Iterator
from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.core.errors import InvalidModel
from service.core.findings import Analysis
from service.core.manifest_output import ClassSpec, SegmentationDecoding
from workers.kinds.class_maps import ClassMaps, class_maps
from workers.kinds.contract import Context, logit, sigmoid
from workers.kinds.guards import features_of, judge, judge_organs
from workers.kinds.measurements import measure_mask
from workers.kinds.scan import Scan
from workers.kinds.statements import Statement, analysis_of
from workers.volume.resample import mask_from_grid
from workers.volume.series import Volume

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Box = tuple[slice, slice, slice]

_BLOCK_MARGIN = 2
_TOUCH_VOXELS = 2


@dataclass(frozen=True)
class _Piece:
    """A connected piece of one class: the box that holds it, and its voxels in the box."""

    box: Box
    voxels: Mask
    size: int


class Segmentation:
    """Outlines lesions and organs of a volume."""

    def analyse(self, image: Volume, context: Context) -> Analysis:
        """Return every lesion above the floor, and the organs that are to be reported.

        Raises
        ------
        UnsuitableSeries
            When a guard refuses the scan, before or after the network ran.
        ContractViolation
            When the network breaks its promise.
        """
        scan = Scan(image)
        features = features_of(scan.coarse, scan.anatomy, image.voxels)
        scores = judge(context.manifest.guard, features, package=context.package)
        maps = class_maps(scan, context)
        organs = _organs(maps, context)
        volumes_ml = {
            name: float(mask.sum()) * maps.voxel_mm3 / 1000 for name, mask in organs.items()
        }
        judge_organs(context.manifest.guard, volumes_ml)
        scores |= {f"{name}_volume_ml": volume for name, volume in volumes_ml.items()}
        statements = [
            *_lesions(maps, organs, scan, context),
            *_reported_organs(maps, organs, scan, context),
        ]
        return analysis_of(statements, context, scores)


def decoding_of(context: Context) -> SegmentationDecoding:
    """Return the manifest's decoding, which for this kind is that of a segmentation."""
    decoding = context.manifest.decoding
    if not isinstance(decoding, SegmentationDecoding):
        raise InvalidModel("MANIFEST", f"{context.package}: decoding.kind: found {decoding.kind}")
    return decoding


def _organs(maps: ClassMaps, context: Context) -> dict[str, Mask]:
    """Return the mask of each organ; lesions count to the organ that they have to touch.

    Without them a large lesion would split its organ, and the part beyond be lost.
    """
    decoding = decoding_of(context)
    organs = {}
    for channel, spec in enumerate(context.manifest.classes):
        if spec.kind != "organ":
            continue
        mask = maps.margin(channel) >= 0
        if spec.name == decoding.within:
            for lesion in _lesion_channels(context):
                mask |= maps.margin(lesion, threshold=decoding.lesion_threshold) >= 0
        if decoding.largest_organ_only:
            mask = _largest(mask)
        organs[spec.name] = mask
    return organs


def _lesion_channels(context: Context) -> list[int]:
    classes = context.manifest.classes
    return [channel for channel, spec in enumerate(classes) if spec.kind == "lesion"]


def _largest(mask: Mask) -> Mask:
    labels = cc3d.connected_components(mask, connectivity=6)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax(), dtype=np.bool_) & mask


def _lesions(
    maps: ClassMaps, organs: dict[str, Mask], scan: Scan, context: Context
) -> list[Statement]:
    decoding = decoding_of(context)
    near = _near(organs, decoding)
    statements = []
    for channel in _lesion_channels(context):
        spec = context.manifest.classes[channel]
        margin = maps.margin(channel, threshold=decoding.lesion_threshold)
        for piece in _pieces(margin >= 0, maps, decoding):
            if near is None or (near[piece.box] & piece.voxels).any():
                said = _stated(spec, piece, channel, margin, maps, scan, context)
                statements += [said] if said else []
    statements.sort(key=lambda statement: -statement.probability)
    return statements[: decoding.max_lesions]


def _near(organs: dict[str, Mask], decoding: SegmentationDecoding) -> Mask | None:
    """Return where a lesion of the organ has to reach, or None where none is named."""
    if decoding.within is None:
        return None
    return np.asarray(
        ndimage.binary_dilation(organs[decoding.within], iterations=_TOUCH_VOXELS), dtype=np.bool_
    )


def _pieces(mask: Mask, maps: ClassMaps, decoding: SegmentationDecoding) -> Iterator[_Piece]:
    """Yield the connected pieces that are large enough."""
    labels = cc3d.connected_components(mask, connectivity=decoding.connectivity)
    sizes = np.bincount(labels.ravel())
    least = max(1.0, decoding.minimum_volume_mm3 / maps.voxel_mm3)
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None and sizes[label] >= least:
            yield _Piece(box, labels[box] == label, int(sizes[label]))


def _stated(
    spec: ClassSpec,
    piece: _Piece,
    channel: int,
    margin: Array,
    maps: ClassMaps,
    scan: Scan,
    context: Context,
) -> Statement | None:
    """Return a piece as a statement, or nothing when it is too small or too improbable."""
    decoding = decoding_of(context)
    probability = _probability(maps.probabilities[channel][piece.box][piece.voxels], spec, context)
    if probability < decoding.floor:
        return None
    box, own = _widened(piece, margin.shape)
    # Half-way between this class and the strongest other is the border; other pieces in the box
    # are set to what is surely not this one.
    block = np.where((margin[box] >= 0) & ~own, np.float32(0), np.float32(0.5) * (margin[box] + 1))
    start = [side.start for side in box]
    mask = mask_from_grid(block, maps.grid, scan.volume, offset=start, threshold=0.5)
    if not mask.voxels.size:
        return None
    measured = measure_mask(mask, scan.volume, ("long_axis", *context.manifest.measurements.take))
    longest, *wanted = measured.measurements
    if spec.kind == "lesion" and longest.value < decoding.minimum_diameter_mm:
        return None
    return Statement(
        spec=spec,
        probability=probability,
        measured=type(measured)(tuple(wanted), measured.location),
        mask=mask,
    )


def _probability(values: Array, spec: ClassSpec, context: Context) -> float:
    own = context.manifest.calibration.of(spec.name)
    scaled = logit(float(values.mean())) / own.temperature + own.bias
    return float(sigmoid(np.array([scaled], dtype=np.float32))[0])


def _widened(piece: _Piece, shape: tuple[int, ...]) -> tuple[Box, Mask]:
    """Return the piece's box with a margin, and its voxels there."""
    sides = [
        slice(max(side.start - _BLOCK_MARGIN, 0), min(side.stop + _BLOCK_MARGIN, length))
        for side, length in zip(piece.box, shape, strict=True)
    ]
    own = np.zeros([side.stop - side.start for side in sides], dtype=np.bool_)
    place = tuple(
        slice(inner.start - outer.start, inner.stop - outer.start)
        for inner, outer in zip(piece.box, sides, strict=True)
    )
    own[place] = piece.voxels
    return (sides[0], sides[1], sides[2]), own


def _reported_organs(
    maps: ClassMaps, organs: dict[str, Mask], scan: Scan, context: Context
) -> list[Statement]:
    statements = []
    for channel, spec in enumerate(context.manifest.classes):
        if spec.kind == "organ" and spec.report and organs[spec.name].any():
            mask = organs[spec.name]
            box = ndimage.find_objects(mask.astype(np.uint8))[0]
            piece = _Piece(box, mask[box], int(mask.sum()))
            said = _stated(spec, piece, channel, maps.margin(channel), maps, scan, context)
            statements += [said] if said else []
    return statements
