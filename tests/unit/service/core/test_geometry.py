"""Planes in order, regular or refused by name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from service.core.errors import UnsuitableSeries
from service.core.geometry import (
    affine_of,
    slice_spacing_mm,
    stack_planes,
    to_index,
    to_patient_mm,
)
from service.core.headers import FrameHeader

AXIAL_NORMAL = np.array([0.0, 0.0, 1.0])

rotations = st.tuples(*[st.floats(-180, 180)] * 3).map(
    lambda angles: Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
)
spacings = st.floats(0.2, 6)


def planes(rotation=None, *, count=6, gap_mm=2.5, step=None, spacing=(0.7, 0.8)):
    """Return parallel planes of a turned axial series, from the first along the normal on."""
    rotation = np.eye(3) if rotation is None else rotation
    step = rotation[:, 2] * gap_mm if step is None else np.asarray(step)
    return [
        FrameHeader(
            image_position_mm=tuple(np.array([3.0, -8.0, 40.0]) + index * step),
            image_orientation=(*rotation[:, 0], *rotation[:, 1]),
            row_spacing_mm=spacing[0],
            column_spacing_mm=spacing[1],
        )
        for index in range(count)
    ]


def along_z(*distances):
    return np.array([[0.0, 0.0, distance] for distance in distances])


def reason_of(call):
    with pytest.raises(UnsuitableSeries) as caught:
        call()
    return caught.value


@given(rotations, spacings, spacings, spacings)
def test_affine_and_its_inverse_lead_back_to_the_index(rotation, between, row, column):
    stack, _ = stack_planes(
        planes(rotation, gap_mm=between, spacing=(row, column)), orientation_tolerance_degrees=0.5
    )
    affine = affine_of(stack, origin_mm=stack.origins_mm[0], slice_spacing_mm=between)
    indices = np.array([[0.0, 0, 0], [3.25, 7, 2], [511, 0.5, 99]])
    assert np.allclose(to_index(affine, to_patient_mm(affine, indices)), indices, atol=1e-6)


@given(rotations, st.permutations(range(7)))
def test_planes_come_in_order_along_the_normal_however_shuffled(rotation, shuffle):
    ordered = planes(rotation, count=7)
    stack, order = stack_planes(
        [ordered[index] for index in shuffle], orientation_tolerance_degrees=0.5
    )
    assert [shuffle[index] for index in order] == list(range(7))
    assert np.allclose(stack.distances_mm, 2.5 * np.arange(7))
    assert np.allclose(stack.origins_mm, [plane.image_position_mm for plane in ordered])


@given(rotations, st.floats(-35, 35))
def test_tilt_is_the_angle_between_step_and_normal(rotation, angle):
    turned = np.array([0.0, np.sin(np.radians(angle)), np.cos(np.radians(angle))])
    stack, _ = stack_planes(
        planes(rotation, step=rotation @ turned * 2.5), orientation_tolerance_degrees=0.5
    )
    assert stack.tilt_degrees == pytest.approx(abs(angle), abs=1e-6)
    shift_pixels = 5 * 2.5 * abs(np.sin(np.radians(angle))) / 0.7
    assert stack.is_perpendicular == (shift_pixels <= 0.25)


def test_pixel_spacing_is_between_rows_first():
    stack, _ = stack_planes(planes(spacing=(0.7, 0.8)), orientation_tolerance_degrees=0.5)
    affine = affine_of(stack, origin_mm=np.zeros(3), slice_spacing_mm=2.5)
    assert np.allclose(to_patient_mm(affine, np.array([1.0, 2.0, 3.0])), [0.8, 1.4, 7.5])


@given(st.floats(0.3, 8), st.integers(2, 60), st.integers(0, 1))
def test_spacing_survives_positions_rounded_by_the_sender(gap_mm, slices, decimals):
    positions = np.round(along_z(*(gap_mm * np.arange(slices))), decimals + 1)
    spacing = slice_spacing_mm(positions, AXIAL_NORMAL)
    assert spacing == pytest.approx(gap_mm, abs=0.11 / (slices - 1))


def test_missing_slices_are_named_with_gap_and_place():
    positions = along_z(*np.delete(2.5 * np.arange(100), [84, 85, 86, 87]))
    error = reason_of(lambda: slice_spacing_mm(positions, AXIAL_NORMAL))
    assert error.reason == "SLICE_GAP"
    assert error.message == "slice gap of 12.5 mm after slice 84 where 2.5 mm was expected"


def test_several_gaps_are_counted():
    positions = along_z(*np.delete(2.5 * np.arange(40), [7, 20, 21]))
    error = reason_of(lambda: slice_spacing_mm(positions, AXIAL_NORMAL))
    assert error.message.startswith("slice gap of 5 mm after slice 7")
    assert error.message.endswith(", and 1 more")


@pytest.mark.parametrize(
    ("distances", "reason"),
    [
        ([0.0], "TOO_FEW_SLICES"),
        ([0.0, 2.5, 2.5, 5.0], "DUPLICATE_POSITION"),
        ([0.0, 4, 8, 12, 19, 26, 33, 40], "INCONSISTENT_SPACING"),
        ([0.0, 1.0, 2.0, 3.4, 4.4, 5.4], "INCONSISTENT_SPACING"),
        (1.0 * np.arange(10) + 0.02 * np.arange(10) ** 2, "INCONSISTENT_SPACING"),
    ],
)
def test_stack_that_is_no_grid_is_refused(distances, reason):
    assert reason_of(lambda: slice_spacing_mm(along_z(*distances), AXIAL_NORMAL)).reason == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_position_mm": None}, "NO_GEOMETRY"),
        ({"image_orientation": None}, "NO_GEOMETRY"),
        ({"image_orientation": (1.0, 0, 0, 0, 0.5, 0)}, "NO_GEOMETRY"),
        ({"image_orientation": (1.0, 0, 0, 1, 0, 0)}, "NO_GEOMETRY"),
        ({"image_orientation": (0.0, 0, 0, 0, 0, 0)}, "NO_GEOMETRY"),
        ({"row_spacing_mm": 0.0}, "NO_GEOMETRY"),
        ({"column_spacing_mm": -1.0}, "NO_GEOMETRY"),
        ({"row_spacing_mm": float("nan")}, "NO_GEOMETRY"),
        ({"column_spacing_mm": None}, "NO_GEOMETRY"),
        ({"image_orientation": (1.0, 0, 0, 0, 0, -1)}, "INCONSISTENT_ORIENTATION"),
        ({"row_spacing_mm": 0.75}, "INCONSISTENT_SPACING"),
    ],
)
def test_plane_that_lies_about_itself_is_refused(change, reason):
    stack = planes()
    stack[3] = stack[3].model_copy(update=change)
    error = reason_of(lambda: stack_planes(stack, orientation_tolerance_degrees=0.5))
    assert error.reason == reason


def test_cosines_with_four_digits_still_count():
    rotation = np.round(Rotation.from_euler("xyz", [7, -4, 3], degrees=True).as_matrix(), 4)
    stack, _ = stack_planes(planes(rotation), orientation_tolerance_degrees=0.5)
    assert np.linalg.norm(stack.normal) == pytest.approx(1, abs=1e-12)
    assert stack.row_direction @ stack.column_direction == pytest.approx(0, abs=1e-12)
