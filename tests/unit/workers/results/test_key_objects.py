import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pydicom
import pytest

from service.core.errors import ContractViolation, InvalidResult
from tests.builders.dicom import ct_series, enhanced_ct
from tests.builders.results import nodules, nothing_found, result_context, source_frames
from workers.results.context import (
    InstanceReference,
    ResultContext,
    ResultRole,
    WrittenResult,
)
from workers.results.key_objects import Rejection, write_key_objects, write_rejection_note
from workers.results.source import read_source
from workers.results.validate import validate_result
from workers.results.writer import checked, write_results


def opened(content: bytes) -> Any:
    return pydicom.dcmread(io.BytesIO(content))


def rejection_note(
    context: ResultContext,
    withdrawn: Sequence[InstanceReference],
    why: Rejection = Rejection.QUALITY,
    words: str = "",
) -> WrittenResult:
    source = read_source(context.source_header)
    note = write_rejection_note(context, source, withdrawn, why=why, words=words)
    return checked(note, context, source)


def listed(dataset: Any) -> list[tuple[str, str]]:
    """Value type and instance of every reference in the list."""
    return [
        (item.ValueType, item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in dataset.ContentSequence
        if item.ValueType in ("IMAGE", "COMPOSITE")
    ]


def test_key_images_are_the_frames_of_the_findings_most_certain_first() -> None:
    instances = ct_series()
    frames, context = source_frames(instances), result_context(instances[0])
    analysis = nodules(frames)

    result = write_key_objects(context, read_source(context.source_header), analysis, frames=frames)

    assert result is not None
    dataset = opened(result.content)
    expected = [f.location.sop_instance_uid for f in analysis.findings if f.location]
    assert listed(dataset) == [("IMAGE", uid) for uid in expected]
    assert dataset.ConceptNameCodeSequence[0].CodeValue == "113000"
    assert dataset.Modality == "KO"


def test_a_key_image_of_an_enhanced_instance_names_its_frame() -> None:
    instances = enhanced_ct()
    frames, context = source_frames(instances), result_context(instances[0])
    analysis = nodules(frames, count=1)

    result = write_key_objects(context, read_source(context.source_header), analysis, frames=frames)

    assert result is not None
    (item,) = [i for i in opened(result.content).ContentSequence if i.ValueType == "IMAGE"]
    place = analysis.findings[0].location
    assert place is not None
    assert item.ReferencedSOPSequence[0].ReferencedFrameNumber == place.frame_number


def test_nothing_found_has_no_key_image() -> None:
    instances = ct_series()
    frames, context = source_frames(instances), result_context(instances[0])

    result = write_key_objects(
        context, read_source(context.source_header), nothing_found(), frames=frames
    )

    assert result is None


@pytest.mark.parametrize("why", list(Rejection))
def test_a_rejection_note_lists_what_it_withdraws(why: Rejection) -> None:
    instances = ct_series()
    frames, context = source_frames(instances), result_context(instances[0])
    earlier = write_results(replace(context, job_id="f" * 32), nodules(frames), frames)

    note = rejection_note(context, [r.reference for r in earlier], why=why, words="Superseded.")

    dataset = opened(note.content)
    seg, report = earlier
    assert listed(dataset) == [
        ("IMAGE", seg.sop_instance_uid), ("COMPOSITE", report.sop_instance_uid),
    ]  # fmt: skip
    assert dataset.ConceptNameCodeSequence[0].CodeValue == why.value.value
    assert dataset.ContentSequence[-3].TextValue == "Superseded."
    assert dataset.StudyInstanceUID == instances[0].StudyInstanceUID


def test_notes_of_one_job_on_other_instances_are_other_instances() -> None:
    instances = ct_series()
    frames, context = source_frames(instances), result_context(instances[0])
    seg, report = write_results(replace(context, job_id="f" * 32), nodules(frames), frames)

    first = rejection_note(context, [seg.reference])
    again = rejection_note(context, [seg.reference])
    other = rejection_note(context, [report.reference])
    safety = rejection_note(context, [seg.reference], why=Rejection.PATIENT_SAFETY)

    assert first.content == again.content
    assert len({n.sop_instance_uid for n in (first, other, safety)}) == 3


def test_a_note_that_withdraws_nothing_or_of_another_study_is_refused() -> None:
    context = result_context(ct_series(slices=1)[0])
    foreign = InstanceReference("1.2.3", "1.2.4", "1.2.840.10008.5.1.4.1.1.66.4", "1.2.5")

    for withdrawn, reason in (([], "NOTHING_WITHDRAWN"), ([foreign], "SOURCE_STUDY_DIFFERS")):
        with pytest.raises(ContractViolation) as refused:
            rejection_note(context, withdrawn)
        assert refused.value.reason == reason


def test_a_list_that_differs_from_its_evidence_is_refused() -> None:
    instances = ct_series()
    frames, context = source_frames(instances), result_context(instances[0])
    source = read_source(context.source_header)
    result = write_key_objects(context, source, nodules(frames), frames=frames)
    assert result is not None
    dataset = opened(result.content)
    del dataset.ContentSequence[-1]
    buffer = io.BytesIO()
    dataset.save_as(buffer)

    with pytest.raises(InvalidResult) as refused:
        validate_result(
            replace(result, role=ResultRole.KEY_OBJECTS, content=buffer.getvalue()),
            context, source, analysis=None, frames=frames,
        )  # fmt: skip

    assert refused.value.reason == "EVIDENCE_INCOMPLETE"
