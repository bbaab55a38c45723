import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import highdicom as hd
import pydicom
import pytest
from pydicom.dataset import Dataset

from service.core import codes
from service.core.errors import ContractViolation
from service.core.findings import (
    Analysis,
    Code,
    Location,
    Measurement,
    PlanarRegion,
    Prior,
    Qualifier,
    RegionRole,
    RegionShape,
)
from tests.builders.dicom import ct_series, enhanced_ct, radiograph
from tests.builders.results import (
    nodule,
    nodules,
    nothing_found,
    radiograph_findings,
    result_context,
    source_frames,
)
from workers.results.context import InstanceReference, SrClass
from workers.results.seg import write_seg
from workers.results.source import read_source
from workers.results.sr import standard_reason, write_not_analysed, write_sr


def report(instances: Sequence[Dataset], analysis: Analysis, **changes: Any) -> Dataset:
    context = result_context(instances[0], **changes)
    source, frames = read_source(context.source_header), source_frames(instances)
    segmentation = write_seg(context, source, analysis, frames=frames)
    result = write_sr(context, source, analysis, frames=frames, segmentation=segmentation)
    return pydicom.dcmread(io.BytesIO(result.content))


def children(item: Dataset, name: Code) -> list[Dataset]:
    """The child items of this concept name, meaning included."""
    return [
        child
        for child in item.get("ContentSequence", [])
        for concept in child.get("ConceptNameCodeSequence", [])
        if (concept.CodeValue, concept.CodingSchemeDesignator, concept.CodeMeaning)
        == (name.value, name.scheme, name.meaning)
    ]


def child(item: Dataset, name: Code) -> Dataset:
    (found,) = children(item, name)
    return found


def groups(document: Dataset) -> list[Dataset]:
    return children(child(document, codes.IMAGING_MEASUREMENTS), codes.MEASUREMENT_GROUP)


def value(item: Dataset, name: Code) -> float:
    return float(child(item, name).MeasuredValueSequence[0].NumericValue)


def coded(item: Dataset, name: Code) -> str:
    return str(child(item, name).ConceptCodeSequence[0].CodeMeaning)


def walk(item: Dataset) -> Iterator[Dataset]:
    for content in item.get("ContentSequence", []):
        yield content
        yield from walk(content)


def evidence(document: Dataset) -> set[str]:
    return {
        sop.ReferencedSOPInstanceUID
        for study in document.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for sop in series.ReferencedSOPSequence
    }


def test_each_lesion_has_geometry_first_and_values_second_under_one_tracking_uid() -> None:
    instances = ct_series()
    analysis = nodules(source_frames(instances))

    found = groups(report(instances, analysis))

    templates = [g.ContentTemplateSequence[0].TemplateIdentifier for g in found]
    assert templates == ["1501", "1411", "1501", "1411"]
    tracked = [child(g, codes.TRACKING_UNIQUE_IDENTIFIER).UID for g in found]
    first, second = (f.tracking_uid for f in analysis.findings)
    assert tracked == [first, first, second, second]
    names = {child(g, codes.TRACKING_IDENTIFIER).TextValue for g in found[:2]}
    assert names == {"Cornerstone3DTools@^0.1.0:Bidirectional:nodule-1"}


def test_axes_are_inferred_from_lines_on_the_frame_that_shows_the_lesion_best() -> None:
    instances = ct_series()
    analysis = nodules(source_frames(instances), count=1)
    location = analysis.findings[0].location
    assert location

    geometry = groups(report(instances, analysis))[0]

    assert value(geometry, codes.LONG_AXIS) == 7.712
    assert value(geometry, codes.SHORT_AXIS) == 5.6
    for axis, region in zip((codes.LONG_AXIS, codes.SHORT_AXIS), location.regions, strict=True):
        (line,) = child(geometry, axis).ContentSequence
        assert (line.ValueType, line.RelationshipType) == ("SCOORD", "INFERRED FROM")
        assert line.GraphicType == "POLYLINE"
        assert line.GraphicData == [number for point in region.points for number in point]
        (image,) = line.ContentSequence
        reference = image.ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == location.sop_instance_uid
        assert "ReferencedFrameNumber" not in reference
    numbers = [c for c in geometry.ContentSequence if c.ValueType == "NUM"]
    assert len(numbers) == 2


