"""Which series suits which model, and why not: pure rules over headers and a manifest.

A series is either refused with a coded reason and a sentence, or eligible with a score; among the
eligible series of a study the best is analysed, or each, as the manifest says. Nothing here looks
at pixels: a model's own guard does that later.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from service.core.errors import UnsuitableSeries
from service.core.geometry import Stack, slice_spacing_mm, stack_planes
from service.core.headers import FrameHeader, InstanceHeader, SourceFrame
from service.core.manifest import Manifest
from service.core.manifest_input import Applicability, Range

SECONDARY_CAPTURE_CLASSES = frozenset(
    f"1.2.840.10008.5.1.4.1.1.7{suffix}" for suffix in ("", ".1", ".2", ".3", ".4")
)
# Processing is part of every radiograph meant for reading, so DERIVED says nothing about them.
PROJECTION_MODALITIES = frozenset({"CR", "DX", "RG", "MG"})
_AXES = {"sagittal": 0, "coronal": 1, "axial": 2}


@dataclass(frozen=True)
class SeriesFacts:
    """A series as the rules see it: the headers of its current instances."""

    series_id: int
    is_result: bool
    headers: tuple[InstanceHeader, ...]

    @cached_property
    def images(self) -> tuple[InstanceHeader, ...]:
        """The instances that have pixels."""
        return tuple(header for header in self.headers if header.has_pixels)

    @cached_property
    def first(self) -> InstanceHeader:
        """The instance that stands for the series where all of them agree."""
        return self.images[0]

    @cached_property
    def planes(self) -> tuple[FrameHeader, ...]:
        """The plane of every frame of every instance."""
        return tuple(
            SourceFrame(header, number + 1).geometry
            for header in self.images
            for number in range(len(header.frames) or 1)
        )

    @cached_property
    def stack(self) -> Stack:
        """The planes in order along their normal; raises `UnsuitableSeries`."""
        return stack_planes(self.planes, orientation_tolerance_degrees=1.0)[0]


@dataclass(frozen=True)
class Verdict:
    """What one model makes of one series; `reason` is empty when it is eligible."""

    series_id: int
    score: float = 0.0
    reason: str = ""
    message: str = ""

    @property
    def eligible(self) -> bool:
        """Whether the model may be run on the series."""
        return not self.reason


def assess(facts: SeriesFacts, manifest: Manifest) -> Verdict:
    """Return whether the model may be run on this series, or the first reason why not."""
    try:
        for rule in _RULES:
            rule(facts, manifest.applicability)
        if manifest.package.kind != "classification":
            _volume_rules(facts, manifest.applicability)
    except UnsuitableSeries as unsuitable:
        return Verdict(facts.series_id, reason=unsuitable.reason, message=unsuitable.message)
    return Verdict(facts.series_id, score=_score(facts, manifest.applicability))


def units_of_work(facts: SeriesFacts, manifest: Manifest) -> tuple[tuple[int, ...], ...]:
    """Return what each job of an eligible series takes, as places in `facts.headers`.

    A volume takes every image of the series; radiographs are analysed one by one.
    """
    images = [place for place, header in enumerate(facts.headers) if header.has_pixels]
    if manifest.package.kind != "classification":
        return (tuple(images),)
    rules = manifest.applicability
    return tuple((place,) for place in images if _has_view(facts.headers[place], rules))


def choose(verdicts: Sequence[Verdict], manifest: Manifest) -> tuple[Verdict, ...]:
    """Return the verdicts whose series are to be analysed: the best score, or every eligible one.

    Equal scores are decided by the order of arrival, so that a repeat decides the same.
    """
    eligible = sorted(
        (verdict for verdict in verdicts if verdict.eligible),
        key=lambda verdict: (-verdict.score, verdict.series_id),
    )
    return tuple(eligible if manifest.applicability.select == "each" else eligible[:1])


def closest(verdicts: Sequence[Verdict]) -> Verdict | None:
    """Return the refusal that tells most when no series is eligible: the one that came latest."""
    refused = [verdict for verdict in verdicts if not verdict.eligible]
    return max(refused, key=lambda verdict: _order(verdict.reason), default=None)


def _own_result(facts: SeriesFacts, _rules: Applicability) -> None:
    if facts.is_result:
        raise UnsuitableSeries("OWN_RESULT", "the series holds results of this service")


def _not_an_image(facts: SeriesFacts, _rules: Applicability) -> None:
    if not facts.images:
        raise UnsuitableSeries("NOT_AN_IMAGE", "the series holds no images")


def _modality(facts: SeriesFacts, rules: Applicability) -> None:
    if facts.first.modality not in rules.modalities:
        allowed = " or ".join(rules.modalities)
        raise UnsuitableSeries(
            "MODALITY", f"modality {facts.first.modality or 'missing'}; allowed: {allowed}"
        )


def _localizer(facts: SeriesFacts, _rules: Applicability) -> None:
    if any("LOCALIZER" in header.image_type for header in facts.images):
        raise UnsuitableSeries("LOCALIZER", "the series is a localizer (scout)")


def _secondary_capture(facts: SeriesFacts, rules: Applicability) -> None:
    named = set(rules.sop_class_uids)
    captured = SECONDARY_CAPTURE_CLASSES - named
    if any(header.sop_class_uid in captured for header in facts.images):
        raise UnsuitableSeries("SECONDARY_CAPTURE", "the series is a secondary capture")
    if named and any(header.sop_class_uid not in named for header in facts.images):
        raise UnsuitableSeries("SOP_CLASS", "the SOP class is not one the model was made for")


def _derived(facts: SeriesFacts, rules: Applicability) -> None:
    for header in facts.images:
        if header.modality not in PROJECTION_MODALITIES and header.image_type[:1] == ("DERIVED",):
            raise UnsuitableSeries("DERIVED_SERIES", "the images were derived from others")
        for value in rules.image_type_excludes:
            if value in header.image_type:
                raise UnsuitableSeries(
                    f"IMAGE_TYPE_{value}"[:64], f"Image Type says {value}, which is not analysed"
                )


def _description(facts: SeriesFacts, rules: Applicability) -> None:
    word = _first_word(rules.description_excludes, (facts.first.series_description,))
    if word:
        raise UnsuitableSeries("DESCRIPTION", f"Series Description says {word!r}")


def _body_part(facts: SeriesFacts, rules: Applicability) -> None:
    part, said = rules.body_part, _said_of_body_part(facts)
    if not part.words:
        return
    code = f"NOT_{part.words[0].upper()}"[:64]
    excluded = _first_word(part.excluded_words, said)
    wanted = _first_word(part.words, said)
    if excluded and not wanted:
        raise UnsuitableSeries(code, f"the series says {excluded!r}, not {part.words[0]!r}")
    if wanted:
        return
    if facts.first.body_part_examined:
        raise UnsuitableSeries(code, f"Body Part Examined is {facts.first.body_part_examined!r}")
    if part.required:
        raise UnsuitableSeries(code, "nothing says which body part the series shows")


def _view(facts: SeriesFacts, rules: Applicability) -> None:
    if not any(_has_view(header, rules) for header in facts.images):
        allowed = " or ".join(rules.view_positions)
        raise UnsuitableSeries(
            "VIEW_POSITION", f"View Position {facts.first.view_position}; allowed: {allowed}"
        )


def _has_view(header: InstanceHeader, rules: Applicability) -> bool:
    """Return whether an image has an allowed view, or does not say which it has."""
    view = header.view_position
    return not rules.view_positions or not view or view in rules.view_positions


def _contrast(facts: SeriesFacts, rules: Applicability) -> None:
    given = bool(facts.first.contrast_agent)
    if rules.contrast == "required" and not given:
        raise UnsuitableSeries("CONTRAST", "no contrast agent is recorded; one is required")
    if rules.contrast == "forbidden" and given:
        raise UnsuitableSeries("CONTRAST", "a contrast agent is recorded; none is allowed")


def _age(facts: SeriesFacts, rules: Applicability) -> None:
    age = facts.first.patient_age_years
    if age is not None:
        _within("PATIENT_AGE", "patient's age", rules.patient_age_years, age, " years")


def _matrix(facts: SeriesFacts, rules: Applicability) -> None:
    sizes = Counter((header.rows, header.columns) for header in facts.images)
    if len(sizes) > 1 and facts.first.modality not in PROJECTION_MODALITIES:
        raise UnsuitableSeries("INCONSISTENT_SIZE", "the images have different rows and columns")
    _within("MATRIX", "rows", rules.rows, facts.first.rows or 0, "")
    _within("MATRIX", "columns", rules.columns, facts.first.columns or 0, "")


_RULES: tuple[Callable[[SeriesFacts, Applicability], None], ...] = (
    _own_result,
    _not_an_image,
    _modality,
    _secondary_capture,
    _localizer,
    _derived,
    _description,
    _body_part,
    _view,
    _contrast,
    _age,
    _matrix,
)

# How far a series got before it was refused: the refusal of the one that got furthest is what a
# person wants to read.
_EARLY_REASONS = (
    "OWN_RESULT",
    "NOT_AN_IMAGE",
    "MODALITY",
    "SOP_CLASS",
    "SECONDARY_CAPTURE",
    "LOCALIZER",
    "DERIVED_SERIES",
)


def _order(reason: str) -> int:
    return _EARLY_REASONS.index(reason) if reason in _EARLY_REASONS else len(_EARLY_REASONS)


def _volume_rules(facts: SeriesFacts, rules: Applicability) -> None:
    """Rules on how the slices lie; the order makes the first reason the plainest one."""
    count = len(facts.planes)
    minimum, maximum = max(2.0, rules.slices.minimum or 2.0), rules.slices.maximum
    if count < minimum:
        raise UnsuitableSeries("TOO_FEW_SLICES", f"{count} slices; at least {minimum:g} needed")
    if maximum is not None and count > maximum:
        raise UnsuitableSeries("TOO_MANY_SLICES", f"{count} slices; at most {maximum:g} allowed")
    stack = facts.stack
    _orientation(stack, rules)
    spacing = _spacing_mm(stack, rules)
    _within("SLICE_SPACING", "slice spacing", rules.slice_spacing_mm, spacing, " mm")
    thickness = facts.planes[0].slice_thickness_mm
    if thickness is not None:
        _within("SLICE_THICKNESS", "slice thickness", rules.slice_thickness_mm, thickness, " mm")
    for pixel in (stack.row_spacing_mm, stack.column_spacing_mm):
        _within("PIXEL_SPACING", "pixel spacing", rules.pixel_spacing_mm, pixel, " mm")
    covered = float(stack.distances_mm[-1]) + spacing
    _within("COVERAGE", "covered length", rules.coverage_mm, covered, " mm")


def _orientation(stack: Stack, rules: Applicability) -> None:
    if rules.orientation == "any":
        return
    along = abs(float(stack.normal[_AXES[rules.orientation]]))
    angle = float(np.degrees(np.arccos(min(1.0, along))))
    if angle > rules.max_obliquity_degrees:
        raise UnsuitableSeries(
            "ORIENTATION", f"slices are {angle:.0f} degrees off the {rules.orientation} plane"
        )


def _spacing_mm(stack: Stack, rules: Applicability) -> float:
    if rules.allow_resampling:
        return float(np.median(np.diff(stack.distances_mm)))
    return slice_spacing_mm(stack.origins_mm, stack.normal)


def _within(reason: str, what: str, allowed: Range, value: float, unit: str) -> None:
    if allowed.holds(value):
        return
    low = "" if allowed.minimum is None else f" from {allowed.minimum:g}"
    high = "" if allowed.maximum is None else f" to {allowed.maximum:g}"
    raise UnsuitableSeries(reason, f"{what} is {value:.4g}{unit}; allowed:{low}{high}{unit}")


def _score(facts: SeriesFacts, rules: Applicability) -> float:
    """Return how well an eligible series suits: preferred kernel, spacing, body part, coverage."""
    score = 0.0
    kernels = [kernel.casefold() for kernel in facts.first.convolution_kernel]
    preferred = [kernel.casefold() for kernel in rules.preferred_kernels]
    if any(kernel in preferred for kernel in kernels):
        score += 4.0
    if _first_word(rules.body_part.words, _said_of_body_part(facts)):
        score += 2.0
    if facts.first.image_type[:2] == ("ORIGINAL", "PRIMARY"):
        score += 1.0
    if len(facts.planes) > 1 and facts.planes[0].image_position_mm is not None:
        spacing = float(np.median(np.diff(facts.stack.distances_mm)))
        if rules.preferred_slice_spacing_mm.holds(spacing):
            score += 2.0
        score += min(1.0, float(facts.stack.distances_mm[-1]) / 1000)
    return score


def _said_of_body_part(facts: SeriesFacts) -> tuple[str, ...]:
    first = facts.first
    return (first.body_part_examined, first.series_description, first.protocol_name)


def _first_word(words: Iterable[str], texts: Iterable[str]) -> str:
    """Return the first of `words` that stands in the texts as a whole word, or an empty text."""
    said = " ".join(re.split(r"[^0-9a-z]+", " ".join(texts).casefold()))
    return next((word for word in words if f" {word.casefold()} " in f" {said} "), "")
