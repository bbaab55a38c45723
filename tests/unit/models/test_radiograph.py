from dataclasses import replace

import numpy as np
import pytest

from models.phantoms.detector import develop
from models.phantoms.findings import (
    ChestDisease,
    Finding,
    draw_chest_disease,
    draw_chest_options,
    is_heart_enlarged,
)
from models.phantoms.findings_paint import ChestCanvas
from models.phantoms.geometry import Grid
from models.phantoms.painting import render_thorax
from models.phantoms.radiograph import (
    Exposure,
    Projector,
    attenuation_per_mm,
    cast_shadows,
    draw_exposure,
    make_chest_patient,
)
from models.phantoms.seeds import Domain, Split, seed_of

SHAPE = (96, 96)
DETAIL_MM = 6.0


def exposure(view="PA", distance_mm=1800.0) -> Exposure:
    return Exposure(view, distance_mm, 2.0, (121, 101), (0.0, 0.0))


def ball(centre_mm, radius_mm=20.0, spacing_mm=2.0) -> tuple[np.ndarray, Grid]:
    grid = Grid((-80.0, -80.0, -80.0), (spacing_mm,) * 3, (81, 81, 81))
    x, y, z = grid.coordinates()
    away = np.sqrt((x - centre_mm[0]) ** 2 + (y - centre_mm[1]) ** 2 + (z - centre_mm[2]) ** 2)
    return np.clip(0.5 + (radius_mm - away) / spacing_mm, 0, 1).astype(np.float32), grid


def centroid(path) -> tuple[float, float]:
    rows, columns = np.indices(path.shape)
    return (rows * path).sum() / path.sum(), (columns * path).sum() / path.sum()


@pytest.fixture(scope="module")
def patient():
    return make_chest_patient(seed_of(Split.UNIT, 2))


@pytest.fixture(scope="module")
def canvas(patient):
    low, high = patient.body_box_mm()
    counts = np.ceil((high - low) / [DETAIL_MM, 2 * DETAIL_MM, DETAIL_MM]).astype(int) + 1
    grid = Grid(tuple(low), (DETAIL_MM, 2 * DETAIL_MM, DETAIL_MM), tuple(counts[::-1]))
    return ChestCanvas(patient, grid, render_thorax(patient, grid, labels=False).hu)


def test_a_ray_through_a_ball_measures_its_diameter():
    volume, grid = ball((0, 0, 0))
    path = Projector(grid, exposure()).project(volume)
    assert path.max() == pytest.approx(40.0, rel=0.03)


def test_the_patients_right_lies_left_and_the_head_on_top():
    volume, grid = ball((-40, 0, 45))
    row, column = centroid(Projector(grid, exposure()).project(volume))
    assert row < 60 - 15
    assert column < 50 - 15


@pytest.mark.parametrize(("view", "grows"), [("PA", False), ("AP", True)])
def test_what_lies_in_front_is_magnified_in_the_view_whose_tube_is_in_front(view, grows):
    front, grid = ball((0, -50, 0))
    back, _ = ball((0, 50, 0))
    projector = Projector(grid, exposure(view, 1000.0))
    front_area, back_area = ((projector.project(v) > 4).sum() for v in (front, back))
    assert (front_area > back_area) == grows


def test_magnification_follows_from_the_distances():
    volume, grid = ball((0, 0, 0))
    path = Projector(grid, exposure("PA", 1000.0)).project(volume)
    width_mm = (path[60] > 20.0).sum() * 2.0
    # Chords of half the diameter lie 0.866 radii off the middle, which is 120 mm from a detector
    # that is 1000 mm from the tube.
    assert width_mm == pytest.approx(0.866 * 40 * 1000 / (1000 - 120), abs=2.1)


def test_air_lets_pass_and_bone_absorbs_more_than_its_density():
    air, water, bone = attenuation_per_mm(np.array([-1000.0, 0.0, 1000.0], np.float32))
    assert air == 0
    assert bone > 2 * water


def test_effusion_thickens_its_own_side_and_nothing_else(canvas, patient):
    hu, truth = canvas.paint(replace(ChestDisease(), effusions_mm={1: 70.0}))
    changed = np.abs(hu - canvas.healthy_hu) > 50
    x = canvas.at[0]
    assert set(truth) - {Finding.CARDIOMEGALY} == {Finding.PLEURAL_EFFUSION}
    assert changed.any()
    assert not (changed & (x < 0)).any()
    aerated = changed & (canvas.healthy_hu < -500)
    assert (hu - canvas.healthy_hu)[aerated].min() > 0
    assert truth[Finding.PLEURAL_EFFUSION][changed].min() > 0


def test_pneumothorax_empties_the_space_under_the_chest_wall(canvas):
    hu, truth = canvas.paint(replace(ChestDisease(), pneumothorax_mm={-1: 30.0}))
    gap = truth[Finding.PNEUMOTHORAX] > 0.95
    assert gap.any()
    assert (canvas.at[0] * gap).max() <= 0
    assert np.median(hu[gap]) < np.median(canvas.healthy_hu[gap])


def test_findings_are_painted_on_a_copy(canvas, patient):
    before = canvas.healthy_hu.copy()
    canvas.paint(draw_chest_disease(patient, 1))
    np.testing.assert_array_equal(canvas.healthy_hu, before)


def test_every_drawn_finding_that_is_painted_lies_inside_the_lungs(canvas, patient):
    for variant in range(8):
        _, truth = canvas.paint(draw_chest_disease(patient, variant))
        for finding, share in truth.items():
            if finding is not Finding.CARDIOMEGALY:
                assert share.max() <= 1
                assert (share * (canvas.fields["lung"] > 12)).max() == 0


def test_an_exposure_made_alone_equals_the_one_made_in_a_row(patient):
    seen = draw_exposure(patient, SHAPE)
    row = list(cast_shadows(patient, seen, variants=range(2), detail_mm=DETAIL_MM))
    alone = next(cast_shadows(patient, seen, variants=range(1, 2), detail_mm=DETAIL_MM))
    np.testing.assert_array_equal(row[1].path, alone.path)
    assert row[1].masks.keys() == alone.masks.keys()


def test_hearts_are_drawn_clearly_normal_or_clearly_enlarged():
    sizes = {}
    for index in range(12):
        scale = draw_chest_options(seed_of(Split.UNIT, index), Domain.STANDARD).heart_scale
        sizes.setdefault(scale > 1.1, []).append(scale)
    assert max(sizes[False]) < 1.05
    assert min(sizes[True]) > 1.15


def test_cardiomegaly_is_true_of_the_patient_not_of_the_exposure(patient, canvas):
    for variant in range(3):
        _, truth = canvas.paint(draw_chest_disease(patient, variant))
        assert (Finding.CARDIOMEGALY in truth) == is_heart_enlarged(patient)


def test_developing_is_reproducible_and_leaves_the_shadow_alone(patient):
    seen = draw_exposure(patient, SHAPE)
    path = next(cast_shadows(patient, seen, detail_mm=DETAIL_MM)).path
    before = path.copy()
    first, second = (
        develop(path, np.random.default_rng(4), pixel_mm=seen.pixel_mm) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(path, before)
    assert first.min() >= 0
    assert first.max() <= 1


def test_dense_parts_are_bright(patient):
    seen = draw_exposure(patient, SHAPE)
    path = next(cast_shadows(patient, seen, detail_mm=DETAIL_MM)).path
    image = develop(path, np.random.default_rng(9), pixel_mm=seen.pixel_mm)
    assert np.corrcoef(path[15:-15, 15:-15].ravel(), image[15:-15, 15:-15].ravel())[0, 1] > 0.6
