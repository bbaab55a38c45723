"""All results of one job, written and checked: what the job calls.

`write_results` for an analysis, `write_refusal` for series that were not analysed,
`rejection_note` for what is withdrawn. What they return has passed the gate.
"""

from collections.abc import Sequence

from service.core.findings import Analysis
from service.core.headers import InstanceHeader, SourceFrame
from workers.results.context import InstanceReference, ResultContext, WrittenResult
from workers.results.key_objects import Rejection, write_rejection_note
from workers.results.rendering import Display
from workers.results.secondary_capture import write_secondary_capture
from workers.results.seg import write_seg
from workers.results.source import read_source
from workers.results.sr import write_not_analysed, write_sr
from workers.results.validate import validate_result


def write_results(
    context: ResultContext,
    analysis: Analysis,
    frames: Sequence[SourceFrame],
    *,
    display: Display | None = None,
) -> tuple[WrittenResult, ...]:
    """Return the SEG, where anything was drawn, the SR, and a Secondary Capture, in this order.

    Parameters
    ----------
    frames
        The frames that were analysed, in the order that masks refer to.
    display
        The pixels to draw the Secondary Capture on; without them there is none.

    Raises
    ------
    InvalidResult
        When one of them does not pass `workers.results.validate`; none may be used then.
    ContractViolation
        When the analysis contradicts itself or its source.
    """
    source = read_source(context.source_header)
    segmentation = write_seg(context, source, analysis, frames=frames)
    report = write_sr(context, source, analysis, frames=frames, segmentation=segmentation)
    results = [segmentation, report] if segmentation else [report]
    if context.secondary_capture and display is not None:
        results.append(
            write_secondary_capture(context, source, analysis, frames=frames, display=display)
        )
    for result in results:
        validate_result(result, context, source, analysis=analysis, frames=frames)
    return tuple(results)


def write_refusal(
    context: ResultContext,
    instances: Sequence[InstanceHeader],
    *,
    reason: str,
    message: str,
) -> WrittenResult:
    """Return the SR that says why these instances were not analysed.

    ``reason`` is the stable code of the error or assessment; ``message`` its words, without
    anything that identifies the patient.
    """
    source = read_source(context.source_header)
    report = write_not_analysed(context, source, instances, reason=reason, message=message)
    frames = [SourceFrame(instance) for instance in instances]
    validate_result(report, context, source, analysis=None, frames=frames)
    return report


def rejection_note(
    context: ResultContext,
    withdrawn: Sequence[InstanceReference],
    *,
    why: Rejection = Rejection.QUALITY,
    words: str = "",
) -> WrittenResult:
    """Return the Key Object Selection that withdraws these instances of one study (IHE IOCM).

    Parameters
    ----------
    context
        The job that withdraws: its patient, study and time are the note's.
    withdrawn
        What is to be hidden, as it was delivered; `WrittenResult.reference` names it.
    words
        Said as Key Object Description, without anything that identifies the patient.

    Raises
    ------
    ContractViolation
        ``NOTHING_WITHDRAWN`` or ``SOURCE_STUDY_DIFFERS``.
    InvalidResult
        When the note does not pass the gate.
    """
    source = read_source(context.source_header)
    note = write_rejection_note(context, source, withdrawn, why=why, words=words)
    validate_result(note, context, source, analysis=None, frames=())
    return note
