"""Results made anew from what a run kept: other operating points, readers' verdicts."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from service.core.errors import ContractViolation, InvalidModel
from service.core.findings import Analysis, Finding, FindingMask, Qualifier, RegionRole
from service.core.manifest import Manifest
from service.records.results import StoredAnalysis
from service.records.reviews import Review, Verdict
from tests.builders.dicom import AXIAL, ct_series
from tests.builders.results import nodules, radiograph_findings, source_frames
from tests.builders.studies import ball_package
from workers.analysis import tracked
from workers.evidence import kept, masks_and_maps
from workers.remake import Asked, Kept, remade

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
SERIES = ct_series(orientation=AXIAL, rows=64, columns=64, slices=14)
FRAMES = source_frames(SERIES)


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Return a manifest with the points balanced (0.7, 0.3) and sensitive (0.3, 0.1)."""
    return ball_package(tmp_path_factory.mktemp("models")).manifest


def found(*probabilities: float) -> Analysis:
    """Return nodules of these probabilities, each drawn, whatever a point makes of them."""
    drawn = nodules(FRAMES, count=len(probabilities))
    judged = tuple(
        finding.model_copy(update={"probability": probability})
        for finding, probability in zip(drawn.findings, probabilities, strict=True)
    )
    return Analysis(judged, masks=drawn.masks)


def keep(analysis: Analysis) -> Kept:
    headers = [frame.instance for frame in FRAMES]
    return Kept(analysis.findings, kept(analysis, FRAMES), headers)


def said(finding: Finding, verdict: Verdict, **changes: Any) -> dict[str, Review]:
    return {finding.id: Review(finding.id, verdict, "as I see it", "Dr^Reader", changes, AT)}


def asked(point: str = "balanced", verdicts: Mapping[str, Review] | None = None) -> Asked:
    return Asked(point, verdicts or {}, is_review=bool(verdicts), reviewer="Dr^Reader", asked_at=AT)


def test_masks_and_maps_come_back_as_they_were() -> None:
    analysis = found(0.9, 0.8, 0.4)
    masks, maps = masks_and_maps(kept(analysis, FRAMES))
    assert maps == {}
    assert masks.keys() == analysis.masks.keys()
    for finding_id, mask in analysis.masks.items():
        assert masks[finding_id].offset == mask.offset
        np.testing.assert_array_equal(masks[finding_id].voxels, mask.voxels)


def test_a_map_comes_back_in_its_size_and_close_to_its_values() -> None:
    frames = source_frames(ct_series(rows=64, columns=48, slices=1))
    analysis = radiograph_findings(frames)
    (finding_id,) = analysis.maps
    _, maps = masks_and_maps(kept(analysis, frames))
    np.testing.assert_allclose(maps[finding_id], analysis.maps[finding_id], atol=0.5 / 255)


def test_what_is_no_evidence_is_refused() -> None:
    with pytest.raises(ContractViolation, match="EVIDENCE_UNREADABLE"):
        masks_and_maps(StoredAnalysis([], b"not a file"))


def test_another_operating_point_shows_and_numbers_other_candidates(points: Manifest) -> None:
    kept_run = keep(found(0.9, 0.5, 0.2))
    balanced = remade(kept_run, asked("balanced"), points)
    sensitive = remade(kept_run, asked("sensitive"), points)
    assert [f.qualifier for f in balanced.analysis.findings] == [
        Qualifier.PRESENT, Qualifier.INDETERMINATE, Qualifier.ABSENT,
    ]  # fmt: skip
    assert [f.segment_number for f in balanced.analysis.findings] == [1, 2, None]
    assert [f.segment_number for f in sensitive.analysis.findings] == [1, 2, 3]
    assert balanced.review is None
    assert balanced.frames == tuple(FRAMES)


def test_an_operating_point_that_the_model_lacks_is_refused(points: Manifest) -> None:
    with pytest.raises(InvalidModel, match="OPERATING_POINT"):
        remade(keep(found(0.9)), asked("bold"), points)


def test_a_rejected_lesion_is_absent_and_loses_its_segment(points: Manifest) -> None:
    analysis = found(0.9, 0.8)
    first, second = analysis.findings
    verdicts = said(first, Verdict.REJECTED)
    again = remade(keep(analysis), asked(verdicts=verdicts), points)
    assert [f.qualifier for f in again.analysis.findings] == [Qualifier.ABSENT, Qualifier.PRESENT]
    assert [f.segment_number for f in again.analysis.findings] == [None, 1]
    assert again.analysis.findings[1].tracking_uid == second.tracking_uid
    assert again.review is not None
    assert again.review.remarks == {first.id: "Rejected by the reader Dr^Reader. as I see it"}


def test_an_accepted_candidate_is_present_however_unlikely(points: Manifest) -> None:
    analysis = found(0.9, 0.05)
    doubtful = analysis.findings[1]
    verdicts = said(doubtful, Verdict.ACCEPTED)
    again = remade(keep(analysis), asked(verdicts=verdicts), points)
    accepted = again.analysis.findings[1]
    assert (accepted.qualifier, accepted.probability) == (Qualifier.PRESENT, 0.05)
    assert accepted.segment_number == 2


