import numpy as np
import pytest

from workers.evaluation.calibration import (
    Platt,
    expected_calibration_error,
    fit_platt,
    reliability,
    sigmoid,
)


def test_error_of_hand_made_bins_is_the_weighted_gap():
    p = np.array([0.05, 0.05, 0.05, 0.05, 0.95, 0.95])
    y = np.array([False, False, False, True, True, False])
    # bin 1: 4 cases, 0.05 against 0.25; bin 15: 2 cases, 0.95 against 0.5
    assert expected_calibration_error(p, y) == pytest.approx((4 * 0.20 + 2 * 0.45) / 6)


def test_probability_one_joins_the_last_bin():
    rows = reliability(np.array([1.0, 0.0]), np.array([True, False]), bins=15)
    assert [(row.low, row.cases) for row in rows] == [(0.0, 1), (14 / 15, 1)]


def test_probability_outside_the_unit_interval_is_refused():
    with pytest.raises(ValueError, match=r"0\.\.1"):
        reliability(np.array([1.2]), np.array([True]))


def test_no_cases_are_refused():
    with pytest.raises(ValueError, match="no cases"):
        expected_calibration_error(np.array([]), np.array([], dtype=bool))


@pytest.mark.parametrize(("temperature", "bias"), [(2.5, 0.0), (0.5, 0.7)])
def test_fit_recovers_the_temperature_and_bias_that_made_the_labels(temperature, bias):
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 3, 60_000)
    labels = rng.random(60_000) < sigmoid(logits / temperature + bias)
    fitted = fit_platt(logits, labels)
    assert fitted.temperature == pytest.approx(temperature, rel=0.05)
    assert fitted.bias == pytest.approx(bias, abs=0.05)
    assert expected_calibration_error(fitted.probability(logits), labels) < 0.01


def test_one_class_alone_leaves_the_logits_as_they_are():
    assert fit_platt(np.array([1.0, 2.0]), np.array([True, True])) == Platt(1.0, 0.0)


def test_sigmoid_of_large_logits_does_not_overflow():
    assert sigmoid(np.array([-800.0, 0.0, 800.0])).tolist() == [0.0, 0.5, 1.0]


def test_separable_cases_do_not_end_in_certainty():
    logits = np.concatenate([np.linspace(-6, -2, 60), np.linspace(2, 6, 20)])
    fitted = fit_platt(logits, logits > 0)
    extremes = fitted.probability(np.array([-6.0, 6.0]))
    assert fitted.temperature > 0.2
    assert 0 < extremes[0] < 0.05
    assert 0.9 < extremes[1] < 1
