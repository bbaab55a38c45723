"""The gate: nothing that fails here is archived or delivered.

A written result is read back from its bytes, by pydicom and by `workers.results.reread`, and
compared with what it was made from: identity, references, tracking, geometry and voxels.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from service.core.errors import InvalidResult
from service.core.findings import Analysis
from service.core.headers import SourceFrame
from service.core.identifiers import is_uid
from workers.results.charset import decoded
from workers.results.context import (
    FIRST_SERIES_NUMBER,
    ResultContext,
    ResultRole,
    WrittenResult,
)
from workers.results.encode import tag_of
from workers.results.reread import Reread, numbers, reread, text
from workers.results.source import SourceStudy
from workers.results.validate_drawn import check_contours, check_maps
from workers.results.validate_kinds import check_annotations, check_document, check_listed
from workers.results.validate_seg import check_pixel_bytes, check_segmentation

# Attributes of the modules of each IOD (PS3.3 A.8, A.35, A.51): Type 1 must have a value, Type 2
# must be present.
_TYPE_1: Final = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID",
    "SeriesInstanceUID", "Modality", "SeriesNumber", "InstanceNumber", "Manufacturer",
    "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions",
    "ContributingEquipmentSequence",
)  # fmt: skip
_TYPE_2: Final = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
_DATED: Final = ("ContentDate", "ContentTime")
_IMAGE: Final = (
    *_DATED, "ImageType", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData",
)  # fmt: skip
_KEY_OBJECTS: Final = (
    *_DATED, "ValueType", "ConceptNameCodeSequence", "ContinuityOfContent",
    "ContentTemplateSequence",
    "ContentSequence", "CurrentRequestedProcedureEvidenceSequence",
)  # fmt: skip
_OF_ROLE: Final[Mapping[ResultRole, tuple[str, ...]]] = {
    ResultRole.SR: (
        *_DATED, "CompletionFlag", "VerificationFlag", "PreliminaryFlag", "ValueType",
        "ConceptNameCodeSequence", "ContinuityOfContent", "ContentTemplateSequence",
        "ContentSequence", "CurrentRequestedProcedureEvidenceSequence",
    ),
    ResultRole.SEG: (
        *_IMAGE, "NumberOfFrames", "SegmentationType", "SegmentSequence", "ContentLabel",
        "SegmentsOverlap", "ReferencedSeriesSequence", "DimensionOrganizationSequence",
        "DimensionIndexSequence", "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence", "LossyImageCompression",
    ),
    ResultRole.SECONDARY_CAPTURE: (
        *_IMAGE, "ConversionType", "BurnedInAnnotation", "SourceImageSequence",
    ),
    ResultRole.PRESENTATION_STATE: (
        "ContentLabel", "PresentationCreationDate", "PresentationCreationTime",
        "ReferencedSeriesSequence", "DisplayedAreaSelectionSequence", "GraphicLayerSequence",
        "GraphicAnnotationSequence", "PresentationLUTShape",
    ),
    ResultRole.PDF: (
        *_DATED, "BurnedInAnnotation", "MIMETypeOfEncapsulatedDocument", "EncapsulatedDocument",
        "EncapsulatedDocumentLength", "SourceInstanceSequence", "DocumentTitle", "ConversionType",
    ),
    ResultRole.STRUCTURE_SET: (
        "StructureSetLabel", "StructureSetDate", "FrameOfReferenceUID", "ApprovalStatus",
        "ReferencedFrameOfReferenceSequence", "StructureSetROISequence", "ROIContourSequence",
        "RTROIObservationsSequence",
    ),
    ResultRole.PARAMETRIC_MAP: (
        *_IMAGE, "NumberOfFrames", "FrameOfReferenceUID", "ContentQualification", "ContentLabel",
        "ReferencedSeriesSequence", "DimensionOrganizationSequence", "DimensionIndexSequence",
        "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
        "LossyImageCompression",
    ),
    ResultRole.KEY_OBJECTS: _KEY_OBJECTS,
    ResultRole.REJECTION_NOTE: _KEY_OBJECTS,
}  # fmt: skip
_GRAMMAR: Final[Mapping[bytes, re.Pattern[bytes]]] = {
    b"AS": re.compile(rb"(\d{3}[DWMY])?"),
    b"CS": re.compile(rb"([A-Z0-9_ ]{0,16})(\\[A-Z0-9_ ]{0,16})*"),
    b"DA": re.compile(rb"(\d{8})?"),
    b"DS": re.compile(rb"([0-9+\-.eE ]{1,16}(\\[0-9+\-.eE ]{1,16})*)?"),
    b"IS": re.compile(rb"([0-9+\- ]{1,12}(\\[0-9+\- ]{1,12})*)?"),
    b"TM": re.compile(rb"(\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?)?"),
}
UTF_8: Final = "ISO_IR 192"
_ROUNDING_PIXELS: Final = 0.01
_TEXT: Final = frozenset({b"LO", b"LT", b"PN", b"SH", b"ST", b"UC", b"UT"})


_CONTENT: Final = tag_of("ContentSequence")
_EVIDENCE: Final = tag_of("CurrentRequestedProcedureEvidenceSequence")
_REFERENCED_SERIES: Final = tag_of("ReferencedSeriesSequence")
_ANNOTATIONS: Final = tag_of("GraphicAnnotationSequence")
_PER_FRAME: Final = tag_of("PerFrameFunctionalGroupsSequence")
_REFERENCED_INSTANCE: Final = tag_of("ReferencedSOPInstanceUID")
_GRAPHIC_DATA: Final = tag_of("GraphicData")
_UID_VALUE: Final = tag_of("UID")


def validate_result(
    result: WrittenResult,
    context: ResultContext,
    source: SourceStudy,
    *,
    analysis: Analysis | None,
    frames: Sequence[SourceFrame],
) -> None:
    """Refuse a result that a PACS or a reader could not take at its word.

    Parameters
    ----------
    analysis
        What was written; None for the report of a study that was not analysed.
    frames
        The frames that were analysed, in the order that masks refer to.

    Raises
    ------
    InvalidResult
        ``UNREADABLE``, ``IDENTITY_DIFFERS``, ``MISSING_ATTRIBUTE``, ``INVALID_VALUE``,
        ``INVALID_UID``, ``INVALID_TEXT``, ``SERIES_UNMARKED``, ``EVIDENCE_INCOMPLETE``,
        ``TRACKING_DIFFERS``, ``REGION_OUTSIDE``, ``GEOMETRY_DIFFERS``, ``VOXELS_DIFFER``,
        ``PIXELS_INCOMPLETE``, ``LAYER_MISSING``, ``RESCALE_DIFFERS`` or ``DOCUMENT_BROKEN``.
    """
    again = reread(result.content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # over-long values of the source's patient are kept
        _check(result, again, context, source, analysis=analysis, frames=frames)


def _check(
    result: WrittenResult,
    again: Reread,
    context: ResultContext,
    source: SourceStudy,
    *,
    analysis: Analysis | None,
    frames: Sequence[SourceFrame],
) -> None:
    dataset = _opened(result.content)
    _check_identity(dataset, result, source)
    _check_attributes(dataset, result.role)
    _check_series(dataset, context)
    check_values(again, _plain(dataset, "SpecificCharacterSet"))
    if result.role is ResultRole.SR:
        check_evidence(again, root=_CONTENT, evidence=_EVIDENCE)
        _check_regions(again, frames)
        _check_tracking(again, analysis)
    elif result.role is ResultRole.SEG and analysis is not None:
        check_evidence(again, root=_PER_FRAME, evidence=_REFERENCED_SERIES)
        check_segmentation(dataset, again, context, analysis, frames)
    elif result.role in (ResultRole.KEY_OBJECTS, ResultRole.REJECTION_NOTE):
        check_evidence(again, root=_CONTENT, evidence=_EVIDENCE)
        check_listed(again)
    elif result.role is ResultRole.PRESENTATION_STATE:
        check_evidence(again, root=_ANNOTATIONS, evidence=_REFERENCED_SERIES)
        check_annotations(dataset, again, frames)
    elif result.role is ResultRole.PDF:
        check_document(dataset)
    elif result.role is ResultRole.STRUCTURE_SET and analysis is not None:
        check_contours(dataset, analysis, frames)
    elif result.role is ResultRole.PARAMETRIC_MAP and analysis is not None:
        check_evidence(again, root=_PER_FRAME, evidence=_REFERENCED_SERIES)
        check_maps(dataset, analysis, frames)
    elif result.role is ResultRole.SECONDARY_CAPTURE:
        check_pixel_bytes(dataset, dataset.Rows * dataset.Columns * dataset.SamplesPerPixel)


def check_values(again: Reread, character_set: str = UTF_8) -> None:
    """Refuse values that break the grammar of their VR (PS3.5 section 6.2)."""
    uids: set[bytes] = set()
    for element in again.elements:
        if element.vr == b"UI":
            uids.update(element.value.rstrip(b"\0").split(b"\\"))
        elif element.vr in _TEXT:
            _check_text(element.tag, element.value, character_set)
        else:
            grammar = _GRAMMAR.get(element.vr)
            if grammar and not grammar.fullmatch(element.value.rstrip(b" ")):
                raise InvalidResult(
                    "INVALID_VALUE", f"{element.tag:08x} breaks the grammar of its VR"
                )
    for uid in uids - {b""}:
        if not is_uid(uid.decode("ascii", "replace")):
            raise InvalidResult("INVALID_UID", f"{uid!r} is no UID")


def check_evidence(again: Reread, *, root: int, evidence: int) -> None:
    """Refuse an object that points at instances which its list of evidence lacks."""
    listed = {
        e.value for e in again.elements if e.root == evidence and e.tag == _REFERENCED_INSTANCE
    }
    for element in again.elements:
        pointed = element.root == root and element.tag == _REFERENCED_INSTANCE
        if pointed and element.value not in listed:
            raise InvalidResult("EVIDENCE_INCOMPLETE", f"{text(element)} is not in the evidence")


def _opened(content: bytes) -> Dataset:
    try:
        return pydicom.dcmread(io.BytesIO(content))
    except (InvalidDicomError, EOFError, ValueError, KeyError) as error:
        raise InvalidResult("UNREADABLE", "pydicom does not read the file") from error


def _check_identity(dataset: Dataset, result: WrittenResult, source: SourceStudy) -> None:
    """Compare what the file says it is with what the rows will say, and with the patient."""
    meta = dataset.file_meta
    pairs = (
        (meta.MediaStorageSOPInstanceUID, result.sop_instance_uid),
        (meta.MediaStorageSOPClassUID, result.sop_class_uid),
        (meta.TransferSyntaxUID, result.transfer_syntax_uid),
        (dataset.get("SOPInstanceUID"), result.sop_instance_uid),
        (dataset.get("SOPClassUID"), result.sop_class_uid),
        (dataset.get("SeriesInstanceUID"), result.series_instance_uid),
        (dataset.get("StudyInstanceUID"), source.study_instance_uid),
        (_plain(dataset, "SpecificCharacterSet") in ("ISO_IR 192", source.character_set), True),
    )
    same = all(found == expected for found, expected in pairs)
    carried = all(
        _plain(dataset, keyword) == (source.elements.get(keyword) or "")
        for keyword in ("PatientName", "PatientID", "AccessionNumber")
    )
    if not (same and carried):
        raise InvalidResult("IDENTITY_DIFFERS", "the file is not of this study, series or job")


def _plain(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    several = value if isinstance(value, pydicom.multival.MultiValue) else [value]
    return "\\".join("" if part is None else str(part) for part in several)


def _check_attributes(dataset: Dataset, role: ResultRole) -> None:
    for keyword in (*_TYPE_1, *_TYPE_2, *_OF_ROLE[role]):
        # Raw access: parsing thousands of items to see that there are some would be waste.
        element = dataset.get_item(tag_of(keyword)) if keyword in dataset else None
        if element is None or (keyword not in _TYPE_2 and not element.value):
            raise InvalidResult("MISSING_ATTRIBUTE", f"{keyword} has no value")


def _check_series(dataset: Dataset, context: ResultContext) -> None:
    """Results must stand apart from what modalities send, and say when they are research."""
    description = str(dataset.get("SeriesDescription", ""))
    marked = description.startswith("AI ") and (
        description.endswith("(research)") or not context.research_only
    )
    if not marked or int(dataset.SeriesNumber) < FIRST_SERIES_NUMBER:
        raise InvalidResult("SERIES_UNMARKED", "series number or description hides the origin")


def _check_text(tag: int, value: bytes, character_set: str) -> None:
    try:
        decoded(value, character_set)
    except UnicodeDecodeError as error:
        raise InvalidResult("INVALID_TEXT", f"{tag:08x} is not in {character_set}") from error


def _check_regions(again: Reread, frames: Sequence[SourceFrame]) -> None:
    """Coordinates lie on the image, its far edges included, but for rounding."""
    columns = max(frame.instance.columns or 0 for frame in frames)
    rows = max(frame.instance.rows or 0 for frame in frames)
    for element in again.elements:
        if element.tag == _GRAPHIC_DATA:
            points = np.array(numbers(element)).reshape(-1, 2)
            excess = np.maximum(-points, points - (columns, rows))
            if np.any(excess > _ROUNDING_PIXELS):
                raise InvalidResult("REGION_OUTSIDE", "a region leaves its image")


def _check_tracking(again: Reread, analysis: Analysis | None) -> None:
    """Every finding is in the report under its tracking UID."""
    said = {text(e) for e in again.elements if e.root == _CONTENT and e.tag == _UID_VALUE}
    expected = {f.tracking_uid for f in analysis.findings} if analysis else set()
    if not expected <= said:
        raise InvalidResult("TRACKING_DIFFERS", "a finding is missing from the report")
