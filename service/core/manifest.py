"""A model package's manifest: everything that turns a network's numbers into findings.

A package is data, never code: a folder with ``manifest.toml``, the networks it names and pins by
SHA-256, a card and golden cases. The sections are explained field by field in
``models/README.md``; ``models/manifest.schema.json`` is generated from these classes. Arrays are
ordered (z, y, x), z towards the head, y to the back and x to the patient's left, when a field
says nothing else.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.core.errors import InvalidModel
from service.core.findings import Code, Qualifier

MANIFEST_NAME = "manifest.toml"
MANIFEST_BYTES_LIMIT = 1 << 20

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?$", max_length=32)]
# Names files inside the package and nothing else: no absolute path, no parent folder, no
# backslash, no hidden file.
PackagePath = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$")
]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Kind = Literal["detection", "classification", "segmentation"]


class _Section(BaseModel):
    """A table of the manifest: immutable, unknown keys refused, no NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


class Range(_Section):
    """A closed interval, open at the end that is left out."""

    minimum: float | None = None
    maximum: float | None = None

    def holds(self, value: float) -> bool:
        """Return whether `value` lies within the interval.

        >>> Range(minimum=0.5).holds(0.5), Range(minimum=0.5, maximum=3).holds(3.5)
        (True, False)
        """
        return (self.minimum is None or value >= self.minimum) and (
            self.maximum is None or value <= self.maximum
        )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if None not in (self.minimum, self.maximum) and not self.holds(self.minimum or 0.0):
            raise ValueError("minimum is above maximum")
        return self


class Package(_Section):
    """Who made the package, for what, and under which licence."""

    name: Name
    version: Version
    title: str = Field(min_length=1, max_length=64)
    task: Name
    kind: Kind
    licence: str = Field(min_length=1)
    intended_use: str = Field(min_length=1)
    not_for: str = ""
    limitations: str = ""
    authors: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


class TrainingData(_Section):
    """A set of images the networks learned from."""

    name: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    attribution: str = ""
    url: str = ""
    sha256: Digest | None = None


class Intensity(_Section):
    """How stored values (HU for CT) become the network's input.

    ``window`` clips to [lower, upper] in stored units; ``percentile`` clips to the image's own
    percentiles [lower, upper]; ``range`` takes the image's least and greatest value; each then maps
    the interval to `to`. ``standardise`` subtracts the mean and divides by the standard deviation,
    after clipping to the percentiles [lower, upper]. `foreground_above` restricts the statistics
    to greater values. `mean` and `sd` are applied last, for networks trained on standardised
    intervals.
    """

    mode: Literal["window", "percentile", "range", "standardise"] = "window"
    lower: float = 0.0
    upper: float = 100.0
    to: tuple[float, float] = (0.0, 1.0)
    foreground_above: float | None = None
    mean: float = 0.0
    sd: Positive = 1.0

    @model_validator(mode="after")
    def _interval(self) -> Self:
        if self.lower >= self.upper:
            raise ValueError(f"lower {self.lower:g} must be below upper {self.upper:g}")
        if self.mode in ("percentile", "standardise") and not (
            self.lower >= 0 and self.upper <= 100
        ):
            raise ValueError("percentiles lie in 0..100")
        return self


class Tensor(_Section):
    """An input or output of a network; 0 in the shape stands for any size.

    `name` is the name in the graph, `meaning` what the kind calls it (``volume``, ``heat``, ...);
    they differ only for networks that were named elsewhere.
    """

    name: str = Field(min_length=1)
    shape: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1, max_length=6)
    dtype: Literal["float32"] = "float32"
    meaning: str = ""

    @property
    def known_as(self) -> str:
        """What the kind calls this tensor."""
        return self.meaning or self.name


class Crop(_Section):
    """The cube round a candidate that a second-stage network sees."""

    size: tuple[int, int, int]
    spacing_mm: tuple[Positive, Positive, Positive]
    intensity: Intensity

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if not all(1 <= edge <= 256 for edge in self.size):
            raise ValueError("each edge of size lies in 1..256 voxels")
        return self


