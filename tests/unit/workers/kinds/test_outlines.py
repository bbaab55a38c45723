"""Axes, boxes and outlines of masks, in the coordinates of SR."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from workers.kinds.outlines import box_of, outline_of, recist_axes

MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))).filter(np.any)


def ellipse(half_long_mm, half_short_mm, degrees, row_mm=0.7, column_mm=0.4, edge=120):
    rows, columns = np.mgrid[:edge, :edge] - (edge - 1) / 2
    angle = np.radians(degrees)
    along = columns * column_mm * np.cos(angle) + rows * row_mm * np.sin(angle)
    across = -columns * column_mm * np.sin(angle) + rows * row_mm * np.cos(angle)
    return (along / half_long_mm) ** 2 + (across / half_short_mm) ** 2 <= 1


def area_of(points):
    x, y = np.array(points).T
    return abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2


@pytest.mark.parametrize("degrees", [0, 17, 45, 90, 133])
def test_axes_of_an_ellipse_on_unequal_pixels_are_its_diameters(degrees):
    axes = recist_axes(ellipse(15, 6, degrees), row_spacing_mm=0.7, column_spacing_mm=0.4)
    assert axes.long.length_mm == pytest.approx(30, abs=0.7)
    assert axes.short.length_mm == pytest.approx(12, abs=0.7)
    scale = np.array([0.4, 0.7])
    long, short = (np.diff(chord.ends, axis=0)[0] * scale for chord in (axes.long, axes.short))
    assert np.linalg.norm(long) == pytest.approx(axes.long.length_mm)
    assert np.linalg.norm(short) == pytest.approx(axes.short.length_mm)
    assert abs(long @ short) < 1e-6 * axes.long.length_mm * axes.short.length_mm + 1e-9
    direction = np.degrees(np.arctan2(long[1], long[0])) % 180
    assert min(abs(direction - degrees), 180 - abs(direction - degrees)) < 6


def test_axes_of_a_bar_are_its_length_and_width():
    plane = np.zeros((20, 30), bool)
    plane[8:10, 3:27] = True
    axes = recist_axes(plane, row_spacing_mm=1.0, column_spacing_mm=1.0)
    assert axes.long.length_mm == pytest.approx(24.02, abs=0.05)
    assert axes.short.length_mm == pytest.approx(2.0, abs=0.1)


def test_a_single_pixel_has_an_outline_a_box_and_axes():
    plane = np.zeros((5, 5), bool)
    plane[2, 3] = True
    assert box_of(plane) == ((3, 2), (4, 2), (4, 3), (3, 3), (3, 2))
    axes = recist_axes(plane, row_spacing_mm=2.0, column_spacing_mm=0.5)
    assert axes.long.length_mm == pytest.approx(2.0)
    assert axes.short.length_mm == pytest.approx(0.5)
    assert set(outline_of(plane)) == {(3.5, 2.0), (4.0, 2.5), (3.5, 3.0), (3.0, 2.5)}


@settings(max_examples=30)
@given(MASKS, st.floats(0.2, 4), st.floats(0.2, 4))
def test_axes_lie_in_the_box_and_the_short_one_is_not_the_longer(plane, row_mm, column_mm):
    axes = recist_axes(plane, row_spacing_mm=row_mm, column_spacing_mm=column_mm)
    assert axes.short.length_mm <= axes.long.length_mm * (1 + 1e-9)
    points = np.array([*axes.long.ends, *axes.short.ends])
    (left, top), _, (right, bottom), *_ = box_of(plane)
    assert (points[:, 0] >= left - 1e-6).all()
    assert (points[:, 0] <= right + 1e-6).all()
    assert (points[:, 1] >= top - 1e-6).all()
    assert (points[:, 1] <= bottom + 1e-6).all()


@settings(max_examples=30)
@given(MASKS, st.floats(0.2, 4), st.floats(0.2, 4))
def test_axes_do_not_change_when_the_image_is_transposed(plane, row_mm, column_mm):
    there = recist_axes(plane, row_spacing_mm=row_mm, column_spacing_mm=column_mm)
    back = recist_axes(plane.T, row_spacing_mm=column_mm, column_spacing_mm=row_mm)
    assert there.long.length_mm == pytest.approx(back.long.length_mm)


@settings(max_examples=30)
@given(MASKS)
def test_an_outline_is_closed_and_stays_within_the_pixels(plane):
    points = outline_of(plane)
    assert points[0] == points[-1]
    assert len(points) >= 4
    assert area_of(points) > 0
    (left, top), _, (right, bottom), *_ = box_of(plane)
    assert all(left <= x <= right and top <= y <= bottom for x, y in points)


def test_an_outline_encloses_the_area_of_the_mask():
    plane = ellipse(15, 9, 30)
    points = outline_of(plane)
    assert area_of(points) == pytest.approx(plane.sum(), rel=0.02)
    assert len(points) < plane.sum() / 10


def test_a_hole_does_not_become_the_outline():
    plane = np.ones((9, 9), bool)
    plane[2:7, 2:7] = False
    assert area_of(outline_of(plane)) > 70
