"""Sections of a package's manifest: from a network's numbers to findings, and their checks."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from service.core.findings import Code, Qualifier
from service.core.manifest_input import (
    Digest,
    Name,
    NotNegative,
    PackagePath,
    Positive,
    Probability,
    Range,
    Section,
)


class DetectionDecoding(Section):
    """From heat map, or from boxes with scores, to candidates.

    `floor` is the least calibrated probability that is kept at all; `candidate_floor` the least
    value of the heat map that is looked at, before the second stage.
    """

    kind: Literal["detection"] = "detection"
    stride: int = Field(default=2, ge=1, le=16)
    form: Literal["heat", "boxes"] = "heat"
    peak_radius: int = Field(default=1, ge=1, le=8)
    merge_distance_mm: NotNegative = 5.0
    candidate_floor: Probability = 0.05
    floor: Probability = 0.05
    max_candidates: int = Field(default=64, ge=1, le=1000)
    diameter_mm: Range = Range(minimum=1.0, maximum=60.0)
    mask_threshold: Probability = 0.5


class ClassificationDecoding(Section):
    """From logits and evidence maps to statements about an image."""

    kind: Literal["classification"] = "classification"
    activation: Literal["sigmoid", "softmax", "none"] = "sigmoid"
    evidence_activation: Literal["sigmoid", "relative"] = "sigmoid"
    region_threshold: Probability = 0.5
    mask_threshold: Probability = 0.5


class SegmentationDecoding(Section):
    """From class maps to lesion instances and organs.

    A voxel belongs to the class of greatest probability, or to a lesion class already from
    `lesion_threshold` on. `within` names the organ that a lesion has to touch.
    """

    kind: Literal["segmentation"] = "segmentation"
    activation: Literal["softmax", "sigmoid"] = "softmax"
    lesion_threshold: Probability | None = None
    minimum_volume_mm3: NotNegative = 0.0
    minimum_diameter_mm: NotNegative = 0.0
    connectivity: Literal[6, 18, 26] = 18
    within: Name | None = None
    largest_organ_only: bool = True
    floor: Probability = 0.0
    max_lesions: int = Field(default=64, ge=1, le=1000)


class ClassSpec(Section):
    """A class of the network, in the order of its channels, and how it is named in results.

    `kind`: ``finding`` and ``lesion`` are reported, ``organ`` is context (reported as one region
    when `report` is set), ``background`` is neither and needs no code.
    """

    name: Name
    kind: Literal["finding", "lesion", "organ", "background"]
    label: Code | None = None
    site: Code | None = None
    color_lab: tuple[float, float, float] | None = None
    has_region: bool = True
    report: bool = False
    lateral: bool = False

    @model_validator(mode="after")
    def _coded(self) -> Self:
        if self.label is None and self.kind != "background":
            raise ValueError(f"class {self.name} needs a label with value, scheme and meaning")
        return self


class OperatingPoint(Section):
    """Thresholds on the calibrated probability, with what was measured there.

    A finding is present from `present` on, indeterminate from `indeterminate` on, else absent.
    `classes` replaces both for single classes.
    """

    class Thresholds(Section):
        """Thresholds of one class."""

        present: Probability
        indeterminate: Probability

    name: Name
    present: Probability
    indeterminate: Probability
    classes: Mapping[Name, Thresholds] = Field(default_factory=dict)
    sensitivity: Probability | None = None
    sensitivity_interval: tuple[Probability, Probability] | None = None
    specificity: Probability | None = None
    false_positives_per_scan: NotNegative | None = None
    measured_on: str = ""

    def qualify(self, class_name: str, probability: float) -> Qualifier:
        """Return what a calibrated probability of a class means at this operating point."""
        own = self.classes.get(class_name)
        present = own.present if own else self.present
        indeterminate = own.indeterminate if own else self.indeterminate
        if probability >= present:
            return Qualifier.PRESENT
        return Qualifier.INDETERMINATE if probability >= indeterminate else Qualifier.ABSENT

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name, own in self.classes.items():
            if own.indeterminate > own.present:
                raise ValueError(f"indeterminate is above present for {name}")
        if self.indeterminate > self.present:
            raise ValueError("indeterminate is above present")
        return self


class ClassCalibration(Section):
    """Temperature and bias of one class."""

    temperature: Positive = 1.0
    bias: float = 0.0


class Calibration(Section):
    """From logits to probabilities, fitted on validation data only.

    Detection: sigmoid(detector·logit(heat) + reduction·logit(reduction) + bias). Classification and
    segmentation: sigmoid(logit / temperature + bias), by class where `classes` has one.
    Malignancy has its own temperature and bias.
    """

    method: Literal["none", "temperature", "logistic"] = "none"
    detector: float = 1.0
    reduction: float = 1.0
    bias: float = 0.0
    temperature: Positive = 1.0
    classes: Mapping[Name, ClassCalibration] = Field(default_factory=dict)
    malignancy: ClassCalibration = ClassCalibration()
    ece: Probability | None = None
    fitted_on: str = ""

    def of(self, class_name: str) -> ClassCalibration:
        """Return temperature and bias of a class."""
        shared = ClassCalibration(temperature=self.temperature, bias=self.bias)
        return self.classes.get(class_name, shared)


MeasurementName = Literal[
    "diameter", "long_axis", "short_axis", "area", "volume", "mean_hu", "sd_hu"
]


class Measurements(Section):
    """Which measurements are taken of every finding with a region."""

    take: tuple[MeasurementName, ...] = ("long_axis", "short_axis", "volume")


class GuardRule(Section):
    """A bound on something measured in the pixels, and the reason given when it is left."""

    measure: Name
    range: Range
    reason: Literal[
        "NOT_CHEST", "NOT_ABDOMEN", "NOT_HEAD", "LUNGS_NOT_IN_FIELD", "LIVER_NOT_COVERED",
        "ORGAN_NOT_COVERED", "NOT_FRONTAL", "NOT_A_RADIOGRAPH", "NO_CONTRAST", "POOR_QUALITY",
        "OUT_OF_DISTRIBUTION",
    ]  # fmt: skip
    class_name: Name | None = None


class Distribution(Section):
    """Mean and inverse covariance of image features over the training set.

    The out-of-distribution score of an image is the Mahalanobis distance of its features;
    above `threshold` the image is refused with ``OUT_OF_DISTRIBUTION``.
    """

    features: tuple[Name, ...] = Field(min_length=1, max_length=32)
    mean: tuple[float, ...]
    inverse_covariance: tuple[tuple[float, ...], ...]
    threshold: Positive

    @model_validator(mode="after")
    def _square(self) -> Self:
        count = len(self.features)
        rows = (len(self.mean), len(self.inverse_covariance), *map(len, self.inverse_covariance))
        if set(rows) != {count}:
            raise ValueError(f"mean and inverse_covariance must have {count} entries each way")
        return self


class Guard(Section):
    """Checks on the pixels before (and, for organs, after) the network is believed."""

    rules: tuple[GuardRule, ...] = ()
    distribution: Distribution | None = None


class Golden(Section):
    """An input kept with the package and the findings it has to give."""

    name: Name
    input: PackagePath
    input_sha256: Digest
    expected: PackagePath
    expected_sha256: Digest
    probability_tolerance: Probability = 0.02
    center_tolerance_mm: NotNegative = 1.0
    measurement_tolerance: NotNegative = 0.05


class Metrics(Section):
    """Where the measured figures lie."""

    file: PackagePath
    set: str = ""
