"""Windows and parameters of rendered frames."""

import numpy as np
import pytest

from service.core.errors import InvalidRequest
from service.dicomweb.overlays import _rgb
from service.dicomweb.rendered import Window, rendering, windowed


def test_a_linear_window_reaches_black_and_white_at_its_ends() -> None:
    # PS3.3 C.11.2.1.2.1: center 2048, width 4096 shows 0 to 4095.
    values = np.array([-1.0, 0.0, 4095.0, 9999.0])
    assert windowed(values, Window(2048, 4096)).tolist() == [0, 0, 255, 255]


def test_a_window_of_width_one_is_a_threshold() -> None:
    assert windowed(np.array([0.0, 99.0, 100.0]), Window(100, 1)).tolist() == [0, 0, 255]


@pytest.mark.parametrize("function", ["linear", "linear-exact", "sigmoid"])
def test_every_function_grows(function: str) -> None:
    shown = windowed(np.linspace(-3000, 3000, 500), Window(40, 400, function)).astype(int)
    assert (np.diff(shown) >= 0).all()
    assert shown[0] == 0
    assert shown[-1] == 255


def test_parameters_are_read() -> None:
    how = rendering(window="40,400,SIGMOID", viewport="64,32", quality="50")
    assert how.window == Window(40, 400, "sigmoid")
    assert (how.viewport, how.quality) == ((64, 32), 50)


@pytest.mark.parametrize(
    "given",
    [
        {"window": "40"}, {"window": "40,0"}, {"window": "inf,1"}, {"window": "1,2,cubic"},
        {"window": "1,2,linear,3"}, {"viewport": "0,5"}, {"viewport": "5"}, {"viewport": "5,1e9"},
        {"quality": "0"}, {"quality": "101"}, {"quality": "٣"},
    ],
)  # fmt: skip
def test_wrong_parameters_are_refused(given: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        rendering(**given)
    assert refused.value.reason == "INVALID_QUERY"


@pytest.mark.parametrize(
    ("lab", "wanted"),
    [((53.2, 80.1, 67.2), (255, 0, 0)), ((87.7, -86.2, 83.2), (0, 255, 0)), ((0, 0, 0), (0, 0, 0))],
)
def test_colours_of_segments_are_the_ones_meant(
    lab: tuple[float, float, float], wanted: tuple[int, int, int]
) -> None:
    light, a, b = lab
    encoded = (round(light * 655.35), round((a + 128) * 257), round((b + 128) * 257))
    assert np.abs(np.array(_rgb(encoded)) - wanted).max() < 60
