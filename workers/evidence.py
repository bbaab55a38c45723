"""A run's masks and maps as bytes, kept so that its results can be made anew without the network.

Masks are kept to the voxel; maps, which are only ever drawn, at a quarter of a thousand steps and
at most 512 pixels a side.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.core.errors import ContractViolation
from service.core.findings import Analysis, FindingMask
from service.core.headers import SourceFrame
from service.records.results import StoredAnalysis

_MAP_EDGE: Final = 512
_STEPS: Final = 255
_BITS, _PLACE, _MAP, _SIZE = "bits", "place", "map", "size"


def kept(analysis: Analysis, frames: Sequence[SourceFrame]) -> StoredAnalysis:
    """Return what is to be kept of an analysis: masks and maps, and the frames they lie on."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for finding_id, mask in analysis.masks.items():
        place = np.array([*mask.offset, *mask.voxels.shape], np.int64)
        arrays[f"{_BITS}:{finding_id}"] = np.packbits(mask.voxels)
        arrays[f"{_PLACE}:{finding_id}"] = place
    for finding_id, evidence in analysis.maps.items():
        arrays[f"{_MAP}:{finding_id}"] = _reduced(evidence)
        arrays[f"{_SIZE}:{finding_id}"] = np.array(evidence.shape, np.int64)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    places = [(frame.instance.sop_instance_uid, frame.frame_number) for frame in frames]
    return StoredAnalysis(places, buffer.getvalue())


def masks_and_maps(
    stored: StoredAnalysis,
) -> tuple[dict[str, FindingMask], dict[str, NDArray[np.float32]]]:
    """Return masks and maps by finding id.

    Raises
    ------
    ContractViolation
        ``EVIDENCE_UNREADABLE`` when the bytes are not what was kept.
    """
    try:
        with np.load(io.BytesIO(stored.evidence), allow_pickle=False) as arrays:
            named = {name: arrays[name] for name in arrays.files}
        return _masks(named), _maps(named)
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise ContractViolation("EVIDENCE_UNREADABLE", "the stored masks do not parse") from error


def _masks(named: Mapping[str, NDArray[np.generic]]) -> dict[str, FindingMask]:
    masks = {}
    for finding_id in _ids(named, _BITS):
        first, row, column, *shape = (int(value) for value in named[f"{_PLACE}:{finding_id}"])
        bits = np.asarray(named[f"{_BITS}:{finding_id}"], np.uint8)
        voxels = np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
        masks[finding_id] = FindingMask((first, row, column), voxels)
    return masks


def _maps(named: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
    maps = {}
    for finding_id in _ids(named, _MAP):
        rows, columns = (int(value) for value in named[f"{_SIZE}:{finding_id}"])
        small = Image.fromarray(np.asarray(named[f"{_MAP}:{finding_id}"], np.uint8))
        whole = small.resize((columns, rows), Image.Resampling.BILINEAR)
        maps[finding_id] = np.asarray(whole, np.float32) / np.float32(_STEPS)
    return maps


def _ids(named: Mapping[str, NDArray[np.generic]], kind: str) -> list[str]:
    return [name.partition(":")[2] for name in named if name.startswith(f"{kind}:")]


def _reduced(evidence: NDArray[np.float32]) -> NDArray[np.uint8]:
    steps = np.round(np.clip(evidence, 0, 1) * _STEPS).astype(np.uint8)
    image = Image.fromarray(steps)
    image.thumbnail((_MAP_EDGE, _MAP_EDGE), Image.Resampling.BILINEAR)
    return np.asarray(image)
