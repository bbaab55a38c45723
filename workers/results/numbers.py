"""Numbers of a finding as content items, under the standard's codes and units."""

from typing import Final

from service.core import codes
from service.core.errors import ContractViolation
from service.core.findings import Code, Finding, Measurement, RegionRole
from workers.results import content
from workers.results.content import Relation

_AXES: Final = {
    (codes.LONG_AXIS.scheme, codes.LONG_AXIS.value): RegionRole.LONG_AXIS,
    (codes.SHORT_AXIS.scheme, codes.SHORT_AXIS.value): RegionRole.SHORT_AXIS,
}


def measurement_code(measurement: Measurement) -> Code | None:
    """Return the code of a measurement: its own, or the one its name stands for."""
    return measurement.code or codes.MEASUREMENTS.get(measurement.name)


def axis_of(measurement: Measurement) -> RegionRole | None:
    """Return which axis a measurement is the length of, if any."""
    code = measurement_code(measurement)
    return _AXES.get((code.scheme, code.value)) if code else None


def number_of(measurement: Measurement) -> bytes | None:
    """Return a measurement as a number, or None where no standard code stands for it."""
    code = measurement_code(measurement)
    if code is None or measurement.unit not in codes.UNITS:
        return None
    unit = unit_of(measurement)
    return content.number(code, measurement.value, unit)


def percent(name: Code, probability: float, relation: Relation = Relation.CONTAINS) -> bytes:
    """Return a probability as a number in percent."""
    return content.number(name, 100 * probability, codes.PERCENT, relation=relation)


def unit_of(measurement: Measurement) -> Code:
    """Return the coded unit of a measurement.

    Raises
    ------
    ContractViolation
        ``UNKNOWN_UNIT`` when it is in none that is coded.
    """
    try:
        return codes.UNITS[measurement.unit]
    except KeyError:
        raise ContractViolation(
            "UNKNOWN_UNIT", f"{measurement.name} is in {measurement.unit}, which has no code"
        ) from None


def notes_on(finding: Finding) -> list[bytes]:
    """Return in words what has no code: further measurements, and the comparison."""
    words = [
        f"{m.name} {m.value:g} {m.unit}".rstrip()
        for m in finding.measurements
        if measurement_code(m) is None or m.unit not in codes.UNITS
    ]
    if finding.prior:
        prior = finding.prior
        words.append(f"Compared with {prior.study_date}: {prior.change}")
        if prior.growth_percent is not None:
            words.append(f"growth {prior.growth_percent:.0f} %")
        if prior.doubling_time_days is not None:
            words.append(f"doubling time {prior.doubling_time_days:.0f} days")
    if not words:
        return []
    return [content.text(Relation.CONTAINS, codes.COMMENT, "; ".join(words))]
