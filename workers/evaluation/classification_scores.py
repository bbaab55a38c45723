"""Scores of a classification: areas under curves, sensitivity at fixed specificity, calibration."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.core.findings import Analysis
from service.core.manifest import Manifest
from workers.evaluation.auroc import at_specificity, at_threshold, auprc, auroc
from workers.evaluation.calibration import expected_calibration_error
from workers.evaluation.charts import reliability_chart, roc_chart
from workers.evaluation.curves import Chart
from workers.evaluation.pictures import picture, window_of
from workers.evaluation.references import Truth
from workers.evaluation.scoring import Figures, Shown, resampled_interval, rounded
from workers.volume.radiograph import Radiograph
from workers.volume.series import Volume

Values = NDArray[np.float64]
Labels = NDArray[np.bool_]
_SPECIFICITIES = (0.9, 0.95, 0.99)


class ClassificationScores:
    """Collects images: for each class what was said and what is true, where that is known."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._names = [s.name for s in manifest.classes if s.kind in ("finding", "lesion")]
        self._cases: list[dict[str, tuple[float, bool]]] = []

    def add(self, image: Volume | Radiograph, analysis: Analysis, truth: Truth) -> Shown:
        """Compare what is said of one image with its labels."""
        assert isinstance(image, Radiograph)
        said = {finding.class_name: finding.probability for finding in analysis.findings}
        known = {
            name: (said[name], truth.labels[name])
            for name in self._names
            if name in said and name in truth.labels
        }
        self._cases.append(known)
        away = {name: abs(p - there) for name, (p, there) in known.items()}
        worst = max(away, key=lambda name: away[name], default="")
        probability, there = known.get(worst, (0.0, False))
        caption = f"{worst} is {'' if there else 'not '}there, given {probability:.2f}"
        return Shown(
            away.get(worst, 0.0),
            caption if worst else "nothing known",
            lambda: picture(image.pixels, window=window_of(image.pixels, "")),
        )

    def figures(self) -> Figures:
        """Return the figures of each class, and the mean area over those that have one."""
        described = {name: self._described(name) for name in self._names}
        areas = [row["auroc"] for row in described.values() if "auroc" in row]
        content: Figures = {"images": len(self._cases), "classes": described}
        if areas:
            content["mean_auroc"] = rounded(np.mean(areas))
        scores, labels = self._pooled()
        if scores.size:
            content["ece"] = rounded(expected_calibration_error(scores, labels))
        return content

    def headline(self, chosen: Sequence[int]) -> Figures:
        """Return the area of each class that has both answers among the cases."""
        table: Figures = {}
        for name in self._names:
            scores, labels = self._of(name, chosen)
            if labels.any() and not labels.all():
                table[f"{name}_auroc"] = rounded(auroc(scores, labels).value)
        return table

    def case_figures(self, number: int) -> Figures:
        """Return what was said of each class, and what is true."""
        return {
            name: {"probability": rounded(probability), "label": there}
            for name, (probability, there) in self._cases[number].items()
        }

    def charts(self) -> list[Chart]:
        """Return ROC by class and the reliability of all."""
        pairs = {name: self._of(name, range(len(self._cases))) for name in self._names}
        both = {name: (s, y) for name, (s, y) in pairs.items() if y.any() and not y.all()}
        scores, labels = self._pooled()
        charts = [roc_chart(both)] if both else []
        return charts + (
            [reliability_chart({"all classes": (scores, labels)})] if scores.size else []
        )

    def _of(self, name: str, chosen: Sequence[int]) -> tuple[Values, Labels]:
        rows = [self._cases[number][name] for number in chosen if name in self._cases[number]]
        return np.array([p for p, _ in rows]), np.array([there for _, there in rows], np.bool_)

    def _pooled(self) -> tuple[Values, Labels]:
        rows = [pair for case in self._cases for pair in case.values()]
        return np.array([p for p, _ in rows]), np.array([there for _, there in rows], np.bool_)

    def _described(self, name: str) -> Figures:
        scores, labels = self._of(name, range(len(self._cases)))
        content: Figures = {"positives": int(labels.sum()), "negatives": int((~labels).sum())}
        if scores.size:
            content["ece"] = rounded(expected_calibration_error(scores, labels))
        if not labels.any() or labels.all():
            return content
        area = auroc(scores, labels)
        content |= {
            "auroc": rounded(area.value),
            "auroc_interval": [rounded(area.low), rounded(area.high)],
            "auprc": rounded(auprc(scores, labels)),
            "auprc_interval": resampled_interval(
                len(labels),
                lambda chosen: (
                    auprc(scores[chosen], labels[chosen])
                    if labels[chosen].any() and not labels[chosen].all()
                    else None
                ),
            ),
        }
        for specificity in _SPECIFICITIES:
            point = at_specificity(scores, labels, specificity)
            content[f"sensitivity_at_specificity_{specificity:g}"] = rounded(point.sensitivity)
        content["operating_points"] = self._points(name, scores, labels)
        return content

    def _points(self, name: str, scores: Values, labels: Labels) -> Figures:
        table: Figures = {}
        for point in self._manifest.operating_points:
            present = point.classes.get(name, point).present
            at = at_threshold(scores, labels, present)
            table[point.name] = {
                "present": present,
                "sensitivity": rounded(at.sensitivity),
                "specificity": rounded(at.specificity),
            }
        return table