class Network(_Section):
    """One ONNX file and the part it plays."""

    role: Literal["detector", "reduction", "segmentation", "malignancy", "classifier", "segmenter"]
    file: PackagePath
    sha256: Digest
    opset: int = Field(ge=7, le=25)
    precision: Literal["fp32", "fp16_weights", "fp16", "int8"] = "fp32"
    inputs: tuple[Tensor, ...] = Field(min_length=1, max_length=1)
    outputs: tuple[Tensor, ...] = Field(min_length=1)
    crop: Crop | None = None
    memory_limit_mb: int = Field(default=4096, ge=128, le=65536)
    time_limit_s: float = Field(default=120.0, gt=0, le=3600)


class BodyPart(_Section):
    """Words that say which body part a series shows.

    Compared as whole words, without regard to case, with Body Part Examined (0018,0015), Series
    Description (0008,103E) and Protocol Name (0018,1030). With `required`, a series of which none
    of these says anything is not analysed either.
    """

    words: tuple[str, ...] = ()
    excluded_words: tuple[str, ...] = ()
    required: bool = False


class Applicability(_Section):
    """Which series the package is for; everything left out is not asked."""

    modalities: tuple[str, ...] = Field(min_length=1)
    sop_class_uids: tuple[str, ...] = ()
    body_part: BodyPart = BodyPart()
    image_type_excludes: tuple[str, ...] = ("LOCALIZER", "SECONDARY")
    description_excludes: tuple[str, ...] = ()
    orientation: Literal["axial", "coronal", "sagittal", "any"] = "any"
    max_obliquity_degrees: float = Field(default=30.0, ge=0, le=90)
    slices: Range = Range()
    slice_spacing_mm: Range = Range()
    slice_thickness_mm: Range = Range()
    pixel_spacing_mm: Range = Range()
    coverage_mm: Range = Range()
    rows: Range = Range()
    columns: Range = Range()
    view_positions: tuple[str, ...] = ()
    patient_age_years: Range = Range()
    contrast: Literal["any", "required", "forbidden"] = "any"
    preferred_kernels: tuple[str, ...] = ()
    preferred_slice_spacing_mm: Range = Range()
    allow_resampling: bool = False
    select: Literal["best", "each"] = "best"


class Input(_Section):
    """The grid the main network sees.

    Volumes: `spacing_mm` (z, y, x), 0 for the source's own spacing along that axis; `size` is given
    only when the network takes one fixed grid, to which the volume is centred, cropped and padded.
    `axes` names the direction each array axis runs to (S or I, A or P, R or L). `context_slices`
    is 0 for a three-dimensional network, else the odd number of neighbouring slices that a
    two-dimensional one takes as channels. Images: `size` is (rows, columns) and `fit` says how they
    get there.
    """

    spacing_mm: tuple[NotNegative, NotNegative, NotNegative] | None = None
    size: tuple[int, ...] | None = None
    axes: Literal[
        "SPL", "SPR", "SAL", "SAR", "IPL", "IPR", "IAL", "IAR",
        "RAS", "LAS", "LPS", "RPS", "LIA", "RSA", "LSA", "ASR", "ASL", "PSR", "PSL",
    ] = "SPL"  # fmt: skip
    fit: Literal["letterbox", "stretch", "crop"] = "letterbox"
    intensity: Intensity
    channels: Literal[1, 3] = 1
    context_slices: int = Field(default=0, ge=0, le=15)
    invert_monochrome1: bool = True
    padding_value: float | None = None

    @model_validator(mode="after")
    def _context(self) -> Self:
        if self.context_slices and self.context_slices % 2 == 0:
            raise ValueError(f"context_slices is 0 or odd, found {self.context_slices}")
        return self


