"""The regions: one binary Segmentation (PS3.3 A.51) for each job, a segment for each lesion.

Only frames that hold something are written unless asked otherwise, sorted by segment and then by
position, one bit a pixel.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from service.core.errors import ContractViolation
from service.core.findings import Analysis
from service.core.headers import SourceFrame
from service.core.identifiers import result_uid
from workers.results.common import (
    analysed_instances,
    check_source,
    common_elements,
    reference_of,
    referenced_series,
    written,
)
from workers.results.context import ResultContext, ResultRole, WrittenResult
from workers.results.encode import Value, clip, encoded, item, part10, tag_of
from workers.results.planes import PlaneGroups, derivation, flat_measures, source_planes
from workers.results.segments import Segment, overlap, segment_item, segments_of
from workers.results.source import SourceStudy

SEGMENTATION_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.66.4"
# Eight frames always fill whole bytes, whatever the number of pixels of a frame.
_FRAMES_PACKED_AT_ONCE: Final = 8


def write_seg(
    context: ResultContext,
    source: SourceStudy,
    analysis: Analysis,
    *,
    frames: Sequence[SourceFrame],
) -> WrittenResult | None:
    """Return the segmentation of an analysis, or None when nothing was drawn.

    Raises
    ------
    ContractViolation
        Of `segments_of`, or ``MASK_OFF_SOURCE`` when a mask leaves the source grid.
    """
    segments = segments_of(analysis)
    if not segments:
        return None
    check_source(source, analysed_instances(frames))
    _check_grid(segments, frames)
    identity = written(context, source, ResultRole.SEG, SEGMENTATION_STORAGE)
    found = source_planes(frames, made_up=context.made_up_plane)
    planes = PlaneGroups(found) if found else None
    order = _frame_order(segments, frames, planes, keep_empty=context.keep_empty_frames)
    elements: dict[str, Value] = {
        **common_elements(context, source, identity),
        **_image_elements(context, source, frames, len(order)),
        **_space(context, source, frames, planes),
        **_dimensions(context, planes),
        "SegmentSequence": [segment_item(context, segment) for segment in segments],
        "SegmentsOverlap": "YES" if overlap(segments) else "NO",
        "ReferencedSeriesSequence": referenced_series(
            [reference_of(instance) for instance in analysed_instances(frames)]
        ),
        "SharedFunctionalGroupsSequence": [planes.shared() if planes else flat_measures(frames)],
        "PerFrameFunctionalGroupsSequence": list(_per_frame(order, frames, planes)),
        "PixelData": _packed(order, frames[0]),
    }
    return replace(identity, content=part10(elements))


def _check_grid(segments: Sequence[Segment], frames: Sequence[SourceFrame]) -> None:
    instance = frames[0].instance
    shape = (len(frames), instance.rows or 0, instance.columns or 0)
    for segment in segments:
        ends = np.add(segment.mask.offset, segment.mask.voxels.shape)
        if min(segment.mask.offset) < 0 or np.any(ends > shape):
            raise ContractViolation(
                "MASK_OFF_SOURCE", f"segment {segment.number} leaves the grid {shape}"
            )


def _frame_order(
    segments: Sequence[Segment],
    frames: Sequence[SourceFrame],
    planes: PlaneGroups | None,
    *,
    keep_empty: bool,
) -> list[tuple[Segment, int]]:
    """Return (segment, source frame index) of every frame, by segment and then position."""
    everywhere = range(len(frames))
    ranks = planes.ranks(everywhere) if planes else {index: index for index in everywhere}
    return [
        (segment, index)
        for segment in segments
        for index in sorted(
            everywhere if keep_empty else segment.frame_indices,
            key=lambda index: ranks[index],
        )
    ]


def _image_elements(
    context: ResultContext, source: SourceStudy, frames: Sequence[SourceFrame], count: int
) -> dict[str, Value]:
    """Return the image pixel and segmentation image modules (PS3.3 C.7.6.3, C.8.20.2)."""
    lossy = any(f.instance.lossy_image_compression == "01" for f in frames)
    label = "".join(c if c.isascii() and c.isalnum() else "_" for c in context.model.name)
    return {
        "ImageType": ("DERIVED", "PRIMARY"),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "NumberOfFrames": count,
        "Rows": frames[0].instance.rows,
        "Columns": frames[0].instance.columns,
        "BitsAllocated": 1,
        "BitsStored": 1,
        "HighBit": 0,
        "PixelRepresentation": 0,
        "PresentationLUTShape": "IDENTITY",
        "LossyImageCompression": "01" if lossy else "00",
        **(source.lossy_compression if lossy else {}),
        "SegmentationType": "BINARY",
        "ContentLabel": label.upper()[:16],
        "ContentDescription": clip(f"AI {context.model.title}"),
        "ContentCreatorName": clip(context.model.manufacturer.replace("^", " "), 60) + "^AI",
    }


def _space(
    context: ResultContext,
    source: SourceStudy,
    frames: Sequence[SourceFrame],
    planes: PlaneGroups | None,
) -> dict[str, Value]:
    """Return the frame of reference, or the patient's orientation where there is none."""
    if not planes:
        return {"PatientOrientation": source.patient_orientation or None}
    own = frames[0].instance.frame_of_reference_uid
    return {
        "FrameOfReferenceUID": own or result_uid(context.job_id, "frame of reference"),
        "PositionReferenceIndicator": source.position_reference_indicator or None,
    }


