import tomllib

import numpy as np
import pytest

from models.training.guard_features import distribution
from models.training.packaging import table, value


def rows_of(values):
    return [{"first": float(a), "second": float(b)} for a, b in values]


def distance(fitted, point):
    away = np.asarray(point) - np.asarray(fitted["mean"])
    return float(np.sqrt(away @ np.asarray(fitted["inverse_covariance"]) @ away))


def test_guard_holds_almost_all_it_was_fitted_on_and_turns_away_the_far():
    values = np.random.default_rng(1).normal([3.0, -20.0], [0.5, 4.0], (2000, 2))
    fitted = distribution(rows_of(values), ("first", "second"))
    inside = [distance(fitted, v) <= fitted["threshold"] for v in values]
    assert np.mean(inside) > 0.995
    assert distance(fitted, (3.0, 20.0)) > fitted["threshold"]


def test_allowance_lets_in_what_varies_more_than_the_training_set():
    values = np.random.default_rng(2).normal([0.0, 0.0], [0.1, 0.1], (500, 2))
    tight = distribution(rows_of(values), ("first", "second"))
    loose = distribution(rows_of(values), ("first", "second"), allowance=(1.0, 1.0))
    assert distance(tight, (1.5, 0.0)) > tight["threshold"]
    assert distance(loose, (1.5, 0.0)) < loose["threshold"]


@pytest.mark.parametrize(
    "item", [1, 2.5, True, 'a "quoted" µm', [1, [2.5, 3]], {"a": 1, "b": {"c": "d"}}]
)
def test_a_value_reads_back_from_toml(item):
    assert tomllib.loads(f"x = {value(item)}")["x"] == item


def test_a_table_reads_back_from_toml():
    text = table("[[guard.rules]]", {"measure": "symmetry", "range": {"minimum": 0.1}})
    assert tomllib.loads(text) == {
        "guard": {"rules": [{"measure": "symmetry", "range": {"minimum": 0.1}}]}
    }
