"""The report: one Imaging Measurement Report (PS3.16 TID 1500) for each job.

It says of every finding what and where it is, how large and how sure, points at its segment, names
the algorithm, and sums up the study; a study without findings and one that was not analysed say so
in the same coded place.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from service.core import codes
from service.core.findings import Analysis, Code, Qualifier
from service.core.headers import InstanceHeader, SourceFrame
from workers.results import content
from workers.results.common import (
    analysed_instances,
    check_source,
    common_elements,
    evidence,
    reference_of,
    written,
)
from workers.results.content import Relation
from workers.results.context import (
    RESEARCH_ONLY,
    InstanceReference,
    ResultContext,
    ResultRole,
    WrittenResult,
)
from workers.results.encode import Value, clip, item, part10
from workers.results.groups import (
    FindingGroups,
    algorithm_identification,
    evaluation,
    is_placed,
    shown_frames,
)
from workers.results.longitudinal import earlier_reports
from workers.results.observer import language_and_observer, person_name
from workers.results.source import SourceStudy

# Words in our reason codes, and the standard's nearest reason; the first that occurs counts.
_REASONS: Final = (
    (("MISSING", "INCOMPLETE", "GAP", "FEW", "DUPLICATE", "COVERAGE"), codes.OBJECT_SET_INCOMPLETE),
    (("UNREADABLE", "PARSE", "GEOMETRY", "INVALID"), codes.OBJECTS_INCORRECTLY_FORMATTED),
    (("QUALITY", "EXPOSURE", "DISTRIBUTION", "NOISE"), codes.INSUFFICIENT_QUALITY),
    (
        ("MODALITY", "CLASS", "BODY", "VIEW", "ORIENTATION", "SPACING", "THICKNESS", "CONTRAST",
         "AGE", "SYNTAX", "TYPE", "UNSUITABLE"),
        codes.OBJECT_TYPES_NOT_SUPPORTED,
    ),
)  # fmt: skip


def write_sr(
    context: ResultContext,
    source: SourceStudy,
    analysis: Analysis,
    *,
    frames: Sequence[SourceFrame],
    segmentation: WrittenResult | None,
) -> WrittenResult:
    """Return the report of an analysis.

    Parameters
    ----------
    frames
        The frames that were analysed, in the order that masks refer to.
    segmentation
        The SEG of the same job, written before, when there is one.

    Raises
    ------
    ContractViolation
        ``REGION_OFF_SOURCE`` when a region lies on a frame that was not analysed,
        ``SEGMENT_WITHOUT_SEG`` when a finding names a segment and there is none.
    """
    instances = analysed_instances(frames)
    check_source(source, instances)
    groups = FindingGroups(context, frames, analysis.masks, segmentation)
    measured = [group for finding in analysis.findings for group in groups.of(finding)]
    shown = shown_frames(analysis.findings, frames)
    positive = any(f.qualifier is not Qualifier.ABSENT for f in analysis.findings)
    summary = codes.SUCCEEDED_WITH_FINDINGS if positive else codes.SUCCEEDED_WITHOUT_FINDINGS
    children = _preamble(context, source, instances)
    children.append(_image_library(source, shown or _first_frames(instances)))
    children.append(_measurements(context, measured))
    said = [content.code(Relation.CONTAINS, codes.PROCESSING_SUMMARY, summary)]
    remarks = context.review.remarks if context.review else {}
    said += [
        evaluation(finding, remark=remarks.get(finding.id, ""))
        for finding in analysis.findings
        if not is_placed(finding)
    ]
    children.append(_evaluations(context, said, ()))
    references = [reference_of(instance) for instance in instances]
    if segmentation is not None:
        references.append(segmentation.reference)
    earlier = earlier_reports(analysis.findings)
    return _document(context, source, children, references, earlier=earlier)


def write_not_analysed(
    context: ResultContext,
    source: SourceStudy,
    instances: Sequence[InstanceHeader],
    *,
    reason: str,
    message: str,
) -> WrittenResult:
    """Return a report that says that, and why, these instances were not analysed.

    ``reason`` is our stable code; the nearest code of the standard is written beside it.
    """
    check_source(source, instances)
    children = _preamble(context, source, instances)
    children.append(_image_library(source, _first_frames(instances)))
    children.append(_measurements(context, ()))
    coded = [
        (codes.PROCESSING_SUMMARY, codes.NOTHING_SUCCEEDED),
        (codes.SUMMARY_OF_DETECTIONS, codes.NOT_ATTEMPTED),
        (codes.FINDING, standard_reason(reason)),
    ]
    said = [content.code(Relation.CONTAINS, name, value) for name, value in coded]
    children.append(_evaluations(context, said, [f"Not analysed. {reason}: {message}"]))
    references = [reference_of(instance) for instance in instances]
    return _document(context, source, children, references)


def standard_reason(reason: str) -> Code:
    """Return the standard's code (PS3.16 CID 9300, 9303) nearest to one of our reasons.

    >>> standard_reason("IRREGULAR_GAP").meaning
    'Object Set incomplete'
    """
    words = reason.split("_")
    for known, code in _REASONS:
        if any(word in known for word in words):
            return code
    return codes.UNSPECIFIED_REASON


def _preamble(
    context: ResultContext, source: SourceStudy, instances: Sequence[InstanceHeader]
) -> list[bytes]:
    """Return language, observer and procedure reported (TID 1204, 1001, 1004)."""
    procedure = (
        context.procedure
        or source.procedure
        or codes.PROCEDURES.get(instances[0].modality, codes.IMAGING_PROCEDURE)
    )
    return [
        *language_and_observer(context),
        content.code(Relation.HAS_CONCEPT_MOD, codes.PROCEDURE_REPORTED, procedure),
    ]


def _image_library(source: SourceStudy, frames: Sequence[SourceFrame]) -> bytes:
    """Return the images that the report shows something on, or all that it is about (TID 1600)."""
    context = Relation.HAS_ACQ_CONTEXT
    entries: list[bytes] = []
    modality = codes.MODALITIES.get(frames[0].instance.modality)
    if modality:
        entries.append(content.code(context, codes.MODALITY, modality))
    if source.study_date:
        entries.append(content.date(context, codes.STUDY_DATE, source.study_date))
    for instance in analysed_instances(frames):
        entries.append(content.image(Relation.CONTAINS, None, reference_of(instance)))
    group = content.container(codes.IMAGE_LIBRARY_GROUP, entries)
    return content.container(codes.IMAGE_LIBRARY, [group], template="1600")


def _measurements(context: ResultContext, groups: Sequence[bytes]) -> bytes:
    """Return the algorithm, and what it measured, if anything (TID 1500 row 6)."""
    algorithm = algorithm_identification(context)
    return content.container(codes.IMAGING_MEASUREMENTS, [*algorithm, *groups])


def _evaluations(context: ResultContext, said: Sequence[bytes], comments: Sequence[str]) -> bytes:
    """Return what holds for the study as a whole (TID 1500 row 12)."""
    lines = [*comments, context.standing, *([RESEARCH_ONLY] if context.research_only else [])]
    words = [content.text(Relation.CONTAINS, codes.COMMENT, line) for line in lines]
    return content.container(codes.QUALITATIVE_EVALUATIONS, [*said, *words])


def _first_frames(instances: Sequence[InstanceHeader]) -> list[SourceFrame]:
    return [SourceFrame(instance) for instance in instances]


def _verification(context: ResultContext) -> dict[str, Value]:
    """Return whose word the report is (PS3.3 C.17.2): nobody's until a named reader verifies it."""
    review = context.review
    if review is None or not (review.verified and review.reviewer):
        flag = "PRELIMINARY" if review is None else "FINAL"
        return {"VerificationFlag": "UNVERIFIED", "PreliminaryFlag": flag}
    observer = item(
        VerifyingObserverName=person_name(review.reviewer),
        VerifyingObserverIdentificationCodeSequence=[],
        VerifyingOrganization=clip(review.organization or context.equipment.institution_name)
        or "unknown",
        VerificationDateTime=f"{review.reviewed_at:%Y%m%d%H%M%S}+0000",
    )
    return {
        "VerificationFlag": "VERIFIED",
        "PreliminaryFlag": "FINAL",
        "VerifyingObserverSequence": [observer],
    }


def _document(
    context: ResultContext,
    source: SourceStudy,
    children: Sequence[bytes],
    references: Sequence[InstanceReference],
    *,
    earlier: Sequence[InstanceReference] = (),
) -> WrittenResult:
    """Return the document around its content (PS3.3 A.35.13, C.17)."""
    identity = written(context, source, ResultRole.SR, context.sr_class)
    elements: dict[str, Value] = {
        **common_elements(context, source, identity),
        "ReferencedPerformedProcedureStepSequence": [],
        "CompletionFlag": "COMPLETE",
        **_verification(context),
        "PerformedProcedureCodeSequence": [],
        "CurrentRequestedProcedureEvidenceSequence": evidence(references),
        "ValueType": "CONTAINER",
        "ConceptNameCodeSequence": [content.cached_code(codes.IMAGING_MEASUREMENT_REPORT)],
        **content.container_elements("1500"),
        "ContentSequence": list(children),
    }
    if source.requests:
        elements["ReferencedRequestSequence"] = list(source.requests)
    if earlier:
        elements["PertinentOtherEvidenceSequence"] = evidence(earlier)
    if context.predecessors:
        elements["PredecessorDocumentsSequence"] = evidence(context.predecessors)
    return replace(identity, content=part10(elements))