def _dimensions(context: ResultContext, planes: PlaneGroups | None) -> dict[str, Value]:
    """Return the multi-frame dimension module: segment, then position (PS3.3 C.7.6.17)."""
    organization = result_uid(context.job_id, "dimension organization")
    pointers = [("ReferencedSegmentNumber", "SegmentIdentificationSequence")]
    if planes:
        pointers.append(("ImagePositionPatient", "PlanePositionSequence"))
    return {
        "DimensionOrganizationSequence": [item(DimensionOrganizationUID=organization)],
        "DimensionIndexSequence": [
            item(
                DimensionOrganizationUID=organization,
                DimensionIndexPointer=tag_of(attribute),
                FunctionalGroupPointer=tag_of(group),
            )
            for attribute, group in pointers
        ],
    }


def _per_frame(
    order: Sequence[tuple[Segment, int]],
    frames: Sequence[SourceFrame],
    planes: PlaneGroups | None,
) -> Iterator[bytes]:
    """Yield the functional groups of every frame; what a source frame says is encoded once."""
    used = sorted({index for _, index in order})
    ranks = planes.ranks(used) if planes else {}
    fixed: dict[int, dict[str, Value]] = {
        index: {
            **(planes.of_frame(index) if planes else {}),
            "DerivationImageSequence": [derivation(frames[index])],
        }
        for index in used
    }
    for segment, index in order:
        place = (segment.number, ranks[index]) if planes else (segment.number,)
        yield encoded(
            {
                **fixed[index],
                "FrameContentSequence": [item(DimensionIndexValues=place)],
                "SegmentIdentificationSequence": [item(ReferencedSegmentNumber=segment.number)],
            }
        )


def _packed(order: Sequence[tuple[Segment, int]], frame: SourceFrame) -> bytes:
    """Return all frames as one run of bits, the first pixel in the lowest bit (PS3.5 8.1.1)."""
    rows, columns = frame.instance.rows or 0, frame.instance.columns or 0
    parts: list[bytes] = []
    for start in range(0, len(order), _FRAMES_PACKED_AT_ONCE):
        some = order[start : start + _FRAMES_PACKED_AT_ONCE]
        images = np.zeros((len(some), rows, columns), bool)
        for image, (segment, index) in zip(images, some, strict=True):
            segment.draw(index, image)
        parts.append(np.packbits(images.reshape(-1), bitorder="little").tobytes())
    return b"".join(parts)
