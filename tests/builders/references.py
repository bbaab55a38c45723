"""Reference objects for tests: what readers drew or wrote, as a site would keep it."""

from collections.abc import Sequence

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.builders.dicom import uid

_CATEGORY = CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure")
_BY_HAND = AlgorithmIdentificationSequence(
    name="reader", version="1", family=CodedConcept("123110", "DCM", "Artificial Intelligence")
)


def segmentation(
    instances: Sequence[Dataset], mask: NDArray[np.bool_], *, code: Sequence[str], label: str
) -> Dataset:
    """Return a SEG of one segment over all slices of a series, in their order."""
    segment = SegmentDescription(
        segment_number=1,
        segment_label=label,
        segmented_property_category=_CATEGORY,
        segmented_property_type=CodedConcept(*code),
        algorithm_type="SEMIAUTOMATIC",
        algorithm_identification=_BY_HAND,
    )
    return Segmentation(
        source_images=list(instances),
        pixel_array=mask,
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        series_instance_uid=uid("reference", "seg"),
        series_number=100,
        sop_instance_uid=uid("reference", "seg", 1),
        instance_number=1,
        manufacturer="overread tests",
        manufacturer_model_name="reader",
        software_versions="1",
        device_serial_number="1",
    )


def contours(instances: Sequence[Dataset], name: str, outlines: dict[int, list[float]]) -> Dataset:
    """Return an RT Structure Set with one region; `outlines` are LPS mm by slice index."""
    dataset = _object("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", instances)
    roi = Dataset()
    roi.ROINumber, roi.ROIName = 1, name
    dataset.StructureSetROISequence = [roi]
    drawn = []
    for index, points in outlines.items():
        contour = Dataset()
        contour.ContourGeometricType = "CLOSED_PLANAR"
        contour.NumberOfContourPoints = len(points) // 3
        contour.ContourData = [f"{value:.4f}" for value in points]
        image = Dataset()
        image.ReferencedSOPClassUID = instances[index].SOPClassUID
        image.ReferencedSOPInstanceUID = instances[index].SOPInstanceUID
        contour.ContourImageSequence = [image]
        drawn.append(contour)
    region = Dataset()
    region.ReferencedROINumber, region.ContourSequence = 1, drawn
    dataset.ROIContourSequence = [region]
    return dataset


def report(
    instances: Sequence[Dataset],
    *,
    groups: Sequence[tuple[Sequence[str], int, Sequence[float], float]] = (),
    stated: Sequence[tuple[Sequence[str], bool]] = (),
) -> Dataset:
    """Return a structured report.

    Each of `groups` is (code of the finding, slice index, graphic data, diameter in mm); each of
    `stated` a finding that is present or absent.
    """
    dataset = _object("1.2.840.10008.5.1.4.1.1.88.22", "SR", instances)
    dataset.ValueType = "CONTAINER"
    dataset.ConceptNameCodeSequence = [_code("126000", "DCM", "Imaging Measurement Report")]
    content = [_group(instances, *group) for group in groups]
    for code, present in stated:
        item = _item("CODE", *code)
        answer = ("121053", "DCM", "Present") if present else ("121054", "DCM", "Absent")
        item.ConceptCodeSequence = [_code(*answer)]
        content.append(item)
    reference = Dataset()
    reference.ReferencedSOPClassUID = instances[0].SOPClassUID
    reference.ReferencedSOPInstanceUID = instances[0].SOPInstanceUID
    series = Dataset()
    series.SeriesInstanceUID = instances[0].SeriesInstanceUID
    series.ReferencedSOPSequence = [reference]
    study = Dataset()
    study.StudyInstanceUID = instances[0].StudyInstanceUID
    study.ReferencedSeriesSequence = [series]
    dataset.CurrentRequestedProcedureEvidenceSequence = [study]
    dataset.ContentSequence = content
    return dataset


def _group(
    instances: Sequence[Dataset],
    code: Sequence[str],
    index: int,
    data: Sequence[float],
    diameter_mm: float,
) -> Dataset:
    finding = _item("CODE", "121071", "DCM", "Finding")
    finding.ConceptCodeSequence = [_code(*code)]
    image = Dataset()
    image.ValueType, image.RelationshipType = "IMAGE", "SELECTED FROM"
    reference = Dataset()
    reference.ReferencedSOPClassUID = instances[index].SOPClassUID
    reference.ReferencedSOPInstanceUID = instances[index].SOPInstanceUID
    image.ReferencedSOPSequence = [reference]
    region = _item("SCOORD", "111030", "DCM", "Image Region")
    region.GraphicType, region.GraphicData = "POLYLINE", list(data)
    region.ContentSequence = [image]
    size = _item("NUM", "81827009", "SCT", "Diameter")
    measured = Dataset()
    measured.NumericValue = str(diameter_mm)
    measured.MeasurementUnitsCodeSequence = [_code("mm", "UCUM", "mm")]
    size.MeasuredValueSequence = [measured]
    group = _item("CONTAINER", "125007", "DCM", "Measurement Group")
    group.ContentSequence = [finding, region, size]
    return group


def _object(sop_class_uid: str, modality: str, instances: Sequence[Dataset]) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = uid("reference", modality, 1)
    dataset.StudyInstanceUID = instances[0].StudyInstanceUID
    dataset.SeriesInstanceUID = uid("reference", modality)
    dataset.Modality = modality
    return dataset


def _item(value_type: str, *concept: str) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", value_type
    item.ConceptNameCodeSequence = [_code(*concept)]
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code