def test_values_carry_probabilities_measurements_and_the_segment() -> None:
    instances = ct_series()
    analysis = nodules(source_frames(instances), count=1)

    values = groups(report(instances, analysis))[1]

    assert value(values, codes.VOLUME) == 231.25
    assert value(values, codes.CERTAINTY_OF_FINDING) == 93
    assert value(values, codes.PROBABILITY_OF_CANCER) == 41
    assert value(values, codes.MEAN_ATTENUATION_COEFFICIENT) == -31.5
    assert value(values, codes.SD_OF_ATTENUATION_COEFFICIENT) == 44.25
    assert coded(values, codes.PRESENCE_OF_PROPERTY) == "Present"
    assert coded(values, codes.FINDING) == "Nodule"
    assert coded(values, codes.FINDING_SITE) == "Lung"
    assert coded(child(values, codes.FINDING_SITE), codes.LATERALITY) == "Right"
    segment = child(values, codes.REFERENCED_SEGMENT).ReferencedSOPSequence[0]
    assert segment.ReferencedSegmentNumber == 1
    drawn_on = children(values, codes.SOURCE_IMAGE_FOR_SEGMENTATION)
    mask = analysis.masks[analysis.findings[0].id]
    assert len(drawn_on) == int(mask.voxels.any(axis=(1, 2)).sum())


def test_the_algorithm_is_identified_for_the_report_and_for_every_finding() -> None:
    document = report(instances := ct_series(), nodules(source_frames(instances)))

    for holder in (child(document, codes.IMAGING_MEASUREMENTS), *groups(document)):
        assert child(holder, codes.ALGORITHM_NAME).TextValue == "lung_nodule"
        assert child(holder, codes.ALGORITHM_VERSION).TextValue == "1.2.0"
        parameters = [c.TextValue for c in children(holder, codes.ALGORITHM_PARAMETERS)]
        assert parameters == ["sha256=" + "ab" * 32, "operating_point=balanced"]


def test_everything_that_the_report_points_at_is_in_its_evidence() -> None:
    instances = ct_series()
    document = report(instances, nodules(source_frames(instances)))

    pointed = {
        reference.ReferencedSOPInstanceUID
        for content in walk(document)
        for reference in content.get("ReferencedSOPSequence", [])
    }

    assert pointed <= evidence(document)
    assert {i.SOPInstanceUID for i in instances} < evidence(document)


def test_frames_of_an_enhanced_source_are_named_by_number() -> None:
    instances = enhanced_ct()
    analysis = nodules(source_frames(instances), count=1)
    location = analysis.findings[0].location
    assert location

    geometry, values = groups(report(instances, analysis))

    line = child(geometry, codes.LONG_AXIS).ContentSequence[0]
    reference = line.ContentSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedFrameNumber == location.frame_number
    drawn_on = children(values, codes.SOURCE_IMAGE_FOR_SEGMENTATION)
    frames = [c.ReferencedSOPSequence[0].ReferencedFrameNumber for c in drawn_on]
    assert frames == sorted(set(frames))
    assert len(evidence(report(instances, nothing_found()))) == 1


def test_a_radiograph_says_where_with_a_box_and_how_sure_in_a_group_of_its_own() -> None:
    instances = radiograph()
    analysis = radiograph_findings(source_frames(instances))

    box, sure, everywhere, unsure = groups(report(instances, analysis))

    assert not [c for c in box.ContentSequence if c.ValueType == "NUM"]
    region = child(box, codes.IMAGE_REGION)
    assert region.GraphicData == [10, 20, 30, 20, 30, 44, 10, 44, 10, 20]
    assert child(box, codes.COMMENT).TextValue == "AI Lung consolidation 88%"
    assert value(sure, codes.CERTAINTY_OF_FINDING) == 88
    source = child(sure, codes.SOURCE_OF_MEASUREMENT).ReferencedSOPSequence[0]
    assert source.ReferencedSOPInstanceUID == instances[0].SOPInstanceUID
    assert child(everywhere, codes.IMAGE_REGION).GraphicData == [
        0, 0, 48, 0, 48, 64, 0, 64, 0, 0
    ]  # fmt: skip
    assert coded(unsure, codes.PRESENCE_OF_PROPERTY) == "Presence Undetermined"


def test_what_is_absent_is_evaluated_and_not_measured() -> None:
    instances = radiograph()
    analysis = radiograph_findings(source_frames(instances))
    absent = analysis.findings[2]

    document = report(instances, analysis)

    evaluated = child(child(document, codes.QUALITATIVE_EVALUATIONS), absent.label)
    assert evaluated.ConceptCodeSequence[0].CodeMeaning == "Absent"
    assert value(evaluated, codes.CERTAINTY_OF_FINDING) == 4
    tracked = child(evaluated, codes.TRACKING_UNIQUE_IDENTIFIER)
    assert str(tracked.UID) == absent.tracking_uid


