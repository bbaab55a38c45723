"""What a model found, once, before it is written as SR, SEG, JSON or anything else.

Coordinates in the patient are LPS millimetres (x to the patient's left, y to the back, z to the
head). Image coordinates are (column, row) in pixels with (0, 0) at the top left corner of the top
left pixel, whose centre is (0.5, 0.5), as in PS3.3 C.18.6.1.2. Masks and maps lie on the frames
that were analysed, in the order of the source frames (`service.core.headers.SourceFrame`) that
travel with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from service.core.headers import Triple


class Code(BaseModel):
    """A coded concept: value, coding scheme designator and meaning (PS3.3 section 8)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: str = Field(min_length=1, max_length=16)
    scheme: str = Field(min_length=1, max_length=16)
    meaning: str = Field(min_length=1, max_length=64)


class Qualifier(StrEnum):
    """What the calibrated probability means at the operating point in force."""

    PRESENT = "present"
    INDETERMINATE = "indeterminate"
    ABSENT = "absent"


class Measurement(BaseModel):
    """A number with its unit (UCUM) and, where the standard has one, its code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float
    unit: str
    code: Code | None = None


class RegionShape(StrEnum):
    """How the points of a planar region are joined."""

    POINT = "point"
    POLYLINE = "polyline"


class RegionRole(StrEnum):
    """What a planar region shows."""

    OUTLINE = "outline"
    BOX = "box"
    LONG_AXIS = "long_axis"
    SHORT_AXIS = "short_axis"
    CENTER = "center"


class PlanarRegion(BaseModel):
    """Points on one source frame; a closed polyline repeats its first point."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: RegionRole
    shape: RegionShape
    sop_instance_uid: str
    frame_number: int = 1
    points: tuple[tuple[float, float], ...]


class Location(BaseModel):
    """Where a finding lies: in the patient, and on the frame that shows it best."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    center_mm: Triple | None = None
    sop_instance_uid: str
    frame_number: int = 1
    regions: tuple[PlanarRegion, ...] = ()


class Change(StrEnum):
    """What became of a lesion since an earlier study of the patient."""

    NEW = "new"
    GROWING = "growing"
    STABLE = "stable"
    SHRINKING = "shrinking"
    RESOLVED = "resolved"
    # Found in one study alone, though the other shows much the same at its place.
    UNCONFIRMED = "unconfirmed"


class ReportReference(BaseModel):
    """The report of an earlier run, as other objects name it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


class Prior(BaseModel):
    """The same lesion in an earlier study, or that there was none: what `change` says.

    ``finding_id``, ``tracking_uid``, ``diameter_mm`` and ``volume_mm3`` are those of the earlier
    finding; a new lesion has none. ``diameter_change_mm`` and ``growth_percent`` (of the volume)
    are positive for growth; ``doubling_time_days`` is told only of growth that can be measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    change: Change
    study_instance_uid: str
    study_date: str
    interval_days: int | None = None
    finding_id: str | None = None
    tracking_uid: str | None = None
    diameter_mm: float | None = None
    volume_mm3: float | None = None
    diameter_change_mm: float | None = None
    growth_percent: float | None = None
    doubling_time_days: float | None = None
    report: ReportReference | None = None


class Finding(BaseModel):
    """One lesion or one statement about an image, with its evidence.

    ``probability`` is the calibrated probability that the finding is present (CADe);
    ``malignancy_probability`` (CADx) is a separate estimate and never mixed with it.
    ``segment_number`` counts from 1 in the SEG of the same job.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    tracking_uid: str
    tracking_id: str
    label: Code
    class_name: str
    site: Code | None = None
    laterality: Code | None = None
    probability: float = Field(ge=0, le=1)
    qualifier: Qualifier
    malignancy_probability: float | None = Field(default=None, ge=0, le=1)
    location: Location | None = None
    measurements: tuple[Measurement, ...] = ()
    segment_number: int | None = None
    prior: Prior | None = None
    color_lab: Triple | None = None

    def measured(self, name: str) -> float | None:
        """Return the value of the named measurement, if it was taken."""
        return next((item.value for item in self.measurements if item.name == name), None)


@dataclass(frozen=True)
class FindingMask:
    """A finding's voxels as a block of the source grid.

    ``voxels`` is boolean, shape (frames, rows, columns) of the block; ``offset`` is the block's
    first (frame, row, column) in the source grid.
    """

    offset: tuple[int, int, int]
    voxels: NDArray[np.bool_]


@dataclass(frozen=True)
class Analysis:
    """Everything one run of one model says about one volume or image.

    ``masks`` and ``maps`` are keyed by finding id. A map is float32 in 0..1, shape (rows, columns)
    of the frame named by the finding's location: where the evidence for it lies.
    ``scores`` holds what guards measured (lung fraction, out-of-distribution distance, ...).
    """

    findings: tuple[Finding, ...]
    masks: Mapping[str, FindingMask] = field(default_factory=dict)
    maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
