"""All results of one job, written and checked: what the job calls.

`ResultWriter` writes an analysis in every form that destinations want, each object once;
`write_results` in the usual one; `write_refusal` for series that were not analysed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from service.core.errors import InvalidResult
from service.core.findings import Analysis
from service.core.headers import InstanceHeader, SourceFrame
from workers.results.charset import in_source_text
from workers.results.context import ResultContext, ResultRole, WrittenResult
from workers.results.on_request import ON_REQUEST
from workers.results.rendering import Display
from workers.results.secondary_capture import write_secondary_capture
from workers.results.seg import write_seg
from workers.results.source import SourceStudy, read_source
from workers.results.sr import write_not_analysed, write_sr
from workers.results.validate import validate_result

USUAL_ROLES: Final = (ResultRole.SEG, ResultRole.SR)
HELD_BACK: Final = "REPORT_HELD_BACK"


@dataclass(frozen=True)
class Judged:
    """A written object, the key of its form, and why it must not leave, if it must not."""

    result: WrittenResult
    form: str = ""
    fault: InvalidResult | None = None


class ResultWriter:
    """Writes the objects of one document.

    What a segmentation that failed its checks was to be referenced for goes without it. Where the
    report fails, nothing of its form may leave: a picture or regions alone would read as the whole
    result of an analysis that contradicts itself.
    """

    def __init__(
        self,
        context: ResultContext,
        analysis: Analysis,
        frames: Sequence[SourceFrame],
        *,
        display: Display | None = None,
    ) -> None:
        self._source = read_source(context.source_header)
        self._analysis = analysis
        self._frames = frames
        self._display = display
        self._known: dict[tuple[str, str], Judged | None] = {}

    def write(
        self, context: ResultContext, roles: Collection[str] = USUAL_ROLES
    ) -> tuple[Judged, ...]:
        """Return the objects of these roles in one form; none where there is nothing to write.

        Raises
        ------
        ContractViolation
            When the analysis contradicts itself or its source.
        """
        wanted = [role for role in ResultRole if role in roles]
        judged = [one for role in wanted if (one := self._judged(context, role)) is not None]
        report = next((one for one in judged if one.result.role is ResultRole.SR), None)
        if report is None or report.fault is None:
            return tuple(judged)
        return tuple(_held_back(one, report.fault) for one in judged)

    def _judged(self, context: ResultContext, role: ResultRole) -> Judged | None:
        """Write an object and judge it, unless this form of it is there already."""
        form = context.forms.get(role, "")
        if (role, form) not in self._known:
            self._known[role, form] = self._judge(context, self._written(context, role))
        return self._known[role, form]

    def _written(self, context: ResultContext, role: ResultRole) -> WrittenResult | None:
        source, frames = self._source, self._frames
        match role:
            case ResultRole.SEG:
                return write_seg(context, source, self._analysis, frames=frames)
            case ResultRole.SR:
                regions = self._regions(context)
                analysis = self._analysis if regions else without_segments(self._analysis)
                return write_sr(context, source, analysis, frames=frames, segmentation=regions)
            case ResultRole.SECONDARY_CAPTURE if self._display is not None:
                return write_secondary_capture(
                    context, source, self._analysis, frames=frames, display=self._display
                )
            case _ if role in ON_REQUEST:
                return ON_REQUEST[role](context, source, self._analysis, frames, self._display)
            case _:
                return None

    def _regions(self, context: ResultContext) -> WrittenResult | None:
        """Return the segmentation that the report may name."""
        judged = self._judged(context, ResultRole.SEG)
        return judged.result if judged is not None and judged.fault is None else None

    def _judge(self, context: ResultContext, result: WrittenResult | None) -> Judged | None:
        if result is None:
            return None
        if context.source_text:
            result = replace(result, content=in_source_text(result.content, self._source))
        form = context.forms.get(result.role, "")
        try:
            validate_result(
                result, context, self._source, analysis=self._analysis, frames=self._frames
            )
        except InvalidResult as fault:
            return Judged(result, form, fault)
        return Judged(result, form)


def without_segments(analysis: Analysis) -> Analysis:
    """Return the same findings for a report that no segmentation goes with."""
    bare = tuple(f.model_copy(update={"segment_number": None}) for f in analysis.findings)
    return replace(analysis, findings=bare)


def write_results(
    context: ResultContext,
    analysis: Analysis,
    frames: Sequence[SourceFrame],
    *,
    display: Display | None = None,
    also: Collection[str] = (),
) -> tuple[WrittenResult, ...]:
    """Return the SEG, where anything was drawn, the SR, a Secondary Capture, and what is asked.

    Parameters
    ----------
    frames
        The frames that were analysed, in the order that masks refer to.
    display
        The pixels to draw the Secondary Capture on; without them there is none.
    also
        Further roles to write, of those in `ON_REQUEST`. One that has nothing to show, such as key
        images of a study without findings, is left out.

    Raises
    ------
    InvalidResult
        When one of them does not pass `workers.results.validate`; none may be used then.
    ContractViolation
        When the analysis contradicts itself or its source.
    """
    picture = [ResultRole.SECONDARY_CAPTURE] if context.secondary_capture else []
    roles = (*USUAL_ROLES, *picture, *also)
    judged = ResultWriter(context, analysis, frames, display=display).write(context, roles)
    for one in judged:
        if one.fault is not None:
            raise one.fault
    return tuple(one.result for one in judged)


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
    return checked(report, context, source, [SourceFrame(instance) for instance in instances])


def checked(
    result: WrittenResult,
    context: ResultContext,
    source: SourceStudy,
    frames: Sequence[SourceFrame] = (),
) -> WrittenResult:
    """Return an object that stands for no analysis, in its character set, when it passes the gate.

    Raises
    ------
    InvalidResult
        When it does not.
    """
    if context.source_text:
        result = replace(result, content=in_source_text(result.content, source))
    validate_result(result, context, source, analysis=None, frames=frames)
    return result


def _held_back(one: Judged, fault: InvalidResult) -> Judged:
    if one.fault is not None:
        return one
    return replace(one, fault=InvalidResult(HELD_BACK, f"its report failed: {fault}"))
