"""What guards measure in pixels, and when they refuse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core import codes
from service.core.errors import InvalidModel, UnsuitableSeries
from service.core.manifest_input import Intensity
from service.core.manifest_output import Distribution, Guard, GuardRule
from tests.builders.chests import Ball, chest
from tests.builders.dicom import CORONAL, OBLIQUE, PRONE
from workers.kinds.coarse import coarsen
from workers.kinds.guards import judge, judge_organs, radiograph_features, volume_features
from workers.kinds.intensity import mapped
from workers.kinds.scan import Scan, on_grid
from workers.volume.grid import canonical_grid

ELLIPSOID_ML = 2 * 4 / 3 * np.pi * 26 * 38 * 45 / 1000
BODY_ML = np.pi * 85 * 60 * 107.5 / 1000


def features(volume):
    return volume_features(volume.voxels, volume.affine)


@pytest.mark.parametrize("orientation", [OBLIQUE, PRONE, CORONAL])
def test_features_of_a_chest_do_not_depend_on_how_it_was_cut(orientation):
    found = features(chest(orientation=orientation, shape=(60, 110, 130)))
    assert found["lung_volume_ml"] == pytest.approx(ELLIPSOID_ML, rel=0.1)
    assert found["lung_mean_hu"] == pytest.approx(-800, abs=60)
    assert found["lung_height_mm"] == pytest.approx(90, abs=12)
    assert found["bone_fraction"] == 0
    assert found["noise_hu"] == 0


def test_a_body_without_lungs_has_no_lung_volume():
    found = features(chest(lungs=False))
    assert found["lung_volume_ml"] == 0
    assert found["lung_mean_hu"] == 0
    assert found["body_volume_ml"] == pytest.approx(BODY_ML, rel=0.1)


def test_lungs_that_are_cut_off_show_in_the_end_slices():
    whole, cut = chest(), chest(shape=(16, 116, 128))
    assert features(whole)["lung_cut_fraction"] < 0.3
    assert features(cut)["lung_cut_fraction"] > 0.7


def test_noise_is_measured_in_soft_tissue():
    volume = chest(lungs=False)
    rng = np.random.default_rng(3)
    noisy = volume.voxels + rng.normal(0, 15, volume.voxels.shape)
    assert volume_features(noisy, volume.affine)["noise_hu"] == pytest.approx(15, rel=0.15)


def test_every_feature_of_an_empty_scan_is_a_number():
    empty = np.full((12, 30, 30), -1000, np.int16)
    found = volume_features(empty, np.diag([3.0, 3.0, 3.0, 1.0]))
    assert all(np.isfinite(value) for value in found.values())
    assert found["body_volume_ml"] == 0


def test_a_point_is_told_left_from_right_at_any_orientation():
    for orientation in (OBLIQUE, PRONE, CORONAL):
        scan = Scan(chest(orientation=orientation))
        assert scan.side_of(np.array([40.0, 0.0, 5.0])) == codes.LEFT
        assert scan.side_of(np.array([-40.0, 10.0, -5.0])) == codes.RIGHT
        assert scan.side_of(np.array([2.0, 10.0, -5.0])) is None


@pytest.mark.parametrize("orientation", [OBLIQUE, PRONE, CORONAL])
def test_the_lungs_lie_on_a_network_grid_where_they_lie_in_the_patient(orientation):
    volume = chest((Ball((-69.0, 0.0, 0.0), 14.0),), orientation=orientation)
    scan = Scan(volume)
    grid = canonical_grid(volume, (3.0, 2.0, 2.5))
    lungs = on_grid(scan.anatomy.lungs, scan.coarse, grid)
    assert lungs.shape == grid.shape
    center = grid.patient_mm(np.argwhere(lungs).astype(float)).mean(axis=0)
    assert np.abs(center).max() < 4
    # The ball on the pleura is no air, but belongs to the lung that is looked at.
    pleural = tuple(np.rint(grid.indices([-66.0, 0.0, 0.0])).astype(int))
    looked_at = scan.region_on(grid, "lungs", 5.0)
    assert looked_at[pleural]
    assert looked_at[lungs].all()
    assert looked_at.sum() > lungs.sum()
    assert scan.region_on(grid, "all", 5.0) is None


@settings(max_examples=30)
@given(st.floats(1, 7), st.floats(0.5, 6), st.floats(0.5, 6), st.sampled_from([OBLIQUE, PRONE]))
def test_a_coarse_scan_keeps_its_place_in_the_patient(depth, height, width, orientation):
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row * width, column * height, np.cross(row, column) * depth], 1)
    shape = tuple(max(4, int(80 / edge)) for edge in (depth, height, width))
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)[..., ::-1]
    points = index @ affine[:3, :3].T
    coarse = coarsen((points @ [1.0, 2.0, -1.5]).astype(np.float32), affine)
    middle = np.array(coarse.values.shape) // 2
    place = coarse.origin_mm + middle[::-1] * 4.0
    assert coarse.values[tuple(middle)] == pytest.approx(place @ [1.0, 2.0, -1.5], abs=0.5)


def radiograph(shift=0):
    rows, columns = np.mgrid[:200, :160]
    image = 100 + 60 * np.exp(-(((columns - 80 - shift) / 16) ** 2))
    return image + 20 * (rows > 150)


def test_a_frontal_image_is_symmetric_with_a_bright_middle_and_a_lateral_one_is_not():
    frontal, lateral = radiograph_features(radiograph()), radiograph_features(radiograph(45))
    assert frontal["symmetry"] > 0.95
    assert lateral["symmetry"] < 0.5
    assert frontal["mediastinal_contrast"] > 0.7
    assert lateral["mediastinal_contrast"] < 0.7
    assert frontal["vertical_contrast"] > 0
    assert frontal["aspect_ratio"] == 0.8


@settings(max_examples=30)
@given(st.floats(0.01, 1000), st.floats(-1000, 1000))
def test_radiograph_features_do_not_depend_on_brightness_or_contrast(scale, shift):
    plain, other = (radiograph_features(radiograph() * s + o) for s, o in ((1, 0), (scale, shift)))
    for name, value in plain.items():
        assert other[name] == pytest.approx(value, abs=0.02)


@pytest.mark.parametrize("image", [np.zeros((10, 7)), np.ones((1, 1)), np.eye(300)])
def test_radiograph_features_of_any_image_are_numbers(image):
    assert all(np.isfinite(value) for value in radiograph_features(image).values())


RULES = Guard(
    rules=(
        GuardRule(measure="a", range={"minimum": 1}, reason="NOT_CHEST"),
        GuardRule(measure="organ_volume_ml", class_name="liver", range={"minimum": 5},
                  reason="LIVER_NOT_COVERED"),
    )
)  # fmt: skip


def test_the_first_rule_that_does_not_hold_gives_the_reason():
    assert judge(RULES, {"a": 2.0}, package="p") == {"a": 2.0}
    with pytest.raises(UnsuitableSeries, match=r"NOT_CHEST: a is 0.5"):
        judge(RULES, {"a": 0.5}, package="p")


def test_a_rule_on_an_organ_waits_for_the_network():
    judge_organs(RULES, {"liver": 5.0})
    with pytest.raises(UnsuitableSeries, match="LIVER_NOT_COVERED: liver: 4 ml"):
        judge_organs(RULES, {"liver": 4.0})
    with pytest.raises(UnsuitableSeries, match="LIVER_NOT_COVERED: liver: 0 ml"):
        judge_organs(RULES, {})


def test_a_feature_that_there_is_not_is_a_fault_of_the_package():
    with pytest.raises(InvalidModel, match="p: guard: found a, allowed b"):
        judge(RULES, {"b": 1.0}, package="p")


def test_the_distance_is_that_of_mahalanobis():
    inverse = np.linalg.inv([[4.0, 1.0], [1.0, 2.0]])
    guard = Guard(
        distribution=Distribution(
            features=("a", "b"), mean=(1.0, 2.0), inverse_covariance=inverse.tolist(), threshold=2
        )
    )
    away = np.array([2.0, 1.0])
    scores = judge(guard, {"a": 3.0, "b": 3.0}, package="p")
    assert scores["out_of_distribution"] == pytest.approx(np.sqrt(away @ inverse @ away))
    with pytest.raises(UnsuitableSeries, match="OUT_OF_DISTRIBUTION"):
        judge(guard, {"a": 9.0, "b": 3.0}, package="p")


VALUES = np.array([-2000.0, -1000.0, 0.0, 500.0, 4000.0])


@pytest.mark.parametrize(
    ("intensity", "expected"),
    [
        ({"lower": -1000, "upper": 1000, "to": (-1, 1)}, [-1, -1, 0, 0.5, 1]),
        ({"lower": -1000, "upper": 1000, "mean": 0.5, "sd": 0.25}, [-2, -2, 0, 1, 2]),
        ({"mode": "range"}, [0, 1 / 6, 1 / 3, 2500 / 6000, 1]),
        ({"mode": "format", "to": (0, 10)}, [0, 0, 0, 5, 10]),
        ({"mode": "percentile", "lower": 25, "upper": 75}, [0, 0, 2 / 3, 1, 1]),
        ({"mode": "percentile", "foreground_above": -1500}, [0, 0, 0.2, 0.3, 1]),
    ],
)
def test_intensities_are_mapped_as_the_manifest_says(intensity, expected):
    settings = Intensity.model_validate(intensity)
    image = mapped(VALUES, settings, value_range=(0.0, 1000.0))
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, expected, atol=1e-6)


def test_a_part_is_mapped_by_the_statistics_of_the_whole():
    whole = np.linspace(0, 1000, 1001)
    for mode, expected in (("range", [0.4, 0.6]), ("percentile", [0.4, 0.6])):
        part = mapped(np.array([400.0, 600.0]), Intensity(mode=mode), population=whole)
        np.testing.assert_allclose(part, expected, atol=1e-6)
    standard = mapped(np.array([500.0]), Intensity(mode="standardise"), population=whole)
    assert standard[0] == pytest.approx(0, abs=1e-6)


def test_standardised_values_have_mean_0_and_deviation_1():
    values = np.random.default_rng(1).gamma(2, 100, (40, 60))
    image = mapped(values, Intensity(mode="standardise"))
    assert image.mean() == pytest.approx(0, abs=1e-4)
    assert image.std() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("mode", ["range", "percentile", "standardise"])
def test_a_flat_image_stays_finite(mode):
    assert np.isfinite(mapped(np.full((8, 8), 7), Intensity(mode=mode))).all()
