"""FROC and CPM against cases small enough to count by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.evaluation.froc import Marks, ScanOutcome, Truths, evaluate, froc, match


def marks(*rows: tuple[float, float]) -> Marks:
    """Marks on the x axis: (x in mm, score)."""
    return Marks(
        np.array([[x, 0.0, 0.0] for x, _ in rows]).reshape(-1, 3),
        np.array([score for _, score in rows]),
    )


def truths(*rows: tuple[float, float], counted: bool = True) -> Truths:
    """Findings on the x axis: (x in mm, diameter in mm)."""
    return Truths(
        np.array([[x, 0.0, 0.0] for x, _ in rows]).reshape(-1, 3),
        np.array([diameter for _, diameter in rows]),
        np.full(len(rows), counted),
    )


def test_mark_at_exactly_the_radius_is_no_hit():
    found = match(marks((5.0, 0.9)), truths((0.0, 10.0)))
    assert found.nodule_scores.tolist() == [-np.inf]
    assert found.false_scores.tolist() == [0.9]


def test_several_hits_count_once_with_the_best_score():
    found = match(marks((1.0, 0.4), (-1.0, 0.8), (2.0, 0.1)), truths((0.0, 10.0)))
    assert found.nodule_scores.tolist() == [0.8]
    assert found.false_scores.tolist() == []


def test_one_mark_between_two_nodules_hits_both():
    found = match(marks((0.0, 0.7)), truths((-2.0, 6.0), (2.0, 6.0)))
    assert found.nodule_scores.tolist() == [0.7, 0.7]


def test_mark_on_a_finding_that_does_not_count_is_dropped():
    found = match(marks((0.0, 0.7), (40.0, 0.6)), truths((0.5, 2.0), counted=False))
    assert found.nodule_scores.tolist() == []
    assert found.false_scores.tolist() == [0.6]


def test_scan_without_marks_misses_every_nodule():
    found = match(marks(), truths((0.0, 8.0), (50.0, 8.0)))
    assert found.nodule_scores.tolist() == [-np.inf, -np.inf]


def outcome(nodules: list[float], alarms: list[float]) -> ScanOutcome:
    return ScanOutcome(np.array(nodules, float), np.array(alarms, float))


def test_curve_of_two_scans_counted_by_hand():
    # Falling scores: hit .9, alarm .8, hit .7, alarm .5; one nodule is never hit.
    curve = froc([outcome([0.9, 0.7], [0.8]), outcome([-np.inf], [0.5])])
    assert curve.thresholds.tolist() == [np.inf, 0.9, 0.8, 0.7, 0.5]
    assert curve.false_positives_per_scan.tolist() == [0, 0, 0.5, 0.5, 1]
    assert curve.sensitivity == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3])


def test_sensitivity_between_points_is_interpolated():
    curve = froc([outcome([0.9, 0.3], [0.5, 0.4])])
    # (0, 1/2) at .9, then 1 and 2 alarms, then both nodules at 2 alarms.
    assert curve.at([0.5, 1.5, 8.0]) == pytest.approx([0.5, 0.5, 1.0])


def test_threshold_allows_no_more_alarms_than_asked():
    curve = froc([outcome([0.95, 0.35], [0.9, 0.6, 0.4]), outcome([0.5], [])])
    assert curve.threshold_at(1.0) == 0.5
    assert curve.threshold_at(0.0) == 0.95


def test_perfect_detector_has_cpm_one_with_no_spread():
    result = evaluate([outcome([0.9], []), outcome([0.8, 0.7], [])], resamples=50)
    assert result.cpm == 1.0
    assert result.cpm_interval == (1.0, 1.0)
    assert (result.scans, result.nodules) == (2, 3)


def test_cpm_is_the_mean_of_seven_sensitivities():
    # Eight alarms in eight scans outscore the only nodule: it is found from 1 FP/scan on.
    outcomes = [outcome([0.1] if n == 0 else [], [0.5]) for n in range(8)]
    result = evaluate(outcomes, resamples=20)
    assert result.sensitivities == (0, 0, 0, 1, 1, 1, 1)
    assert result.cpm == pytest.approx(4 / 7)


def test_bootstrap_repeats_itself_from_the_same_seed():
    outcomes = [outcome([n / 10], [0.35]) for n in range(1, 9)]
    first, second = (evaluate(outcomes, resamples=40, seed=3) for _ in range(2))
    assert first.cpm_interval == second.cpm_interval
    assert first.cpm_interval[0] < first.cpm < first.cpm_interval[1]


def test_scans_without_a_nodule_cannot_be_measured():
    with pytest.raises(ValueError, match="no counted nodule"):
        froc([outcome([], [0.3])])


scores = st.lists(st.floats(-5, 5), max_size=6)


@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=5))
def test_curve_never_falls_and_ends_with_everything(rows):
    outcomes = [outcome(nodules, alarms) for nodules, alarms in rows]
    if not any(len(o.nodule_scores) for o in outcomes):
        return
    curve = froc(outcomes)
    assert (np.diff(curve.sensitivity) >= 0).all()
    assert (np.diff(curve.false_positives_per_scan) >= 0).all()
    assert curve.sensitivity[-1] == 1.0
    assert curve.false_positives_per_scan[-1] == pytest.approx(
        sum(len(o.false_scores) for o in outcomes) / len(outcomes)
    )
