"""Segmentation end to end: layers of brightness become organs and lesions of known size."""

from typing import Any

import numpy as np
import pytest

from service.core.errors import ContractViolation, UnsuitableSeries
from service.core.findings import Qualifier
from service.core.identifiers import finding_id, tracking_uid
from tests.builders import onnx, packages
from tests.builders.chests import Ball, chest
from tests.builders.dicom import CORONAL, OBLIQUE
from workers.models import load_model

# The liver of these tests is a ball of 300 HU; lesions are brighter balls.
LIVER = Ball((5.0, 0.0, 0.0), 60.0, hounsfield=300)
INSIDE = Ball((15.0, 5.0, -6.0), 16.0, hounsfield=700)
SECOND = Ball((-6.0, -8.0, 10.0), 10.0, hounsfield=700)
ELSEWHERE = Ball((-60.0, 10.0, 5.0), 14.0, hounsfield=700)
# 300 HU is 0.65 of the window and 700 HU 0.85.
THRESHOLDS = (0.585, 0.75)
CLASSES = [
    {"name": "background", "kind": "background"},
    {"name": "liver", "kind": "organ", "label": packages.LIVER, "site": packages.LIVER},
    {"name": "lesion", "kind": "lesion", "label": packages.LESION, "site": packages.LIVER},
]


def identify(rank):
    return finding_id("job", rank), tracking_uid("job", rank)


