import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.evaluation.overlap import (
    dice,
    hausdorff_95_mm,
    intersection_over_union,
    match_lesions,
    surface_dice,
    surface_distances_mm,
)

SPACING_MM = (2.5, 0.7, 0.8)


def block(z: slice, y: slice, x: slice) -> np.ndarray:
    mask = np.zeros((12, 20, 24), dtype=bool)
    mask[z, y, x] = True
    return mask


ONE = block(slice(2, 6), slice(4, 10), slice(5, 11))


def test_shifted_block_has_the_overlap_counted_by_hand():
    other = block(slice(2, 6), slice(4, 10), slice(8, 14))
    assert dice(ONE, other) == pytest.approx(0.5)
    assert intersection_over_union(ONE, other) == pytest.approx(1 / 3)


def test_empty_masks_agree_and_one_empty_mask_does_not():
    empty = np.zeros_like(ONE)
    assert dice(empty, empty) == 1.0
    assert hausdorff_95_mm(empty, empty, SPACING_MM) == 0.0
    assert surface_dice(empty, empty, SPACING_MM) == 1.0
    assert hausdorff_95_mm(ONE, empty, SPACING_MM) == float("inf")
    assert surface_dice(ONE, empty, SPACING_MM) == 0.0
    with pytest.raises(ValueError, match="non-empty"):
        surface_distances_mm(ONE, empty, SPACING_MM)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        dice(ONE, ONE[1:])


@pytest.mark.parametrize(("axis", "step_mm"), [(0, 2.5), (1, 0.7), (2, 0.8)])
def test_plane_moved_along_an_axis_is_as_far_as_that_axis_spacing(axis, step_mm):
    plane = np.zeros((9, 9, 9), dtype=bool)
    moved = np.zeros((9, 9, 9), dtype=bool)
    index = [slice(None)] * 3
    index[axis] = slice(3, 4)
    plane[tuple(index)] = True
    index[axis] = slice(5, 6)
    moved[tuple(index)] = True
    assert hausdorff_95_mm(plane, moved, SPACING_MM) == pytest.approx(2 * step_mm)
    assert surface_dice(plane, moved, SPACING_MM, tolerance_mm=2 * step_mm + 1e-6) == 1.0
    assert surface_dice(plane, moved, SPACING_MM, tolerance_mm=2 * step_mm - 1e-3) == 0.0


def test_lesions_are_matched_by_intersection_over_union():
    near = block(slice(2, 6), slice(4, 10), slice(8, 14))  # overlap with ONE is one third
    far = block(slice(9, 11), slice(15, 18), slice(18, 22))
    reference = ONE | far
    loose = match_lesions(near, reference, minimum_iou=0.1)
    assert (loose.reference, loose.found, loose.reference_hit, loose.found_hit) == (2, 1, 1, 1)
    assert (loose.sensitivity, loose.precision) == (0.5, 1.0)
    assert loose.f1 == pytest.approx(2 / 3)
    assert match_lesions(near, reference, minimum_iou=0.5).f1 == 0.0


def test_nothing_to_find_and_nothing_found_is_perfect():
    empty = np.zeros_like(ONE)
    assert match_lesions(empty, empty, minimum_iou=0.1).f1 == 1.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_distances_are_symmetric_and_vanish_for_equal_masks(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, 5, 6, 7)) < 0.3
    if not a.any() or not b.any():
        return
    assert hausdorff_95_mm(a, b, SPACING_MM) == hausdorff_95_mm(b, a, SPACING_MM)
    assert hausdorff_95_mm(a, a, SPACING_MM) == 0.0
    assert surface_dice(a, b, SPACING_MM) == surface_dice(b, a, SPACING_MM)
