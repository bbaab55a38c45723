"""Scores of a detection: FROC and CPM by the rules of LUNA16, operating points, outlines."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.core.findings import Analysis, Finding
from service.core.manifest import Manifest
from workers.evaluation import froc as luna
from workers.evaluation.calibration import expected_calibration_error
from workers.evaluation.charts import froc_chart, reliability_chart
from workers.evaluation.curves import Chart
from workers.evaluation.froc import Marks, ScanOutcome, Truths
from workers.evaluation.masks import best_dice, pieces
from workers.evaluation.pictures import FOUND, REFERENCE, Ring, picture, window_of
from workers.evaluation.references import Lesion, Truth
from workers.evaluation.scoring import Figures, Shown, mean_with_interval, rounded
from workers.volume.radiograph import Radiograph
from workers.volume.resample import point_on_source
from workers.volume.series import Volume

Floats = NDArray[np.float64]

_BANDS = ((4.0, "under 4 mm"), (6.0, "4 to 6 mm"), (10.0, "6 to 10 mm"), (20.0, "10 to 20 mm"))
_SMALLEST_MM = 4.0


@dataclass(frozen=True)
class Scan:
    """One scan: what was marked, what there is, and how well hit lesions were outlined."""

    marks: Marks
    truths: Truths
    dice: tuple[float, ...]

    def outcome(self, smallest_mm: float = 0.0) -> ScanOutcome:
        """Match the scan; smaller lesions count neither way."""
        counted = self.truths.counted & (self.truths.diameters_mm >= smallest_mm)
        return luna.match(
            self.marks, Truths(self.truths.centers_mm, self.truths.diameters_mm, counted)
        )

    def judged(self) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the probability of each mark that counts, and whether it hits."""
        hits, dropped = _hits(self.marks, self.truths)
        return self.marks.scores[~dropped], hits[~dropped]


class DetectionScores:
    """Collects scans."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._scans: list[Scan] = []

    def add(self, image: Volume | Radiograph, analysis: Analysis, truth: Truth) -> Shown:
        """Match the findings of one scan with its lesions."""
        assert isinstance(image, Volume)
        placed = [f for f in analysis.findings if f.location and f.location.center_mm]
        marks = Marks(
            np.array([_center(f) for f in placed], dtype=np.float64).reshape(-1, 3),
            np.array([f.probability for f in placed], dtype=np.float64),
        )
        truths = Truths(
            np.array([les.center_mm for les in truth.lesions], dtype=np.float64).reshape(-1, 3),
            np.array([les.diameter_mm for les in truth.lesions], dtype=np.float64),
            np.array([les.counted for les in truth.lesions], dtype=np.bool_),
        )
        scan = Scan(marks, truths, _dice_of(analysis, truth))
        self._scans.append(scan)
        return _shown(scan, image, truth.lesions)

    def figures(self) -> Figures:
        """Return CPM, sensitivities, operating points, sizes, calibration and outlines."""
        content: Figures = {
            "definition": "LUNA16: hit within the radius; CPM over 1/8 to 8 false positives a scan",
            "scans": len(self._scans),
        }
        for name, smallest in (("all", 0.0), ("from_4_mm", _SMALLEST_MM)):
            outcomes = [scan.outcome(smallest) for scan in self._scans]
            if any(len(o.nodule_scores) for o in outcomes):
                content[name] = _described(outcomes)
        content["operating_points"] = {
            point.name: self._at(point.present) for point in self._manifest.operating_points
        }
        content["by_size_at_1_false_positive_per_scan"] = self._by_size()
        probabilities, hits = self._judged()
        if probabilities.size:
            content["calibration"] = {
                "marks": len(hits),
                "ece": rounded(expected_calibration_error(probabilities, hits)),
            }
        content |= mean_with_interval(
            [value for scan in self._scans for value in scan.dice], "outline_dice"
        )
        return content

    def headline(self, chosen: Sequence[int]) -> Figures:
        """Return lesions, CPM and sensitivity at one false positive a scan."""
        outcomes = [self._scans[number].outcome() for number in chosen]
        lesions = sum(len(o.nodule_scores) for o in outcomes)
        if not lesions:
            return {"lesions": 0}
        at = luna.froc(outcomes).at()
        return {
            "lesions": lesions,
            "cpm": rounded(at.mean()),
            "sensitivity_at_1_false_positive": rounded(at[luna.RATES.index(1.0)]),
        }

    def case_figures(self, number: int) -> Figures:
        """Return lesions, those found at the first operating point, and false positives there."""
        outcome = self._scans[number].outcome()
        present = self._manifest.operating_points[0].present
        return {
            "lesions": len(outcome.nodule_scores),
            "found": int((outcome.nodule_scores >= present).sum()),
            "false_positives": int((outcome.false_scores >= present).sum()),
        }

    def charts(self) -> list[Chart]:
        """Return FROC (all lesions, and those of 4 mm and more) and reliability."""
        charts, curves = [], {}
        for name, smallest in (("all", 0.0), ("4 mm and more", _SMALLEST_MM)):
            outcomes = [scan.outcome(smallest) for scan in self._scans]
            if any(len(o.nodule_scores) for o in outcomes):
                curves[name] = luna.froc(outcomes)
        if curves:
            charts.append(froc_chart(curves))
        probabilities, hits = self._judged()
        if probabilities.size:
            charts.append(reliability_chart({"marks": (probabilities, hits)}))
        return charts

    def _judged(self) -> tuple[Floats, NDArray[np.bool_]]:
        pairs = [scan.judged() for scan in self._scans]
        return np.concatenate([p for p, _ in pairs]), np.concatenate([h for _, h in pairs])

    def _at(self, present: float) -> Figures:
        outcomes = [scan.outcome() for scan in self._scans]
        lesions = np.concatenate([o.nodule_scores for o in outcomes])
        alarms = [int((o.false_scores >= present).sum()) for o in outcomes]
        figures: Figures = {
            "present": present,
            **mean_with_interval(alarms, "false_positives_per_scan"),
        }
        return figures | mean_with_interval((lesions >= present).astype(float), "sensitivity")

    def _by_size(self) -> Figures:
        outcomes = [scan.outcome() for scan in self._scans]
        if not any(len(o.nodule_scores) for o in outcomes):
            return {}
        threshold = luna.froc(outcomes).threshold_at(1.0)
        found: dict[str, list[bool]] = {}
        for scan, outcome in zip(self._scans, outcomes, strict=True):
            sizes = scan.truths.diameters_mm[scan.truths.counted]
            for size, score in zip(sizes, outcome.nodule_scores, strict=True):
                band = next((name for limit, name in _BANDS if size < limit), "20 mm and more")
                found.setdefault(band, []).append(bool(score >= threshold))
        return {
            band: {"lesions": len(hits), "sensitivity": rounded(np.mean(hits))}
            for band, hits in found.items()
        }


def _center(finding: Finding) -> tuple[float, float, float]:
    assert finding.location
    assert finding.location.center_mm
    return finding.location.center_mm


def _hits(marks: Marks, truths: Truths) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which marks hit a counted lesion, and which only one that is not counted."""
    nothing = np.zeros(len(marks.scores), np.bool_)
    if not len(truths.counted) or not len(marks.scores):
        return nothing, nothing
    away = np.linalg.norm(marks.centers_mm[:, None] - truths.centers_mm[None], axis=2)
    # As in `froc.match`: where nobody measured, 5 mm.
    reach = np.where(
        truths.counted, truths.diameters_mm / 2, np.maximum(truths.diameters_mm, 5.0) / 2
    )
    inside = away < reach
    hits = inside[:, truths.counted].any(axis=1)
    return hits, inside.any(axis=1) & ~hits


