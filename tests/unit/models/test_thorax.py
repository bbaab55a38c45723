"""Synthetic chests: repeatable, anatomically sane, and true to their own truth."""

import copy
from itertools import pairwise

import numpy as np
import pytest

from models.phantoms.acquisition import Protocol, acquire, ct_noise, draw_protocol
from models.phantoms.chest_ct import ChestCt, small_chest_ct
from models.phantoms.geometry import Grid
from models.phantoms.nodules import malignancy_probability
from models.phantoms.painting import render_thorax
from models.phantoms.population import NoduleKind, Site, ThoraxOptions, draw_diameter_mm
from models.phantoms.seeds import SEEDS, Domain, Split, seed_of, split_of
from models.phantoms.thorax import Thorax

SEED = seed_of(Split.UNIT, 1)


@pytest.fixture(scope="module")
def built() -> Thorax:
    return Thorax(SEED, options=ThoraxOptions(nodules=3))


@pytest.fixture
def thorax(built: Thorax) -> Thorax:
    """The same patient for each test, whatever another test added to it."""
    return copy.deepcopy(built)


@pytest.fixture
def bare(thorax: Thorax) -> Thorax:
    thorax.lesions.clear()
    return thorax


@pytest.fixture(scope="module")
def chest() -> ChestCt:
    return small_chest_ct(SEED)


def around(point_mm, half_mm: float, spacing_mm: float = 1.0) -> Grid:
    """A cube of voxels whose middle voxel lies at a point."""
    half = round(half_mm / spacing_mm)
    low = np.asarray(point_mm) - half * spacing_mm
    return Grid((low[0], low[1], low[2]), (spacing_mm,) * 3, (2 * half + 1,) * 3)


def test_sets_of_seeds_never_meet():
    ranges = sorted((seeds.first, seeds.last) for seeds in SEEDS.values())
    assert all(a[1] < b[0] for a, b in pairwise(ranges))


def test_seed_knows_its_set():
    assert all(split_of(seed_of(split, 5)) is split for split in Split)
    with pytest.raises(ValueError, match="belongs to no set"):
        split_of(17)


def test_shifted_patients_come_from_the_shifted_domain():
    assert SEEDS[Split.SHIFT].domain is Domain.SHIFTED
    assert SEEDS[Split.TEST].domain is Domain.STANDARD


def test_asking_past_the_end_of_a_set_is_refused():
    with pytest.raises(IndexError):
        seed_of(Split.DEMO, 10_000)


def test_same_seed_gives_the_same_patient(thorax):
    again = Thorax(SEED, options=ThoraxOptions(nodules=3))
    assert np.array_equal(again.vessels, thorax.vessels)
    assert [n.diameter_mm for n in again.lesions] == [n.diameter_mm for n in thorax.lesions]


def test_diameters_follow_the_law_of_luna16():
    rng = np.random.default_rng(1)
    drawn = [draw_diameter_mm(rng) for _ in range(4000)]
    # Published quantiles of the 1,186 nodules at 5, 50, 75 and 95 %.
    wanted = np.array([4.1, 6.4, 9.7, 19.0])
    found = np.percentile(drawn, [5, 50, 75, 95])
    assert np.abs(found / wanted - 1).max() < 0.15


def test_solid_nodule_is_dense_at_its_centre_and_painted_as_large_as_it_says(bare):
    nodule = bare.add_nodule(14.0, kind=NoduleKind.SOLID, site=Site.PARENCHYMA)
    assert nodule is not None
    painting = render_thorax(bare, around(nodule.centre_mm, 16.0, 0.8))
    middle = painting.hu.shape[0] // 2
    assert painting.hu[middle, middle, middle] > -60
    assert painting.labels is not None
    volume = float((painting.labels == 1).sum() * 0.8**3)
    assert 2 * (volume * 3 / (4 * np.pi)) ** (1 / 3) == pytest.approx(14.0, rel=0.12)


def test_ground_glass_stays_between_lung_and_soft_tissue(bare):
    nodule = bare.add_nodule(16.0, kind=NoduleKind.GROUND_GLASS, site=Site.PARENCHYMA)
    assert nodule is not None
    painting = render_thorax(bare, around(nodule.centre_mm, 3.0), labels=False)
    assert painting.labels is None
    assert -800 < np.median(painting.hu) < -250


