"""The nodule package's figures: counted by hand on a few made scans."""

import json

import numpy as np
import pytest

from models.phantoms.seeds import Split, seed_of
from models.training.nodule_matching import matches, merged
from models.training.nodule_metrics import (
    MeasuredScan,
    Weights,
    at_point,
    by_subgroup,
    calibration_of,
    fit_weights,
    measure,
    outcome,
    read_scans,
)


def scan(candidates, nodules, *, split=Split.TEST, kinds=None) -> MeasuredScan:
    nodules = np.array(nodules, float).reshape(-1, 5)
    counted = int((nodules[:, 4] > 0).sum())
    return MeasuredScan(
        split=split,
        thickness_mm=2.5,
        noise_hu=20.0,
        candidates=np.array(candidates, float).reshape(-1, 6),
        nodules=nodules,
        kinds=kinds or ("solid",) * counted,
        sites=("parenchyma",) * counted,
        dice=(0.8,) * counted,
        malignancy=tuple(np.linspace(0.1, 0.9, counted)),
        malignancy_logit=tuple(np.linspace(-2, 2, counted)),
    )


PLAIN = Weights(1.0, 0.0, 0.0)
TWO_NODULES = [[10, 10, 10, 8, 1], [50, 50, 50, 6, 1]]


def mark(place, logit, second=0.0):
    return [place, place, place, 6.0, logit, second]


def test_candidate_under_a_likelier_one_is_dropped():
    rows = np.array([[0, 0, 0, 20, 3.0], [0, 0, 9, 4, 2.0], [0, 0, 11, 4, 1.0], [0, 4, 11, 4, 0.0]])
    assert merged(rows)[:, 4].tolist() == [3.0, 1.0]


def test_merging_no_candidates_gives_none():
    assert merged(np.zeros((0, 6))).shape == (0, 6)


def test_mark_on_a_nodule_hits_and_on_a_micronodule_is_skipped():
    rows = np.array([mark(10, 0), mark(30, 0), mark(70, 0)])
    nodules = np.array([[10, 11, 10, 8, 1], [30, 30, 31, 2, 0]], float)
    hits, skipped = matches(rows, nodules)
    assert hits.tolist() == [True, False, False]
    assert skipped.tolist() == [False, True, False]


def test_scan_without_nodules_has_neither_hits_nor_skips():
    hits, skipped = matches(np.array([mark(1, 0)]), np.zeros((0, 5)))
    assert (hits.any(), skipped.any()) == (False, False)


def test_small_nodules_neither_count_nor_harm():
    one = scan([mark(10, 2.0), mark(50, 1.0)], [[10, 10, 10, 3.5, 1], [50, 50, 50, 6, 1]])
    found = outcome(one, PLAIN, smallest_mm=4.0)
    assert found.nodule_scores.tolist() == [1.0]
    assert found.false_scores.tolist() == []


def test_operating_point_counts_what_reaches_the_probability():
    scans = [
        scan([mark(10, 2.0), mark(90, 1.5)], TWO_NODULES),
        scan([mark(10, -1.0), mark(50, 3.0)], TWO_NODULES),
    ]
    point = at_point(scans, PLAIN, 0.5)
    assert point["sensitivity"] == 0.5
    assert point["false_positives_per_scan"] == 0.5
    low, high = point["sensitivity_interval"]
    assert low <= 0.5 <= high


def test_fit_gives_weight_to_the_stage_that_knows():
    rng = np.random.default_rng(3)
    scans = []
    for _ in range(40):
        rows = [mark(10, rng.normal(), rng.normal(3)), mark(90, rng.normal(), rng.normal(-3))]
        scans.append(scan(rows, [[10, 10, 10, 8, 1]], split=Split.VALIDATION))
    weights = fit_weights(scans)
    assert weights.reduction > 5 * abs(weights.detector)


def test_calibration_of_a_sure_and_right_detector_is_good():
    scans = [scan([mark(10, 8.0), mark(90, -3.5)], [[10, 10, 10, 8, 1]]) for _ in range(30)]
    found = calibration_of(scans, PLAIN)
    assert found["candidates"] == 60
    assert found["ece"] < 0.02


def test_subgroups_part_sizes_and_kinds():
    scans = [scan([mark(50, 2.0)], TWO_NODULES, kinds=("solid", "ground_glass"))]
    table = by_subgroup(scans, PLAIN)
    assert table["kind"]["solid"] == {"nodules": 1, "sensitivity": 0.0}
    assert table["kind"]["ground_glass"] == {"nodules": 1, "sensitivity": 1.0}
    assert table["size"]["6 to 10 mm"]["nodules"] == 2


def test_whole_report_follows_from_the_file_and_sets_from_seeds(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for split in (Split.VALIDATION, Split.TEST, Split.SHIFT):
        for number in range(6):
            logits = [float(rng.normal(2)), float(rng.normal(-2))]
            rows.append(
                {
                    "seed": seed_of(split, number),
                    "protocol": {"thickness_mm": 1.0, "noise_hu": 20.0},
                    "candidates": [mark(10, logits[0], 1.0), mark(90, logits[1], -1.0)],
                    "nodules": [[10, 10, 10, 8, 1]],
                    "kinds": ["solid"],
                    "sites": ["pleura"],
                    "dice": [0.5 + 0.05 * number],
                    "malignancy": {"likelihood": [number / 10], "logit": [number - 3.0]},
                }
            )
    path = tmp_path / "candidates.json"
    path.write_text(json.dumps(rows))
    report = measure(read_scans(path))
    assert report["test"]["all_nodules"]["scans"] == 6
    assert report["shift"]["all_nodules"]["nodules"] == 6
    assert report["test"]["crops"]["dice_mean"] == pytest.approx(0.625)
    assert 0 <= report["test"]["all_nodules"]["cpm"] <= 1