def test_every_measured_finding_has_coordinates() -> None:
    """OHIF 3.12 drops a whole report when one tracked finding has none."""
    for instances, analysis in (
        (ct := ct_series(), nodules(source_frames(ct))),
        (dx := radiograph(), radiograph_findings(source_frames(dx))),
    ):
        placed: dict[str, bool] = {}
        for group in groups(report(instances, analysis)):
            tracked = child(group, codes.TRACKING_UNIQUE_IDENTIFIER).UID
            drawn = any(c.ValueType == "SCOORD" for c in walk(group))
            placed[tracked] = placed.get(tracked, False) or drawn
        assert placed
        assert all(placed.values())


def test_an_outline_is_reported_by_its_box_and_a_point_as_a_point() -> None:
    instances = radiograph()
    frames = source_frames(instances)
    finding = radiograph_findings(frames).findings[0]
    uid = frames[0].instance.sop_instance_uid

    def region(role: RegionRole, shape: RegionShape, *points: tuple[float, float]) -> list[float]:
        drawn = PlanarRegion(role=role, shape=shape, sop_instance_uid=uid, points=points)
        located = finding.model_copy(
            update={"location": Location(sop_instance_uid=uid, regions=(drawn,))}
        )
        geometry = groups(report(instances, Analysis((located,))))[0]
        return list(child(geometry, codes.IMAGE_REGION).GraphicData)

    outline = region(RegionRole.OUTLINE, RegionShape.POLYLINE, (4, 9), (8, 3), (6, 11), (4, 9))
    assert outline == [4, 3, 8, 3, 8, 11, 4, 11, 4, 3]
    assert region(RegionRole.CENTER, RegionShape.POINT, (5.5, 6.5)) == [5.5, 6.5]


def test_a_lesion_without_lines_keeps_its_axes_among_the_values() -> None:
    instances = ct_series()
    frames = source_frames(instances)
    finding, mask = nodule(frames, 0, (2, 5, 7))
    assert finding.location
    bare = finding.model_copy(
        update={"location": finding.location.model_copy(update={"regions": ()})}
    )

    box, values = groups(report(instances, Analysis((bare,), masks={bare.id: mask})))

    assert child(box, codes.IMAGE_REGION).GraphicData[:4] == [7, 5, 16, 5]
    assert value(values, codes.LONG_AXIS) == 7.712
    assert child(values, codes.TRACKING_IDENTIFIER).TextValue == "nodule-1"


def test_what_has_no_code_is_said_in_words() -> None:
    instances = ct_series()
    frames = source_frames(instances)
    prior = Prior(
        finding_id="earlier",
        study_instance_uid="1.2",
        study_date="20250301",
        change="growing",
        growth_percent=42.4,
        doubling_time_days=310.2,
    )
    solidity = Measurement(name="solidity", value=0.93, unit="1")
    finding, mask = nodule(frames, 0, (2, 5, 5), measurements=(solidity,), prior=prior)

    values = groups(report(instances, Analysis((finding,), masks={finding.id: mask})))[-1]

    assert child(values, codes.COMMENT).TextValue == (
        "solidity 0.93 1; Compared with 20250301: growing; growth 42 %; doubling time 310 days"
    )


@pytest.mark.parametrize(
    ("qualifier", "expected"),
    [
        (Qualifier.PRESENT, codes.SUCCEEDED_WITH_FINDINGS),
        (Qualifier.INDETERMINATE, codes.SUCCEEDED_WITH_FINDINGS),
        (Qualifier.ABSENT, codes.SUCCEEDED_WITHOUT_FINDINGS),
    ],
)
def test_the_summary_follows_from_what_is_not_absent(qualifier: Qualifier, expected: Code) -> None:
    instances = radiograph()
    finding = radiograph_findings(source_frames(instances)).findings[0]
    analysis = Analysis((finding.model_copy(update={"qualifier": qualifier}),))

    document = report(instances, analysis)

    overall = child(document, codes.QUALITATIVE_EVALUATIONS)
    assert coded(overall, codes.PROCESSING_SUMMARY) == expected.meaning


