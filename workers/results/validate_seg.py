"""The gate for segmentations: places and voxels are the very ones that were found."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from service.core.errors import InvalidResult
from service.core.findings import Analysis
from service.core.headers import SourceFrame
from service.core.profiles import SegForm
from workers.results.context import ResultContext
from workers.results.encode import tag_of
from workers.results.planes import Plane, grid_mm, source_planes
from workers.results.reread import Reread, numbers, text
from workers.results.seg_pixels import SegFrame, fitting_form, grey_of
from workers.results.segments import Segment, segments_of

_PER_FRAME: Final = tag_of("PerFrameFunctionalGroupsSequence")
_REFERENCED_INSTANCE: Final = tag_of("ReferencedSOPInstanceUID")
_REFERENCED_FRAME: Final = tag_of("ReferencedFrameNumber")
_REFERENCED_SEGMENT: Final = tag_of("ReferencedSegmentNumber")
_POSITION: Final = tag_of("ImagePositionPatient")
_ORIENTATION: Final = tag_of("ImageOrientationPatient")
_SPACING: Final = tag_of("PixelSpacing")


def check_segmentation(
    dataset: Dataset,
    again: Reread,
    context: ResultContext,
    analysis: Analysis,
    frames: Sequence[SourceFrame],
) -> None:
    """Compare each frame's place and voxels with the source and the finding's mask."""
    count = int(dataset.NumberOfFrames)
    bits = count * dataset.Rows * dataset.Columns * dataset.BitsAllocated
    check_pixel_bytes(dataset, -(-bits // 8))
    segments = segments_of(analysis)
    form = fitting_form(context.seg_form, segments)
    if dataset.SegmentationType != form.upper():
        raise InvalidResult("IDENTITY_DIFFERS", f"the segmentation is not {form}")
    if again.items.get(_PER_FRAME) != count:
        raise InvalidResult("PIXELS_INCOMPLETE", "frames and their functional groups differ")
    planes = source_planes(frames, made_up=context.made_up_plane)
    if form is SegForm.LABELMAP:
        held = [SegFrame(segments, index) for index in _indices(again, count, frames)]
    else:
        held = [
            SegFrame((segment,), index)
            for segment, index in _frame_order(again, count, segments, frames)
        ]
    _check_planes(again, planes, frames, [frame.index for frame in held])
    if form is SegForm.BINARY:
        _check_voxels(dataset, [(frame.segments[0], frame.index) for frame in held])
    else:
        _check_grey(dataset, form, held)


def _frame_order(
    again: Reread, count: int, segments: Sequence[Segment], frames: Sequence[SourceFrame]
) -> list[tuple[Segment, int]]:
    """Return segment and source frame index of each frame, as the file says."""
    numbers_of = [0] * count
    for element in again.elements:
        if element.root == _PER_FRAME and element.tag == _REFERENCED_SEGMENT:
            numbers_of[element.entry] = int(numbers(element)[0])
    by_number = {segment.number: segment for segment in segments}
    if not set(numbers_of) <= by_number.keys():
        raise InvalidResult("GEOMETRY_DIFFERS", "a frame names no segment of this job")
    indices = _indices(again, count, frames)
    return [(by_number[number], index) for number, index in zip(numbers_of, indices, strict=True)]


def _indices(again: Reread, count: int, frames: Sequence[SourceFrame]) -> list[int]:
    """Return the source frame index of each frame, as the file says."""
    sources, frame_numbers = [""] * count, [1] * count
    for element in again.elements:
        if element.root != _PER_FRAME:
            continue
        if element.tag == _REFERENCED_INSTANCE:
            sources[element.entry] = text(element)
        elif element.tag == _REFERENCED_FRAME:
            frame_numbers[element.entry] = int(text(element))
    index_of = {(f.instance.sop_instance_uid, f.frame_number): i for i, f in enumerate(frames)}
    try:
        return [index_of[place] for place in zip(sources, frame_numbers, strict=True)]
    except KeyError as error:
        raise InvalidResult(
            "GEOMETRY_DIFFERS", "a frame names no source frame of this job"
        ) from error


def _check_planes(
    again: Reread,
    planes: Sequence[Plane] | None,
    frames: Sequence[SourceFrame],
    indices: Sequence[int],
) -> None:
    """Positions, orientations and spacings are the very numbers of the source."""
    placed = 0
    for element in again.elements:
        if element.tag not in (_POSITION, _ORIENTATION, _SPACING):
            continue
        index = indices[element.entry] if element.root == _PER_FRAME else 0
        expected = _expected(planes[index]) if planes else {_SPACING: grid_mm(frames[0])}
        if numbers(element) != expected.get(element.tag):
            raise InvalidResult("GEOMETRY_DIFFERS", f"{element.tag:08x} is not the source's")
        placed += element.tag == _POSITION
    if placed != (len(indices) if planes else 0):
        raise InvalidResult("GEOMETRY_DIFFERS", "frames lack their position")


def _expected(plane: Plane) -> Mapping[int, tuple[float, ...] | None]:
    return {
        _POSITION: plane.position_mm,
        _ORIENTATION: plane.orientation,
        _SPACING: (plane.row_spacing_mm, plane.column_spacing_mm),
    }


def _check_voxels(dataset: Dataset, order: Sequence[tuple[Segment, int]]) -> None:
    """Each frame holds exactly the voxels of its segment on its source frame, and all do."""
    packed = np.frombuffer(dataset.PixelData, np.uint8)
    written = int(np.bitwise_count(packed).sum())
    compared = 0
    for number, (segment, index) in enumerate(order):
        plane = index - segment.mask.offset[0]
        if 0 <= plane < len(segment.mask.voxels):
            expected = segment.mask.voxels[plane]
            found = _block(packed, dataset, number, segment)
            if not np.array_equal(found, expected):
                raise InvalidResult("VOXELS_DIFFER", f"frame {number + 1} is not what was found")
            compared += int(expected.sum())
    drawn = sum(int(s.mask.voxels.sum()) for s in {s.number: s for s, _ in order}.values())
    if not written == compared == drawn:
        raise InvalidResult("VOXELS_DIFFER", f"{written} voxels written, {drawn} found")


def _check_grey(dataset: Dataset, form: SegForm, order: Sequence[SegFrame]) -> None:
    """Each frame of 8 bits holds its segments and nothing else, and every voxel is written."""
    shape = (int(dataset.Rows), int(dataset.Columns))
    size = shape[0] * shape[1]
    pixels = np.frombuffer(dataset.PixelData, np.uint8)
    for number, frame in enumerate(order):
        found = pixels[number * size : (number + 1) * size].reshape(shape)
        if not np.array_equal(found, grey_of(form, frame, shape)):
            raise InvalidResult("VOXELS_DIFFER", f"frame {number + 1} is not what was found")
    drawn = {s.number: int(s.mask.voxels.sum()) for frame in order for s in frame.segments}
    if np.count_nonzero(pixels) != sum(drawn.values()):
        raise InvalidResult("VOXELS_DIFFER", "some voxels are missing")


def _block(
    packed: NDArray[np.uint8], dataset: Dataset, number: int, segment: Segment
) -> NDArray[np.bool_]:
    """Return the block of a segment's mask from one frame, unpacking its rows only."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    _, row, column = segment.mask.offset
    _, height, width = segment.mask.voxels.shape
    first = (number * rows + row) * columns
    last = first + height * columns
    bits = np.unpackbits(packed[first // 8 : -(-last // 8)], bitorder="little")
    lines = bits[first % 8 : first % 8 + height * columns].reshape(height, columns)
    block: NDArray[np.bool_] = lines[:, column : column + width].astype(bool)
    return block


def check_pixel_bytes(dataset: Dataset, expected: int) -> None:
    """Refuse pixel data of another length than its own attributes say."""
    if len(dataset.PixelData) != expected + expected % 2:
        raise InvalidResult("PIXELS_INCOMPLETE", f"{len(dataset.PixelData)} bytes of pixels")
