"""Registration, matching and growth on synthetic patients: table motion, breathing, two scanners.

Seeds 4 and 3 breathe hardest (15 and -8 mm at the diaphragm); 1 is shifted most along the table.
"""

import numpy as np
import pytest

from service.core.errors import UnsuitableSeries
from service.core.findings import Analysis, Change, Finding, Qualifier
from tests.builders.followed import findings_of, followed
from workers.priors.alignment import moved
from workers.priors.comparison import EarlierStudy, compared
from workers.priors.registration import Registration, prepare, register

PATIENTS = (1, 3, 4)
DATES = ("20260102", "20260404")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

_registrations: dict[int, Registration] = {}


def registration(index: int) -> Registration:
    if index not in _registrations:
        _, earlier, later = followed(index)
        _registrations[index] = register(prepare(earlier), prepare(later))
    return _registrations[index]


def outcome(index: int) -> tuple[Finding, ...]:
    patient, earlier, later = followed(index)
    study = EarlierStudy("1.2.3", DATES[0], findings_of(patient.earlier, earlier, "then"))
    found = Analysis(findings_of(patient.later, later, "now"))
    return compared(
        found,
        study,
        registration(index),
        study_date=DATES[1],
        identify=lambda rank: (f"added-{rank}", ""),
    ).findings


@pytest.mark.parametrize("index", PATIENTS)
def test_places_of_lesions_are_found_to_a_few_millimetres_in_both_directions(index: int) -> None:
    laid = registration(index)
    courses = followed(index)[0].courses
    there = [laid.in_current(c.earlier_mm, radius_mm=6).point_mm - c.later_mm for c in courses]
    back = [laid.in_earlier(c.later_mm, radius_mm=6).point_mm - c.earlier_mm for c in courses]

    errors = np.linalg.norm([*there, *back], axis=1)

    assert np.median(errors) < 1.5
    assert errors.max() < 4.0


@pytest.mark.parametrize("index", PATIENTS)
def test_local_refinement_takes_out_what_breathing_leaves(index: int) -> None:
    laid = registration(index)
    courses = followed(index)[0].courses
    whole = [moved(laid.whole.matrix, c.earlier_mm[None])[0] - c.later_mm for c in courses]
    local = [laid.in_current(c.earlier_mm, radius_mm=6).point_mm - c.later_mm for c in courses]

    assert np.linalg.norm(local, axis=1).mean() < np.linalg.norm(whole, axis=1).mean()


@pytest.mark.parametrize("index", PATIENTS)
def test_every_lesion_gets_the_fate_that_it_had(index: int) -> None:
    courses = followed(index)[0].courses
    found = outcome(index)

    assert len(found) == len(courses)
    for finding in found:
        assert finding.location
        assert finding.prior
        course = min(
            courses,
            key=lambda c: float(np.linalg.norm(c.later_mm - np.array(finding.location.center_mm))),  # type: ignore[union-attr]
        )
        said = finding.prior.change
        # A place beside a vessel or the wall may look much the same without the lesion.
        careful = said is Change.UNCONFIRMED and course.fate in ("new", "resolved")
        assert said == course.fate or careful
        assert (finding.qualifier is Qualifier.ABSENT) == (course.later_diameter_mm is None)
    assert sum(f.prior.change is Change.UNCONFIRMED for f in found if f.prior) <= 1


@pytest.mark.parametrize("index", PATIENTS)
def test_growth_is_measured_to_what_voxels_allow(index: int) -> None:
    growing, stable, shrinking = followed(index)[0].courses[:3]
    by_change = {f.prior.change: f.prior for f in outcome(index) if f.prior}

    for course, change in (
        (growing, Change.GROWING), (stable, Change.STABLE), (shrinking, Change.SHRINKING),
    ):  # fmt: skip
        said = by_change[change].growth_percent
        true = course.volume_change_percent
        assert said is not None
        assert true is not None
        # The edge of a 9 mm ball is half of its voxels at this size.
        assert abs(np.log((1 + said / 100) / (1 + true / 100))) < np.log(1.5)
    doubling = by_change[Change.GROWING].doubling_time_days
    assert doubling == pytest.approx(92 * np.log(2) / np.log(1.4**3), rel=0.4)
    assert by_change[Change.STABLE].doubling_time_days is None


def test_lesions_keep_their_tracking_and_no_two_share_an_identifier() -> None:
    found = outcome(1)
    inherited = [f for f in found if f.prior and f.prior.finding_id]

    assert {f.tracking_uid for f in inherited} == {f"2.25.4{number}" for number in (1, 2, 3, 4)}
    assert len({f.tracking_id for f in found}) == len(found)


def test_scans_of_two_patients_are_not_compared() -> None:
    with pytest.raises(UnsuitableSeries) as refused:
        register(registration(1).earlier, registration(3).current)

    assert refused.value.reason == "PRIOR_NOT_ALIGNED"


def test_a_scan_of_half_the_lungs_is_laid_over_the_whole() -> None:
    _, _, later = followed(1)
    half = len(later.voxels) // 2
    lower = type(later)(
        later.voxels[:half], later.affine, later.unit, later.frames[:half],
        later.stack.taking(range(half)),
    )  # fmt: skip
    laid = register(registration(1).earlier, prepare(lower))
    courses = followed(1)[0].courses
    places = [laid.in_current(c.earlier_mm, radius_mm=6) for c in courses]

    for place, course in zip(places, courses, strict=True):
        top_mm = later.affine[2, 3] + half * later.spacing_mm[0]
        assert place.is_seen == (course.later_mm[2] < top_mm)
        if course.later_mm[2] < top_mm - 20:
            assert np.linalg.norm(place.point_mm - course.later_mm) < 4
