"""Sections of a package's manifest: what it is, which series it is for, what its networks see.

Arrays are ordered (z, y, x), z towards the head, y to the back and x to the patient's left, when a
field says nothing else. What each field is for stands in ``models/README.md``.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

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


class Section(BaseModel):
    """A table of the manifest: immutable, unknown keys refused, no NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


class Range(Section):
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


class Package(Section):
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


class TrainingData(Section):
    """A set of images the networks learned from."""

    name: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    attribution: str = ""
    url: str = ""
    sha256: Digest | None = None


class Intensity(Section):
    """How stored values (HU for CT) become the network's input.

    ``window`` clips to [lower, upper] in stored units; ``percentile`` clips to the image's own
    percentiles [lower, upper]; ``range`` takes the image's least and greatest value, ``format``
    those that its stored bits can hold (radiographs); each then maps the interval to `to`.
    ``standardise`` subtracts the mean and divides by the standard deviation, after clipping to the
    percentiles [lower, upper]. `foreground_above` restricts the statistics to greater values.
    `mean` and `sd` are applied last, for networks trained on standardised intervals.
    """

    mode: Literal["window", "percentile", "range", "format", "standardise"] = "window"
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


class Tensor(Section):
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


class Crop(Section):
    """The cube round a candidate that a second-stage network sees."""

    size: tuple[int, int, int]
    spacing_mm: tuple[Positive, Positive, Positive]
    intensity: Intensity

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if not all(1 <= edge <= 256 for edge in self.size):
            raise ValueError("each edge of size lies in 1..256 voxels")
        return self


class Network(Section):
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


class BodyPart(Section):
    """Words that say which body part a series shows.

    Compared as whole words, without regard to case, with Body Part Examined (0018,0015), Series
    Description (0008,103E) and Protocol Name (0018,1030). With `required`, a series of which none
    of these says anything is not analysed either.
    """

    words: tuple[str, ...] = ()
    excluded_words: tuple[str, ...] = ()
    required: bool = False


class Applicability(Section):
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


class Input(Section):
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


class Tiling(Section):
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
