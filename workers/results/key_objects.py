"""Key Object Selections (PS3.3 A.35.4): images worth opening first, and what is withdrawn.

Both are documents of one list (PS3.16 TID 2010). A rejection note (IHE IOCM) makes a PACS hide the
instances that it lists; they stay where they are.
"""

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import Final

from service.core import codes
from service.core.errors import ContractViolation
from service.core.findings import Analysis, Code
from service.core.headers import SourceFrame
from service.core.identifiers import derive_uid
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
    InstanceReference,
    ResultContext,
    ResultRole,
    WrittenResult,
)
from workers.results.encode import Value, part10
from workers.results.groups import shown_frames
from workers.results.observer import language_and_observer
from workers.results.source import SourceStudy

KEY_OBJECT_SELECTION: Final = "1.2.840.10008.5.1.4.1.1.88.59"
# Documents, states and structures have no pixels: they are listed as COMPOSITE, not as IMAGE.
_WITHOUT_PIXELS: Final = ("88.", "104.", "11.", "481.3")
_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."


class Rejection(Enum):
    """Why instances are withdrawn: the document titles that IHE IOCM knows."""

    QUALITY = codes.REJECTED_FOR_QUALITY
    PATIENT_SAFETY = codes.REJECTED_FOR_PATIENT_SAFETY
    WORKLIST_ENTRY = codes.INCORRECT_WORKLIST_ENTRY
    RETENTION_EXPIRED = codes.RETENTION_EXPIRED


def write_key_objects(
    context: ResultContext,
    source: SourceStudy,
    analysis: Analysis,
    *,
    frames: Sequence[SourceFrame],
) -> WrittenResult | None:
    """Return the list of frames that show findings, most certain first; None when none does."""
    check_source(source, analysed_instances(frames))
    ranked = sorted(analysis.findings, key=lambda finding: -finding.probability)
    by_rank = [frame for finding in ranked for frame in shown_frames([finding], frames)]
    shown = {(f.instance.sop_instance_uid, f.frame_number): f for f in by_rank}.values()
    if not shown:
        return None
    identity = written(context, source, ResultRole.KEY_OBJECTS, KEY_OBJECT_SELECTION)
    listed = [content.source_image(Relation.CONTAINS, None, frame) for frame in shown]
    references = [reference_of(instance) for instance in analysed_instances(list(shown))]
    words = f"Images that show findings of {context.model.title}. {context.standing}"
    return _document(
        context, source, identity,
        title=codes.OF_INTEREST, words=words, listed=listed, references=references,
    )  # fmt: skip


def write_rejection_note(
    context: ResultContext,
    source: SourceStudy,
    withdrawn: Sequence[InstanceReference],
    *,
    why: Rejection,
    words: str,
) -> WrittenResult:
    """Return the note that withdraws these instances; the same list gives the same note.

    Raises
    ------
    ContractViolation
        ``NOTHING_WITHDRAWN``, or ``SOURCE_STUDY_DIFFERS`` when one is of another study.
    """
    if not withdrawn:
        raise ContractViolation("NOTHING_WITHDRAWN", "a rejection note lists what it withdraws")
    if any(one.study_instance_uid != source.study_instance_uid for one in withdrawn):
        raise ContractViolation("SOURCE_STUDY_DIFFERS", "a rejection note is of one study")
    identity = written(context, source, ResultRole.REJECTION_NOTE, KEY_OBJECT_SELECTION)
    uids = sorted(one.sop_instance_uid for one in withdrawn)
    own_uid = derive_uid(
        context.job_id, context.named(ResultRole.REJECTION_NOTE), why.value.value, *uids
    )
    listed = [_listed(one) for one in withdrawn]
    return _document(
        context, source, replace(identity, sop_instance_uid=own_uid),
        title=why.value, words=words, listed=listed, references=withdrawn,
    )  # fmt: skip


def _listed(reference: InstanceReference) -> bytes:
    """Return the item for an instance of any kind."""
    kind = reference.sop_class_uid.removeprefix(_STORAGE)
    show = content.composite if kind.startswith(_WITHOUT_PIXELS) else content.image
    return show(Relation.CONTAINS, None, reference)


def _document(
    context: ResultContext,
    source: SourceStudy,
    identity: WrittenResult,
    *,
    title: Code,
    words: str,
    listed: Sequence[bytes],
    references: Sequence[InstanceReference],
) -> WrittenResult:
    """Return the document around the list (PS3.3 C.17.6)."""
    children = [*language_and_observer(context)]
    if words:
        children.append(content.text(Relation.CONTAINS, codes.KEY_OBJECT_DESCRIPTION, words))
    elements: dict[str, Value] = {
        **common_elements(context, source, identity),
        "ReferencedPerformedProcedureStepSequence": [],
        "CurrentRequestedProcedureEvidenceSequence": evidence(references),
        "ValueType": "CONTAINER",
        "ConceptNameCodeSequence": [content.cached_code(title)],
        **content.container_elements("2010"),
        "ContentSequence": [*children, *listed],
    }
    if source.requests:
        elements["ReferencedRequestSequence"] = list(source.requests)
    return replace(identity, content=part10(elements))
