import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.phantoms.abdomen import make_abdomen
from models.phantoms.abdomen_lesions import LesionKind, make_liver_disease
from models.phantoms.abdomen_render import FIRST_LESION, LIVER, render_abdomen
from models.phantoms.abdomen_scan import ABDOMEN_SCANNERS, draw_abdomen_protocol, scan_abdomen
from models.phantoms.acquisition import Protocol
from models.phantoms.geometry import Grid
from models.phantoms.seeds import Domain, Split, seed_of

SPACING_MM = (4.0, 4.0, 5.0)


@pytest.fixture(scope="module")
def patient():
    abdomen = make_abdomen(seed_of(Split.UNIT, 4))
    return abdomen, make_liver_disease(abdomen, lesions=4)


@pytest.fixture(scope="module")
def drawn(patient):
    low, high = patient[0].corners_mm()
    counts = np.ceil((high - low) / SPACING_MM).astype(int)
    grid = Grid(tuple(low), SPACING_MM, tuple(counts[::-1]))
    return (*render_abdomen(*patient, grid), grid)


def test_one_seed_is_one_patient(patient):
    again = make_abdomen(seed_of(Split.UNIT, 4))
    for name, field in patient[0].fields.items():
        np.testing.assert_array_equal(field, again.fields[name])
    disease = make_liver_disease(again, lesions=4)
    assert [x.diameter_mm for x in disease.lesions] == [x.diameter_mm for x in patient[1].lesions]


def test_another_seed_is_another_patient(patient):
    other = make_abdomen(seed_of(Split.UNIT, 5))
    assert other.scale != patient[0].scale


def test_liver_has_a_livers_size_and_side(drawn):
    _, labels, grid = drawn
    liver = labels >= LIVER
    volume_ml = liver.sum() * np.prod(SPACING_MM) / 1000
    assert 600 < volume_ml < 3500
    x = np.broadcast_to(grid.coordinates()[0], labels.shape)
    assert x[liver].mean() < -20  # the patient's right


def test_every_lesion_is_labelled_at_its_centre_inside_the_liver(drawn, patient):
    _, labels, grid = drawn
    assert labels.max() == FIRST_LESION + len(patient[1].lesions) - 1
    for number, lesion in enumerate(patient[1].lesions):
        index = np.rint((lesion.centre_mm - grid.origin_mm) / np.asarray(grid.spacing_mm)).astype(
            int
        )
        there = labels[tuple(slice(max(0, i - 1), i + 2) for i in index[::-1])]
        assert (there == FIRST_LESION + number).any()


def test_lesions_differ_from_the_liver_round_them(drawn, patient):
    values, labels, _ = drawn
    liver_hu = np.median(values[labels == LIVER])
    for number, lesion in enumerate(patient[1].lesions):
        if lesion.diameter_mm > 14 and lesion.kind is not LesionKind.HEMANGIOMA:
            lesion_hu = np.median(values[labels == FIRST_LESION + number])
            assert abs(lesion_hu - liver_hu) > 5


def test_liver_lies_at_its_phase_attenuation(drawn, patient):
    values, labels, _ = drawn
    assert np.median(values[labels == LIVER]) == pytest.approx(
        patient[0].attenuation_hu["liver"], abs=12
    )


def test_number_of_lesions_asked_for_is_met_in_a_roomy_liver(patient):
    assert len(patient[1].lesions) == 4
    assert make_liver_disease(patient[0], lesions=0).lesions == ()


def test_scan_has_the_protocols_grid_and_noise(patient):
    protocol = Protocol(5.0, 6.0, 3.0, 3.0, 0.0, 15.0, 0.3, 0.0)
    scan = scan_abdomen(*patient, protocol)
    assert scan.hu.dtype == np.int16
    assert scan.grid.spacing_mm == (3.0, 3.0, 6.0)
    assert scan.labels.shape == scan.hu.shape
    outside = scan.hu[scan.hu < -900].astype(float)
    deviation = 1.4826 * np.median(np.abs(outside - np.median(outside)))
    assert deviation == pytest.approx(15.0, rel=0.25)


def test_square_scan_has_as_many_columns_as_asked_for(patient):
    scan = scan_abdomen(*patient, Protocol(5, 12, 4.0, 4.0, 0, 10.0, 0, 0), columns=120)
    assert scan.hu.shape[1:] == (120, 120)


@pytest.mark.parametrize("domain", list(Domain))
def test_protocols_stay_within_their_scanners_ranges(domain):
    for seed in range(20):
        protocol = draw_abdomen_protocol(np.random.default_rng(seed), domain)
        scanner = ABDOMEN_SCANNERS[domain]
        assert protocol.thickness_mm in scanner.thickness_mm
        assert scanner.pixel_mm[0] <= protocol.pixel_mm <= scanner.pixel_mm[1]
        assert protocol.increment_mm <= protocol.thickness_mm


@settings(max_examples=20, deadline=None)
@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_a_lesions_surface_lies_between_its_centre_and_its_reach(patient, x, y, z):
    direction = np.array([x, y, z])
    length = np.linalg.norm(direction)
    if length < 0.1:
        return
    for lesion in patient[1].lesions:
        far = lesion.centre_mm + direction / length * lesion.reach_mm
        inside, outside = (
            lesion.distances(tuple(np.array([c]) for c in point))[0][0]
            for point in (lesion.centre_mm, far)
        )
        assert inside < 0 < outside
