"""What an analysis says in the light of an earlier one: which lesion is new, grown, or gone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from service.core.findings import (
    Analysis,
    Change,
    Finding,
    Location,
    Prior,
    Qualifier,
    ReportReference,
)
from service.core.geometry import Floats
from workers.priors.growth import days_between, growth_between
from workers.priors.matching import Matching, diameter_mm, match_lesions
from workers.priors.registration import Place, Registration
from workers.priors.visibility import is_seen_as_well
from workers.volume.resample import point_on_source

# Lesions beyond these, by probability, are matched without a look at their neighbourhood.
_LOOKED_AT: Final = 40
_UNKNOWN_RADIUS_MM: Final = 5.0
_TOLERANCE_MM: Final = 6.0

Identify = Callable[[int], tuple[str, str]]


@dataclass(frozen=True)
class EarlierStudy:
    """The study that is compared with, what was found in it, and its report where there is one.

    ``study_date`` is a DICOM date and may be empty.
    """

    study_instance_uid: str
    study_date: str
    findings: tuple[Finding, ...]
    report: ReportReference | None = None


def compared(
    analysis: Analysis,
    earlier: EarlierStudy,
    registration: Registration,
    *,
    study_date: str,
    identify: Identify,
) -> Analysis:
    """Return the analysis with what became of each lesion.

    A lesion that was there before keeps its tracking UID and identifier. One that was there and is
    not any more is added as an absent finding at its place in the current scan. What lies outside
    the other scan is left without a word.

    Parameters
    ----------
    study_date
        Of the current study (DICOM date).
    identify
        Gives a finding added at a rank its id and tracking UID.
    """
    current = [f for f in analysis.findings if _counts(f)]
    before = [f for f in earlier.findings if _counts(f)]
    places = _places_of(before, registration)
    matching = match_lesions(
        current, before, mapping=lambda _points: _points_of(places), tolerance_mm=_TOLERANCE_MM
    )
    teller = _Teller(earlier, registration, days_between(earlier.study_date, study_date))
    told = teller.of_all(matching)
    gone = teller.gone(matching, dict(zip((f.id for f in before), places, strict=True)))
    findings = _relabelled(analysis.findings, told, {f.tracking_id for f in gone})
    added = [
        finding.model_copy(update={"id": identify(len(findings) + number)[0]})
        for number, finding in enumerate(gone)
    ]
    return replace(analysis, findings=(*findings, *added))


class _Teller:
    """Says of each finding what the comparison with one earlier study shows."""

    def __init__(self, earlier: EarlierStudy, registration: Registration, days: int | None) -> None:
        self._earlier = earlier
        self._registration = registration
        self._days = days

    def of_all(self, matching: Matching) -> dict[str, Finding]:
        """Return the findings of the current study that something can be told of, by id."""
        told = {
            pair.current.id: pair.current.model_copy(
                update={
                    "tracking_uid": pair.earlier.tracking_uid,
                    "tracking_id": pair.earlier.tracking_id,
                    "prior": self._matched(pair.earlier, pair.current),
                }
            )
            for pair in matching.pairs
        }
        for finding in matching.only_current[:_LOOKED_AT]:
            change = self._of_unmatched(finding)
            if change is not None:
                update = {"prior": self._prior(change)}
                told[finding.id] = finding.model_copy(update=update)
        return told

    def gone(self, matching: Matching, places: dict[str, Place]) -> list[Finding]:
        """Return present lesions of the earlier study that the current one has not, as absent."""
        missing = []
        for finding in matching.only_earlier:
            place = places[finding.id]
            if finding.qualifier is Qualifier.PRESENT and place.is_seen:
                missing.append(self._absent(finding, place))
        return missing

    def _matched(self, earlier: Finding, current: Finding) -> Prior:
        growth = growth_between(earlier, current, days=self._days)
        return self._prior(growth.change, earlier).model_copy(
            update={
                "diameter_change_mm": growth.diameter_change_mm,
                "growth_percent": growth.volume_change_percent,
                "doubling_time_days": growth.doubling_time_days,
            }
        )

    def _of_unmatched(self, finding: Finding) -> Change | None:
        """Return whether a lesion is new; None where the earlier scan does not show its place."""
        assert finding.location
        assert finding.location.center_mm
        radius_mm = _radius_mm(finding)
        here = np.array(finding.location.center_mm)
        place = self._registration.in_earlier(here, radius_mm=radius_mm)
        if not place.is_seen:
            return None
        there = (self._registration.earlier.volume, place.point_mm)
        seen = is_seen_as_well(
            (self._registration.current.volume, here), there, radius_mm=radius_mm
        )
        return Change.UNCONFIRMED if seen else Change.NEW

    def _absent(self, finding: Finding, place: Place) -> Finding:
        assert finding.location
        assert finding.location.center_mm
        volume = self._registration.current.volume
        radius_mm = _radius_mm(finding)
        before = (self._registration.earlier.volume, np.array(finding.location.center_mm))
        seen = is_seen_as_well(before, (volume, place.point_mm), radius_mm=radius_mm)
        on = point_on_source(volume, place.point_mm)
        x, y, z = (round(float(value), 3) for value in place.point_mm)
        return finding.model_copy(
            update={
                "probability": 0.0,
                "qualifier": Qualifier.ABSENT,
                "malignancy_probability": None,
                "location": Location(
                    center_mm=(x, y, z),
                    sop_instance_uid=on.frame.instance.sop_instance_uid,
                    frame_number=on.frame.frame_number,
                ),
                "measurements": (),
                "segment_number": None,
                "prior": self._prior(Change.UNCONFIRMED if seen else Change.RESOLVED, finding),
            }
        )

    def _prior(self, change: Change, earlier: Finding | None = None) -> Prior:
        return Prior(
            change=change,
            study_instance_uid=self._earlier.study_instance_uid,
            study_date=self._earlier.study_date,
            interval_days=self._days,
            finding_id=earlier.id if earlier else None,
            tracking_uid=earlier.tracking_uid if earlier else None,
            diameter_mm=_rounded(diameter_mm(earlier)) if earlier else None,
            volume_mm3=_rounded(earlier.measured("volume")) if earlier else None,
            report=self._earlier.report,
        )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _counts(finding: Finding) -> bool:
    """Return whether a finding is there, or may be, and lies somewhere in the patient."""
    placed = finding.location is not None and finding.location.center_mm is not None
    return placed and finding.qualifier is not Qualifier.ABSENT


def _places_of(findings: Sequence[Finding], registration: Registration) -> list[Place]:
    return [
        registration.in_current(_center(finding), radius_mm=_radius_mm(finding))
        if rank < _LOOKED_AT
        else registration.roughly_in_current(_center(finding))
        for rank, finding in enumerate(findings)
    ]


def _points_of(places: Sequence[Place]) -> Floats:
    return np.array([place.point_mm for place in places])


def _center(finding: Finding) -> Floats:
    assert finding.location
    return np.array(finding.location.center_mm, dtype=np.float64)


def _radius_mm(finding: Finding) -> float:
    size = diameter_mm(finding)
    return size / 2 if size else _UNKNOWN_RADIUS_MM


def _relabelled(
    findings: Sequence[Finding], told: dict[str, Finding], taken: set[str]
) -> list[Finding]:
    """Return the findings as told; no two bear one tracking identifier.

    An identifier such as ``nodule 2`` may have come from the earlier study for one lesion and be
    the number of another one here; that one takes the next number that is free.
    """
    kept = taken | {f.tracking_id for f in told.values() if f.prior and f.prior.finding_id}
    result = []
    for finding in findings:
        known = told.get(finding.id, finding)
        inherited = known.prior is not None and known.prior.finding_id is not None
        if not inherited and known.tracking_id in kept:
            known = known.model_copy(update={"tracking_id": _free(known.tracking_id, kept)})
        kept.add(known.tracking_id)
        result.append(known)
    return result


def _free(tracking_id: str, taken: set[str]) -> str:
    stem = tracking_id.rstrip("0123456789")
    number = 1
    while f"{stem}{number}" in taken:
        number += 1
    return f"{stem}{number}"
