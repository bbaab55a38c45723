"""Whose result it is: the job, the model, the installation, and what a written result is.

A `ResultContext` holds all that a result may say beyond the findings, so that writing the same
analysis twice gives the same bytes: times come from the job's row, UIDs from the job's id, the
patient from the header of a source instance.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from service.core.findings import Code
from service.core.identifiers import MANUFACTURER
from workers.results.encode import EXPLICIT_VR_LITTLE_ENDIAN

RESEARCH_ONLY: Final = "For research, not for clinical use."
NOT_REVIEWED: Final = "Result of an algorithm, not reviewed by a physician."
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
    """

    name: str
    version: str
    sha256: str
    title: str
    manufacturer: str = MANUFACTURER
    parameters: Mapping[str, str] = field(default_factory=dict)


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
class ResultContext:
    """Everything a result says beyond the findings.

    ``source_header`` is a source instance as Part 10 bytes without pixels. ``created_at`` is an
    aware datetime from the job's row, written in the zone of the source where that names one,
    else in its own. ``predecessors`` are the documents that this run's SR replaces.
    ``series_number`` is that of the job's first series; the others follow it.
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
    made_up_plane: bool = False
    keep_empty_frames: bool = False
    secondary_capture: bool = True


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
