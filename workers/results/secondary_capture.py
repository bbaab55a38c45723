"""The picture: one RGB Secondary Capture (PS3.3 A.8.1) that any PACS shows.

Its text is burned in and declared so; the patient is named in the header only.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from service.core import codes
from service.core.findings import Analysis
from service.core.headers import SourceFrame
from workers.results.common import (
    analysed_instances,
    check_source,
    code_item,
    common_elements,
    reference_of,
    written,
)
from workers.results.context import (
    RESEARCH_ONLY,
    InstanceReference,
    ResultContext,
    ResultRole,
    WrittenResult,
)
from workers.results.encode import Value, item, part10
from workers.results.groups import shown_frames
from workers.results.rendering import Display, Rgb, summary_image
from workers.results.source import SourceStudy

SECONDARY_CAPTURE_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.7"


def write_secondary_capture(
    context: ResultContext,
    source: SourceStudy,
    analysis: Analysis,
    *,
    frames: Sequence[SourceFrame],
    display: Display,
) -> WrittenResult:
    """Return a summary picture of an analysis."""
    check_source(source, analysed_instances(frames))
    model = context.model
    lines = [f"AI {model.title}  {model.name} {model.version}", context.standing]
    if context.research_only:
        lines.append(RESEARCH_ONLY)
    picture = summary_image(analysis, frames, display, lines)
    shown = shown_frames(analysis.findings, frames) or frames[:1]
    identity = written(context, source, ResultRole.SECONDARY_CAPTURE, SECONDARY_CAPTURE_STORAGE)
    common = common_elements(context, source, identity)
    elements: dict[str, Value] = {
        **common,
        **_pixels(picture),
        "ImageType": ("DERIVED", "SECONDARY"),
        "ConversionType": "WSD",
        "DateOfSecondaryCapture": common["ContentDate"],
        "TimeOfSecondaryCapture": common["ContentTime"],
        "PatientOrientation": None,
        "Laterality": None,
        "BurnedInAnnotation": "YES",
        "RecognizableVisualFeatures": "NO",
        "DerivationDescription": "Findings of an algorithm drawn on the source; not for diagnosis",
        "SourceImageSequence": [
            _source_image(reference_of(instance)) for instance in analysed_instances(shown)
        ],
    }
    if any(f.instance.lossy_image_compression == "01" for f in frames):
        elements.update({"LossyImageCompression": "01", **source.lossy_compression})
    return replace(identity, content=part10(elements))


def _source_image(reference: InstanceReference) -> bytes:
    return item(
        ReferencedSOPClassUID=reference.sop_class_uid,
        ReferencedSOPInstanceUID=reference.sop_instance_uid,
        PurposeOfReferenceCodeSequence=[code_item(codes.SOURCE_IMAGE_FOR_PROCESSING)],
    )


def _pixels(picture: Rgb) -> dict[str, Value]:
    """Return the image pixel module of an RGB picture, colours interleaved."""
    rows, columns, samples = picture.shape
    return {
        "SamplesPerPixel": samples,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        "PixelData": picture.tobytes(),
    }
