"""A report that compares with an earlier study, before the judges that know the templates."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import pydicom
import pytest
from pydicom.dataset import Dataset

from service.core import codes
from service.core.findings import Analysis, Change, Finding, Prior, Qualifier, ReportReference
from service.core.headers import SourceFrame
from tests.builders.dicom import ct_series
from tests.builders.results import nodules, result_context, source_frames
from tests.peers.tools import Dciodvfy, PixelMed
from workers.results.context import SrClass, WrittenResult
from workers.results.writer import write_results

EARLIER = ReportReference(
    series_instance_uid="2.25.11",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
    sop_instance_uid="2.25.12",
)


def prior(change: Change, **measured: Any) -> Prior:
    return Prior(
        change=change,
        study_instance_uid="2.25.10",
        study_date="20250301",
        interval_days=92,
        report=EARLIER,
        **measured,
    )


def followed(frames: Sequence[SourceFrame]) -> Analysis:
    """Return a lesion that has grown, one that is new, and one that is gone."""
    analysis = nodules(frames)
    grown, new = analysis.findings
    growth = prior(
        Change.GROWING,
        finding_id="earlier",
        tracking_uid="2.25.77",
        diameter_change_mm=2.8,
        growth_percent=72.6,
        doubling_time_days=116.8,
    )
    gone = grown.model_copy(
        update={
            "id": "00000000-0000-0000-0000-00000000000a",
            "tracking_uid": "2.25.78",
            "tracking_id": "Nodule 3",
            "probability": 0.0,
            "qualifier": Qualifier.ABSENT,
            "measurements": (),
            "segment_number": None,
            "prior": prior(Change.RESOLVED, tracking_uid="2.25.78"),
        }
    )
    findings: tuple[Finding, ...] = (
        grown.model_copy(update={"prior": growth, "tracking_uid": "2.25.77"}),
        new.model_copy(update={"prior": prior(Change.NEW)}),
        gone,
    )
    return Analysis(findings, masks=analysis.masks)


def written(**changes: Any) -> tuple[WrittenResult, ...]:
    instances = ct_series()
    frames = source_frames(instances)
    return write_results(result_context(instances[0], **changes), followed(frames), frames)


def items(node: Dataset, code: Any) -> list[Dataset]:
    """Every content item below a node that goes by a name."""
    found = []
    for child in node.get("ContentSequence", ()):
        name = child.get("ConceptNameCodeSequence")
        if name and name[0].CodeValue == code.value:
            found.append(child)
        found += items(child, code)
    return found


def test_change_time_and_the_earlier_report_are_coded() -> None:
    document = pydicom.dcmread(io.BytesIO(written()[1].content))

    said = [
        item.ConceptCodeSequence[0].CodeMeaning
        for item in items(document, codes.QUALITATIVE_DIFFERENCE)
    ]
    assert said == ["Increase in size", "New finding"]
    times = items(document, codes.TIME_POINT)
    assert [one.TextValue for one in times] == ["92 days after 20250301"] * 2
    tracked = [item.UID for item in items(document, codes.TRACKING_UNIQUE_IDENTIFIER)]
    assert tracked.count("2.25.77") == 2
    assert tracked.count("2.25.78") == 1
    study = document.PertinentOtherEvidenceSequence[0]
    assert study.StudyInstanceUID == "2.25.10"
    (report,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert report.ReferencedSOPInstanceUID == "2.25.12"


def test_what_is_gone_is_said_to_be_absent_under_its_old_tracking_uid() -> None:
    document = pydicom.dcmread(io.BytesIO(written()[1].content))

    (overall,) = items(document, codes.QUALITATIVE_EVALUATIONS)
    (gone,) = [
        item for item in overall.ContentSequence if items(item, codes.TRACKING_UNIQUE_IDENTIFIER)
    ]
    assert gone.ConceptCodeSequence[0].CodeMeaning == "Absent"
    assert items(gone, codes.COMMENT)[0].TextValue == "Nodule 3 resolved since 2025-03-01"


def test_highdicom_reads_the_groups() -> None:
    document: Any = hd.sr.srread(io.BytesIO(written()[1].content))

    assert len(document.content.get_volumetric_roi_measurement_groups()) == 2


@pytest.mark.peers
@pytest.mark.parametrize("sr_class", SrClass)
def test_iod_validator_has_no_error(sr_class: SrClass, dciodvfy: Dciodvfy, tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(written(sr_class=sr_class)[1].content)

    assert dciodvfy(path).errors == ()


@pytest.mark.peers
@pytest.mark.slow
def test_template_validator_has_nothing_to_say_of_time_and_change(
    pixelmed: PixelMed, tmp_path: Path
) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(written()[1].content)

    verdict = pixelmed(path)

    # As for any report with groups of two templates: see test_written_results.
    assert all(
        "Template 1411" in error and "Missing conditional content item" in error
        for error in verdict.errors
    )
    assert len(verdict.errors) == 2 * 3