class Tiling(_Section):
    """How a volume larger than the network's window is covered.

    `patch` is (z, y, x), or (y, x) for a two-dimensional network. Only windows that meet the
    `region`, widened by `margin_mm`, are run.
    """

    patch: tuple[int, ...] = Field(min_length=2, max_length=3)
    overlap: float = Field(default=0.25, ge=0, le=0.9)
    blending: Literal["gaussian", "constant"] = "gaussian"
    region: Literal["all", "body", "lungs"] = "all"
    margin_mm: NotNegative = 0.0
    batch: int = Field(default=1, ge=1, le=64)

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if not all(8 <= edge <= 1024 for edge in self.patch):
            raise ValueError("each edge of patch lies in 8..1024")
        return self


class DetectionDecoding(_Section):
    """From heat map to candidates.

    `floor` is the least calibrated probability that is kept at all; `candidate_floor` the least
    value of the heat map that is looked at, before the second stage.
    """

    kind: Literal["detection"] = "detection"
    stride: int = Field(default=2, ge=1, le=16)
    peak_radius: int = Field(default=1, ge=1, le=8)
    merge_distance_mm: NotNegative = 5.0
    candidate_floor: Probability = 0.05
    floor: Probability = 0.05
    max_candidates: int = Field(default=64, ge=1, le=1000)
    diameter_mm: Range = Range(minimum=1.0, maximum=60.0)
    mask_threshold: Probability = 0.5


class ClassificationDecoding(_Section):
    """From logits and evidence maps to statements about an image."""

    kind: Literal["classification"] = "classification"
    activation: Literal["sigmoid", "softmax", "none"] = "sigmoid"
    evidence_activation: Literal["sigmoid", "relative"] = "sigmoid"
    region_threshold: Probability = 0.5
    mask_threshold: Probability = 0.5


class SegmentationDecoding(_Section):
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


class ClassSpec(_Section):
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


class OperatingPoint(_Section):
    """Thresholds on the calibrated probability, with what was measured there.

    A finding is present from `present` on, indeterminate from `indeterminate` on, else absent.
    `classes` replaces both for single classes.
    """

    class Thresholds(_Section):
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
        for name, pair in [("", self), *self.classes.items()]:
            if pair.indeterminate > pair.present:
                raise ValueError(f"indeterminate is above present {name}".strip())
        return self


class ClassCalibration(_Section):
    """Temperature and bias of one class."""

    temperature: Positive = 1.0
    bias: float = 0.0


class Calibration(_Section):
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
    "diameter", "long_axis", "short_axis", "area", "volume", "mean_hu", "sd_hu", "ratio"
]


class Measurements(_Section):
    """Which measurements are taken of every finding with a region."""

    take: tuple[MeasurementName, ...] = ("long_axis", "short_axis", "volume")


class GuardRule(_Section):
    """A bound on something measured in the pixels, and the reason given when it is left."""

    measure: Name
    range: Range
    reason: Literal[
        "NOT_CHEST", "NOT_ABDOMEN", "NOT_HEAD", "LUNGS_NOT_IN_FIELD", "LIVER_NOT_COVERED",
        "ORGAN_NOT_COVERED", "NOT_FRONTAL", "NOT_A_RADIOGRAPH", "NO_CONTRAST", "POOR_QUALITY",
        "OUT_OF_DISTRIBUTION",
    ]  # fmt: skip
    class_name: Name | None = None


class Distribution(_Section):
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


class Guard(_Section):
    """Checks on the pixels before (and, for organs, after) the network is believed."""

    rules: tuple[GuardRule, ...] = ()
    distribution: Distribution | None = None


class Golden(_Section):
    """An input kept with the package and the findings it has to give."""

    name: Name
    input: PackagePath
    input_sha256: Digest
    expected: PackagePath
    expected_sha256: Digest
    probability_tolerance: Probability = 0.02
    center_tolerance_mm: NotNegative = 1.0
    measurement_tolerance: NotNegative = 0.05


