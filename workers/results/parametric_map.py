"""Where the evidence lies: one Parametric Map (PS3.3 A.75), a frame for each finding with a map.

The whole range of 16 bits is 0 to 1. A radiograph lies in no space but a map must; its pixels then
get a plane of their own.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.core import codes
from service.core.errors import ContractViolation
from service.core.findings import Analysis, Finding
from service.core.headers import SourceFrame
from service.core.identifiers import result_uid
from workers.results.common import (
    analysed_instances,
    check_source,
    code_item,
    common_elements,
    reference_of,
    referenced_series,
    written,
)
from workers.results.context import ResultContext, ResultRole, WrittenResult
from workers.results.encode import Value, clip, encoded, item, part10, tag_of
from workers.results.planes import PlaneGroups, derivation, source_planes
from workers.results.source import SourceStudy

PARAMETRIC_MAP_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.30"
FULL_SCALE: Final = 65535
_IMAGE_TYPE: Final = ("DERIVED", "PRIMARY", "NONE", "NONE")


def write_parametric_map(
    context: ResultContext,
    source: SourceStudy,
    analysis: Analysis,
    *,
    frames: Sequence[SourceFrame],
) -> WrittenResult | None:
    """Return the maps of an analysis; None without one, or where pixels have no known size.

    Raises
    ------
    ContractViolation
        ``MASK_OFF_SOURCE`` when a map is of another size than its frame.
    """
    mapped = mapped_findings(analysis, frames)
    planes = source_planes(frames, made_up=True)
    if not mapped or planes is None:
        return None
    check_source(source, analysed_instances(frames))
    shown = [frames[index] for _, index in mapped]
    groups = PlaneGroups(planes)
    identity = written(context, source, ResultRole.PARAMETRIC_MAP, PARAMETRIC_MAP_STORAGE)
    lossy = any(frame.instance.lossy_image_compression == "01" for frame in shown)
    own = frames[0].instance.frame_of_reference_uid
    elements: dict[str, Value] = {
        **common_elements(context, source, identity),
        "FrameOfReferenceUID": own or result_uid(context.job_id, "frame of reference"),
        "PositionReferenceIndicator": source.position_reference_indicator or None,
        "Laterality": None,
        **_pixel_module(frames[0], len(mapped)),
        "ContentQualification": "RESEARCH" if context.research_only else "PRODUCT",
        "ContentLabel": "AI_EVIDENCE",
        "ContentDescription": clip(f"AI {context.model.title}"),
        "ContentCreatorName": clip(context.model.manufacturer.replace("^", " "), 60) + "^AI",
        "AcquisitionContextSequence": [],
        "BurnedInAnnotation": "NO",
        "RecognizableVisualFeatures": "NO",
        "LossyImageCompression": "01" if lossy else "00",
        **(source.lossy_compression if lossy else {}),
        "ReferencedSeriesSequence": referenced_series(
            [reference_of(instance) for instance in analysed_instances(shown)]
        ),
        **_dimensions(context),
        "SharedFunctionalGroupsSequence": [groups.shared() + _shared()],
        "PerFrameFunctionalGroupsSequence": [
            _frame(finding, number, groups.of_frame(index), frames[index])
            for number, (finding, index) in enumerate(mapped, start=1)
        ],
        "PixelData": b"".join(
            scaled(analysis.maps[finding.id], frames[index]).tobytes() for finding, index in mapped
        ),
    }
    return replace(identity, content=part10(elements))


def mapped_findings(analysis: Analysis, frames: Sequence[SourceFrame]) -> list[tuple[Finding, int]]:
    """Return the findings that have a map, each with the index of the frame that it lies on."""
    index_of = {(f.instance.sop_instance_uid, f.frame_number): i for i, f in enumerate(frames)}
    return [
        (finding, index_of[finding.location.sop_instance_uid, finding.location.frame_number])
        for finding in analysis.findings
        if finding.id in analysis.maps and finding.location
    ]


def scaled(heat: NDArray[np.float32], frame: SourceFrame) -> NDArray[np.uint16]:
    """Return a map of 0 to 1 as 16 bits a pixel, little endian, in the frame's shape."""
    if heat.shape != (frame.instance.rows, frame.instance.columns):
        raise ContractViolation("MASK_OFF_SOURCE", f"a map of {heat.shape} is not its frame's")
    levels = np.rint(np.clip(heat, 0, 1).astype(np.float64) * FULL_SCALE)
    return levels.astype("<u2")


def _pixel_module(frame: SourceFrame, count: int) -> dict[str, Value]:
    return {
        "ImageType": _IMAGE_TYPE,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PresentationLUTShape": "IDENTITY",
        "NumberOfFrames": count,
        "Rows": frame.instance.rows,
        "Columns": frame.instance.columns,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
    }


def _dimensions(context: ResultContext) -> dict[str, Value]:
    """Return the one dimension: which finding a frame is about (PS3.3 C.7.6.17)."""
    organization = result_uid(context.job_id, "map dimension organization")
    return {
        "DimensionOrganizationSequence": [item(DimensionOrganizationUID=organization)],
        "DimensionIndexSequence": [
            item(
                DimensionOrganizationUID=organization,
                DimensionIndexPointer=tag_of("LUTLabel"),
                FunctionalGroupPointer=tag_of("RealWorldValueMappingSequence"),
            )
        ],
    }


def _shared() -> bytes:
    """Return what holds for every map; its tags are above those of planes."""
    frame_type = item(FrameType=_IMAGE_TYPE)
    identity = item(RescaleIntercept=0, RescaleSlope=1, RescaleType="US")
    window = item(WindowCenter=(FULL_SCALE + 1) / 2, WindowWidth=FULL_SCALE + 1)
    return item(
        FrameVOILUTSequence=[window],
        PixelValueTransformationSequence=[identity],
        ParametricMapFrameTypeSequence=[frame_type],
    )


def _frame(finding: Finding, number: int, place: dict[str, Value], frame: SourceFrame) -> bytes:
    """Return the functional groups of one map."""
    quantity = item(
        ValueType="CODE",
        ConceptNameCodeSequence=[code_item(codes.QUANTITY)],
        ConceptCodeSequence=[code_item(codes.CLASS_ACTIVATION)],
    )
    mapping = item(
        RealWorldValueFirstValueMapped=0,
        RealWorldValueLastValueMapped=FULL_SCALE,
        RealWorldValueIntercept=0.0,
        RealWorldValueSlope=1 / FULL_SCALE,
        LUTExplanation=clip(f"Evidence for {finding.label.meaning}"),
        LUTLabel=clip(finding.tracking_id, 16),
        MeasurementUnitsCodeSequence=[code_item(codes.NO_UNITS)],
        QuantityDefinitionSequence=[quantity],
    )
    return encoded(
        {
            **place,
            "FrameContentSequence": [item(DimensionIndexValues=number)],
            "DerivationImageSequence": [derivation(frame)],
            "RealWorldValueMappingSequence": [mapping],
        }
    )
