"""Grids, fields, shapes and trees that synthetic patients are made of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.phantoms.geometry import Grid, Lattice, apply_separable, resample
from models.phantoms.shapes import capsule, draw_tubes, ellipsoid, smooth_max, smooth_min
from models.phantoms.trees import TreeForm, grow_tree

spacings = st.tuples(*[st.floats(0.4, 4.0)] * 3)
origins = st.tuples(*[st.floats(-200, 200)] * 3)


@given(origins, spacings)
def test_resampling_keeps_a_plane_where_it_is(origin, spacing):
    source = Grid(origin, spacing, (6, 7, 8))
    x, y, z = source.coordinates()
    plane = (0.3 * (x - origin[0]) - 0.2 * (y - origin[1]) + 0.5 * (z - origin[2])).astype(
        np.float32
    )
    start = tuple(o + 1.3 * s for o, s in zip(origin, spacing, strict=True))
    inside = Grid(start, tuple(0.6 * s for s in spacing), (4, 5, 6))
    found = resample(plane, source, inside)
    x, y, z = inside.coordinates()
    wanted = 0.3 * (x - origin[0]) - 0.2 * (y - origin[1]) + 0.5 * (z - origin[2])
    assert np.abs(found - wanted).max() < 2e-3


def test_resampling_beyond_the_edge_repeats_the_last_voxel():
    source = Grid((0, 0, 0), (1, 1, 1), (1, 1, 3))
    target = Grid((-5, 0, 0), (12, 1, 1), (1, 1, 2))
    voxels = np.array([[[3.0, 5.0, 9.0]]], np.float32)
    assert resample(voxels, source, target).tolist() == [[[3.0, 9.0]]]


@given(origins, spacings, st.tuples(*[st.integers(0, 5)] * 3))
def test_part_of_a_grid_lies_where_the_whole_has_it(origin, spacing, first):
    whole = Grid(origin, spacing, (9, 10, 11))
    window = tuple(slice(f, f + 3) for f in first)
    part = whole.part(window)
    for axis in range(3):
        assert part.axis_mm(axis) == pytest.approx(whole.axis_mm(axis)[window[2 - axis]])


def test_window_holds_the_box_and_nothing_far_from_it():
    grid = Grid((-10, -20, 5), (0.7, 0.8, 2.5), (30, 50, 60))
    window = grid.window(np.array([0.0, 0.0, 20.0]), np.array([3.0, 4.0, 30.0]))
    assert window is not None
    part = grid.part(window)
    for axis, (low, high) in enumerate(((0, 3), (0, 4), (20, 30))):
        line = part.axis_mm(axis)
        assert line[0] <= low < line[0] + 2 * grid.spacing_mm[axis]
        assert line[-1] >= high


def test_window_off_the_grid_is_none():
    grid = Grid((0, 0, 0), (1, 1, 1), (5, 5, 5))
    assert grid.window(np.array([9.0, 0, 0]), np.array([12.0, 1, 1])) is None


def test_lattice_field_is_the_same_sampled_or_spread():
    lattice = Lattice((-20, -30, -40), (20, 30, 40), 5.0)
    field = lattice.noise(np.random.default_rng(2), 60)
    assert field.std() == pytest.approx(1.0, abs=1e-3)
    grid = Grid((-5.0, 2.5, 0.0), (2.5, 2.5, 2.5), (3, 3, 3))
    spread = apply_separable(field, lattice.matrices(grid))
    at = np.array(
        [[x, y, z] for z in grid.axis_mm(2) for y in grid.axis_mm(1) for x in grid.axis_mm(0)]
    )
    # The spread is a smooth spline, the sample a straight line: they agree on smooth fields.
    assert np.abs(spread.ravel() - lattice.sample(field, at)).max() < 0.15


def test_slope_points_up_the_field():
    lattice = Lattice((0, 0, 0), (50, 50, 50), 5.0)
    x, y, z = lattice.grid.coordinates()
    field = (2 * x - y + 0 * z).astype(np.float32)
    slope = lattice.gradient(field, np.array([20.0, 22.0, 25.0]))
    assert slope == pytest.approx([2, -1, 0], abs=1e-4)


def test_ellipsoid_is_zero_on_its_surface_and_negative_inside():
    at = (np.float32(6.0), np.float32(0.0), np.float32(0.0))
    assert float(ellipsoid(at, (1, 0, 0), (5, 3, 2))) == pytest.approx(0, abs=1e-3)
    inside = (np.float32(2.0), np.float32(0.0), np.float32(0.5))
    assert float(ellipsoid(inside, (1, 0, 0), (5, 3, 2))) < 0


def test_capsule_distance_counts_from_its_round_ends():
    start, end = np.zeros(3), np.array([10.0, 0, 0])
    at = tuple(np.float32(v) for v in (14.0, 0.0, 0.0))
    assert float(capsule(at, start, end, (2.0, 1.0))) == pytest.approx(3.0, abs=1e-4)


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(0.5, 10))
def test_smooth_union_and_intersection_stay_near_the_sharp_ones(a, b, width):
    first, second = np.array([a]), np.array([b])
    assert min(a, b) - width / 4 - 1e-6 <= smooth_min(first, second, width)[0] <= min(a, b) + 1e-6
    assert max(a, b) - 1e-6 <= smooth_max(first, second, width)[0] <= max(a, b) + width / 4 + 1e-6


def test_tube_fills_the_volume_that_it_has():
    grid = Grid((-12, -6, -6), (0.5, 0.5, 0.5), (25, 25, 49))
    share = np.zeros(grid.shape, np.float32)
    draw_tubes(share, grid, np.array([[-8.0, 0, 0, 8, 0, 0, 3, 3]]))
    wanted = np.pi * 9 * 16 + 4 / 3 * np.pi * 27
    assert share.sum() * 0.5**3 == pytest.approx(wanted, rel=0.03)
    assert share.max() == 1.0


def test_tubes_off_the_grid_change_nothing():
    grid = Grid((0, 0, 0), (1, 1, 1), (4, 4, 4))
    share = np.zeros(grid.shape, np.float32)
    draw_tubes(share, grid, np.array([[50.0, 0, 0, 60, 0, 0, 3, 3]]))
    draw_tubes(share, grid, np.zeros((0, 8)))
    assert not share.any()


def test_tree_reaches_every_twig_and_thins_towards_them():
    rng = np.random.default_rng(5)
    twigs = rng.uniform(-40, 40, (60, 3)) + np.array([80, 0, 0])
    tree = grow_tree(rng, np.zeros(3), twigs, TreeForm(0.5, 2.6))
    ends = tree[:, 3:6]
    assert all(np.linalg.norm(ends - twig, axis=1).min() < 1e-9 for twig in twigs)
    assert tree[0, 6] == pytest.approx(0.5 * 60 ** (1 / 2.6))
    assert tree[:, 6:8].min() == pytest.approx(0.25)
    # Every piece but the trunk begins where another ends.
    begins = {tuple(p) for p in tree[:, 0:3].round(9)}
    assert begins - {tuple(p) for p in ends.round(9)} == {(0.0, 0.0, 0.0)}