def test_a_study_without_findings_says_so_and_shows_what_was_looked_at() -> None:
    instances = ct_series(slices=3)

    document = report(instances, nothing_found())

    overall = child(document, codes.QUALITATIVE_EVALUATIONS)
    assert coded(overall, codes.PROCESSING_SUMMARY) == (
        "All algorithms succeeded; without findings"
    )
    assert groups(document) == []
    library = child(child(document, codes.IMAGE_LIBRARY), codes.IMAGE_LIBRARY_GROUP)
    assert [c.ValueType for c in library.ContentSequence].count("IMAGE") == 3
    assert evidence(document) == {i.SOPInstanceUID for i in instances}


def test_a_study_that_was_not_analysed_says_why() -> None:
    instances = ct_series(slices=3)
    context = result_context(instances[0])

    result = write_not_analysed(
        context,
        read_source(context.source_header),
        [frame.instance for frame in source_frames(instances)],
        reason="IRREGULAR_GAP",
        message="gap of 7.5 mm after slice 2",
    )

    document = pydicom.dcmread(io.BytesIO(result.content))
    overall = child(document, codes.QUALITATIVE_EVALUATIONS)
    assert coded(overall, codes.PROCESSING_SUMMARY) == "No algorithms succeeded; without findings"
    assert coded(overall, codes.SUMMARY_OF_DETECTIONS) == "Not Attempted"
    assert coded(overall, codes.FINDING) == "Object Set incomplete"
    comments = [c.TextValue for c in children(overall, codes.COMMENT)]
    assert comments[0] == "Not analysed. IRREGULAR_GAP: gap of 7.5 mm after slice 2"


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("TOO_FEW_SLICES", codes.OBJECT_SET_INCOMPLETE),
        ("MODALITY_NOT_SUPPORTED", codes.OBJECT_TYPES_NOT_SUPPORTED),
        ("OUT_OF_DISTRIBUTION", codes.INSUFFICIENT_QUALITY),
        ("INVALID_POSITION", codes.OBJECTS_INCORRECTLY_FORMATTED),
        ("SOMETHING_ELSE", codes.UNSPECIFIED_REASON),
    ],
)
def test_reasons_have_the_nearest_code_of_the_standard(reason: str, code: Code) -> None:
    assert standard_reason(reason) == code


@pytest.mark.parametrize("research_only", [True, False])
def test_research_use_is_said_until_a_site_has_validated_the_model(research_only: bool) -> None:
    document = report(
        ct_series(slices=3),
        nothing_found(),
        research_only=research_only,
    )

    overall = child(document, codes.QUALITATIVE_EVALUATIONS)
    comments = [c.TextValue for c in children(overall, codes.COMMENT)]
    assert ("For research, not for clinical use." in comments) is research_only
    assert document.SeriesDescription.endswith("(research)") is research_only
    assert document.SeriesDescription.startswith("AI Lung nodules")


def test_a_long_title_gives_way_to_what_the_series_must_say() -> None:
    model = replace(result_context(ct_series(slices=1)[0]).model, title="Lesions " * 8)

    description = report(ct_series(slices=3), nothing_found(), model=model).SeriesDescription

    assert len(description) <= 64
    assert description.startswith("AI Lesions")
    assert description.endswith("report (research)")


@pytest.mark.parametrize("sr_class", list(SrClass))
def test_every_document_class_carries_the_same_report(sr_class: SrClass) -> None:
    instances = ct_series()

    document = report(instances, nodules(source_frames(instances)), sr_class=sr_class)

    assert document.SOPClassUID == sr_class
    assert len(groups(document)) == 4
    assert hd.sr.srread(io.BytesIO(_saved(document))).content is not None


def test_another_reader_finds_both_groups_of_each_lesion() -> None:
    instances = ct_series()
    analysis = nodules(source_frames(instances))

    content: Any = hd.sr.srread(io.BytesIO(_saved(report(instances, analysis)))).content

    for finding in analysis.findings:
        volumetric = content.get_volumetric_roi_measurement_groups(
            tracking_uid=finding.tracking_uid
        )
        planar = content.get_image_measurement_groups(tracking_uid=finding.tracking_uid)
        assert (len(volumetric), len(planar)) == (1, 1)
        assert volumetric[0].reference_type.value == codes.REFERENCED_SEGMENT.value
        assert volumetric[0].get_measurements(name=hd.sr.CodedConcept(*_triplet(codes.VOLUME)))


