"""Detection end to end: a real session over synthetic chests of known content."""

from typing import Any

import numpy as np
import pytest

from service.core import codes
from service.core.errors import ContractViolation, UnsuitableSeries
from service.core.findings import Qualifier, RegionRole
from service.core.geometry import to_patient_mm
from service.core.identifiers import finding_id, tracking_uid
from tests.builders import onnx, packages
from tests.builders.chests import Ball, chest
from tests.builders.dicom import AXIAL, CORONAL, OBLIQUE, PRONE
from workers.models import load_model

LARGE = Ball((-35.0, 5.0, 10.0), 12.0)
SMALL = Ball((40.0, -10.0, -15.0), 8.0)
FAINT = Ball((38.0, 12.0, 18.0), 8.0, hounsfield=300.0)
CROP = {"size": [24, 24, 24], "spacing_mm": [1.0, 1.0, 1.0], "intensity": packages.WINDOW}
# 600 HU is 0.8, 300 HU 0.65 and soft tissue 0.52 of the window.
NETWORKS = {
    "detector": onnx.detector(threshold=0.2, diameter_mm=9),
    "reduction": onnx.brightness_of_crop(threshold=0.7, edge=24),
    "segmentation": onnx.bright_voxels(threshold=0.45),
    "malignancy": onnx.brightness_of_crop(threshold=0.8, edge=24),
}


def identify(rank):
    return finding_id("job", rank), tracking_uid("job", rank)


@pytest.fixture(scope="module")
def nodules(tmp_path_factory):
    return model(tmp_path_factory.mktemp("models"))


def model(models_dir, networks=NETWORKS, **sections: Any):
    values = packages.manifest(
        tiling={"patch": [32, 32, 32], "region": "lungs", "margin_mm": 2, "batch": 2},
        decoding={"stride": 2, "floor": 0.001},
        classes=[
            {
                "name": "nodule",
                "kind": "lesion",
                "label": packages.NODULE,
                "site": packages.LUNG,
                "color_lab": [60, 40, 20],
                "lateral": True,
            }
        ],
        measurements={"take": ["long_axis", "short_axis", "diameter", "volume", "mean_hu"]},
        guard={"rules": [{"measure": "lung_volume_ml", "range": {"minimum": 100},
                          "reason": "LUNGS_NOT_IN_FIELD"}]},
        # The detector's own logits do not count, so that what each stage says can be told apart.
        calibration={"method": "logistic", "detector": 0.0, "reduction": 1.0, "bias": 0.5},
        **sections,
    )  # fmt: skip
    package = packages.write_package(
        models_dir, values, networks, crops={role: CROP for role in networks if role != "detector"}
    )
    return load_model(package, device="cpu", threads=1, probe=False)


@pytest.mark.parametrize(
    ("orientation", "spacing_mm", "shape"),
    [
        (OBLIQUE, (2.5, 1.2, 1.5), (44, 116, 128)),
        (PRONE, (2.0, 1.5, 1.25), (52, 90, 150)),
        (CORONAL, (2.5, 1.3, 1.5), (50, 84, 126)),
    ],
)
def test_balls_are_found_measured_and_placed_at_any_orientation(
    nodules, orientation, spacing_mm, shape
):
    volume = chest((LARGE, SMALL), orientation=orientation, spacing_mm=spacing_mm, shape=shape)
    analysis = nodules.analyse(volume, identify=identify)
    present = [f for f in analysis.findings if f.qualifier is Qualifier.PRESENT]
    by_side = {finding.laterality: finding for finding in present}
    assert set(by_side) == {codes.RIGHT, codes.LEFT}
    for side, ball in ((codes.RIGHT, LARGE), (codes.LEFT, SMALL)):
        finding = by_side[side]
        assert np.linalg.norm(np.subtract(finding.location.center_mm, ball.center_mm)) < 0.7
        assert finding.measured("diameter") == pytest.approx(ball.diameter_mm, abs=0.6)
        assert finding.measured("long_axis") == pytest.approx(ball.diameter_mm, abs=1.2)
        assert finding.measured("volume") == pytest.approx(np.pi / 6 * ball.diameter_mm**3, rel=0.2)
        assert finding.measured("mean_hu") > 350
        assert finding.site.meaning == "Lung"
        assert finding.color_lab == (60, 40, 20)


