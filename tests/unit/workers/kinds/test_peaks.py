"""Peaks of a heat map become candidates at the right place, each once."""

import numpy as np
import pytest

from service.core.manifest_output import DetectionDecoding
from workers.kinds.peaks import Heat, Peak, find_peaks, merge_peaks

SHAPE = (6, 7, 8)


def field(cells, *, start=(0, 0, 0), offsets=None, diameter_mm=6.0, channels=1):
    heat = np.full((channels, *SHAPE), -8, np.float32)
    for cell, logit in cells.items():
        heat[cell if len(cell) == 4 else (0, *cell)] = logit
    offset = np.zeros((3, *SHAPE), np.float32)
    for cell, shift in (offsets or {}).items():
        offset[(slice(None), *cell)] = shift
    size = np.full((1, *SHAPE), np.log(diameter_mm), np.float32)
    return Heat(start, heat, offset, size, np.ones(SHAPE, bool))


def test_a_peak_lies_at_its_cells_centre_plus_its_offset():
    found = find_peaks(
        field({(2, 3, 4): 2.0}, start=(10, 20, 30), offsets={(2, 3, 4): (0.25, -1, 2)}),
        DetectionDecoding(stride=4),
    )
    # Cell i of stride 4 covers voxels 4i to 4i + 3, so its centre is at 4i + 1.5.
    assert [peak.index for peak in found] == [(10 + 9.75, 20 + 12.5, 30 + 19.5)]
    assert found[0].diameter_mm == pytest.approx(6.0)
    assert found[0].logit == pytest.approx(2.0)


def test_peaks_come_strongest_first_and_slopes_are_none():
    heat = field({(1, 1, 1): 1.0, (1, 1, 2): 0.5, (4, 5, 6): 3.0})
    assert [peak.logit for peak in find_peaks(heat, DetectionDecoding())] == [3.0, 1.0]


def test_cells_below_the_floor_or_that_no_window_reached_are_none():
    heat = field({(1, 1, 1): -1.0, (4, 5, 6): 3.0})
    heat.covered[4, 5, 6] = False
    assert find_peaks(heat, DetectionDecoding(candidate_floor=0.5)) == []


def test_diameters_out_of_range_are_none_and_wild_ones_stay_numbers():
    heat = field({(1, 1, 1): 2.0}, diameter_mm=90)
    assert find_peaks(heat, DetectionDecoding()) == []
    heat.log_diameter[:] = 1e9
    assert find_peaks(heat, DetectionDecoding()) == []


def test_each_channel_has_peaks_of_its_own():
    heat = field({(0, 1, 1, 1): 1.0, (1, 1, 1, 1): 2.0}, channels=2)
    assert [peak.channel for peak in find_peaks(heat, DetectionDecoding())] == [1, 0]


def peak(x, logit, diameter_mm=4.0, channel=0):
    return Peak((0.0, 0.0, x), diameter_mm, logit, channel)


def test_a_weaker_peak_nearby_is_merged_and_one_farther_off_is_not():
    peaks = [peak(0, 3), peak(2, 2), peak(4, 1)]
    kept = merge_peaks(peaks, spacing_mm=(1, 1, 2), distance_mm=5, limit=9)
    assert [item.index[2] for item in kept] == [0, 4]


def test_a_peak_within_a_large_lesion_is_merged_beyond_the_distance():
    peaks = [peak(0, 3, diameter_mm=30), peak(12, 2), peak(16, 1)]
    kept = merge_peaks(peaks, spacing_mm=(1, 1, 1), distance_mm=5, limit=9)
    assert [item.index[2] for item in kept] == [0, 16]


def test_peaks_of_different_classes_are_not_merged():
    peaks = [peak(0, 3), peak(1, 2, channel=1)]
    assert len(merge_peaks(peaks, spacing_mm=(1, 1, 1), distance_mm=5, limit=9)) == 2


def test_no_more_peaks_than_the_limit_are_kept():
    peaks = [peak(20 * place, 1000 - place) for place in range(1000)]
    kept = merge_peaks(peaks, spacing_mm=(1, 1, 1), distance_mm=5, limit=7)
    assert kept == peaks[:7]
