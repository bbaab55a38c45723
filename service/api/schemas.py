"""What routes take, and the kinds of value that paths and queries may hold."""

from typing import Annotated, Final, Self

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.core.findings import Code
from service.core.headers import Triple
from service.core.states import Priority, ReadingState
from service.records.paging import PAGE_DEFAULT, PAGE_LIMIT
from service.records.reviews import Verdict
from service.records.topics import Topic

_UID: Final = r"^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+$"
_NAME: Final = r"^[A-Za-z0-9_-]{1,64}$"
# Everything but control characters; tab and line breaks may stand in a comment.
_LINE: Final = r"^[^\x00-\x1f\x7f]*$"
_PARAGRAPH: Final = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"
_ROW_ID_LIMIT: Final = 2**31 - 1

StudyUid = Annotated[
    str,
    Path(
        max_length=64, pattern=_UID, description="Study Instance UID", examples=["1.2.840.113619.1"]
    ),
]
StudyUidFilter = Annotated[
    str | None, Query(max_length=64, pattern=_UID, description="Only of this study")
]
JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="32 hexadecimal digits")]
FindingId = Annotated[str, Path(pattern=r"^[0-9a-f-]{36}$", description="A UUID")]
DeliveryId = Annotated[int, Path(ge=1, le=_ROW_ID_LIMIT)]
ModelName = Annotated[str, Path(pattern=_NAME, examples=["lung_nodule_detection"])]
TopicName = Annotated[Topic, Path(description="`infer`: model runs; `deliver`: results")]
NameFilter = Annotated[str | None, Query(pattern=_NAME)]
Limit = Annotated[int, Query(ge=1, le=PAGE_LIMIT, description="Rows in a page")]
Cursor = Annotated[str | None, Query(max_length=1024, description="`next` of the page before")]
LIMIT_DEFAULT: Final = PAGE_DEFAULT

Name = Annotated[str, Field(pattern=_NAME)]
Line = Annotated[str, Field(max_length=200, pattern=_LINE)]
Paragraph = Annotated[str, Field(max_length=4000, pattern=_PARAGRAPH)]
Millimetres = Annotated[float, Field(gt=0, le=2000, allow_inf_nan=False)]


class Body(BaseModel):
    """A request body; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RunAgain(Body):
    """Which models to run on a study; what is left out means every one that suits."""

    task: Name | None = Field(default=None, examples=["lung_nodule_detection"])
    model: Name | None = Field(default=None, examples=["lung_nodule_detection"])
    priority: Priority | None = Field(default=None, description="Instead of what routing says")
    force: bool = Field(
        default=False, description="Run even where exactly this run is finished already"
    )


class LabelsBody(Body):
    """The labels that a study is to have."""

    labels: list[Annotated[str, Field(max_length=200)]] = Field(
        max_length=100, examples=[["second opinion"]]
    )


class ReadingBody(Body):
    """How far a person is with a study."""

    state: ReadingState
    reader: Line = Field(default="", description="Where nobody is signed in")


class TryRules(Body):
    """The study that the rules are tried on."""

    study_instance_uid: str = Field(max_length=64, pattern=_UID, examples=["1.2.840.113619.1"])


class SwitchBody(Body):
    """What to lay over the settings of a model; what is left out is as the settings say."""

    enabled: bool | None = Field(default=None, description="false: schedule it on nothing new")
    shadow: bool | None = Field(
        default=None, description="Run it for comparison and send its results nowhere"
    )
    operating_point: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]{0,62}$")


class ReportBody(Body):
    """What new results should say; what is left out stays as it is in force."""

    task: Name | None = Field(default=None, examples=["lung_nodule_detection"])
    model: Name | None = Field(default=None, examples=["lung_nodule_detection"])
    operating_point: str | None = Field(
        default=None,
        pattern=r"^[a-z][a-z0-9_]{0,62}$",
        description="One of the model's measured points; no network is run",
    )
    reviewer: Line = Field(
        default="", description="Who went through the study; without it, who gave the verdicts"
    )
    reviewed: bool = Field(
        default=False,
        description="A reader went through the whole study, also where there is no verdict",
    )
    priority: Priority | None = Field(default=None, description="Instead of the run's own")


class Place(Body):
    """A point on a frame of the finding's series, from the corner of its first pixel."""

    sop_instance_uid: str = Field(max_length=64, pattern=_UID)
    frame_number: int = Field(default=1, ge=1, le=_ROW_ID_LIMIT)
    column: float = Field(ge=0, le=65_536)
    row: float = Field(ge=0, le=65_536)


class ReviewChanges(Body):
    """What a reader corrects in an edited finding."""

    label: Code | None = None
    place: Place | None = Field(
        default=None, description="Where it is; gives `center_mm` where the image has a plane"
    )
    center_mm: Triple | None = Field(default=None, description="Patient position (LPS)")
    long_axis_mm: Millimetres | None = None
    short_axis_mm: Millimetres | None = None


class ReviewBody(Body):
    """A reader's verdict on one finding."""

    verdict: Verdict = Field(examples=["accepted"])
    comment: Paragraph = ""
    reviewer: Line = Field(default="", examples=["reader-7"])
    changes: ReviewChanges | None = Field(default=None, description="Only with `edited`")

    @model_validator(mode="after")
    def _changes_with_edited(self) -> Self:
        if self.changes is not None and self.verdict is not Verdict.EDITED:
            raise ValueError("changes go with the verdict edited")
        return self
