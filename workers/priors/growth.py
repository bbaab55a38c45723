"""How a lesion has changed between two studies, and whether that is more than measuring again.

References
----------
Lung-RADS 2022 (American College of Radiology): growth is an increase of the mean diameter by more
than 1.5 mm. British Thoracic Society 2015 and the NELSON trial (van Klaveren, N Engl J Med 2009):
a volume must change by 25 % or more to count; the doubling time is told from there on. The
Fleischner Society's 2017 guidelines and its 2017 recommendations on measuring nodules: less than
1.5 to 2 mm is within the variation between readers and scans.
"""

import math
from dataclasses import dataclass
from datetime import date
from typing import Final

from service.core.findings import Change, Finding
from workers.priors.matching import diameter_mm

LEAST_DIAMETER_CHANGE_MM: Final = 1.5
LEAST_VOLUME_CHANGE_PERCENT: Final = 25.0


@dataclass(frozen=True)
class Growth:
    """What was measured of a change; positive is growth, None what either study did not measure."""

    change: Change
    diameter_change_mm: float | None
    volume_change_percent: float | None
    doubling_time_days: float | None


def growth_between(earlier: Finding, current: Finding, *, days: int | None) -> Growth:
    """Compare one lesion's sizes in two studies.

    The volume decides where both studies measured it: it sees growth along every axis. A diameter
    that has changed by more than its limit, while the volume agrees in its direction, counts too.
    """
    before, after = diameter_mm(earlier), diameter_mm(current)
    diameter = after - before if before is not None and after is not None else None
    first, last = earlier.measured("volume"), current.measured("volume")
    percent = 100 * (last / first - 1) if first and last else None
    change = _change(diameter, percent)
    return Growth(
        change,
        None if diameter is None else round(diameter, 2),
        None if percent is None else round(percent, 1),
        doubling_time_days(first, last, days) if change is Change.GROWING else None,
    )


def doubling_time_days(
    first_mm3: float | None, last_mm3: float | None, days: int | None
) -> float | None:
    """Return the days in which a volume doubles if it grows on evenly; None without growth.

    Told only from a growth of 25 % on: below it the number is made of measuring error.

    >>> doubling_time_days(500.0, 1000.0, 90)
    90.0
    >>> doubling_time_days(500.0, 550.0, 90) is None
    True
    """
    if not first_mm3 or not last_mm3 or not days or days <= 0:
        return None
    if 100 * (last_mm3 / first_mm3 - 1) < LEAST_VOLUME_CHANGE_PERCENT:
        return None
    return round(days * math.log(2) / math.log(last_mm3 / first_mm3), 1)


def days_between(earlier: str, current: str) -> int | None:
    """Return the days between two DICOM dates (DA); None where one is missing or none.

    >>> days_between("20260102", "20260404")
    92
    """
    try:
        return (_date(current) - _date(earlier)).days
    except ValueError:
        return None


def _date(text: str) -> date:
    if len(text) != 8 or not (text.isascii() and text.isdigit()):
        raise ValueError(text)
    return date(int(text[:4]), int(text[4:6]), int(text[6:]))


def _change(diameter_mm_: float | None, percent: float | None) -> Change:
    """Name the change; a loss counts from where growing back would be a growth of 25 %."""
    least_loss = 100 * (1 - 1 / (1 + LEAST_VOLUME_CHANGE_PERCENT / 100))
    grown = percent is not None and percent >= LEAST_VOLUME_CHANGE_PERCENT
    shrunk = percent is not None and -percent >= least_loss
    if not grown and not shrunk and diameter_mm_ is not None:
        agrees = percent is None or percent * diameter_mm_ >= 0
        grown = agrees and diameter_mm_ > LEAST_DIAMETER_CHANGE_MM
        shrunk = agrees and -diameter_mm_ > LEAST_DIAMETER_CHANGE_MM
    if grown:
        return Change.GROWING
    return Change.SHRINKING if shrunk else Change.STABLE
