"""What a PACS that has earlier studies can be asked, however it is spoken to."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydicom.dataset import Dataset

from service.core.priors import PatientIdentity, StudySummary


@dataclass(frozen=True)
class FoundSeries:
    """A series of a found study; ``instances_count`` is None where the PACS does not say."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    body_part: str
    instances_count: int | None


class PriorSource(Protocol):
    """A PACS to ask for studies and to fetch series from."""

    def studies_of(self, patient: PatientIdentity) -> Sequence[StudySummary]:
        """Return the studies under the patient's identifier."""
        ...

    def series_of(self, study_instance_uid: str) -> Sequence[FoundSeries]:
        """Return the series of a study."""
        ...

    def fetch(self, series: FoundSeries, *, max_bytes: int) -> None:
        """Have a series come to our own listener; return when it has, or cannot any more."""
        ...


# What is asked of studies and series: matching keys are filled in, the rest comes back.
STUDY_KEYS = (
    "StudyInstanceUID", "StudyDate", "StudyTime", "ModalitiesInStudy", "StudyDescription",
    "PatientID", "IssuerOfPatientID", "PatientBirthDate",
)  # fmt: skip
SERIES_KEYS = (
    "SeriesInstanceUID", "Modality", "BodyPartExamined", "NumberOfSeriesRelatedInstances",
)  # fmt: skip


def study_of(answer: Dataset, patient: PatientIdentity) -> StudySummary:
    """Read an answer about a study; what it leaves out of the patient was matched by the PACS."""
    return StudySummary(
        study_instance_uid=_text(answer, "StudyInstanceUID"),
        patient=PatientIdentity(
            _text(answer, "PatientID") or patient.patient_id,
            _text(answer, "IssuerOfPatientID") or patient.issuer_of_patient_id,
            _text(answer, "PatientBirthDate") or patient.patient_birth_date,
        ),
        study_date=_text(answer, "StudyDate"),
        study_time=_text(answer, "StudyTime"),
        modalities=_texts(answer, "ModalitiesInStudy"),
        words=(_text(answer, "StudyDescription"),),
    )


def series_of(answer: Dataset, study_instance_uid: str) -> FoundSeries:
    """Read an answer about a series."""
    count = _text(answer, "NumberOfSeriesRelatedInstances")
    return FoundSeries(
        study_instance_uid,
        _text(answer, "SeriesInstanceUID"),
        _text(answer, "Modality"),
        _text(answer, "BodyPartExamined"),
        int(count) if count.isdecimal() else None,
    )


def matching(series: Sequence[FoundSeries], modalities: Collection[str]) -> list[FoundSeries]:
    """Return the series worth fetching: of a modality that is compared, the largest first."""
    wanted = [one for one in series if one.modality in modalities]
    return sorted(wanted, key=lambda one: one.instances_count or 0, reverse=True)


def _text(answer: Dataset, keyword: str) -> str:
    value = answer.get(keyword)
    return "" if value is None else str(value).strip()


def _texts(answer: Dataset, keyword: str) -> tuple[str, ...]:
    value = answer.get(keyword)
    if value is None or value == "":
        return ()
    many = [value] if isinstance(value, str) else list(value)
    return tuple(str(one) for one in many)