def test_who_and_what_was_observed_is_said() -> None:
    instances = ct_series()
    document = report(instances, nodules(source_frames(instances)))

    assert coded(document, codes.LANGUAGE) == "English (United States)"
    assert coded(document, codes.OBSERVER_TYPE) == "Device"
    assert child(document, codes.DEVICE_OBSERVER_NAME).TextValue == "lung_nodule"
    assert coded(document, codes.PROCEDURE_REPORTED) == "CT unspecified body region"
    assert document.CompletionFlag == "COMPLETE"
    assert document.VerificationFlag == "UNVERIFIED"
    assert document.PreliminaryFlag == "PRELIMINARY"
    request = document.ReferencedRequestSequence[0]
    assert request.AccessionNumber == "ACC-1"
    assert request.StudyInstanceUID == document.StudyInstanceUID


def test_the_device_changes_when_the_network_does() -> None:
    instances = ct_series(slices=3)
    other = replace(result_context(instances[0]).model, sha256="cd" * 32)

    first = report(instances, nothing_found())
    second = report(instances, nothing_found(), model=other)

    uids = [child(d, codes.DEVICE_OBSERVER_UID).UID for d in (first, second)]
    assert uids[0] != uids[1]


def test_contributing_equipment_names_scanner_and_algorithm() -> None:
    scanner, algorithm = report(
        ct_series(slices=3, ManufacturerModelName="Scanner 5"), nothing_found()
    ).ContributingEquipmentSequence

    assert scanner.PurposeOfReferenceCodeSequence[0].CodeMeaning == "Acquisition Equipment"
    assert scanner.ManufacturerModelName == "Scanner 5"
    assert algorithm.ManufacturerModelName == "lung_nodule"
    assert list(algorithm.SoftwareVersions) == ["0.1.0", "lung_nodule 1.2.0"]
    assert "sha256=" + "ab" * 32 in algorithm.ContributionDescription


def test_a_repeated_analysis_names_the_report_it_replaces() -> None:
    instances = ct_series(slices=3)
    earlier = InstanceReference(instances[0].StudyInstanceUID, "1.2.3", SrClass.ENHANCED, "1.2.4")

    document = report(instances, nothing_found(), predecessors=(earlier,))

    series = document.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == "1.2.3"
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.4"


def test_times_are_those_of_the_job_in_the_zone_of_the_source() -> None:
    at = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)

    east = report(
        ct_series(slices=3, TimezoneOffsetFromUTC="+0900"), nothing_found(), created_at=at
    )
    plain = report(ct_series(slices=3), nothing_found(), created_at=at)

    assert (east.ContentDate, east.ContentTime[:4]) == ("20260302", "0830")
    assert east.TimezoneOffsetFromUTC == "+0900"
    assert (plain.ContentDate, plain.SeriesTime[:4]) == ("20260301", "2330")
    local = at.astimezone(timezone(timedelta(hours=-5)))
    assert report(ct_series(slices=3), nothing_found(), created_at=local).ContentTime[:2] == "18"


def test_a_time_without_zone_is_refused() -> None:
    with pytest.raises(ContractViolation) as refused:
        report(
            ct_series(slices=3),
            nothing_found(),
            created_at=datetime(2026, 3, 1, 10, 30),  # noqa: DTZ001
        )

    assert refused.value.reason == "NAIVE_TIME"


def test_names_and_long_uids_arrive_unharmed() -> None:
    long_uid = "1." + "2" * 62
    instances = ct_series(
        slices=3, PatientName="Wang^XiaoDong=王^小东", StudyInstanceUID=long_uid, AccessionNumber=""
    )

    document = report(instances, nothing_found())

    assert document.PatientName == "Wang^XiaoDong=王^小东"
    assert document.SpecificCharacterSet == "ISO_IR 192"
    assert document.StudyInstanceUID == long_uid
    assert document.AccessionNumber == ""
    assert "ReferencedRequestSequence" not in document


def test_a_region_on_a_frame_that_was_not_analysed_is_refused() -> None:
    instances = radiograph()
    analysis = radiograph_findings(source_frames(radiograph(name="another")))

    with pytest.raises(ContractViolation) as refused:
        report(instances, analysis)

    assert refused.value.reason == "REGION_OFF_SOURCE"


def test_a_segment_without_segmentation_is_refused() -> None:
    instances = ct_series()
    context = result_context(instances[0])
    frames = source_frames(instances)

    with pytest.raises(ContractViolation) as refused:
        write_sr(
            context,
            read_source(context.source_header),
            nodules(frames),
            frames=frames,
            segmentation=None,
        )

    assert refused.value.reason == "SEGMENT_WITHOUT_SEG"


def _saved(document: Dataset) -> bytes:
    buffer = io.BytesIO()
    document.save_as(buffer)
    return buffer.getvalue()


def _triplet(code: Code) -> tuple[str, str, str]:
    return code.value, code.scheme, code.meaning
