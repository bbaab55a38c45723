"""Series become volumes whose voxels lie where the patient's tissue was."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import JPEGLSLossless, RLELossless

from service.core.errors import ContractViolation, UnsuitableSeries
from service.core.geometry import to_patient_mm
from tests.builders.dicom import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    PRONE,
    SAGITTAL,
    ct_series,
    enhanced_ct,
    pattern_hu,
    rotated,
)
from tests.builders.volumes import linear_hu, linear_series, loaded, sources
from workers.volume.plan import VolumeRules
from workers.volume.series import load_volume

FEET_FIRST = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
RESAMPLING = VolumeRules(allow_resampling=True)


def places_mm(volume):
    """LPS millimetres of every voxel, shape (slices, rows, columns, 3)."""
    slices, rows, columns = np.indices(volume.voxels.shape)
    return to_patient_mm(volume.affine, np.stack([columns, rows, slices], axis=-1))


def assert_lies_right(volume, *, within=0.51):
    assert np.abs(volume.voxels - linear_hu(places_mm(volume))).max() <= within


def refusal(instances, rules=VolumeRules()):  # noqa: B008 - frozen
    with pytest.raises(UnsuitableSeries) as caught:
        loaded(instances, rules)
    return caught.value


@pytest.mark.parametrize(
    "orientation",
    [AXIAL, FEET_FIRST, PRONE, CORONAL, SAGITTAL, OBLIQUE, rotated(SAGITTAL, about_y=35.0)],
)
def test_every_voxel_lies_where_the_patient_was(orientation):
    volume = loaded(linear_series(orientation=orientation))
    assert_lies_right(volume)
    assert volume.spacing_mm == pytest.approx((2.5, 0.7, 0.8), abs=1e-6)
    assert np.linalg.det(volume.affine[:3, :3]) > 0
    assert (volume.unit, volume.voxels.dtype, volume.remarks) == ("HU", np.int16, ())


@settings(max_examples=15)
@given(st.tuples(*[st.floats(-180, 180)] * 3), st.randoms(use_true_random=False))
def test_order_of_arrival_and_rotation_never_matter(angles, chance: random.Random):
    orientation = rotated(AXIAL, about_x=angles[0], about_y=angles[1], about_z=angles[2])
    instances = linear_series(slices=5, rows=6, columns=7, orientation=orientation)
    uids = [instance.SOPInstanceUID for instance in instances]
    chance.shuffle(instances)
    for number, instance in enumerate(instances):
        instance.InstanceNumber = number
    volume = loaded(instances)
    assert_lies_right(volume)
    assert [frame.instance.sop_instance_uid for frame in volume.frames] == uids


def test_each_slice_has_its_own_rescale():
    values = pattern_hu(4, 10, 9)
    instances = []
    for index in range(4):
        instances += ct_series(
            hounsfield=values[index : index + 1],
            intercept=-1024.0 - 5 * index,
            origin_mm=(0.0, 0.0, 2.0 * index),
            orientation=AXIAL,
            name=f"slice {index}",
            FrameOfReferenceUID="2.25.7",
        )
    assert np.array_equal(loaded(instances).voxels, values)


def test_fractional_slope_makes_a_float_volume():
    values = 0.25 * pattern_hu(3, 10, 9)
    volume = loaded(ct_series(hounsfield=values, slope=0.25, intercept=-300.5))
    assert volume.voxels.dtype == np.float32
    assert np.abs(volume.voxels - values).max() <= 0.125


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_threads_and_compression_change_nothing(tmp_path, syntax):
    archived = sources(ct_series(transfer_syntax_uid=syntax), tmp_path)
    single = load_volume(archived, VolumeRules(), threads=1, verify=True)
    several = load_volume(archived, VolumeRules(), threads=4)
    assert np.array_equal(single.voxels, pattern_hu(12, 40, 32))
    assert np.array_equal(single.voxels, several.voxels)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", RLELossless])
def test_enhanced_multi_frame_is_ordered_by_its_frames_positions(syntax):
    order = [2, 0, 3, 1]
    volume = loaded(enhanced_ct(slices=4, order=order, transfer_syntax_uid=syntax))
    assert np.array_equal(volume.voxels, pattern_hu(4, 40, 32))
    assert [frame.frame_number for frame in volume.frames] == [2, 4, 1, 3]
    assert volume.unit == "HU"


def test_many_frames_are_read_in_shares():
    volume = loaded(enhanced_ct(slices=40, rows=6, columns=5))
    assert np.array_equal(volume.voxels, pattern_hu(40, 6, 5))


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE, CORONAL])
@pytest.mark.parametrize("degrees", [-18.0, 12.0])
def test_gantry_tilt_is_resampled_to_an_orthogonal_grid(orientation, degrees):
    normal = np.cross(orientation[:3], orientation[3:])
    down = np.array(orientation[3:])
    angle = np.radians(degrees)
    step = 2.5 * (np.cos(angle) * normal + np.sin(angle) * down)
    volume = loaded(linear_series(orientation=orientation, step_mm=step, rows=30))
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    assert volume.spacing_mm == pytest.approx((2.5 * np.cos(angle), 0.7, 0.8))
    assert volume.remarks == (f"resampled upright: gantry tilt of {abs(degrees):.1f} degrees",)
    seen = volume.voxels > volume.voxels.min() + 30
    inner = seen & np.roll(seen, 1, 1) & np.roll(seen, -1, 1)
    assert inner.sum() > 0.6 * 8 * 30 * 11
    error = np.abs(volume.voxels - linear_hu(places_mm(volume)))
    assert error[inner].max() <= 1.01
    with pytest.raises(UnsuitableSeries) as caught:
        loaded(linear_series(orientation=orientation, step_mm=step), VolumeRules(allow_tilt=False))
    assert caught.value.reason == "GANTRY_TILT"


def test_missing_slices_are_refused_unless_resampling_is_allowed():
    instances = linear_series(slices=12)
    del instances[5:7]
    error = refusal(instances)
    assert error.reason == "SLICE_GAP"
    assert error.message == "slice gap of 7.5 mm after slice 5 where 2.5 mm was expected"
    volume = loaded(instances, RESAMPLING)
    assert volume.voxels.shape[0] == 12
    assert volume.is_resampled
    assert_lies_right(volume, within=1.01)


def test_duplicate_positions_are_refused_unless_resampling_is_allowed():
    instances = linear_series(slices=6)
    [again] = linear_series(slices=1, origin_mm=instances[3].ImagePositionPatient, name="again")
    again.SeriesInstanceUID = instances[0].SeriesInstanceUID
    again.FrameOfReferenceUID = instances[0].FrameOfReferenceUID
    error = refusal([*instances, again])
    assert (error.reason, error.message) == (
        "DUPLICATE_POSITION",
        "slices 4 and 5 lie at the same position",
    )
    volume = loaded([again, *instances], RESAMPLING)
    assert volume.voxels.shape[0] == len(volume.frames) == 6
    assert_lies_right(volume, within=1.01)


def test_varying_spacing_follows_real_positions_when_resampled():
    instances = [s for index, s in enumerate(linear_series(slices=20)) if index < 5 or index % 2]
    error = refusal(instances)
    assert error.reason == "INCONSISTENT_SPACING"
    assert error.message == "slice spacing varies from 2.5 mm to 5 mm"
    volume = loaded(instances, RESAMPLING)
    assert volume.spacing_mm[0] == pytest.approx(5.0)
    assert_lies_right(volume, within=1.01)


def test_same_instance_twice_counts_once():
    instances = linear_series(slices=4)
    assert loaded([*instances, instances[1]]).voxels.shape[0] == 4


def test_two_contents_under_one_uid_are_refused():
    instances = linear_series(slices=4)
    [other] = ct_series(slices=1, name="other", rows=14, columns=11)
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = instances[1].SOPInstanceUID
    assert refusal([*instances, other]).reason == "CONFLICTING_INSTANCES"


def test_localizer_within_the_series_is_left_out():
    instances = linear_series(slices=4)
    [scout] = ct_series(slices=1, rows=80, columns=80, orientation=CORONAL, name="scout")
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    volume = loaded([scout, *instances])
    assert volume.voxels.shape == (4, 14, 11)
    assert volume.remarks == ("localizers left out: 1",)
    assert refusal([scout]).reason == "TOO_FEW_SLICES"


@pytest.mark.parametrize(
    ("spoil", "rules", "reason"),
    [
        (lambda s: s.pop(), VolumeRules(minimum_slices=4), "TOO_FEW_SLICES"),
        (lambda s: None, VolumeRules(maximum_voxels=600), "TOO_LARGE"),
        (lambda s: None, VolumeRules(unit="SUV"), "UNIT"),
        (lambda s: [delattr(i, "RescaleSlope") for i in s], VolumeRules(), "UNIT"),
        (lambda s: setattr(s[1], "RescaleSlope", "0"), VolumeRules(), "PIXEL_DATA"),
        (lambda s: setattr(s[1], "RescaleType", "OD"), VolumeRules(), "UNIT"),
        (lambda s: delattr(s[0], "ImagePositionPatient"), VolumeRules(), "NO_GEOMETRY"),
        (lambda s: setattr(s[2], "PixelSpacing", [0, 0]), VolumeRules(), "NO_GEOMETRY"),
        (
            lambda s: setattr(s[2], "PixelSpacing", [0.7, 0.9]),
            VolumeRules(),
            "INCONSISTENT_SPACING",
        ),
        (
            lambda s: setattr(s[2], "ImageOrientationPatient", list(CORONAL)),
            VolumeRules(),
            "INCONSISTENT_ORIENTATION",
        ),
        (
            lambda s: setattr(s[2], "FrameOfReferenceUID", "2.25.99"),
            VolumeRules(),
            "INCONSISTENT_FRAME_OF_REFERENCE",
        ),
    ],
)
def test_series_that_is_no_volume_is_refused_by_name(spoil, rules, reason):
    instances = linear_series(slices=4)
    spoil(instances)
    assert refusal(instances, rules).reason == reason


def test_slices_of_other_size_are_refused():
    instances = linear_series(slices=4)
    [other] = ct_series(slices=1, name="other", rows=12, columns=11)
    error = refusal([*instances, other])
    assert (error.reason, error.message) == (
        "INCONSISTENT_SIZE",
        "slices differ in size: 12 x 11, 14 x 11",
    )


def test_no_voxels_are_allocated_for_sizes_that_lie(tmp_path):
    archived = sources(linear_series(slices=4), tmp_path)
    lie = {"rows": 60000, "columns": 60000}
    lying = [
        type(source)(source.header.model_copy(update=lie), source.path, source.sha256)
        for source in archived
    ]
    with pytest.raises(UnsuitableSeries) as caught:
        load_volume(lying, VolumeRules())
    assert caught.value.reason == "PIXEL_DATA"


def test_no_frames_are_listed_for_a_number_that_lies(tmp_path):
    [source] = sources(enhanced_ct(slices=3, transfer_syntax_uid=RLELossless), tmp_path)
    lie = {"number_of_frames": 2_000_000_000, "frames": ()}
    lying = type(source)(source.header.model_copy(update=lie), source.path, source.sha256)
    with pytest.raises(UnsuitableSeries) as caught:
        load_volume([lying], VolumeRules())
    assert caught.value.reason == "TOO_LARGE"


def test_one_changed_byte_fails_the_whole_volume(tmp_path):
    archived = sources(linear_series(slices=4), tmp_path)
    data = bytearray(archived[2].path.read_bytes())
    data[-1] ^= 1
    archived[2].path.write_bytes(data)
    with pytest.raises(ContractViolation) as caught:
        load_volume(archived, VolumeRules(), verify=True)
    assert caught.value.reason == "DIGEST"


def test_lossy_history_is_kept():
    assert loaded(linear_series(slices=3, LossyImageCompression="01")).is_lossy
    assert not loaded(linear_series(slices=3, LossyImageCompression="00")).is_lossy