def test_nodules_lie_in_the_lung_or_at_its_wall(thorax):
    assert len(thorax.lesions) == 3
    assert all(thorax.depth(nodule.centre_mm) < 1.0 for nodule in thorax.lesions)


def test_nodules_keep_apart(thorax):
    for _ in range(6):
        thorax.add_nodule()
    places = [(n.centre_mm, n.radius_mm) for n in thorax.lesions]
    for i, (a, ra) in enumerate(places):
        assert all(np.linalg.norm(a - b) > ra + rb for b, rb in places[:i])


def test_likelihood_grows_with_size_and_falls_with_calcium(bare):
    made = {
        key: bare.add_nodule(size, kind=kind, site=Site.PARENCHYMA)
        for key, size, kind in (
            ("small", 5.0, NoduleKind.SOLID),
            ("large", 22.0, NoduleKind.SPICULATED),
            ("calcified", 12.0, NoduleKind.CALCIFIED),
        )
    }
    likely = {key: malignancy_probability(n) for key, n in made.items() if n is not None}
    assert likely["calcified"] < likely["small"] + 0.05 < likely["large"]


def test_part_and_whole_are_painted_alike(thorax):
    whole = Grid((-60.0, -20.0, 0.0), (2.0, 2.0, 2.0), (8, 30, 30))
    window = (slice(2, 6), slice(5, 25), slice(10, 30))
    large = render_thorax(thorax, whole, labels=False).hu[window]
    small = render_thorax(thorax, whole.part(window), labels=False).hu
    assert np.abs(large - small).max() < 0.5


def test_scan_holds_air_lung_soft_tissue_and_bone(chest):
    hu = chest.scan.hu
    assert hu.dtype == np.int16
    assert hu.shape[1:] == (256, 256)
    lung = ((hu > -950) & (hu < -700)).mean()
    assert 0.05 < lung < 0.4
    assert ((hu > -150) & (hu < 120)).mean() > 0.15
    assert 0.002 < (hu > 250).mean() < 0.05


def test_labels_lie_where_the_truth_says(chest):
    grid, labels = chest.scan.grid, chest.scan.labels
    for number, nodule in enumerate(chest.lesions, start=1):
        centre = np.argwhere(labels == number).mean(0)[::-1]
        found = np.asarray(grid.origin_mm) + centre * grid.spacing_mm
        assert np.linalg.norm(found - nodule.centre_mm) < 3.0


def test_back_lies_on_the_table(chest):
    # The couch is the lowest dense thing in the picture, behind (greater y than) the body.
    columns = chest.scan.hu[40, :, 128] > -300
    dense = np.flatnonzero(columns)
    assert dense.max() > 0.8 * 256


def test_noise_has_the_deviation_asked_for():
    rng = np.random.default_rng(4)
    noise = ct_noise(rng, (4, 60, 70), Protocol(pixel_mm=0.8))
    assert noise.shape == (4, 60, 70)
    assert noise.std() == pytest.approx(1.0, abs=1e-3)


def test_sharp_kernel_makes_finer_noise_than_a_soft_one():
    def roughness(protocol: Protocol) -> float:
        noise = ct_noise(np.random.default_rng(4), (2, 64, 64), protocol)
        return float(np.abs(np.diff(noise, axis=2)).mean())

    sharp = Protocol(pixel_mm=0.7, blur_mm=0.8, sharpening=1.0)
    assert roughness(sharp) > 1.3 * roughness(Protocol(pixel_mm=0.7, blur_mm=2.2, sharpening=0.0))


def test_thick_slices_average_a_small_nodule_away(bare):
    nodule = bare.add_nodule(4.0, kind=NoduleKind.SOLID, site=Site.PARENCHYMA)
    assert nodule is not None
    box = (nodule.centre_mm - 12, nodule.centre_mm + 12)
    peaks = []
    for thickness in (1.0, 6.0):
        protocol = Protocol(thickness, thickness, noise_hu=0.0, grain_hu=0.0)
        scan = acquire(bare, np.random.default_rng(0), protocol, box_mm=box)
        peaks.append(scan.hu[:, 14:22, 14:22].max())
    assert peaks[1] < peaks[0] - 100


def test_shifted_protocols_reach_thicker_slices():
    drawn = [draw_protocol(np.random.default_rng(n), Domain.SHIFTED) for n in range(40)]
    assert max(p.thickness_mm for p in drawn) == 5.0
    assert all(p.increment_mm <= p.thickness_mm for p in drawn)