def _described(outcomes: Sequence[ScanOutcome]) -> Figures:
    result = luna.evaluate(outcomes)
    return {
        "lesions": result.nodules,
        "cpm": rounded(result.cpm),
        "cpm_interval": [rounded(v) for v in result.cpm_interval],
        "false_positives_per_scan": list(luna.RATES),
        "sensitivity": [rounded(v) for v in result.sensitivities],
        "sensitivity_interval": [[rounded(a), rounded(b)] for a, b in result.sensitivity_intervals],
    }


def _dice_of(analysis: Analysis, truth: Truth) -> tuple[float, ...]:
    """Return for each reference mask's piece that a finding meets the Dice of the best one."""
    found = list(analysis.masks.values())
    scores = [best_dice(piece, found) for mask in truth.masks.values() for piece in pieces(mask)]
    return tuple(score for score in scores if score > 0)


def _shown(scan: Scan, image: Volume, lesions: Sequence[Lesion]) -> Shown:
    """Show the lesion that was given least, or the strongest false mark."""
    outcome = scan.outcome()
    missed = 1 - outcome.nodule_scores.clip(0, 1)
    alarm = float(outcome.false_scores.max(initial=0.0))
    counted = [lesion for lesion in lesions if lesion.counted]
    if len(missed) and missed.max() >= alarm:
        worst = int(missed.argmax())
        lesion = counted[worst]
        caption = f"lesion of {lesion.diameter_mm:.1f} mm, given {1 - missed[worst]:.2f}"
        place = np.asarray(lesion.center_mm)
        return Shown(float(missed.max()), caption, lambda: _drawn(scan, image, counted, place))
    hits = _hits(scan.marks, scan.truths)[0]
    place = image.affine[:3, 3]
    if len(hits):
        place = scan.marks.centers_mm[int(np.where(hits, -1, scan.marks.scores).argmax())]
    caption = f"strongest false mark, given {alarm:.2f}"
    return Shown(alarm, caption, lambda: _drawn(scan, image, counted, place))


def _drawn(scan: Scan, image: Volume, lesions: Sequence[Lesion], place: Floats) -> str:
    """Draw the slice through a place with every lesion (green) and mark (orange) near it."""
    index = point_on_source(image, place).frame_index
    shown = image.voxels[min(index, len(image.voxels) - 1)]
    pixel_mm = image.spacing_mm[2]
    rings = []
    pairs = [(np.asarray(les.center_mm), les.diameter_mm, REFERENCE) for les in lesions]
    strong = scan.marks.scores >= 0.1
    pairs += [(center, 6.0, FOUND) for center in scan.marks.centers_mm[strong]]
    for center, diameter, colour in pairs:
        at = point_on_source(image, center)
        if abs(at.frame_index - index) * image.spacing_mm[0] <= max(3.0, diameter / 2):
            rings.append(Ring(at.column, at.row, diameter / 2 / pixel_mm, colour))
    return picture(shown, window=window_of(shown, image.unit), rings=tuple(rings))
