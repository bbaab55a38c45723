import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from service.core.errors import InvalidResult
from service.core.findings import Analysis, FindingMask
from service.core.headers import SourceFrame
from tests.builders.dicom import ct_series, enhanced_ct, pattern_hu, radiograph
from tests.builders.results import (
    nodules,
    radiograph_findings,
    result_context,
    source_frames,
)
from workers.results.context import ResultContext, ResultRole, WrittenResult
from workers.results.rendering import Display
from workers.results.source import read_source
from workers.results.validate import validate_result
from workers.results.writer import write_results

DISPLAY = Display(pattern_hu(12, 40, 32), (-1000.0, 400.0))
SEG, SR, SC = ResultRole.SEG, ResultRole.SR, ResultRole.SECONDARY_CAPTURE


class Job:
    """One analysis and its results; what a test tampers with is judged again."""

    def __init__(self, instances: list[Dataset], analysis: Analysis, **changes: Any) -> None:
        self.frames: list[SourceFrame] = source_frames(instances)
        self.analysis = analysis
        self.context: ResultContext = result_context(instances[0], **changes)
        display = DISPLAY if len(self.frames) == 12 else None
        written = write_results(self.context, analysis, self.frames, display=display)
        self.results = {result.role: result for result in written}

    def judge(self, result: WrittenResult, analysis: Analysis | None = None) -> None:
        validate_result(
            result,
            self.context,
            read_source(self.context.source_header),
            analysis=analysis or self.analysis,
            frames=self.frames,
        )

    def reason(self, role: ResultRole, change: Callable[[Dataset], object]) -> str:
        """Change the written file and return why it is refused."""
        result = self.results[role]
        with pydicom.config.disable_value_validation():
            dataset = pydicom.dcmread(io.BytesIO(result.content))
            change(dataset)
            buffer = io.BytesIO()
            dataset.save_as(buffer)
        with pytest.raises(InvalidResult) as refused:
            self.judge(replace(result, content=buffer.getvalue()))
        return refused.value.reason


@pytest.fixture(scope="module")
def job() -> Job:
    instances = ct_series()
    return Job(instances, nodules(source_frames(instances)))


def set_to(keyword: str, value: object) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset, keyword, value)


def remove(keyword: str) -> Callable[[Dataset], None]:
    return lambda dataset: dataset.__delattr__(keyword)


def test_what_was_written_passes(job: Job) -> None:
    for result in job.results.values():
        job.judge(result)


@pytest.mark.parametrize("role", [SEG, SR, SC])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (set_to("PatientID", "SOMEBODY-ELSE"), "IDENTITY_DIFFERS"),
        (set_to("PatientName", "Else^Somebody"), "IDENTITY_DIFFERS"),
        (set_to("AccessionNumber", "OTHER"), "IDENTITY_DIFFERS"),
        (set_to("StudyInstanceUID", "2.25.7"), "IDENTITY_DIFFERS"),
        (set_to("SeriesInstanceUID", "2.25.7"), "IDENTITY_DIFFERS"),
        (set_to("SpecificCharacterSet", "ISO_IR 100"), "IDENTITY_DIFFERS"),
        (set_to("ContentDate", ""), "MISSING_ATTRIBUTE"),
        (remove("PatientBirthDate"), "MISSING_ATTRIBUTE"),
        (remove("ContributingEquipmentSequence"), "MISSING_ATTRIBUTE"),
        (set_to("SeriesDescription", "Chest"), "SERIES_UNMARKED"),
        (set_to("SeriesDescription", "AI Lung nodules"), "SERIES_UNMARKED"),
        (set_to("SeriesNumber", "3"), "SERIES_UNMARKED"),
        (set_to("StudyDate", "yesterda"), "INVALID_VALUE"),
        (set_to("BodyPartExamined", "chest"), "INVALID_VALUE"),
        (set_to("FrameOfReferenceUID", "1.02.3"), "INVALID_UID"),
    ],
)
def test_what_every_result_must_hold_is_checked(
    job: Job, role: ResultRole, change: Callable[[Dataset], object], reason: str
) -> None:
    assert job.reason(role, change) == reason


def measurement_group(dataset: Dataset, index: int) -> Dataset:
    measurements = next(
        c
        for c in dataset.ContentSequence
        if c.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"
    )
    groups = [c for c in measurements.ContentSequence if c.ValueType == "CONTAINER"]
    found: Dataset = groups[index]
    return found


def forget_evidence(dataset: Dataset) -> None:
    series = dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    series.pop(-1)


def forget_finding(dataset: Dataset) -> None:
    for content in measurement_group(dataset, 3).ContentSequence:
        if content.ValueType == "UIDREF":
            content.UID = "2.25.7"
    for content in measurement_group(dataset, 2).ContentSequence:
        if content.ValueType == "UIDREF":
            content.UID = "2.25.7"


def draw_outside(dataset: Dataset) -> None:
    line = measurement_group(dataset, 0).ContentSequence[-1].ContentSequence[0]
    line.GraphicData = [1.0, 1.0, 1.0, 40.5]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (forget_evidence, "EVIDENCE_INCOMPLETE"),
        (forget_finding, "TRACKING_DIFFERS"),
        (draw_outside, "REGION_OUTSIDE"),
        (remove("VerificationFlag"), "MISSING_ATTRIBUTE"),
    ],
)
def test_what_a_report_must_hold_is_checked(
    job: Job, change: Callable[[Dataset], object], reason: str
) -> None:
    assert job.reason(SR, change) == reason


