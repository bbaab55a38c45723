import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from workers.results.contours import Loop, loops_of

PLANES = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def filled(loops: list[Loop], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill loops by the even-odd rule at pixel centres."""
    plane = np.zeros(shape, bool)
    for loop in loops:
        for (x0, y0), (x1, y1) in zip(loop, [*loop[1:], loop[0]], strict=True):
            if x0 == x1:  # a vertical side flips everything on its right
                low, high = sorted((y0, y1))
                plane[low:high, x0:] ^= True
    return plane


@given(PLANES)
def test_outlines_enclose_exactly_the_pixels(plane: NDArray[np.bool_]) -> None:
    assert np.array_equal(filled(loops_of(plane), plane.shape), plane)


@given(PLANES)
def test_every_corner_is_a_turn(plane: NDArray[np.bool_]) -> None:
    for loop in loops_of(plane):
        assert len(loop) >= 4
        for before, at, after in zip([loop[-1], *loop], loop, [*loop[1:], loop[0]], strict=False):
            assert (before[0] == at[0]) != (at[0] == after[0])


def test_pixels_that_touch_at_a_corner_are_outlined_apart() -> None:
    assert len(loops_of(np.eye(3, dtype=bool))) == 3


def test_a_hole_runs_the_other_way() -> None:
    plane = np.ones((3, 3), bool)
    plane[1, 1] = False

    hole, outer = sorted(loops_of(plane), key=area)

    assert (area(hole), area(outer)) == (-1.0, 9.0)


def area(loop: Loop) -> float:
    """Signed area, positive for clockwise on the image."""
    x, y = np.array([*loop, loop[0]], float).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)
