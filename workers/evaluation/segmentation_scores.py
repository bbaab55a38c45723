"""Scores of a segmentation: overlap, surface distance, lesions one by one, calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.core.findings import Analysis, FindingMask, Qualifier
from service.core.manifest import Manifest
from workers.evaluation.calibration import expected_calibration_error
from workers.evaluation.charts import reliability_chart
from workers.evaluation.curves import Chart
from workers.evaluation.masks import best_dice, box_of, pieces, union
from workers.evaluation.overlap import (
    LesionMatch,
    dice,
    hausdorff_95_mm,
    match_lesions,
    surface_dice,
)
from workers.evaluation.pictures import picture, window_of
from workers.evaluation.references import Truth, sphere_diameter_mm
from workers.evaluation.scoring import Figures, Shown, mean_with_interval, rounded
from workers.volume.radiograph import Radiograph
from workers.volume.series import Volume

Mask = NDArray[np.bool_]

_OVERLAPS = (0.1, 0.5)
_BANDS = ((10.0, "under 10 mm"), (20.0, "10 to 20 mm"))
_LARGE_MM = 10.0
_FOUND_DICE = 0.1


@dataclass(frozen=True)
class ClassScores:
    """One class in one case.

    `lesions` are (diameter in mm, Dice) of each piece of the reference; `judged` are
    (probability, whether it meets the reference) of each finding.
    """

    dice: float
    hd95_mm: float
    nsd: float
    matches: Mapping[float, LesionMatch]
    lesions: tuple[tuple[float, float], ...]
    judged: tuple[tuple[float, bool], ...]
    has_reference: bool


class SegmentationScores:
    """Collects cases of every class that the package reports."""

    def __init__(self, manifest: Manifest) -> None:
        self._names = [
            spec.name
            for spec in manifest.classes
            if spec.kind == "lesion" or (spec.kind == "organ" and spec.report)
        ]
        self._cases: list[dict[str, ClassScores]] = []

    def add(self, image: Volume | Radiograph, analysis: Analysis, truth: Truth) -> Shown:
        """Compare the regions of one case with the reference's."""
        assert isinstance(image, Volume)
        shape = image.source_shape
        scored, found_all, true_all = {}, np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        for name in self._names:
            reference = truth.masks.get(name, np.zeros(shape, np.bool_))
            masks = _masks_of(analysis, name)
            found = union(masks, shape)
            scored[name] = _compared(found, reference, masks, analysis, name, image)
            found_all |= found
            true_all |= reference
        self._cases.append(scored)
        worst = min(scored, key=lambda name: scored[name].dice)
        return Shown(
            1 - scored[worst].dice,
            f"{worst}: Dice {scored[worst].dice:.2f}",
            lambda: _drawn(image, found_all, true_all),
        )

    def figures(self) -> Figures:
        """Return the figures of each class over all cases."""
        return {
            "cases": len(self._cases),
            "classes": {name: self._described(name) for name in self._names},
        }

    def headline(self, chosen: Sequence[int]) -> Figures:
        """Return the mean Dice of each class where the reference has it."""
        table: Figures = {}
        for name in self._names:
            cases = [self._cases[number][name] for number in chosen]
            scores = [case.dice for case in cases if case.has_reference]
            if scores:
                table[f"{name}_dice"] = rounded(np.mean(scores))
        return table

    def case_figures(self, number: int) -> Figures:
        """Return the Dice of each class."""
        return {f"{name}_dice": rounded(c.dice) for name, c in self._cases[number].items()}

    def charts(self) -> list[Chart]:
        """Return the reliability of each class with findings."""
        cases = {name: self._judged(name) for name in self._names}
        known = {name: pair for name, pair in cases.items() if pair[0].size}
        return [reliability_chart(known)] if known else []

    def _judged(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        pairs = [pair for case in self._cases for pair in case[name].judged]
        return np.array([p for p, _ in pairs]), np.array([hit for _, hit in pairs], np.bool_)

    def _described(self, name: str) -> Figures:
        cases = [case[name] for case in self._cases]
        sick = [case for case in cases if case.has_reference]
        content: Figures = {"cases_with_reference": len(sick)}
        content |= mean_with_interval([case.dice for case in sick], "dice")
        content |= mean_with_interval([case.nsd for case in sick], "nsd_2_mm")
        finite = [case.hd95_mm for case in sick if np.isfinite(case.hd95_mm)]
        if finite:
            content["hd95_mm_median"] = rounded(np.median(finite))
        content["nothing_found"] = len(sick) - len(finite)
        content["lesion_wise"] = {f"iou_{iou:g}": _totals(cases, iou) for iou in _OVERLAPS}
        content["lesions"] = _by_size([row for case in cases for row in case.lesions])
        probabilities, hits = self._judged(name)
        content["false_positives_per_scan"] = rounded((~hits).sum() / max(1, len(cases)))
        if probabilities.size:
            content["ece"] = rounded(expected_calibration_error(probabilities, hits))
        return content


def _masks_of(analysis: Analysis, name: str) -> list[FindingMask]:
    return [
        analysis.masks[finding.id]
        for finding in analysis.findings
        if finding.class_name == name
        and finding.qualifier is not Qualifier.ABSENT
        and finding.id in analysis.masks
    ]


def _compared(
    found: Mask,
    reference: Mask,
    masks: Sequence[FindingMask],
    analysis: Analysis,
    name: str,
    image: Volume,
) -> ClassScores:
    voxel_mm3 = float(np.prod(image.spacing_mm))
    judged = [
        (finding.probability, bool((reference[box_of(mask)] & mask.voxels).any()))
        for finding in analysis.findings
        if finding.class_name == name and (mask := analysis.masks.get(finding.id)) is not None
    ]
    return ClassScores(
        dice=dice(found, reference),
        hd95_mm=hausdorff_95_mm(found, reference, image.spacing_mm),
        nsd=surface_dice(found, reference, image.spacing_mm),
        matches={iou: match_lesions(found, reference, minimum_iou=iou) for iou in _OVERLAPS},
        lesions=tuple(
            (sphere_diameter_mm(piece.size * voxel_mm3), best_dice(piece, masks))
            for piece in pieces(reference)
        ),
        judged=tuple(judged),
        has_reference=bool(reference.any()),
    )


def _totals(cases: Sequence[ClassScores], iou: float) -> Figures:
    matches = [case.matches[iou] for case in cases]
    total = LesionMatch(
        sum(m.reference for m in matches), sum(m.found for m in matches),
        sum(m.reference_hit for m in matches), sum(m.found_hit for m in matches),
    )  # fmt: skip
    return {
        "sensitivity": rounded(total.sensitivity),
        "precision": rounded(total.precision),
        "f1": rounded(total.f1),
    }


def _by_size(lesions: Sequence[tuple[float, float]]) -> Figures:
    """Return the mean Dice of lesions one by one, by size; a missed one counts as 0."""
    found: dict[str, list[float]] = {}
    for diameter, score in lesions:
        band = next((name for limit, name in _BANDS if diameter < limit), "20 mm and more")
        found.setdefault(band, []).append(score)
        if diameter >= _LARGE_MM:
            found.setdefault("10 mm and more", []).append(score)
    return {
        band: {
            "lesions": len(scores),
            **mean_with_interval(scores, "dice"),
            "found": rounded(np.mean([score > _FOUND_DICE for score in scores])),
        }
        for band, scores in sorted(found.items())
    }


def _drawn(image: Volume, found: Mask, reference: Mask) -> str:
    """Draw the slice on which both differ most."""
    index = int((found ^ reference).sum(axis=(1, 2)).argmax())
    pixels = image.voxels[min(index, len(image.voxels) - 1)]
    return picture(
        pixels,
        window=window_of(pixels, image.unit),
        reference=reference[index],
        found=found[index],
    )
