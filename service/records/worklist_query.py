"""What may be asked of the worklist: filters, sort and page, checked where they come in."""

import re
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from service.core.states import Priority, ReadingState, StudyState
from service.records.paging import PAGE_DEFAULT, PAGE_LIMIT

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_DICOM_DATE: Final = re.compile(r"\d{8}")


class WorklistSort(StrEnum):
    """Orders of the worklist; every one ends in a unique column."""

    URGENCY = "urgency"
    LEAST_URGENT = "-urgency"
    RECEIVED = "received_at"
    NEWEST_RECEIVED = "-received_at"
    STUDY_DATE = "study_date"
    NEWEST_STUDY = "-study_date"
    PATIENT_NAME = "patient_name"
    PATIENT_NAME_DOWN = "-patient_name"
    PATIENT_ID = "patient_id"
    PATIENT_ID_DOWN = "-patient_id"
    ACCESSION_NUMBER = "accession_number"
    ACCESSION_NUMBER_DOWN = "-accession_number"


def _printable(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("control characters are not allowed")
    return text


def _day(value: object) -> object:
    """Read a date as RFC 3339 or DICOM write it."""
    if isinstance(value, str) and _DICOM_DATE.fullmatch(value):
        return f"{value[:4]}-{value[4:6]}-{value[6:]}"
    return value


def _split(value: object) -> object:
    """Take ``a,b`` and repeated parameters alike; drop what is empty."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list):
        return values
    return [part.strip() for item in values for part in str(item).split(",") if part.strip()]


def _listed(value: object) -> object:
    """Take one value for a list of it; drop what is empty. A label may hold a comma."""
    values = [value] if isinstance(value, str) else value
    return [item for item in values if item != ""] if isinstance(values, list) else values


def _absent(value: object) -> object:
    """Take an empty parameter, as forms send it, for one that is not there."""
    return None if value == "" else value


def _in_utc(value: datetime) -> datetime:
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)


Text = Annotated[
    Annotated[str, Field(max_length=128), AfterValidator(_printable)] | None,
    BeforeValidator(_absent),
]
Day = Annotated[date | None, BeforeValidator(_day), BeforeValidator(_absent)]
Time = Annotated[Annotated[datetime, AfterValidator(_in_utc)] | None, BeforeValidator(_absent)]


class WorklistQuery(BaseModel):
    """One question to the worklist. What is left out is not asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    q: Text = Field(
        default=None,
        description="Words that all occur in the patient's name or id, the accession number, "
        "the study description or the Study Instance UID.",
    )
    patient_id: Text = Field(default=None, description="Patient ID; `*` stands for any text.")
    patient_name: Text = Field(default=None, description="Part of the name, in any case.")
    accession_number: Text = Field(
        default=None, description="Accession number; `*` stands for any text."
    )
    modality: Annotated[list[Annotated[str, Field(max_length=16)]], BeforeValidator(_split)] = (
        Field(
            default=[],
            max_length=16,
            description="Any of these modalities.",
            json_schema_extra={"example": ["CT"]},
        )
    )
    state: Annotated[list[StudyState], BeforeValidator(_split)] = Field(
        default=[], max_length=16, description="Any of these states."
    )
    priority: Annotated[list[Priority], BeforeValidator(_split)] = Field(
        default=[], max_length=16, description="Any of these priorities."
    )
    label: Annotated[
        list[Annotated[str, Field(max_length=64), AfterValidator(_printable)]],
        BeforeValidator(_listed),
    ] = Field(default=[], max_length=16, description="Every one of these labels is on the study.")
    reading: Annotated[list[ReadingState], BeforeValidator(_split)] = Field(
        default=[], max_length=8, description="A person is so far with it."
    )
    source_ae_title: Text = Field(
        default=None, description="AE title of the first sender; `*` stands for any text."
    )
    study_description: Text = Field(
        default=None, description="Part of the description, in any case."
    )
    task: Text = Field(default=None, description="Studies on which this task ran or will run.")
    received_from: Time = Field(default=None, description="First instance received at or after.")
    received_to: Time = Field(default=None, description="First instance received before.")
    study_date_from: Day = Field(default=None, description="Study date on or after.")
    study_date_to: Day = Field(default=None, description="Study date on or before.")
    min_urgency: Annotated[float | None, BeforeValidator(_absent)] = Field(
        default=None, ge=0, le=1, allow_inf_nan=False, description="Least urgency, 0 to 1."
    )
    sort: WorklistSort = Field(
        default=WorklistSort.URGENCY,
        description="`urgency` is the most urgent first, the newest first among equals; `-` turns "
        "an order round.",
    )
    limit: int = Field(default=PAGE_DEFAULT, ge=1, le=PAGE_LIMIT, description="Rows in a page.")
    cursor: Annotated[str | None, BeforeValidator(_absent)] = Field(
        default=None, max_length=1024, description="`next` of the page before."
    )

    @model_validator(mode="after")
    def _forward(self) -> Self:
        if (
            self.study_date_from
            and self.study_date_to
            and (self.study_date_from > self.study_date_to)
        ):
            raise ValueError("study_date_from lies behind study_date_to")
        if self.received_from and self.received_to and self.received_from > self.received_to:
            raise ValueError("received_from lies behind received_to")
        return self
