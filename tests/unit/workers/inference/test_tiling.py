"""Windows cover what they should, and blending gives back what a network says everywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.errors import ContractViolation
from workers.inference.batching import run_slabs, slab
from workers.inference.tiling import blend_windows, padded, plan_windows, window_weights

EDGES = st.integers(8, 40)
RNG = np.random.default_rng(7)


@settings(max_examples=30)
@given(
    st.tuples(EDGES, EDGES, EDGES),
    st.tuples(*[st.integers(2, 6)] * 3),
    st.sampled_from([0.0, 0.25, 0.5, 0.8]),
    st.sampled_from([1, 2, 4]),
)
def test_every_voxel_lies_in_a_window_and_windows_start_on_whole_cells(
    shape, patch, overlap, stride
):
    patch = tuple(edge * 4 for edge in patch)
    volume = padded(np.zeros(shape, np.float32), patch, stride=stride, value=0)
    plan = plan_windows(volume.shape, patch, overlap=overlap, stride=stride)
    seen = np.zeros(volume.shape, bool)
    for start in plan.starts:
        assert all(place % stride == 0 and place >= 0 for place in start)
        window = seen[tuple(slice(s, s + e) for s, e in zip(start, patch, strict=True))]
        assert window.shape == patch
        window[:] = True
    assert seen.all()
    assert len(set(plan.starts)) == len(plan.starts)


@settings(max_examples=30)
@given(st.data(), st.sampled_from(["gaussian", "constant"]), st.integers(1, 3))
def test_blending_gives_back_a_network_that_looks_at_single_voxels(data, blending, batch):
    shape = data.draw(st.tuples(EDGES, EDGES, EDGES))
    volume = padded(RNG.normal(size=shape).astype(np.float32), (12, 16, 8), stride=1, value=0)
    plan = plan_windows(volume.shape, (12, 16, 8), overlap=0.5)
    blend = blend_windows(
        volume, plan, lambda x: {"twice": 2 * x, "three": np.repeat(x, 3, axis=1)},
        blending=blending, batch=batch,
    )  # fmt: skip
    assert blend.covered.all()
    np.testing.assert_allclose(blend.maps["twice"][0], 2 * volume[plan.frame], atol=1e-5)
    assert blend.maps["three"].shape == (3, *blend.covered.shape)


def test_maps_of_a_coarser_network_add_up_cell_by_cell():
    volume = RNG.normal(size=(20, 28, 36)).astype(np.float32)
    plan = plan_windows(volume.shape, (12, 12, 12), overlap=0.5, stride=4)

    def means(windows):
        n, _, d, h, w = windows.shape
        cells = windows.reshape(n, 1, d // 4, 4, h // 4, 4, w // 4, 4).mean(axis=(3, 5, 7))
        return {"mean": cells.astype(np.float32)}

    blend = blend_windows(volume, plan, means)
    expected = volume.reshape(5, 4, 7, 4, 9, 4).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(blend.maps["mean"][0], expected, atol=1e-5)


def test_only_windows_that_meet_the_region_are_run_and_they_cover_it():
    region = np.zeros((64, 64, 64), bool)
    region[4:10, 30:40, 50:60] = True
    region[50:60, 4:9, 4:9] = True
    plan = plan_windows(region.shape, (16, 16, 16), overlap=0.25, region=region)
    everything = plan_windows(region.shape, (16, 16, 16), overlap=0.25)
    assert 0 < len(plan.starts) < len(everything.starts) / 4
    blend = blend_windows(np.zeros(region.shape, np.float32), plan, lambda x: {"same": x})
    covered = np.zeros(region.shape, bool)
    covered[plan.frame] = blend.covered
    assert covered[region].all()


def test_a_region_smaller_than_a_window_lies_in_the_middle_of_one():
    region = np.zeros((64, 64, 64), bool)
    region[28:36, 28:36, 28:36] = True
    plan = plan_windows(region.shape, (16, 16, 16), overlap=0.25, region=region)
    assert plan.starts == ((24, 24, 24),)


def test_an_empty_region_runs_nothing():
    plan = plan_windows((32, 32, 32), (16, 16, 16), overlap=0, region=np.zeros((32,) * 3, bool))
    blend = blend_windows(np.zeros((32,) * 3, np.float32), plan, lambda x: pytest.fail("was run"))
    assert plan.starts == ()
    assert blend.maps == {}


def test_gaussian_weights_peak_in_the_middle_and_never_vanish():
    weights = window_weights((9, 9, 9), "gaussian")
    assert weights[4, 4, 4] == weights.max() == 1
    assert weights.min() >= 1e-3


def test_progress_counts_windows_to_the_end():
    heard = []
    volume = np.zeros((32, 16, 16), np.float32)
    plan = plan_windows(volume.shape, (16, 16, 16), overlap=0.5)
    blend_windows(
        volume, plan, lambda x: {"same": x}, batch=2, on_window=lambda *a: heard.append(a)
    )
    assert heard == [(2, 3), (3, 3)]


def test_a_slab_repeats_the_end_slices_beyond_the_volume():
    volume = np.arange(5, dtype=np.float32)[:, None, None]
    assert slab(volume, 0, 5).ravel().tolist() == [0, 0, 0, 1, 2]
    assert slab(volume, 4, 3).ravel().tolist() == [3, 4, 4]


def test_slices_come_back_one_by_one_with_their_index():
    volume = np.arange(7, dtype=np.float32)[:, None, None] * np.ones((7, 4, 4), np.float32)
    sizes = []

    def middle(slabs):
        sizes.append(slabs.shape)
        return {"value": slabs[:, 1:2]}

    found = dict(run_slabs(volume, [1, 3, 6], middle, context=3, batch=2))
    assert sizes == [(2, 3, 4, 4), (1, 3, 4, 4)]
    assert {index: float(said["value"].mean()) for index, said in found.items()} == {
        1: 1,
        3: 3,
        6: 6,
    }


@pytest.mark.parametrize("cut", [np.s_[:, :, 1:], np.s_[:, :, :, :, 1:], np.s_[1:]])
def test_maps_of_another_size_than_the_window_break_the_contract(cut):
    plan = plan_windows((16, 16, 16), (16, 16, 16), overlap=0)
    with pytest.raises(ContractViolation, match="same: found"):
        blend_windows(np.zeros((16, 16, 16), np.float32), plan, lambda x: {"same": x[cut]})
