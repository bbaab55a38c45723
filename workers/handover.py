"""From a job's content to the rows and deliveries that it leaves, in one transaction at its end.

What a newer job takes the place of is held back before anything is written, and marked when the
new objects are there; until then the old ones are seen. Killed in between, the job does it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from service.core.clock import Clock
from service.core.errors import InvalidResult
from service.core.findings import Finding
from service.core.profiles import Profile, adapted
from service.core.settings import Destination, Settings
from service.core.states import JobState, ReportKind, ResultState
from service.records import deliveries, destinations, jobs, results, studies, succession
from service.records.archive import Archive
from service.records.database import Records, Transaction
from service.records.jobs import Claim, Outcome
from service.records.results import StoredAnalysis
from service.records.succession import Predecessor
from workers.output import Content, Forms, Note, Output, StoredObject
from workers.results.context import ResultContext

QUARANTINED: Final = "RESULTS_QUARANTINED"
_REPORT: Final = "sr"
_PLAIN: Final = frozenset({"sr", "seg"})


@dataclass(frozen=True)
class Desk:
    """What it takes to hand over: where rows, files and settings are."""

    settings: Settings
    records: Records
    archive: Archive
    clock: Clock


@dataclass(frozen=True)
class Document:
    """What a job hands over.

    ``job_id`` is the job that its objects belong to: another one where only a form is added.
    ``found`` and ``analysis`` are those of a run, None for a report made anew.
    """

    job_id: str
    context: ResultContext
    content: Content
    kind: ReportKind | None = None
    found: Sequence[Finding] | None = None
    analysis: StoredAnalysis | None = None


@dataclass(frozen=True)
class Receiver:
    """A destination of the job, and what it gets, refusals of the past considered."""

    destination: Destination
    profile: Profile


@dataclass(frozen=True)
class _Plan:
    receivers: Sequence[Receiver]
    giving_way: Sequence[Predecessor]
    known: dict[str, int]


def receivers(desk: Desk, held: Claim, *, reviewed: bool) -> list[Receiver]:
    """Return who gets the results of a job; some want only what a reader has reviewed."""
    with desk.records.reading() as connection:
        refused = destinations.refused(connection, at=desk.clock.now())
    return [
        Receiver(one, adapted(one.profile, refused.get(one.name, ())).profile)
        for one in desk.settings.destinations
        if one.name in (held.destinations or ()) and (reviewed or not one.only_reviewed)
    ]


def needs_pixels(desk: Desk, held: Claim, *, reviewed: bool) -> bool:
    """Return whether anybody gets an object that is drawn on the images."""
    wanted = receivers(desk, held, reviewed=reviewed)
    return any(set(one.profile.objects) - _PLAIN for one in wanted)


def hand_over(desk: Desk, held: Claim, document: Document, outcome: Outcome) -> Outcome:
    """Write what a job leaves, end the job, and return how it ended.

    Raises
    ------
    LostClaim
        When another worker took the job; nothing is seen of this one's work then.
    ContractViolation
        When the analysis contradicts itself or its source.
    """
    plan = _planned(desk, held, document)
    output = Output(desk.archive, document.context, held.study_instance_uid)
    profiles = [one.profile for one in plan.receivers]
    stored = output.write(document.content, Forms(profiles, plan.giving_way, plan.known))
    notes, unnoted = _notes(output, plan, document)
    ended = _judged(outcome, stored, unnoted)
    with desk.records.writing() as connection:
        _commit(desk, connection, held, document, (plan, stored, notes))
        # Last, because it works out the study's urgency from the findings just written.
        jobs.finish(connection, held, ended, at=desk.clock.now())
    return ended


def _planned(desk: Desk, held: Claim, document: Document) -> _Plan:
    """Hold back what gives way, and return what is to be written for whom."""
    reviewed = document.context.review is not None
    wanted = receivers(desk, held, reviewed=reviewed)
    with desk.records.writing() as connection:
        known = results.valid_of(connection, document.job_id)
        if document.kind is ReportKind.FORM:
            giving_way = succession.replaced_by(connection, document.job_id)
        elif held.shadow:
            giving_way = []
        else:
            giving_way = succession.predecessors(connection, held, document=document.job_id)
            succession.hold_back(connection, giving_way, at=desk.clock.now())
    return _Plan(wanted, giving_way, {one.sop_instance_uid: one.result_id for one in known})


def _notes(
    output: Output, plan: _Plan, document: Document
) -> tuple[list[Note], list[InvalidResult]]:
    """Write a rejection note for each destination that wants one and has what is withdrawn."""
    notes, faults = [], []
    if document.kind is ReportKind.FORM:
        return [], []
    for one in plan.receivers:
        name = one.destination.name
        withdrawn = [each for each in plan.giving_way if name in each.destinations]
        if not (one.destination.rejection_notes and withdrawn):
            continue
        try:
            notes.append(Note(name, output.note(withdrawn, one.profile)))
        except InvalidResult as fault:
            faults.append(fault)
    return notes, faults


def _judged(
    outcome: Outcome, stored: Sequence[StoredObject], unnoted: Sequence[InvalidResult]
) -> Outcome:
    """Return how the job ends when some of its objects are held back."""
    faulty = [one.result for one in stored if one.result.state is ResultState.QUARANTINED]
    if not (faulty or unnoted):
        return outcome
    told = [f"{one.role}: {one.reason}: {one.message}" for one in faulty]
    told += [f"rejection: {fault}" for fault in unnoted]
    message = "; ".join(dict.fromkeys(told))
    if any(one.role == _REPORT and not one.form for one in faulty):
        return replace(outcome, state=JobState.FAILED, reason=faulty[0].reason, message=message)
    return replace(outcome, reason=QUARANTINED, message=message)


def _commit(
    desk: Desk,
    connection: Transaction,
    held: Claim,
    document: Document,
    written: tuple[_Plan, Sequence[StoredObject], Sequence[Note]],
) -> None:
    plan, stored, notes = written
    now = desk.clock.now()
    stands = not _report_failed(stored, form="")
    in_force = _in_force(connection, held, document)
    if stands and document.found is not None:
        results.write_findings(connection, held, document.found)
    if stands and document.analysis is not None:
        results.write_analysis(connection, held.job_id, document.analysis)
    hidden = []
    for item in stored:
        row = item.result
        if row.state is ResultState.VALID and not in_force:
            row = replace(row, state=ResultState.SUPERSEDED)
        results.write_result(connection, held, row, document=document.job_id, at=now)
        if item.received is not None:
            studies.register_result(connection, item.received, at=now)
            hidden += [] if in_force and not held.shadow else [row.series_instance_uid]
    results.hide_series(connection, held.study_id, hidden)
    if not (stands and in_force):
        return
    if document.kind is not ReportKind.FORM:
        by = None if document.kind is ReportKind.WITHDRAWAL else document.job_id
        succession.supersede(connection, held.study_id, plan.giving_way, by=by, at=now)
        kept = succession.held_back_before(connection, held, document=document.job_id)
        succession.lay_aside(connection, kept, by=by, at=now)
    valid = results.valid_of(connection, document.job_id)
    for receiver in plan.receivers:
        form = receiver.profile.form_of(_REPORT)
        if _REPORT in receiver.profile.objects and _report_failed(stored, form=form):
            continue
        for one in valid:
            if receiver.profile.wants(one.role, one.form):
                _send(connection, held, receiver.destination.name, one.result_id, desk.clock)
    for note in notes:
        row = note.stored.result
        number = results.write_result(connection, held, row, document=document.job_id, at=now)
        _send(connection, held, note.destination, number, desk.clock)


def _send(
    connection: Transaction, held: Claim, destination: str, result_id: int, clock: Clock
) -> None:
    deliveries.schedule(
        connection,
        result_id=result_id,
        study_id=held.study_id,
        destination=destination,
        priority=held.priority,
        at=clock.now(),
    )


def _in_force(connection: Transaction, held: Claim, document: Document) -> bool:
    """Return whether what is handed over is still wanted, or was overtaken meanwhile."""
    if document.kind is ReportKind.WITHDRAWAL:
        return True
    if held.report_of is None:
        return succession.is_current(connection, held.job_id)
    if not succession.is_current(connection, held.report_of):
        return False
    if document.kind is ReportKind.FORM:
        return succession.document_in_force(connection, held.report_of) == document.job_id
    return not succession.has_newer_report(connection, held)


def _report_failed(stored: Sequence[StoredObject], *, form: str) -> bool:
    return any(
        (one.result.role, one.result.form) == (_REPORT, form)
        and one.result.state is ResultState.QUARANTINED
        for one in stored
    )
