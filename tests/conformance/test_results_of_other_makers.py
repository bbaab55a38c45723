"""Segmentations and reports of other makers pass through the readers of our own gate."""

import io
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.builders.dicom import ct_series
from tests.builders.outside import shared_data
from tests.builders.results import nodules, result_context, source_frames
from workers.results.encode import tag_of
from workers.results.reread import numbers, reread, text
from workers.results.validate import check_evidence, check_values
from workers.results.writer import write_results

SEGMENTATIONS = [
    "dcmjs_slicer/tumor_User1_Manual_Trial1.dcm",
    "dcmqi/segmentations/23x38x3/seg/label.seg.dcm",
    "dcmqi/segmentations/24x38x3/seg/label.seg.dcm",
    "dcmqi/segmentations/liver.dcm",
    "dcmqi/segmentations/partial_overlaps.dcm",
    "dcmqi/segmentations/sparse-labelmap-noppv.dcm",
    "dcmqi/segmentations/sparse-labelmap-ppv5.dcm",
    "dcmqi/sr-example/seg.dcm",
    "highdicom/seg_image_cr_binary.dcm",
    "highdicom/seg_image_ct_binary.dcm",
    "highdicom/seg_image_ct_binary_fractional.dcm",
    "highdicom/seg_image_ct_binary_overlap.dcm",
    "highdicom/seg_image_ct_binary_single_frame.dcm",
    "highdicom/seg_image_ct_true_fractional.dcm",
    "highdicom/seg_image_sm_control_labelmap.dcm",
    "highdicom/seg_image_sm_control_labelmap_palette_color.dcm",
]
REPORTS = [
    "dcmjs_slicer/sample-sr.dcm",
    "dcmjs_slicer/structured_report.dcm",
    "dcmqi/sr-example/sr.dcm",
    "highdicom/sr_document.dcm",
    "highdicom/sr_document_with_multiple_groups.dcm",
    "misc/report_dfl.dcm",
]


def check_segmentation_reads(content: bytes) -> None:
    """The same frames and positions as pydicom sees, evidence and values in order."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    again = reread(content)
    per_frame, position = tag_of("PerFrameFunctionalGroupsSequence"), tag_of("ImagePositionPatient")
    assert again.items[per_frame] == int(dataset.NumberOfFrames)
    seen = {e.entry: numbers(e) for e in again.elements if (e.root, e.tag) == (per_frame, position)}
    for index, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        if "PlanePositionSequence" in frame:
            expected = frame.PlanePositionSequence[0].ImagePositionPatient
            assert seen[index] == tuple(map(float, expected))
    if "ReferencedSeriesSequence" in dataset:
        check_evidence(again, root=per_frame, evidence=tag_of("ReferencedSeriesSequence"))
    check_values(again)


def check_report_reads(content: bytes) -> None:
    """The same content items as pydicom sees."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    again = reread(content)
    kinds = [
        text(e)
        for e in again.elements
        if e.root == tag_of("ContentSequence") and e.tag == tag_of("ValueType")
    ]
    assert sorted(kinds) == sorted(_value_types(dataset))
    if "CurrentRequestedProcedureEvidenceSequence" in dataset:
        evidence = tag_of("CurrentRequestedProcedureEvidenceSequence")
        check_evidence(again, root=tag_of("ContentSequence"), evidence=evidence)


def _value_types(item: Dataset) -> list[str]:
    found = []
    for child in item.get("ContentSequence", []):
        found += [child.ValueType] if "ValueType" in child else []
        found += _value_types(child)
    return found


@pytest.mark.parametrize("name", SEGMENTATIONS)
def test_segmentations_of_other_makers_are_read(name: str) -> None:
    check_segmentation_reads(shared_data(f"seg-sr/{name}").read_bytes())


@pytest.mark.parametrize("name", REPORTS)
def test_reports_of_other_makers_are_read(name: str) -> None:
    check_report_reads(shared_data(f"seg-sr/{name}").read_bytes())


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_results_in_other_encodings_are_read(syntax: str, tmp_path: Path) -> None:
    instances = ct_series()
    frames = source_frames(instances)
    seg, report = write_results(result_context(instances[0]), nodules(frames), frames)

    def reencoded(content: bytes) -> bytes:
        dataset = pydicom.dcmread(io.BytesIO(content))
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        path = tmp_path / "again.dcm"
        dataset.save_as(path, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
        return path.read_bytes()

    check_segmentation_reads(reencoded(seg.content))
    check_report_reads(reencoded(report.content))