class Metrics(_Section):
    """Where the measured figures lie."""

    file: PackagePath
    set: str = ""


_ROLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "detection": ("detector", ("reduction", "segmentation", "malignancy")),
    "classification": ("classifier", ()),
    "segmentation": ("segmenter", ()),
}


class Manifest(_Section):
    """The whole manifest; the first operating point is in force unless settings name another."""

    schema_version: Literal[1]
    package: Package
    training_data: tuple[TrainingData, ...] = ()
    networks: tuple[Network, ...] = Field(min_length=1)
    applicability: Applicability
    input: Input
    tiling: Tiling | None = None
    decoding: Annotated[
        DetectionDecoding | ClassificationDecoding | SegmentationDecoding,
        Field(discriminator="kind"),
    ]
    classes: tuple[ClassSpec, ...] = Field(min_length=1)
    operating_points: tuple[OperatingPoint, ...] = Field(min_length=1)
    calibration: Calibration = Calibration()
    measurements: Measurements = Measurements()
    guard: Guard = Guard()
    golden: tuple[Golden, ...] = ()
    metrics: Metrics | None = None

    def network(self, role: str) -> Network | None:
        """Return the network that plays a role, if the package has one."""
        return next((network for network in self.networks if network.role == role), None)

    def class_named(self, name: str) -> ClassSpec | None:
        """Return the class of that name."""
        return next((spec for spec in self.classes if spec.name == name), None)

    def operating_point(self, name: str | None = None) -> OperatingPoint:
        """Return the named operating point, or the first.

        Raises
        ------
        InvalidModel
            ``OPERATING_POINT`` when the package has none of that name.
        """
        if name is None:
            return self.operating_points[0]
        for point in self.operating_points:
            if point.name == name:
                return point
        allowed = ", ".join(point.name for point in self.operating_points)
        raise InvalidModel(
            "OPERATING_POINT",
            f"{self.package.name}: operating_point: found {name!r}, allowed {allowed}",
        )

    @model_validator(mode="before")
    @classmethod
    def _decode_by_kind(cls, values: Any) -> Any:
        # The author says the kind once, in [package]; [decoding] is read by it.
        if not isinstance(values, dict) or not isinstance(values.get("package"), dict):
            return values
        decoding = values.get("decoding", {})
        if not isinstance(decoding, dict):
            return values
        return {**values, "decoding": {"kind": values["package"].get("kind"), **decoding}}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for fault in (self._wrong_kind(), self._wrong_roles(), self._wrong_classes()):
            if fault:
                raise ValueError(fault)
        return self

    def _wrong_kind(self) -> str | None:
        kind = self.package.kind
        if self.decoding.kind != kind:
            return f"decoding.kind is {self.decoding.kind}, package.kind is {kind}"
        if kind == "classification":
            fits = self.input.size is not None and len(self.input.size) == 2
            return None if fits else "input.size must be (rows, columns) for a classification"
        if self.input.spacing_mm is None:
            return f"input.spacing_mm is missing for a {kind}"
        if self.tiling is None and self.input.size is None:
            return f"tiling (or a fixed input.size) is missing for a {kind}"
        flat = self.input.context_slices > 0
        if self.tiling and len(self.tiling.patch) != (2 if flat else 3):
            return f"tiling.patch needs {'(y, x)' if flat else '(z, y, x)'} for this network"
        return None

    def _wrong_roles(self) -> str | None:
        main, others = _ROLES[self.package.kind]
        roles = [network.role for network in self.networks]
        if main not in roles:
            return f"networks: no {main} among {', '.join(roles)}"
        for network in self.networks:
            if network.role != main and network.role not in others:
                return f"networks: role {network.role} has no part in a {self.package.kind}"
            if roles.count(network.role) > 1:
                return f"networks: role {network.role} twice"
            if network.role != main and network.crop is None:
                return f"networks: {network.role} needs crop"
        return None

    def _wrong_classes(self) -> str | None:
        names = [spec.name for spec in self.classes]
        if len(set(names)) != len(names):
            return "classes: two have the same name"
        points = [point.name for point in self.operating_points]
        if len(set(points)) != len(points):
            return "operating_points: two have the same name"
        referred = {name for point in self.operating_points for name in point.classes}
        referred |= set(self.calibration.classes)
        referred |= {rule.class_name for rule in self.guard.rules if rule.class_name}
        if isinstance(self.decoding, SegmentationDecoding) and self.decoding.within:
            referred.add(self.decoding.within)
        unknown = sorted(referred - set(names))
        return (
            f"no class is named {', '.join(unknown)}; there are {', '.join(names)}"
            if unknown
            else None
        )


