import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.evaluation.auroc import at_specificity, at_threshold, auprc, auroc, roc_curve, youden


def test_area_of_hand_made_case_counts_ordered_pairs():
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.5])
    labels = np.array([True, True, False, True, False, False])
    # 9 pairs; only (0.6 positive, 0.7 negative) is out of order
    assert auroc(scores, labels).value == pytest.approx(8 / 9)


def test_ties_count_one_half():
    assert auroc(np.array([0.5, 0.5]), np.array([True, False])).value == 0.5


def test_interval_is_delongs_for_a_published_style_case():
    scores = np.array([1.0, 2, 3, 4, 5, 6, 2.5, 7, 8, 9])
    labels = np.array([False] * 5 + [True] * 5)
    area = auroc(scores, labels)
    # structural components by hand: positives 6,2.5,7,8,9 beat 5,2,5,5,5 of the 5 negatives
    v_pos = np.array([1.0, 0.4, 1, 1, 1])
    v_neg = np.array([1.0, 1.0, 0.8, 0.8, 0.8])
    half = 1.959964 * np.sqrt(v_pos.var(ddof=1) / 5 + v_neg.var(ddof=1) / 5)
    assert area.value == pytest.approx(0.88)
    assert area.low == pytest.approx(0.88 - half, abs=1e-6)
    assert area.high == pytest.approx(min(1.0, 0.88 + half), abs=1e-6)


def test_one_class_alone_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        auroc(np.array([0.1, 0.2]), np.array([True, True]))


def test_average_precision_of_hand_made_case():
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    labels = np.array([True, False, True, False])
    assert auprc(scores, labels) == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_average_precision_takes_ties_as_one_step():
    labels = np.array([True, False, True, False])
    assert auprc(np.full(4, 0.3), labels) == pytest.approx(0.5)


def test_sensitivity_is_read_at_the_asked_specificity():
    scores = np.array([0.1, 0.2, 0.3, 0.9, 0.25, 0.8, 0.95])
    labels = np.array([False, False, False, False, True, True, True])
    point = at_specificity(scores, labels, 0.75)
    assert point.threshold == 0.8
    assert point.sensitivity == pytest.approx(2 / 3)
    assert point.specificity == 0.75
    same = at_threshold(scores, labels, 0.8)
    assert same.sensitivity == pytest.approx(point.sensitivity)
    assert same.specificity == point.specificity


def test_full_specificity_with_a_tied_top_calls_nothing():
    point = at_specificity(np.array([0.9, 0.9]), np.array([True, False]), 1.0)
    assert point.sensitivity == 0.0
    assert point.specificity == 1.0


def test_youden_of_separable_scores_is_perfect():
    point = youden(np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True]))
    assert (point.threshold, point.sensitivity, point.specificity) == (0.8, 1.0, 1.0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=4, max_size=40))
def test_area_equals_trapezoids_under_the_curve(pairs):
    scores = np.array([p[0] for p in pairs], dtype=float)
    labels = np.array([p[1] for p in pairs])
    if labels.all() or not labels.any():
        return
    curve = roc_curve(scores, labels)
    assert auroc(scores, labels).value == pytest.approx(np.trapezoid(curve[:, 1], curve[:, 0]))
