"""A detector that gives boxes finds what a detector with a heat map does."""

import numpy as np
import pytest

from service.core.errors import InvalidModel
from service.core.identifiers import finding_id, tracking_uid
from tests.builders import onnx, packages
from workers.golden import volume_of
from workers.models import load_model


def analysed(models_dir, volume, axes="SPL"):
    values = packages.manifest(
        input={"spacing_mm": [2.0, 1.0, 1.0], "axes": axes, "intensity": packages.WINDOW},
        tiling={"patch": [56, 56, 56], "overlap": 0.25},
        decoding={"form": "boxes", "stride": 1, "floor": 0.01, "merge_distance_mm": 8},
        calibration={"method": "logistic", "detector": 1.0},
        measurements={"take": ["diameter"]},
    )
    package = packages.write_package(models_dir, values, {"detector": onnx.boxer(threshold=0.7)})
    found = load_model(package, device="cpu", threads=1, probe=False).analyse(
        volume, identify=lambda rank: (finding_id("job", rank), tracking_uid("job", rank))
    )
    return found.findings


def volume():
    voxels = np.zeros((30, 40, 50), np.int16)
    voxels[10:14, 20:28, 6:14] = 900
    return volume_of(voxels, np.diag([1.0, 1.0, 2.0, 1.0]))


@pytest.mark.parametrize("axes", ["SPL", "RAS"])
def test_a_box_is_a_finding_at_its_middle_whatever_the_order_of_the_axes(tmp_path, axes):
    (finding,) = analysed(tmp_path, volume(), axes)
    assert finding.location.center_mm == pytest.approx((9.5, 23.5, 23.0), abs=1e-3)
    assert finding.measured("diameter") == pytest.approx(8.0)
    assert finding.probability == pytest.approx(0.9, abs=1e-4)


def test_a_detector_that_finds_no_box_finds_nothing(tmp_path):
    dark = volume_of(np.zeros((30, 40, 50), np.int16), np.eye(4))
    assert analysed(tmp_path, dark) == ()


def test_boxes_carry_no_class_so_a_second_one_is_refused(tmp_path):
    values = packages.manifest(
        tiling={"patch": [24, 24, 24]},
        decoding={"form": "boxes"},
        classes=[
            {"name": name, "kind": "lesion", "label": packages.NODULE} for name in ("one", "two")
        ],
    )
    with pytest.raises(InvalidModel, match="a detection by boxes has one class"):
        packages.write_package(tmp_path, values, {"detector": onnx.boxer(threshold=0.7)})
