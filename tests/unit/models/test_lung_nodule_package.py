"""The shipped lung nodule package says what was measured, and no more."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from models.phantoms.seeds import Split
from models.training.nodule_metrics import FLOOR, POINTS, Weights, at_point, outcome, read_scans
from service.core.errors import UnsuitableSeries
from service.core.packages import read_package
from workers.evaluation.froc import froc
from workers.kinds.guards import judge, volume_features

PACKAGE = Path(__file__).parents[3] / "models" / "lung_nodule_detection"
LIMIT_BYTES = 15 << 20


@pytest.fixture(scope="module")
def manifest():
    return read_package(PACKAGE).manifest


@pytest.fixture(scope="module")
def metrics():
    return json.loads((PACKAGE / "metrics.json").read_text())


def test_files_are_those_that_the_manifest_pins(manifest):
    for network in manifest.networks:
        content = (PACKAGE / network.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == network.sha256, network.file
        assert len(content) <= LIMIT_BYTES
    for golden in manifest.golden:
        for name, digest in (
            (golden.input, golden.input_sha256),
            (golden.expected, golden.expected_sha256),
        ):
            assert hashlib.sha256((PACKAGE / name).read_bytes()).hexdigest() == digest


def test_calibration_in_force_is_the_one_that_was_measured(manifest, metrics):
    fitted = metrics["calibration"]
    found = manifest.calibration
    assert (found.detector, found.reduction, found.bias) == (
        fitted["detector"], fitted["reduction"], fitted["bias"],
    )  # fmt: skip
    assert found.ece == metrics["test"]["calibration"]["ece"]
    assert manifest.decoding.floor == FLOOR


def test_operating_points_state_the_figures_of_the_test_set(manifest, metrics):
    measured = metrics["test"]["operating_points"]
    assert {point.name for point in manifest.operating_points} == set(POINTS)
    for point in manifest.operating_points:
        assert (point.present, point.indeterminate) == POINTS[point.name]
        assert point.sensitivity == measured[point.name]["sensitivity"]
        assert point.false_positives_per_scan == measured[point.name]["false_positives_per_scan"]


def test_figures_follow_from_the_candidates_shipped(metrics):
    scans = read_scans(PACKAGE / "candidates.json.gz")
    fitted = metrics["calibration"]
    weights = Weights(fitted["detector"], fitted["reduction"], fitted["bias"])
    for split in (Split.TEST, Split.SHIFT):
        chosen = [scan for scan in scans if scan.split is split]
        assert len(chosen) == 100
        curve = froc([outcome(scan, weights) for scan in chosen])
        stated = metrics[split.value]["all_nodules"]
        assert curve.at() == pytest.approx(stated["sensitivity"], abs=1e-4)
        assert (
            at_point(chosen, weights, 0.5) == metrics[split.value]["operating_points"]["balanced"]
        )


def test_no_measured_patient_was_trained_on(metrics):
    seeds = [scan.split for scan in read_scans(PACKAGE / "candidates.json.gz")]
    assert Split.TRAIN not in seeds
    assert metrics["run"]["scans_trained_on"] < 1000


def test_card_states_the_test_sets_cpm(metrics):
    card = (PACKAGE / "card.md").read_text()
    for split in ("test", "shift"):
        assert f"{metrics[split]['all_nodules']['cpm']:.3f}" in card
    assert "not for clinical use" in card


def ball(hu: float, *, lungs: bool) -> tuple[np.ndarray, np.ndarray]:
    """A ball of tissue on a 4 mm grid, with two hollows for lungs or without."""
    z, y, x = np.mgrid[-30:30, -40:40, -45:45] * 4.0
    voxels = np.full(x.shape, -1000, np.int16)
    voxels[x**2 / 1.5 + y**2 + z**2 < 105**2] = hu
    if lungs:
        for side in (-1, 1):
            voxels[(x - side * 55) ** 2 + y**2 + (z / 1.3) ** 2 < 42**2] = -840
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    return voxels, affine


@pytest.mark.parametrize(
    ("hu", "lungs", "reason"), [(40, False, "NOT_CHEST"), (900, True, "OUT_OF_DISTRIBUTION")]
)
def test_what_is_no_chest_is_refused_with_its_reason(manifest, hu, lungs, reason):
    with pytest.raises(UnsuitableSeries) as refused:
        judge(manifest.guard, volume_features(*ball(hu, lungs=lungs)), package="lung_nodules")
    assert refused.value.reason == reason