def test_under_a_tilted_gantry_masks_lie_on_the_planes_of_the_series(nodules):
    volume = chest((LARGE, SMALL), tilt_degrees=14.0)
    assert volume.is_resampled
    analysis = nodules.analyse(volume, identify=identify)
    found = analysis.findings[0]
    ball = min((LARGE, SMALL), key=lambda b: abs(b.center_mm[0] - found.location.center_mm[0]))
    assert np.linalg.norm(np.subtract(found.location.center_mm, ball.center_mm)) < 0.8
    assert found.measured("volume") == pytest.approx(np.pi / 6 * ball.diameter_mm**3, rel=0.25)
    # The volume's slices are no longer the series' planes, so no attenuation is stated.
    assert found.measured("mean_hu") is None
    mask = analysis.masks[found.id]
    frames, rows, columns = np.nonzero(mask.voxels)
    for frame, row, column in zip(frames, rows, columns, strict=True):
        first, top, left = mask.offset
        place = volume.stack.plane_affine(first + frame) @ [left + column, top + row, 0, 1]
        assert np.linalg.norm(place[:3] - ball.center_mm) < ball.diameter_mm / 2 + 1.5


def test_masks_and_regions_lie_on_the_source_frames(nodules):
    volume = chest((LARGE,), orientation=OBLIQUE)
    analysis = nodules.analyse(volume, identify=identify)
    finding = analysis.findings[0]
    mask = analysis.masks[finding.id]
    planes, rows, columns = np.nonzero(mask.voxels)
    index = np.stack([columns, rows, planes], axis=1) + np.array(mask.offset)[::-1]
    points = to_patient_mm(volume.affine, index)
    assert np.linalg.norm(points - LARGE.center_mm, axis=1).max() < LARGE.diameter_mm / 2 + 1.5
    frame = [f.instance.sop_instance_uid for f in volume.frames].index(
        finding.location.sop_instance_uid
    )
    regions = {region.role: region for region in finding.location.regions}
    assert set(regions) == {
        RegionRole.OUTLINE, RegionRole.BOX, RegionRole.LONG_AXIS, RegionRole.SHORT_AXIS,
    }  # fmt: skip
    for region in regions.values():
        assert region.sop_instance_uid == finding.location.sop_instance_uid
        places = np.array(region.points) - 0.5
        at = np.column_stack([places, np.full(len(places), frame)])
        away = np.linalg.norm(to_patient_mm(volume.affine, at) - LARGE.center_mm, axis=1)
        assert away.max() < LARGE.diameter_mm / 2 * 1.5 + 1.5
    assert mask.voxels[frame - mask.offset[0]].sum() == mask.voxels.sum(axis=(1, 2)).max()


def test_the_probability_is_the_calibrated_sum_of_both_stages(nodules):
    volume = chest((LARGE, FAINT))
    analysis = nodules.analyse(volume, identify=identify)
    # The brightest voxel in the middle of the crop has exactly the ball's brightness.
    for finding, ball in zip(analysis.findings[:1], [LARGE], strict=True):
        brightness = (ball.hounsfield + 1000) / 2000
        expected = 1 / (1 + np.exp(-(onnx.GAIN * (brightness - 0.7) + 0.5)))
        assert finding.probability == pytest.approx(expected, abs=1e-3)
        malignant = 1 / (1 + np.exp(-(onnx.GAIN * (brightness - 0.8))))
        assert finding.malignancy_probability == pytest.approx(malignant, abs=1e-3)


