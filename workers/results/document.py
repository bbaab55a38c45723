"""The report as a document: one Encapsulated PDF (PS3.3 A.45.1), for whoever opens nothing else."""

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
    sop_reference,
    written,
)
from workers.results.context import ResultContext, ResultRole, WrittenResult
from workers.results.encode import Value, clip, part10
from workers.results.groups import shown_frames
from workers.results.rendering import Display, key_images
from workers.results.sheet import sheet_of
from workers.results.source import SourceStudy
from workers.results.typesetting import typeset

ENCAPSULATED_PDF: Final = "1.2.840.10008.5.1.4.1.1.104.1"
MIME_TYPE: Final = "application/pdf"


def write_document(
    context: ResultContext,
    source: SourceStudy,
    analysis: Analysis,
    *,
    frames: Sequence[SourceFrame],
    display: Display | None = None,
) -> WrittenResult:
    """Return the report of an analysis as a document, with key images where pixels are given."""
    check_source(source, analysed_instances(frames))
    pictures = key_images(analysis, frames, display) if display else []
    captions = [f"Key image {number}" for number in range(1, len(pictures) + 1)]
    sheet = sheet_of(context, source, analysis, frames=frames, captions=captions)
    pdf = typeset(sheet, pictures, created_at=context.created_at)
    identity = written(context, source, ResultRole.PDF, ENCAPSULATED_PDF)
    shown = shown_frames(analysis.findings, frames) or frames[:1]
    elements: dict[str, Value] = {
        **common_elements(context, source, identity),
        "ConversionType": "WSD",
        "AcquisitionDateTime": None,
        "BurnedInAnnotation": "YES",  # the patient's name stands in it
        "RecognizableVisualFeatures": "NO",
        "SourceInstanceSequence": [
            sop_reference(reference_of(instance)) for instance in analysed_instances(shown)
        ],
        "DocumentTitle": clip(f"AI report: {context.model.title}"),
        "ConceptNameCodeSequence": [code_item(codes.DIAGNOSTIC_IMAGING_REPORT)],
        "VerificationFlag": "UNVERIFIED",
        "MIMETypeOfEncapsulatedDocument": MIME_TYPE,
        "EncapsulatedDocumentLength": len(pdf),
        "EncapsulatedDocument": pdf,
    }
    return replace(identity, content=part10(elements))
