"""From what a kind found to an `Analysis`: ranked, named, numbered, qualified."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.core.findings import Analysis, Code, Finding, FindingMask, Qualifier
from service.core.manifest_output import ClassSpec
from workers.kinds.contract import Context
from workers.kinds.measurements import Measured


@dataclass(frozen=True)
class Statement:
    """One thing a model says, before it has a rank.

    `evidence` is a map of the frame that the location names, float32 in 0..1.
    """

    spec: ClassSpec
    probability: float
    measured: Measured | None = None
    mask: FindingMask | None = None
    evidence: NDArray[np.float32] | None = None
    malignancy: float | None = None
    laterality: Code | None = None


def analysis_of(
    statements: Sequence[Statement], context: Context, scores: Mapping[str, float]
) -> Analysis:
    """Return findings in order of probability, with ids by rank and segments numbered from 1.

    A finding that is absent at the operating point has no segment, though its mask is kept: another
    operating point may want it.
    """
    # The sort is stable, and every kind lists what it found in the order of the image, so equal
    # probabilities rank the same in every run.
    ranked = sorted(statements, key=lambda statement: -statement.probability)
    findings = []
    segments = 0
    for rank, statement in enumerate(ranked):
        finding = _finding(statement, rank, context)
        if statement.mask is not None and finding.qualifier is not Qualifier.ABSENT:
            segments += 1
            finding = finding.model_copy(update={"segment_number": segments})
        findings.append(finding)
    pairs = list(zip(findings, ranked, strict=True))
    return Analysis(
        findings=tuple(findings),
        masks={finding.id: said.mask for finding, said in pairs if said.mask is not None},
        maps={finding.id: said.evidence for finding, said in pairs if said.evidence is not None},
        scores=dict(scores),
    )


def lowest_threshold(context: Context, class_name: str) -> float:
    """Return the least probability that any operating point calls more than absent."""
    points = context.manifest.operating_points
    pairs = [point.classes.get(class_name, point) for point in points]
    return min(pair.indeterminate for pair in pairs)


def _finding(statement: Statement, rank: int, context: Context) -> Finding:
    spec = statement.spec
    if spec.label is None:
        raise ValueError(f"{spec.name} is background and cannot be a finding")
    finding_id, tracking_uid = context.identify(rank)
    measured = statement.measured
    return Finding(
        id=finding_id,
        tracking_uid=tracking_uid,
        tracking_id=f"{spec.label.meaning} {rank + 1}",
        label=spec.label,
        class_name=spec.name,
        site=spec.site,
        laterality=statement.laterality,
        probability=statement.probability,
        qualifier=context.operating_point.qualify(spec.name, statement.probability),
        malignancy_probability=statement.malignancy,
        location=measured.location if measured else None,
        measurements=measured.measurements if measured else (),
        color_lab=spec.color_lab,
    )