def model(models_dir, *, decoding=None, network=None, **sections: Any):
    values = packages.manifest(
        "segmentation",
        **{
            "classes": CLASSES,
            "decoding": {"within": "liver"} if decoding is None else decoding,
            "tiling": {"patch": [32, 48, 48], "overlap": 0.25, "region": "body"},
            "measurements": {"take": ["long_axis", "short_axis", "volume", "mean_hu"]},
            **sections,
        },
    )
    content = network or onnx.layers(*THRESHOLDS)
    package = packages.write_package(models_dir, values, {"segmenter": content})
    return load_model(package, device="cpu", threads=1, probe=False)


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    return model(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("orientation", [OBLIQUE, CORONAL], ids=["oblique", "coronal"])
def test_each_lesion_in_the_organ_is_one_finding_of_its_size(lesions, orientation):
    volume = chest((LIVER, INSIDE, SECOND, ELSEWHERE), orientation=orientation)
    analysis = lesions.analyse(volume, identify=identify)
    assert len(analysis.findings) == 2
    by_size = sorted(analysis.findings, key=lambda f: -f.measured("volume"))
    for finding, ball in zip(by_size, (INSIDE, SECOND), strict=True):
        assert np.linalg.norm(np.subtract(finding.location.center_mm, ball.center_mm)) < 0.8
        assert finding.measured("long_axis") == pytest.approx(ball.diameter_mm, abs=1.6)
        assert finding.measured("short_axis") == pytest.approx(ball.diameter_mm, abs=1.6)
        assert finding.measured("volume") == pytest.approx(np.pi / 6 * ball.diameter_mm**3, rel=0.2)
        assert finding.measured("mean_hu") > 550
        assert finding.qualifier is Qualifier.PRESENT
        assert analysis.masks[finding.id].voxels.any()
    assert [finding.segment_number for finding in analysis.findings] == [1, 2]


def test_a_lesion_elsewhere_counts_where_no_organ_is_asked_for(lesions, tmp_path):
    volume = chest((LIVER, INSIDE, ELSEWHERE))
    everywhere = model(tmp_path, decoding={}).analyse(volume, identify=identify)
    assert len(lesions.analyse(volume, identify=identify).findings) == 1
    assert len(everywhere.findings) == 2


def test_a_lesion_that_fills_most_of_its_organ_counts_to_it(lesions):
    large = Ball(LIVER.center_mm, 54.0, hounsfield=700)
    analysis = lesions.analyse(chest((LIVER, large)), identify=identify)
    (finding,) = analysis.findings
    assert finding.measured("long_axis") == pytest.approx(54, abs=2)
    assert analysis.scores["liver_volume_ml"] == pytest.approx(113, rel=0.1)


def test_small_lesions_are_left_out_by_volume_or_diameter(tmp_path):
    volume = chest((LIVER, INSIDE, SECOND))
    for decoding in ({"minimum_volume_mm3": 1000.0}, {"minimum_diameter_mm": 13.0}):
        analysis = model(tmp_path, decoding=decoding).analyse(volume, identify=identify)
        assert [round(f.measured("long_axis"), -1) for f in analysis.findings] == [20.0]


def test_the_probability_is_the_calibrated_mean_inside_the_lesion(tmp_path):
    volume = chest((LIVER, INSIDE))
    plain = model(tmp_path).analyse(volume, identify=identify).findings[0]
    calibration = {"method": "temperature", "classes": {"lesion": {"temperature": 2.0, "bias": -1}}}
    cooled = model(tmp_path, calibration=calibration).analyse(volume, identify=identify).findings[0]
    logit = np.log(plain.probability / (1 - plain.probability))
    assert 0.8 < plain.probability < 0.9999
    assert cooled.probability == pytest.approx(1 / (1 + np.exp(-(logit / 2 - 1))), abs=1e-4)


def test_a_network_of_few_slices_finds_the_same_lesions(lesions, tmp_path):
    volume = chest((LIVER, INSIDE, SECOND), orientation=OBLIQUE)
    flat = model(
        tmp_path,
        network=onnx.layers(*THRESHOLDS, context_slices=5),
        input={"spacing_mm": [0, 1.5, 1.5], "intensity": packages.WINDOW, "context_slices": 5},
        tiling={"patch": [64, 48], "region": "body", "batch": 4},
    )
    there = lesions.analyse(volume, identify=identify).findings
    here = flat.analyse(volume, identify=identify).findings
    assert len(here) == len(there) == 2
    for ball in (INSIDE, SECOND):
        nearest = min(
            here, key=lambda f: np.linalg.norm(np.subtract(f.location.center_mm, ball.center_mm))
        )
        assert nearest.measured("long_axis") == pytest.approx(ball.diameter_mm, abs=1.6)


@pytest.mark.parametrize("axes", ["RAS", "LIA", "IPR"])
def test_a_network_of_one_size_and_other_axes_finds_the_same_lesion(tmp_path, axes):
    volume = chest((LIVER, INSIDE), orientation=OBLIQUE)
    edges = {"S": 64, "I": 64, "P": 72, "A": 72, "L": 96, "R": 96}
    whole = model(
        tmp_path,
        input={
            "spacing_mm": [2.0, 2.0, 2.0],
            "intensity": packages.WINDOW,
            "size": [edges[letter] for letter in axes],
            "axes": axes,
        },
    )
    (finding,) = whole.analyse(volume, identify=identify).findings
    assert np.linalg.norm(np.subtract(finding.location.center_mm, INSIDE.center_mm)) < 0.8
    assert finding.measured("long_axis") == pytest.approx(INSIDE.diameter_mm, abs=1.6)


def test_an_organ_is_a_finding_only_when_it_is_to_be_reported(tmp_path):
    volume = chest((LIVER,))
    assert model(tmp_path).analyse(volume, identify=identify).findings == ()
    classes = [CLASSES[0], CLASSES[1] | {"report": True}, CLASSES[2]]
    analysis = model(tmp_path, classes=classes).analyse(volume, identify=identify)
    (finding,) = analysis.findings
    assert finding.class_name == "liver"
    assert finding.measured("volume") == pytest.approx(np.pi / 6 * 60**3, rel=0.1)
    assert analysis.scores["liver_volume_ml"] == pytest.approx(113, rel=0.1)


def test_a_scan_that_does_not_cover_the_organ_is_refused(tmp_path):
    guard = {
        "rules": [
            {"measure": "organ_volume_ml", "class_name": "liver", "range": {"minimum": 80},
             "reason": "LIVER_NOT_COVERED"}
        ]
    }  # fmt: skip
    guarded = model(tmp_path, guard=guard)
    assert guarded.analyse(chest((LIVER, INSIDE)), identify=identify).findings
    with pytest.raises(UnsuitableSeries) as refused:
        guarded.analyse(chest((INSIDE,)), identify=identify)
    assert refused.value.reason == "LIVER_NOT_COVERED"


def test_a_network_with_other_classes_breaks_the_contract(tmp_path):
    with pytest.raises(ContractViolation, match=r"logits: found \(2, .*\), allowed \(3, "):
        model(tmp_path, network=onnx.layers(0.6)).analyse(chest((LIVER,)), identify=identify)