def test_a_faint_candidate_is_kept_as_absent_and_present_at_another_operating_point(nodules):
    volume = chest((LARGE, FAINT))
    balanced = nodules.analyse(volume, identify=identify)
    place = [np.linalg.norm(np.subtract(f.location.center_mm, FAINT.center_mm)) < 2
             for f in balanced.findings].index(True)  # fmt: skip
    faint = balanced.findings[place]
    # GAIN x (0.65 - 0.7) + 0.5 = -1.5
    assert faint.probability == pytest.approx(0.182, abs=0.01)
    assert faint.qualifier is Qualifier.ABSENT
    assert faint.segment_number is None
    assert faint.id in balanced.masks
    sensitive = nodules.analyse(volume, identify=identify, operating_point="sensitive")
    assert sensitive.findings[place].qualifier is Qualifier.INDETERMINATE
    assert sensitive.findings[place].segment_number is not None


def test_ids_ranks_and_segments_follow_probability_and_a_repeat_is_identical(nodules):
    volume = chest((LARGE, SMALL, FAINT))
    first, again = (nodules.analyse(volume, identify=identify) for _ in range(2))
    assert first.findings == again.findings
    assert [f.id for f in first.findings] == [identify(r)[0] for r in range(len(first.findings))]
    probabilities = [finding.probability for finding in first.findings]
    assert probabilities == sorted(probabilities, reverse=True)
    numbers = [f.segment_number for f in first.findings if f.segment_number]
    assert numbers == list(range(1, len(numbers) + 1))
    for key, mask in first.masks.items():
        np.testing.assert_array_equal(mask.voxels, again.masks[key].voxels)


def test_without_a_segmentation_a_finding_has_the_detectors_box(tmp_path):
    networks = {role: NETWORKS[role] for role in ("detector", "reduction")}
    volume = chest((SMALL,), orientation=AXIAL)
    analysis = model(tmp_path, networks).analyse(volume, identify=identify)
    finding = analysis.findings[0]
    assert analysis.masks == {}
    assert finding.malignancy_probability is None
    assert finding.segment_number is None
    assert finding.measured("diameter") == pytest.approx(9.0, abs=0.01)
    (box,) = finding.location.regions
    corners = np.array(box.points)
    assert box.role is RegionRole.BOX
    assert np.ptp(corners[:, 0]) == pytest.approx(9.0 / 1.5, abs=0.01)
    assert np.ptp(corners[:, 1]) == pytest.approx(9.0 / 1.2, abs=0.01)
    # Two-voxel cells of 2 mm: within a cell's half diagonal.
    assert np.linalg.norm(np.subtract(finding.location.center_mm, SMALL.center_mm)) < 3.5


def test_healthy_lungs_give_no_finding(nodules):
    analysis = nodules.analyse(chest(), identify=identify)
    assert [f for f in analysis.findings if f.qualifier is not Qualifier.ABSENT] == []
    assert analysis.scores["lung_volume_ml"] > 300


def test_a_scan_without_lungs_is_refused_with_the_reason_of_the_guard(nodules):
    with pytest.raises(UnsuitableSeries) as refused:
        nodules.analyse(chest(lungs=False), identify=identify)
    assert refused.value.reason == "LUNGS_NOT_IN_FIELD"


def test_not_a_number_from_the_second_stage_ends_the_job(tmp_path):
    broken = onnx.not_a_number("crop", ["n", 1, 24, 24, 24], "logits")
    loaded = model_without_warm_up(tmp_path, NETWORKS | {"segmentation": broken})
    with pytest.raises(ContractViolation) as broke:
        loaded.analyse(chest((LARGE,)), identify=identify)
    assert broke.value.reason == "MODEL_OUTPUT"


def model_without_warm_up(tmp_path, networks):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("workers.models.warm_up", lambda session: None)
        return model(tmp_path, networks)


def test_progress_is_heard_for_each_stage(nodules):
    heard = []
    nodules.analyse(
        chest((LARGE,)), identify=identify, progress=lambda stage, part: heard.append((stage, part))
    )
    for stage in NETWORKS:
        parts = [part for name, part in heard if name == stage]
        assert parts == sorted(parts)
        assert parts[-1] == 1.0
