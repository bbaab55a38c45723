"""The regions: one Segmentation (PS3.3 A.51) for each job, a segment for each lesion.

Only frames that hold something are written unless asked otherwise, sorted by segment and then by
position, one bit a pixel. Destinations that want it get the same regions as probabilities
(FRACTIONAL), or as a label map, whose frames hold all segments of a place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from service.core.errors import ContractViolation
from service.core.findings import Analysis
from service.core.headers import SourceFrame
from service.core.identifiers import result_uid
from service.core.profiles import SegForm
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
from workers.results.seg_pixels import SegFrame, fitting_form, pixel_elements, pixels_of
from workers.results.segments import (
    Segment,
    background_item,
    overlap,
    segment_item,
    segments_of,
)
from workers.results.source import SourceStudy


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
    form = fitting_form(context.seg_form, segments)
    identity = written(context, source, ResultRole.SEG, form.sop_class_uid)
    found = source_planes(frames, made_up=context.made_up_plane)
    planes = PlaneGroups(found) if found else None
    order = _frame_order(segments, frames, planes, form=form, keep_empty=context.keep_empty_frames)
    elements: dict[str, Value] = {
        **common_elements(context, source, identity),
        **_image_elements(context, source, frames, len(order)),
        **pixel_elements(form),
        **_space(context, source, frames, planes),
        **_dimensions(context, planes, form),
        "SegmentSequence": [
            *([background_item()] if form is SegForm.LABELMAP else []),
            *(segment_item(context, segment) for segment in segments),
        ],
        "SegmentsOverlap": "YES" if overlap(segments) else "NO",
        "ReferencedSeriesSequence": referenced_series(
            [reference_of(instance) for instance in analysed_instances(frames)]
        ),
        "SharedFunctionalGroupsSequence": [planes.shared() if planes else flat_measures(frames)],
        "PerFrameFunctionalGroupsSequence": list(_per_frame(order, frames, planes, form)),
        "PixelData": pixels_of(form, order, frames[0]),
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
    form: SegForm,
    keep_empty: bool,
) -> list[SegFrame]:
    """Return what each frame holds: by segment and then position, or in a label map by position."""
    everywhere = range(len(frames))
    ranks = planes.ranks(everywhere) if planes else {index: index for index in everywhere}
    held = {
        segment.number: everywhere if keep_empty else segment.frame_indices for segment in segments
    }
    if form is SegForm.LABELMAP:
        together = sorted({index for indices in held.values() for index in indices})
        together.sort(key=lambda index: ranks[index])
        return [SegFrame(tuple(segments), index) for index in together]
    return [
        SegFrame((segment,), index)
        for segment in segments
        for index in sorted(held[segment.number], key=lambda index: ranks[index])
    ]


def _image_elements(
    context: ResultContext, source: SourceStudy, frames: Sequence[SourceFrame], count: int
) -> dict[str, Value]:
    """Return the image pixel and segmentation image modules (PS3.3 C.7.6.3, C.8.20.2)."""
    lossy = any(f.instance.lossy_image_compression == "01" for f in frames)
    label = "".join(c if c.isascii() and c.isalnum() else "_" for c in context.model.name)
    return {
        "ImageType": ("DERIVED", "PRIMARY"),
        "NumberOfFrames": count,
        "Rows": frames[0].instance.rows,
        "Columns": frames[0].instance.columns,
        "PresentationLUTShape": "IDENTITY",
        "LossyImageCompression": "01" if lossy else "00",
        **(source.lossy_compression if lossy else {}),
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


def _dimensions(
    context: ResultContext, planes: PlaneGroups | None, form: SegForm
) -> dict[str, Value]:
    """Return the multi-frame dimension module: segment, then position (PS3.3 C.7.6.17)."""
    organization = result_uid(context.job_id, "dimension organization")
    pointers = []
    if form is not SegForm.LABELMAP:
        pointers.append(("ReferencedSegmentNumber", "SegmentIdentificationSequence"))
    if planes:
        pointers.append(("ImagePositionPatient", "PlanePositionSequence"))
    if not pointers:  # a label map on an image that lies in no space has one frame and no place
        pointers.append(("FrameLabel", "FrameContentSequence"))
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
    order: Sequence[SegFrame],
    frames: Sequence[SourceFrame],
    planes: PlaneGroups | None,
    form: SegForm,
) -> Iterator[bytes]:
    """Yield the functional groups of every frame; what a source frame says is encoded once."""
    used = sorted({frame.index for frame in order})
    ranks = planes.ranks(used) if planes else {}
    fixed: dict[int, dict[str, Value]] = {
        index: {
            **(planes.of_frame(index) if planes else {}),
            "DerivationImageSequence": [derivation(frames[index])],
        }
        for index in used
    }
    for frame in order:
        place = (ranks[frame.index],) if planes else ()
        if form is SegForm.LABELMAP:
            label = {} if planes else {"FrameLabel": "Segments"}
            content = item(DimensionIndexValues=place or (1,), **label)
            yield encoded({**fixed[frame.index], "FrameContentSequence": [content]})
            continue
        (segment,) = frame.segments
        yield encoded(
            {
                **fixed[frame.index],
                "FrameContentSequence": [item(DimensionIndexValues=(segment.number, *place))],
                "SegmentIdentificationSequence": [item(ReferencedSegmentNumber=segment.number)],
            }
        )