def frame(dataset: Dataset, index: int = 0) -> Dataset:
    found: Dataset = dataset.PerFrameFunctionalGroupsSequence[index]
    return found


def source_of(group: Dataset) -> Dataset:
    found: Dataset = group.DerivationImageSequence[0].SourceImageSequence[0]
    return found


def move_frame(dataset: Dataset) -> None:
    position = frame(dataset).PlanePositionSequence[0].ImagePositionPatient
    frame(dataset).PlanePositionSequence[0].ImagePositionPatient = [
        position[0],
        position[1],
        float(position[2]) + 0.001,
    ]


def turn_stack(dataset: Dataset) -> None:
    plane = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


def stretch_pixels(dataset: Dataset) -> None:
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = list(reversed(measures.PixelSpacing))


def swap_sources(dataset: Dataset) -> None:
    one, other = source_of(frame(dataset, 0)), source_of(frame(dataset, 1))
    one.ReferencedSOPInstanceUID, other.ReferencedSOPInstanceUID = (
        other.ReferencedSOPInstanceUID,
        one.ReferencedSOPInstanceUID,
    )


def name_stranger(dataset: Dataset) -> None:
    source_of(frame(dataset)).ReferencedSOPInstanceUID = "2.25.7"


def name_no_segment(dataset: Dataset) -> None:
    frame(dataset).SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9


def drop_position(dataset: Dataset) -> None:
    del frame(dataset).PlanePositionSequence


def flip_bit(dataset: Dataset) -> None:
    pixels = bytearray(dataset.PixelData)
    pixels[0] ^= 1  # the corner of the first frame, far from the lesion
    dataset.PixelData = bytes(pixels)


def move_bit(dataset: Dataset) -> None:
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    first = int(np.flatnonzero(bits)[0])
    bits[first], bits[first - 1] = 0, 1
    dataset.PixelData = np.packbits(bits, bitorder="little").tobytes()


def drop_frame(dataset: Dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence.pop(-1)


def cut_pixels(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:-2]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (move_frame, "GEOMETRY_DIFFERS"),
        (turn_stack, "GEOMETRY_DIFFERS"),
        (stretch_pixels, "GEOMETRY_DIFFERS"),
        (swap_sources, "GEOMETRY_DIFFERS"),
        (name_no_segment, "GEOMETRY_DIFFERS"),
        (drop_position, "GEOMETRY_DIFFERS"),
        (name_stranger, "EVIDENCE_INCOMPLETE"),
        (flip_bit, "VOXELS_DIFFER"),
        (move_bit, "VOXELS_DIFFER"),
        (drop_frame, "PIXELS_INCOMPLETE"),
        (cut_pixels, "PIXELS_INCOMPLETE"),
        (set_to("SegmentationType", ""), "MISSING_ATTRIBUTE"),
    ],
)
def test_what_a_segmentation_must_hold_is_checked(
    job: Job, change: Callable[[Dataset], object], reason: str
) -> None:
    assert job.reason(SEG, change) == reason


def test_a_segmentation_of_other_findings_is_refused(job: Job) -> None:
    first = job.analysis.findings[0]
    mask = job.analysis.masks[first.id]
    moved = FindingMask((mask.offset[0], mask.offset[1] + 1, mask.offset[2]), mask.voxels)
    other = replace(job.analysis, masks={**job.analysis.masks, first.id: moved})

    with pytest.raises(InvalidResult) as refused:
        job.judge(job.results[SEG], other)

    assert refused.value.reason == "VOXELS_DIFFER"


def test_a_picture_that_is_cut_short_is_refused(job: Job) -> None:
    assert job.reason(SC, set_to("PixelData", bytes(10))) == "PIXELS_INCOMPLETE"


@pytest.mark.parametrize("content", [b"", b"DICM", bytes(200)])
def test_bytes_that_are_no_dicom_are_refused(job: Job, content: bytes) -> None:
    with pytest.raises(InvalidResult) as refused:
        job.judge(replace(job.results[SR], content=content))

    assert refused.value.reason == "UNREADABLE"


@pytest.mark.parametrize("role", [SEG, SR, SC])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_that_ends_early_is_refused(job: Job, role: ResultRole, share: float) -> None:
    content = job.results[role].content

    with pytest.raises(InvalidResult) as refused:
        job.judge(replace(job.results[role], content=content[: int(share * len(content))]))

    assert refused.value.reason == "UNREADABLE"


def test_text_that_is_not_utf_8_is_refused(job: Job) -> None:
    result = job.results[SR]
    content = result.content.replace(b"not reviewed", b"not r\xe9viewed"[:12])

    with pytest.raises(InvalidResult) as refused:
        job.judge(replace(result, content=content))

    assert refused.value.reason == "INVALID_TEXT"


def test_planes_that_the_source_does_not_have_are_refused() -> None:
    instances = radiograph()
    analysis = radiograph_findings(source_frames(instances), with_mask=True)
    job = Job(instances, analysis, made_up_plane=True)
    job.judge(job.results[SEG])

    job.context = replace(job.context, made_up_plane=False)
    with pytest.raises(InvalidResult) as refused:
        job.judge(job.results[SEG])

    assert refused.value.reason == "GEOMETRY_DIFFERS"


def test_frames_of_an_enhanced_source_are_told_apart() -> None:
    instances = enhanced_ct()
    job = Job(instances, nodules(source_frames(instances)))

    def rename(dataset: Dataset) -> None:
        source = source_of(frame(dataset))
        source.ReferencedFrameNumber = int(source.ReferencedFrameNumber) + 1

    assert job.reason(SEG, rename) == "GEOMETRY_DIFFERS"
