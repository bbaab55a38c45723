import io
from dataclasses import replace

import pydicom
import pytest

from service.core.errors import ContractViolation
from service.core.identifiers import is_uid
from tests.builders.dicom import ct_series, pattern_hu, radiograph
from tests.builders.results import (
    nodules,
    nothing_found,
    radiograph_findings,
    result_context,
    source_frames,
)
from workers.results.context import ResultRole
from workers.results.rendering import Display
from workers.results.writer import write_refusal, write_results

DISPLAY = Display(pattern_hu(12, 40, 32), (-1000.0, 400.0))


def test_a_job_writes_segmentation_report_and_picture_in_series_of_their_own() -> None:
    instances = ct_series()
    frames = source_frames(instances)

    results = write_results(result_context(instances[0]), nodules(frames), frames, display=DISPLAY)

    assert [r.role for r in results] == [
        ResultRole.SEG,
        ResultRole.SR,
        ResultRole.SECONDARY_CAPTURE,
    ]
    assert [r.modality for r in results] == ["SEG", "SR", "OT"]
    assert [r.series_number for r in results] == [9001, 9002, 9003]
    assert len({r.series_instance_uid for r in results}) == 3
    for result in results:
        dataset = pydicom.dcmread(io.BytesIO(result.content))
        assert dataset.SOPInstanceUID == result.sop_instance_uid
        assert dataset.SeriesInstanceUID == result.series_instance_uid
        assert dataset.StudyInstanceUID == instances[0].StudyInstanceUID
        assert is_uid(result.sop_instance_uid)


def test_a_repeat_of_the_job_writes_the_same_bytes() -> None:
    instances = ct_series()
    frames = source_frames(instances)
    context = result_context(instances[0])

    first = write_results(context, nodules(frames), frames, display=DISPLAY)
    second = write_results(context, nodules(frames), frames, display=DISPLAY)

    assert [r.content for r in first] == [r.content for r in second]


def test_another_job_writes_other_instances() -> None:
    instances = ct_series()
    frames = source_frames(instances)
    context = result_context(instances[0])

    first = write_results(context, nodules(frames), frames)
    second = write_results(replace(context, job_id="f" * 32), nodules(frames), frames)

    assert not {r.sop_instance_uid for r in first} & {r.sop_instance_uid for r in second}


def test_nothing_drawn_leaves_only_the_report() -> None:
    instances = ct_series()

    (report,) = write_results(
        result_context(instances[0]), nothing_found(), source_frames(instances)
    )

    assert report.role is ResultRole.SR


def test_no_picture_is_written_when_none_is_wanted() -> None:
    instances = radiograph()
    frames = source_frames(instances)
    context = result_context(instances[0], secondary_capture=False)
    display = Display(instances[0].pixel_array[None])

    results = write_results(
        context, radiograph_findings(frames, with_mask=True), frames, display=display
    )

    assert [r.role for r in results] == [ResultRole.SEG, ResultRole.SR]


def test_a_refusal_is_a_report_of_the_same_identity() -> None:
    instances = ct_series(slices=2)
    frames = source_frames(instances)
    context = result_context(instances[0])

    refusal = write_refusal(
        context, [f.instance for f in frames], reason="TOO_FEW_SLICES", message="2 slices"
    )

    (report,) = write_results(context, nothing_found(), frames)
    assert refusal.reference == report.reference


def test_results_about_no_image_are_refused() -> None:
    context = result_context(ct_series(slices=1)[0])

    with pytest.raises(ContractViolation) as refused:
        write_refusal(context, [], reason="TOO_FEW_SLICES", message="no slices")

    assert refused.value.reason == "NO_SOURCE_INSTANCES"
