"""What the report as a document says, as words ready to be set."""

from collections.abc import Mapping, Sequence
from typing import Final

from service.core.findings import Analysis, Finding, Qualifier
from service.core.headers import SourceFrame
from workers.results.context import RESEARCH_ONLY, ResultContext
from workers.results.encode import Value
from workers.results.source import SourceStudy
from workers.results.typesetting import Json

_SEX: Final = {"M": "male", "F": "female", "O": "other"}
_SIZES: Final = (
    ("long_axis", "long axis"), ("short_axis", "short axis"), ("diameter", "diameter"),
    ("volume", "volume"), ("mean_hu", "mean"),
)  # fmt: skip
_HEAD: Final = ("", "Finding", "Site", "Certainty", "Measurements", "Series / image")
_UNITS: Final = {"mm3": "mm³", "mm2": "mm²", "cm3": "cm³", "[hnsf'U]": "HU"}


def sheet_of(
    context: ResultContext,
    source: SourceStudy,
    analysis: Analysis,
    *,
    frames: Sequence[SourceFrame],
    captions: Sequence[str],
) -> Mapping[str, Json]:
    """Return the words of a report; ``captions`` are what its pictures show."""
    model = context.model
    at = context.created_at
    positive = [f for f in analysis.findings if f.qualifier is not Qualifier.ABSENT]
    count = len(positive)
    return {
        "title": f"AI report: {model.title}",
        "author": model.manufacturer,
        "date": (at.year, at.month, at.day),
        "footer": f"Study {source.study_instance_uid}",
        "warnings": [context.standing, *([RESEARCH_ONLY] if context.research_only else [])],
        "patient": _patient(source.elements),
        "summary": f"{count} finding{'s' * (count != 1)}." if count else "No findings.",
        "head": _HEAD,
        "findings": [
            _row(number, finding, frames)
            for number, finding in enumerate(analysis.findings, start=1)
        ],
        "captions": list(captions),
        "limits": [line for line in (model.intended_use, model.limitations, _WHAT_IT_IS) if line],
        "algorithm": _algorithm(context),
    }


_WHAT_IT_IS: Final = (
    "What this algorithm does not look for is not mentioned here. The certainty is that of the "
    "algorithm, not of a physician."
)


def _patient(elements: Mapping[str, Value]) -> list[tuple[str, str]]:
    def said(keyword: str) -> str:
        value = elements.get(keyword)
        return value if isinstance(value, str) else ""

    return [
        ("Patient", person_in_words(said("PatientName"))),
        ("Patient ID", said("PatientID")),
        ("Born", date_in_words(said("PatientBirthDate"))),
        ("Sex", _SEX.get(said("PatientSex"), "")),
        ("Study", said("StudyDescription")),
        ("Accession number", said("AccessionNumber")),
        ("Study date", date_in_words(said("StudyDate"))),
        ("Referred by", person_in_words(said("ReferringPhysicianName"))),
    ]


def person_in_words(name: str) -> str:
    """Return a Person Name as it is spoken, its other scripts in brackets (PS3.5 6.2.1).

    >>> person_in_words("Wang^XiaoDong=王^小东")
    'Wang XiaoDong (王 小东)'
    """
    groups = [" ".join(part for part in group.split("^") if part) for group in name.split("=")]
    first, *others = [group for group in groups if group] or [""]
    return " ".join([first, *(f"({other})" for other in others)])


def date_in_words(date: str) -> str:
    """Return a date of a data set as ISO 8601.

    >>> date_in_words("20260301")
    '2026-03-01'
    """
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if len(date) == 8 else date


def _row(number: int, finding: Finding, frames: Sequence[SourceFrame]) -> tuple[str, ...]:
    certainty = f"{100 * finding.probability:.0f} %"
    if finding.qualifier is not Qualifier.PRESENT:
        certainty += f" ({finding.qualifier})"
    site = finding.site.meaning if finding.site else ""
    if finding.laterality:
        site = f"{site}, {finding.laterality.meaning.lower()}".removeprefix(", ")
    return (
        str(number), finding.label.meaning, site, certainty, _measured(finding),
        _place(finding, frames),
    )  # fmt: skip


def _measured(finding: Finding) -> str:
    words = []
    for name, spoken in _SIZES:
        for one in finding.measurements:
            if one.name == name:
                decimals = 1 if one.unit == "mm" else 0
                unit = _UNITS.get(one.unit, one.unit)
                words.append(f"{spoken} {one.value:.{decimals}f} {unit}".replace("-", "−"))
    if finding.malignancy_probability is not None:
        words.append(f"likelihood of malignancy {100 * finding.malignancy_probability:.0f} %")
    if finding.prior:
        prior = finding.prior
        grown = "" if prior.growth_percent is None else f" {prior.growth_percent:+.0f} %"
        words.append(f"{prior.change} since {date_in_words(prior.study_date)}{grown}")
    return ", ".join(words)


def _place(finding: Finding, frames: Sequence[SourceFrame]) -> str:
    """Return where to look: series and instance number, and the frame where there are several."""
    place = finding.location
    frame = next(
        (
            f
            for f in frames
            if place
            and (f.instance.sop_instance_uid, f.frame_number)
            == (place.sop_instance_uid, place.frame_number)
        ),
        None,
    )
    if frame is None or finding.qualifier is Qualifier.ABSENT:
        return ""
    instance = frame.instance
    numbers = [instance.series_number, instance.instance_number]
    words = " / ".join("?" if number is None else str(number) for number in numbers)
    return f"{words} / {frame.frame_number}" if instance.number_of_frames > 1 else words


def _algorithm(context: ResultContext) -> list[tuple[str, str]]:
    model, equipment = context.model, context.equipment
    settings = ", ".join(f"{name} {value}" for name, value in model.parameters.items())
    return [
        ("Algorithm", f"{model.name} {model.version}"),
        ("Made by", model.manufacturer),
        ("Digest (SHA-256)", f"{model.sha256[:32]} {model.sha256[32:]}"),
        ("Settings", settings),
        ("Run at", f"{context.created_at:%Y-%m-%d %H:%M:%S %Z}"),
        ("Run by", f"{equipment.model_name} {equipment.product_version}, "
                   f"{equipment.device_serial_number}"),
    ]  # fmt: skip
