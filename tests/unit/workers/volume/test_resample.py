"""Values, masks and points go to a network's grid and come back to the same place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.errors import ContractViolation
from service.core.findings import FindingMask
from tests.builders.dicom import AXIAL, CORONAL, OBLIQUE, PRONE, SAGITTAL, ct_series, rotated
from tests.builders.volumes import linear_hu, linear_series, loaded
from workers.volume.grid import Grid, canonical_grid, centred_grid, grid_of
from workers.volume.plan import VolumeRules
from workers.volume.resample import mask_from_grid, mask_on_source, point_on_source, to_grid

ORIENTATIONS = [AXIAL, PRONE, CORONAL, SAGITTAL, OBLIQUE, rotated(CORONAL, about_z=-30.0)]
UNIT = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}  # fmt: skip  # noqa: E501


def places_mm(grid):
    return grid.patient_mm(np.stack(np.indices(grid.shape), axis=-1))


def inner(values, margin=2):
    return values[(slice(margin, -margin),) * 3]


def ball(grid, center_mm, radius_mm):
    return np.linalg.norm(places_mm(grid) - center_mm, axis=-1) <= radius_mm


def tilted(degrees, **options):
    angle = np.radians(degrees)
    step = (0.0, 2.5 * np.sin(angle), 2.5 * np.cos(angle))
    return linear_series(orientation=AXIAL, step_mm=step, **options)


@pytest.mark.parametrize(
    ("orientation", "axes"),
    [*((way, "SPL") for way in ORIENTATIONS), (OBLIQUE, "RAS"), (CORONAL, "LPS"), (PRONE, "IAR")],
)
def test_values_stay_where_the_patient_was(orientation, axes):
    volume = loaded(linear_series(slices=9, rows=20, columns=18, orientation=orientation))
    grid = canonical_grid(volume, (1.9, 0.9, 1.1), axes=axes)
    values = to_grid(volume, grid)
    assert values.shape == grid.shape
    assert np.abs(inner(values - linear_hu(places_mm(grid)))).max() <= 1.0
    along = grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)
    for axis, letter in enumerate(axes):
        assert along[:, 2 - axis] @ UNIT[letter] > 0.7


def test_spacing_is_exact_and_named_by_patient_axis():
    volume = loaded(linear_series(orientation=AXIAL))
    assert canonical_grid(volume, (1.5, 1.2, 1.1)).spacing_mm == pytest.approx((1.5, 1.2, 1.1))
    turned = canonical_grid(volume, (1.5, 1.2, 1.1), axes="RAS")
    assert turned.spacing_mm == pytest.approx((1.1, 1.2, 1.5))
    own = canonical_grid(volume, (0, 0, 0))
    assert own.spacing_mm == pytest.approx((2.5, 0.7, 0.8))
    assert np.array_equal(to_grid(volume, own), volume.voxels)


def test_axes_must_name_three_directions():
    volume = loaded(linear_series(slices=2))
    with pytest.raises(ContractViolation):
        canonical_grid(volume, (1, 1, 1), axes="SPS")


def test_coarser_grid_averages_instead_of_skipping():
    values = np.zeros((6, 24, 24))
    values[:, ::4] = 1000
    volume = loaded(ct_series(hounsfield=values, spacing_mm=(2.0, 0.5, 0.5), orientation=AXIAL))
    coarse = to_grid(volume, canonical_grid(volume, (2.0, 4.0, 4.0)))
    assert np.abs(coarse - 250).max() < 60


def test_grid_turned_against_the_volume_is_sampled_too():
    volume = loaded(linear_series(slices=16, rows=30, columns=28, orientation=OBLIQUE))
    middle = grid_of(volume).patient_mm((np.array(volume.voxels.shape) - 1) / 2)
    affine = np.diag([0.9, 1.1, 1.3, 1.0])
    affine[:3, 3] = middle - affine[:3, :3] @ [4.5, 4.5, 4.5]
    grid = Grid((10, 10, 10), affine)
    assert np.abs(to_grid(volume, grid) - linear_hu(places_mm(grid))).max() <= 1.0


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.5, 0.7, 0.8)])
def test_crop_beyond_the_volume_is_background(spacing_mm):
    volume = loaded(linear_series(slices=8, rows=20, columns=20, orientation=PRONE))
    corner = grid_of(volume).patient_mm([0, 0, 0])
    grid = centred_grid(volume, corner, shape=(8, 10, 12), spacing_mm=spacing_mm)
    values = to_grid(volume, grid, background=-5000)
    assert grid.patient_mm((np.array(grid.shape) - 1) / 2) == pytest.approx(corner)
    indices = grid_of(volume).indices(places_mm(grid))
    size = np.array(volume.voxels.shape)
    far_outside = ((indices < -1.0) | (indices > size)).any(axis=-1)
    well_inside = ((indices >= 1) & (indices <= size - 2)).all(axis=-1)
    assert far_outside.any()
    assert well_inside.any()
    assert (values[far_outside] == -5000).all()
    assert np.abs(values - linear_hu(places_mm(grid)))[well_inside].max() <= 1.0


@settings(max_examples=12)
@given(
    st.sampled_from(ORIENTATIONS),
    st.tuples(*[st.floats(0.25, 0.75)] * 3),
    st.floats(3.0, 4.5),
)
def test_ball_found_on_the_grid_is_the_same_ball_on_the_source(orientation, where, radius_mm):
    volume = loaded(
        ct_series(
            slices=10, rows=40, columns=36, spacing_mm=(1.6, 0.7, 0.8), orientation=orientation
        )
    )
    center = grid_of(volume).patient_mm(np.array(where) * (np.array(volume.voxels.shape) - 1))
    grid = canonical_grid(volume, (1.1, 0.9, 1.0))
    found = mask_from_grid(ball(grid, center, radius_mm), grid, volume)
    whole = np.zeros(volume.voxels.shape, bool)
    place = tuple(slice(o, o + n) for o, n in zip(found.offset, found.voxels.shape, strict=True))
    whole[place] = found.voxels
    true = ball(grid_of(volume), center, radius_mm)
    assert 2 * (whole & true).sum() / (whole.sum() + true.sum()) > 0.85
    points = grid_of(volume).patient_mm(np.argwhere(whole))
    assert np.linalg.norm(points.mean(axis=0) - center) < 1.0


def test_block_of_the_grid_lands_where_the_whole_would():
    volume = loaded(ct_series(slices=10, rows=40, columns=36))
    grid = canonical_grid(volume, (1.1, 0.9, 1.0))
    center = grid_of(volume).patient_mm([4.0, 18.0, 20.0])
    whole = ball(grid, center, 4.0)
    box = tuple(slice(i.min() - 1, i.max() + 2) for i in np.nonzero(whole))
    from_block = mask_from_grid(
        whole[box].astype(np.float32), grid, volume, offset=[side.start for side in box]
    )
    from_whole = mask_from_grid(whole, grid, volume)
    assert from_block.offset == from_whole.offset
    assert np.array_equal(from_block.voxels, from_whole.voxels)
    assert from_whole.voxels.any(axis=(1, 2)).all()


def test_lesion_thinner_than_the_gap_between_planes_stays():
    volume = loaded(ct_series(slices=6, spacing_mm=(6.0, 0.7, 0.8), orientation=AXIAL))
    grid = canonical_grid(volume, (1.0, 0.7, 0.8))
    block = np.ones((1, 3, 3), bool)
    between = grid.indices(grid_of(volume).patient_mm([2.4, 15.1, 15.1]))
    found = mask_from_grid(block, grid, volume, offset=np.floor(between).astype(int))
    assert found.offset == (2, 15, 15)
    assert found.voxels.shape == (1, 3, 3)
    assert found.voxels.all()


def test_block_outside_the_planes_leaves_no_voxels():
    volume = loaded(ct_series(slices=4))
    grid = canonical_grid(volume, (1.0, 1.0, 1.0))
    found = mask_from_grid(np.ones((3, 3, 3)), grid, volume, offset=(900, 0, 0))
    assert found.voxels.size == 0


def test_mask_of_a_plain_volume_is_the_source_mask():
    volume = loaded(ct_series(slices=4))
    mask = FindingMask((1, 2, 3), np.ones((2, 2, 2), np.bool_))
    assert mask_on_source(volume, mask) is mask


@pytest.mark.parametrize("degrees", [-20.0, 14.0])
def test_mask_on_a_straightened_volume_returns_to_the_tilted_planes(degrees):
    volume = loaded(tilted(degrees, slices=14, rows=40, columns=30))
    center = volume.stack.origins_mm[6] + [12.0, 14.0, 0.0]
    straight = ball(grid_of(volume), center, 6.0)
    found = mask_on_source(volume, FindingMask((0, 0, 0), straight))
    for frame, row, column in np.argwhere(found.voxels) + found.offset:
        place = volume.stack.plane_affine(frame) @ [column, row, 0, 1]
        assert np.linalg.norm(place[:3] - center) < 6.0 + 0.8
    voxel_mm3 = 0.7 * 0.8 * volume.spacing_mm[0]
    assert found.voxels.sum() * voxel_mm3 == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.1)


def test_mask_on_interpolated_slices_returns_to_real_ones():
    instances = ct_series(slices=12, orientation=AXIAL)
    del instances[5:7]
    volume = loaded(instances, VolumeRules(allow_resampling=True))
    mask = np.zeros(volume.voxels.shape, bool)
    mask[2:10, 10:20, 10:20] = True
    found = mask_on_source(volume, FindingMask((0, 0, 0), mask))
    assert found.offset == (2, 10, 10)
    assert found.voxels.shape == (6, 10, 10)


@pytest.mark.parametrize("degrees", [0.0, 15.0])
def test_point_is_found_on_the_nearest_plane(degrees):
    volume = loaded(tilted(degrees, slices=9, rows=40, columns=30))
    place = volume.stack.plane_affine(5) @ [7, 11, 0.3, 1]
    point = point_on_source(volume, place[:3])
    assert (point.frame_index, point.frame) == (5, volume.frames[5])
    assert (point.column, point.row) == pytest.approx((7.5, 11.5))
    assert point.distance_mm == pytest.approx(0.3)