def parse_manifest(text: str, *, package: str) -> Manifest:
    """Return the manifest written in `text`; `package` names it in errors.

    Raises
    ------
    InvalidModel
        ``MANIFEST`` with one line: package, field, what was found and what is allowed.
    """
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidModel("MANIFEST", f"{package}: {MANIFEST_NAME}: {error}") from error
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        raise InvalidModel("MANIFEST", f"{package}: {_first_fault(error)}") from error


def read_manifest(path: Path) -> Manifest:
    """Read a ``manifest.toml``, or the one in a package's folder.

    Raises
    ------
    InvalidModel
        ``MANIFEST`` when the file is missing, too long, not UTF-8 or not a valid manifest.
    """
    file = path / MANIFEST_NAME if path.is_dir() else path
    return parse_manifest(manifest_bytes(file).decode(), package=file.parent.name)


def manifest_bytes(file: Path) -> bytes:
    """Return the bytes of a manifest after checking size and encoding."""
    package = file.parent.name
    try:
        with file.open("rb") as stream:
            content = stream.read(MANIFEST_BYTES_LIMIT + 1)
        content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidModel("MANIFEST", f"{package}: {MANIFEST_NAME}: {error}") from error
    if len(content) > MANIFEST_BYTES_LIMIT:
        raise InvalidModel("MANIFEST", f"{package}: {MANIFEST_NAME}: found more than 1 MiB")
    return content


def _first_fault(error: ValidationError) -> str:
    """Return field, found and allowed of the first fault in one line."""
    fault = error.errors(include_url=False)[0]
    tags = {"detection", "classification", "segmentation"}
    parts = [str(part) for part in fault["loc"]]
    if parts[:1] == ["decoding"] and parts[1:2] and parts[1] in tags:
        del parts[1]
    place = ".".join(parts) or "manifest"
    if fault["type"] == "extra_forbidden":
        return f"{place}: found an unknown field, allowed {_fields_beside(fault['loc'])}"
    if fault["type"] == "missing":
        return f"{place}: found nothing, allowed {_needed(fault['loc'])}"
    found = repr(fault["input"]) if not isinstance(fault["input"], dict) else "this combination"
    message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "").strip()
    return f"{place}: found {found[:80]}, allowed {message}".replace("\n", " ")


def _model_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the section that the field at `location` stands in."""
    model: type[BaseModel] = Manifest
    for part in location[:-1]:
        if isinstance(part, str):
            model = _section_of(model, part)
    return model


def _section_of(model: type[BaseModel], part: str) -> type[BaseModel]:
    """Return the section that a field of `model` (or a kind of decoding) leads to."""
    decodings = (DetectionDecoding, ClassificationDecoding, SegmentationDecoding)
    for decoding in decodings:
        if decoding.model_fields["kind"].default == part:
            return decoding
    field = model.model_fields.get(part)
    return next(iter(_sections_in(field.annotation)), model) if field else model


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections named anywhere in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _sections_in(part)]


def _fields_beside(location: tuple[int | str, ...]) -> str:
    return ", ".join(_model_at(location).model_fields)


def _needed(location: tuple[int | str, ...]) -> str:
    field = _model_at(location).model_fields.get(str(location[-1]))
    return (field.description if field else None) or "a value"
