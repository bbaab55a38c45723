"""Which earlier studies of a patient are worth comparing with: pure rules on what is known of them.

The scheduler chooses among the studies in the archive by them, and whoever asks a PACS among its
answers.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from service.core.findings import Change, Prior

# Identifiers that stand for "we do not know": never asked for, never matched.
_PLACEHOLDERS: Final = frozenset(
    {"0", "UNKNOWN", "UNK", "ANONYMOUS", "ANON", "ANONYMIZED", "NONE", "NA", "N/A", "NULL", "TEST"}
)

# Words of Body Part Examined and of study descriptions, by the region that they name.
_REGIONS: Final = {
    "thorax": ("CHEST", "THORAX", "LUNG", "THORAC", "RIBS", "MEDIASTIN"),
    "abdomen": ("ABDOMEN", "ABD", "LIVER", "PELVIS", "KIDNEY", "PANCREAS", "SPLEEN"),
    "head": ("HEAD", "BRAIN", "SKULL", "CRANI", "FACE", "SINUS", "ORBIT"),
    "neck": ("NECK", "CSPINE", "CERVIC"),
    "spine": ("SPINE", "LSPINE", "TSPINE", "LUMBAR"),
    "limb": ("KNEE", "HIP", "SHOULDER", "ANKLE", "FOOT", "HAND", "WRIST", "ELBOW", "FEMUR", "LEG"),
}


@dataclass(frozen=True)
class PatientIdentity:
    """Who a study says it is of; empty fields are unknown."""

    patient_id: str
    issuer_of_patient_id: str = ""
    patient_birth_date: str = ""


@dataclass(frozen=True)
class StudySummary:
    """What is known of a study without its images; dates and times are DICOM's.

    ``words`` are body parts and descriptions, in which regions are looked for.
    """

    study_instance_uid: str
    patient: PatientIdentity
    study_date: str
    study_time: str = ""
    modalities: tuple[str, ...] = ()
    words: tuple[str, ...] = ()


def is_known(patient: PatientIdentity) -> bool:
    """Return whether the patient's identifier may be asked for.

    Not an empty one or a placeholder, and none that a query would read as a wildcard or a list.
    """
    text = patient.patient_id.strip()
    return text.upper() not in _PLACEHOLDERS | {""} and not set(text) & set("*?\\")


def is_same_patient(one: PatientIdentity, other: PatientIdentity) -> bool:
    r"""Return whether two studies are of one patient.

    Identifiers agree; so do issuers, where both name one. Where only one names its issuer, or
    neither does but both tell a birth date, the birth dates must agree as well: two hospitals give
    the same number to different people.

    >>> is_same_patient(PatientIdentity("7", "A"), PatientIdentity("7", "B"))
    False
    >>> is_same_patient(PatientIdentity("7", "A", "19600101"), PatientIdentity("7", "", "19600101"))
    True
    >>> is_same_patient(PatientIdentity("7", "A"), PatientIdentity("7"))
    False
    """
    if not is_known(one) or one.patient_id.strip() != other.patient_id.strip():
        return False
    issuers = {one.issuer_of_patient_id.strip(), other.issuer_of_patient_id.strip()}
    births = {one.patient_birth_date, other.patient_birth_date}
    if len(issuers) == 2 and "" not in issuers:
        return False
    if len(issuers) == 2:
        return len(births) == 1 and "" not in births
    return len(births - {""}) <= 1


def choose_priors(
    current: StudySummary,
    candidates: Iterable[StudySummary],
    *,
    modalities: Collection[str],
    max_studies: int,
    max_age_days: int,
) -> Sequence[StudySummary]:
    """Return the earlier studies to compare with, the newest first.

    Parameters
    ----------
    modalities
        Those of the images that were analysed; an earlier study must have one of them.
    max_studies, max_age_days
        At most so many, none older than that.
    """
    fitting = [
        one
        for one in candidates
        if one.study_instance_uid != current.study_instance_uid
        and is_same_patient(current.patient, one.patient)
        and _is_before(one, current, max_age_days)
        and set(one.modalities) & set(modalities)
        and _may_show_the_same(one, current)
    ]
    fitting.sort(key=lambda one: (one.study_date, one.study_time), reverse=True)
    return fitting[:max_studies]


def regions_of(words: Iterable[str]) -> frozenset[str]:
    """Return the regions of the body that some words name.

    >>> sorted(regions_of(["CT CHEST^ABDOMEN"]))
    ['abdomen', 'thorax']
    """
    text = " ".join(words).upper()
    return frozenset(
        region for region, names in _REGIONS.items() if any(name in text for name in names)
    )


def change_in_words(prior: Prior) -> str:
    """Return what became of a lesion since the earlier study, as people read it.

    >>> day = {"study_instance_uid": "1.2", "study_date": "20260102", "interval_days": 92}
    >>> change_in_words(Prior(change="growing", diameter_change_mm=4.14, growth_percent=90, **day))
    'grown 4.1 mm in 92 days, volume +90 %'
    >>> change_in_words(Prior(change="new", **day))
    'new since 2026-01-02'
    """
    when = f"in {prior.interval_days} days" if prior.interval_days is not None else "since then"
    volume = f", volume {prior.growth_percent:+.0f} %" if prior.growth_percent is not None else ""
    doubling = (
        f", doubling in {prior.doubling_time_days:.0f} days" if prior.doubling_time_days else ""
    )
    size_mm = abs(prior.diameter_change_mm or 0.0)
    words = {
        Change.NEW: f"new since {_iso(prior.study_date)}",
        Change.GROWING: f"grown {size_mm:.1f} mm {when}{volume}{doubling}",
        Change.SHRINKING: f"shrunk {size_mm:.1f} mm {when}{volume}",
        Change.STABLE: f"stable since {_iso(prior.study_date)}{volume}",
        Change.RESOLVED: f"resolved since {_iso(prior.study_date)}",
        Change.UNCONFIRMED: f"looks as on {_iso(prior.study_date)}, but was found on one scan only",
    }
    return words[prior.change]


def _iso(day: str) -> str:
    return f"{day[:4]}-{day[4:6]}-{day[6:]}" if len(day) == 8 else "the earlier study"


def _may_show_the_same(one: StudySummary, other: StudySummary) -> bool:
    """Return whether the regions overlap; studies that name none may show anything."""
    first, second = regions_of(one.words), regions_of(other.words)
    return not first or not second or bool(first & second)


def _is_before(one: StudySummary, current: StudySummary, max_age_days: int) -> bool:
    earlier, now = _day(one.study_date), _day(current.study_date)
    if earlier is None or now is None or now - earlier > timedelta(days=max_age_days):
        return False
    if earlier == now:
        return bool(one.study_time) and one.study_time < current.study_time
    return earlier < now


def _day(text: str) -> date | None:
    if len(text) != 8 or not (text.isascii() and text.isdigit()):
        return None
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None
