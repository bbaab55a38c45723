"""Targets, losses, candidates and export of the nodule networks; runs where torch is installed."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.training import nodule_batches  # noqa: E402
from models.training.fitting import Schedule, fit  # noqa: E402
from models.training.nodule_candidates import crops_around, find_candidates  # noqa: E402
from models.training.nodule_networks import (  # noqa: E402
    CropClassifier,
    NoduleDetector,
    NoduleSegmenter,
)

SIDE = 32


def targets(*rows):
    padded = np.full((1, 16, 5), -1e3, np.float32)
    padded[..., 3:] = [1.0, 0.0]
    padded[0, : len(rows)] = np.reshape(rows, (-1, 5))
    return nodule_batches._targets(torch.from_numpy(padded), SIDE)


def test_offset_leads_from_the_cell_to_the_nodule():
    centre = np.array([11.3, 20.9, 7.4])
    wanted = targets([*centre, 6.0, 1.0])
    cell = np.array(np.unravel_index(int(wanted.heat[0].argmax()), wanted.heat[0].shape))
    assert wanted.heat[0].max() == 1.0
    middle = (cell + 0.5) * 2 - 0.5
    assert np.abs(middle - centre).max() <= 1.0
    assert middle + wanted.offset[0][:, *cell].numpy() == pytest.approx(centre, abs=1e-4)
    assert float(wanted.log_diameter[0][tuple(cell)]) == pytest.approx(np.log(6.0))


def test_look_alike_that_does_not_count_is_ignored_and_no_target():
    wanted = targets([16.0, 16.0, 16.0, 3.0, 0.0])
    assert wanted.heat.max() == 0.0
    assert wanted.weight[0, 8, 8, 8] == 0.0
    assert wanted.weight[0, 0, 0, 0] == 1.0


def test_cube_without_nodules_has_no_targets():
    wanted = targets()
    assert wanted.heat.max() == 0.0
    assert wanted.weight.min() == 1.0


def test_perfect_heat_costs_less_than_a_wrong_one():
    wanted = targets([16.0, 16.0, 16.0, 8.0, 1.0])
    right = torch.where(wanted.heat > 0.999, 9.0, -9.0)[:, None]
    offset, size = wanted.offset, wanted.log_diameter[:, None]
    good = sum(nodule_batches.detector_loss((right, offset, size), wanted))
    bad = sum(nodule_batches.detector_loss((-right, offset + 2, size), wanted))
    assert float(good) < 0.01 < float(bad)


def test_detector_gives_one_cell_for_two_voxels_and_starts_unsure():
    network = NoduleDetector(8).eval()
    with torch.no_grad():
        heat, offset, log_diameter = network(torch.randn(1, 1, 32, 48, 16) * 0.3)
    assert heat.shape == (1, 1, 16, 24, 8)
    assert offset.shape == (1, 3, 16, 24, 8)
    assert log_diameter.shape == heat.shape
    assert torch.sigmoid(heat).median() < 0.1


def test_crop_networks_keep_their_shapes():
    with torch.no_grad():
        assert CropClassifier(4).eval()(torch.zeros(2, 1, 32, 32, 32)).shape == (2, 1)
        assert NoduleSegmenter(4).eval()(torch.zeros(1, 1, 32, 32, 32)).shape == (1, 1, 32, 32, 32)


class OneSpot(torch.nn.Module):
    """A detector that finds one nodule, of 8 mm, at a known cell."""

    def forward(self, x):
        cells = tuple(side // 2 for side in x.shape[2:])
        heat = torch.full((1, 1, *cells), -9.0)
        heat[0, 0, 5, 6, 7] = 2.0
        offset = torch.zeros(1, 3, *cells)
        offset[0, :, 5, 6, 7] = torch.tensor([0.5, -0.5, 0.25])
        return heat, offset, torch.full((1, 1, *cells), float(np.log(8.0)))


def test_candidate_lies_where_cell_and_offset_say():
    rows = find_candidates(OneSpot(), torch.zeros(30, 40, 50, dtype=torch.int16))
    assert rows == pytest.approx(np.array([[11.0, 12.0, 14.75, 8.0, 2.0]]), abs=1e-4)


def test_crops_reach_over_the_edge_into_air():
    voxels = torch.arange(8 * 8 * 8, dtype=torch.int16).reshape(8, 8, 8)
    crop = crops_around(voxels, np.array([[0.0, 4.0, 4.0]]), 4)[0]
    assert crop.shape == (4, 4, 4)
    assert (crop[:2] == -1000).all()
    assert crop[2, 2, 2] == voxels[0, 4, 4]


def test_training_goes_on_where_it_stopped(tmp_path):
    def loss_of(net):
        x = torch.randn(16, 3)
        return ((net(x)[:, 0] - x.sum(1)) ** 2).mean(), torch.zeros(())

    def run(seconds: float):
        torch.manual_seed(0)
        network = torch.nn.Linear(3, 1)
        schedule = Schedule(seconds, rate=0.05, report_every=10)
        return fit(network, loss_of, schedule, name="line", state_folder=tmp_path)

    run(0.6)
    first = torch.load(tmp_path / "line_state.pt", weights_only=True)
    trained = run(1.5)
    second = torch.load(tmp_path / "line_state.pt", weights_only=True)
    assert second["steps"] > first["steps"] > 0
    assert second["spent"] == pytest.approx(1.5, abs=0.8)
    assert trained.weight.detach().numpy() == pytest.approx(np.ones((1, 3)), abs=0.2)
