"""Whose result it is: the job, the model, the installation, and what a written result is.

A `ResultContext` holds all that a result may say beyond the findings, so that writing the same
analysis twice gives the same bytes: times come from the job's row, UIDs from the job's id, the
patient from the header of a source instance.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from service.core.findings import Code
from service.core.identifiers import MANUFACTURER
from service.core.profiles import Profile, SegForm, TextForm
from workers.results.encode import EXPLICIT_VR_LITTLE_ENDIAN

RESEARCH_ONLY: Final = "For research, not for clinical use."
NOT_REVIEWED: Final = "Result of an algorithm, not reviewed by a physician."
REVIEWED: Final = "Result of an algorithm, reviewed"
# Results come after everything that a modality sends.
FIRST_SERIES_NUMBER: Final = 9000


class ResultRole(StrEnum):
    """What an instance is among the results of its job."""

    SEG = "seg"
    SR = "sr"
    SECONDARY_CAPTURE = "sc"
    PRESENTATION_STATE = "gsps"
    PDF = "pdf"
    KEY_OBJECTS = "ko"
    STRUCTURE_SET = "rtstruct"
    PARAMETRIC_MAP = "pmap"
    REJECTION_NOTE = "rejection"


class SrClass(StrEnum):
    """The SOP class that carries the same report content, by what a destination takes."""

    COMPREHENSIVE_3D = "1.2.840.10008.5.1.4.1.1.88.34"
    COMPREHENSIVE = "1.2.840.10008.5.1.4.1.1.88.33"
    ENHANCED = "1.2.840.10008.5.1.4.1.1.88.22"


@dataclass(frozen=True)
class ModelIdentity:
    """Which algorithm made the result; ``sha256`` is the digest of its package.

    ``parameters`` are settings that change its output, such as the operating point.
    ``intended_use`` and ``limitations`` are its package's own words.
    """

    name: str
    version: str
    sha256: str
    title: str
    manufacturer: str = MANUFACTURER
    parameters: Mapping[str, str] = field(default_factory=dict)
    intended_use: str = ""
    limitations: str = ""


@dataclass(frozen=True)
class Equipment:
    """The installation that ran the algorithm."""

    product_version: str
    device_serial_number: str
    manufacturer: str = MANUFACTURER
    model_name: str = "overread"
    institution_name: str = ""
    station_name: str = ""


@dataclass(frozen=True)
class InstanceReference:
    """An instance and where it lives."""

    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True)
class Review:
    """That a reader went through the findings: who, when, and what was said of each.

    ``remarks`` are by finding id. ``verified`` makes the report the reader's own word.
    """

    reviewer: str
    reviewed_at: datetime
    remarks: Mapping[str, str] = field(default_factory=dict)
    verified: bool = False
    organization: str = ""


@dataclass(frozen=True)
class ResultContext:
    """Everything a result says beyond the findings.

    ``source_header`` is a source instance as Part 10 bytes without pixels. ``created_at`` is an
    aware datetime from the job's row, written in the zone of the source where that names one,
    else in its own. ``predecessors`` are the documents that this run's SR replaces.
    ``series_number`` is that of the job's first series; the others follow it. ``forms`` are the
    keys of the forms that differ from the usual one, by role, and part of the UIDs.
    """

    job_id: str
    source_header: bytes
    created_at: datetime
    model: ModelIdentity
    equipment: Equipment
    procedure: Code | None = None
    predecessors: tuple[InstanceReference, ...] = ()
    series_number: int = FIRST_SERIES_NUMBER + 1
    research_only: bool = True
    sr_class: SrClass = SrClass.COMPREHENSIVE_3D
    seg_form: SegForm = SegForm.BINARY
    made_up_plane: bool = False
    keep_empty_frames: bool = False
    secondary_capture: bool = True
    forms: Mapping[str, str] = field(default_factory=dict)
    source_text: bool = False
    review: Review | None = None

    def in_form(self, profile: Profile) -> "ResultContext":
        """Return the same context for what a destination gets."""
        shown = profile.with_usual_regions
        forms = {role.value: shown.form_of(role) for role in ResultRole}
        return replace(
            self,
            sr_class=SrClass(shown.sr.sop_class_uid),
            seg_form=shown.seg,
            made_up_plane=shown.made_up_plane,
            keep_empty_frames=shown.keep_empty_frames,
            source_text=shown.text is TextForm.SOURCE,
            forms={role: form for role, form in forms.items() if form},
        )

    def named(self, role: str) -> str:
        """Return what a role is called in the UIDs of this form."""
        form = self.forms.get(role, "")
        return f"{role}:{form}" if form else str(role)

    @property
    def standing(self) -> str:
        """What reads as the standing of the result: seen by a reader or not."""
        if self.review is None:
            return NOT_REVIEWED
        by = f" by {self.review.reviewer}" if self.review.reviewer else ""
        return f"{REVIEWED}{by} on {self.review.reviewed_at:%Y-%m-%d}."


@dataclass(frozen=True)
class WrittenResult:
    """A result ready to be archived and delivered; ``content`` are the bytes of its file."""

    role: ResultRole
    modality: str
    study_instance_uid: str
    series_instance_uid: str
    series_number: int
    series_description: str
    sop_class_uid: str
    sop_instance_uid: str
    content: bytes = field(repr=False)
    transfer_syntax_uid: str = EXPLICIT_VR_LITTLE_ENDIAN

    @property
    def reference(self) -> InstanceReference:
        """How other instances name this one."""
        return InstanceReference(
            self.study_instance_uid,
            self.series_instance_uid,
            self.sop_class_uid,
            self.sop_instance_uid,
        )