def test_a_corrected_size_drops_what_was_measured_on_the_old_voxels(points: Manifest) -> None:
    analysis = found(0.9)
    verdicts = said(analysis.findings[0], Verdict.EDITED, long_axis_mm=11.5)
    again = remade(keep(analysis), asked(verdicts=verdicts), points)
    (edited,) = again.analysis.findings
    assert {one.name: one.value for one in edited.measurements} == {
        "long_axis": 11.5,
        "short_axis": 5.6,
    }
    assert edited.segment_number is None
    roles = {region.role for region in edited.location.regions} if edited.location else set()
    assert not roles & {RegionRole.LONG_AXIS, RegionRole.SHORT_AXIS}


def test_a_moved_lesion_lies_on_the_frame_that_is_nearest(points: Manifest) -> None:
    analysis = found(0.9)
    plane = FRAMES[5].geometry
    assert plane.image_position_mm
    assert plane.row_spacing_mm
    assert plane.column_spacing_mm
    x, y, z = plane.image_position_mm
    place = (x + 10 * plane.column_spacing_mm, y + 20 * plane.row_spacing_mm, z + 0.3)
    verdicts = said(analysis.findings[0], Verdict.EDITED, center_mm=place)
    again = remade(keep(analysis), asked(verdicts=verdicts), points)
    location = again.analysis.findings[0].location
    assert location
    assert location.sop_instance_uid == FRAMES[5].instance.sop_instance_uid
    assert location.regions[0].points == (pytest.approx((10.5, 20.5)),)


def test_a_place_on_an_image_needs_no_position_in_the_patient(points: Manifest) -> None:
    analysis = found(0.9)
    uid = FRAMES[7].instance.sop_instance_uid
    place = {"sop_instance_uid": uid, "frame_number": 1, "column": 12.0, "row": 7.5}
    verdicts = said(analysis.findings[0], Verdict.EDITED, place=place)
    again = remade(keep(analysis), asked(verdicts=verdicts), points)
    location = again.analysis.findings[0].location
    assert location
    assert (location.sop_instance_uid, location.center_mm) == (uid, None)
    assert location.regions[0].points == ((12.0, 7.5),)
    assert again.analysis.findings[0].segment_number is None


def test_a_corrected_label_keeps_segment_and_numbers(points: Manifest) -> None:
    analysis = found(0.9)
    mass = {"value": "4147007", "scheme": "SCT", "meaning": "Mass"}
    verdicts = said(analysis.findings[0], Verdict.EDITED, label=mass)
    again = remade(keep(analysis), asked(verdicts=verdicts), points)
    (edited,) = again.analysis.findings
    assert edited.label.meaning == "Mass"
    assert edited.segment_number == 1
    assert len(edited.measurements) == len(analysis.findings[0].measurements)


def test_the_same_lesions_keep_their_names_and_new_ones_get_free_names() -> None:
    earlier = [
        one.model_copy(update={"tracking_id": f"Nodule {rank}"})
        for rank, one in enumerate(placed(found(0.9, 0.8).findings), start=1)
    ]
    again = [
        one.model_copy(update={"id": f"new {rank}", "tracking_uid": f"2.25.{rank}"})
        for rank, one in enumerate(reversed(placed(found(0.9, 0.8, 0.7).findings)))
    ]
    # Ranked the other way round, with a new one in front that would have taken a used name.
    again = [
        one.model_copy(update={"tracking_id": f"Nodule {rank}"})
        for rank, one in enumerate(again, start=1)
    ]
    names = {one.id: (one.tracking_uid, one.tracking_id) for one in tracked(again, earlier)}
    assert names["new 2"] == (earlier[0].tracking_uid, "Nodule 1")
    assert names["new 1"] == (earlier[1].tracking_uid, "Nodule 2")
    assert names["new 0"] == ("2.25.0", "Nodule 3")


def placed(findings: tuple[Finding, ...]) -> list[Finding]:
    """Return findings well apart from each other."""
    return [
        one.model_copy(
            update={
                "location": one.location.model_copy(update={"center_mm": (40.0 * rank, 0.0, 0.0)})
                if one.location
                else None
            }
        )
        for rank, one in enumerate(findings)
    ]


def test_nothing_is_renamed_without_an_earlier_run() -> None:
    analysis = found(0.9, 0.8)
    assert tracked(analysis.findings, []) == analysis.findings


def test_a_mask_of_one_voxel_survives() -> None:
    analysis = found(0.9)
    tiny = FindingMask((3, 4, 5), np.ones((1, 1, 1), bool))
    one = Analysis(analysis.findings, masks={analysis.findings[0].id: tiny})
    masks, _ = masks_and_maps(kept(one, FRAMES))
    assert masks[analysis.findings[0].id].voxels.tolist() == [[[True]]]
