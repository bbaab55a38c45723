"""A study's state and urgency, kept on its row so that the worklist reads one table.

Both follow from the study's current jobs and their findings; whoever changes those calls
`refresh` in the same transaction.
"""

from datetime import datetime

from sqlalchemy import Connection, select, update

from service.core.findings import Change, Finding, Qualifier
from service.core.priors import change_in_words
from service.core.states import JobState, StudyState
from service.records import comparisons, events
from service.records.events import EventKind
from service.records.tables import findings, jobs, studies

# Above 30 mm a lung lesion is a mass (Fleischner Society's glossary).
_FULL_SIZE_MM = 30.0
# A change takes this part of what is missing to the full urgency; its absence leaves this part.
_RAISED, _RAISE = frozenset({Change.NEW, Change.GROWING}), 0.4
_CALM, _LOWERED = frozenset({Change.STABLE, Change.SHRINKING}), 0.6


def refresh(connection: Connection, study_id: int, *, at: datetime) -> StudyState:
    """Work out state and urgency anew, write them, and tell when the state changed."""
    study = connection.execute(select(studies).where(studies.c.id == study_id)).one()
    state = study_state(connection, study_id, complete=study.completed_revision == study.revision)
    urgency, reason = _urgency(connection, study_id)
    if (state, urgency, reason) == (study.state, study.urgency, study.urgency_reason):
        return state
    connection.execute(
        update(studies)
        .where(studies.c.id == study_id)
        .values(state=state, urgency=urgency, urgency_reason=reason)
    )
    if state != study.state:
        events.append(
            connection,
            kind=EventKind.STUDY,
            study_instance_uid=study.study_instance_uid,
            state=state,
            at=at,
        )
    return state


def study_state(connection: Connection, study_id: int, *, complete: bool) -> StudyState:
    """Return what the study waits for, from the states of its current jobs."""
    if not complete:
        return StudyState.RECEIVING
    query = select(jobs.c.state).where(jobs.c.study_id == study_id, jobs.c.current, ~jobs.c.shadow)
    states = {JobState(state) for (state,) in connection.execute(query)}
    if JobState.IN_PROGRESS in states:
        return StudyState.ANALYSING
    if JobState.SCHEDULED in states:
        return StudyState.QUEUED
    if JobState.FAILED in states:
        return StudyState.FAILED
    return StudyState.ANALYSED if JobState.COMPLETED in states else StudyState.NOT_ANALYSED


def _urgency(connection: Connection, study_id: int) -> tuple[float, str]:
    """Return how soon the study should be read, and the finding that says so, in words."""
    query = (
        select(findings.c.content)
        .join_from(findings, jobs)
        .where(
            findings.c.study_id == study_id,
            findings.c.qualifier == Qualifier.PRESENT,
            jobs.c.current,
            ~jobs.c.shadow,
            jobs.c.state == JobState.COMPLETED,
        )
        .order_by(findings.c.probability.desc(), findings.c.rank)
    )
    present = [Finding.model_validate(content) for content in connection.execute(query).scalars()]
    if not present:
        return 0.0, ""
    if comparisons.is_fetched(connection, study_id):
        return 0.0, "an earlier study, fetched for comparison"
    most_urgent = max(present, key=urgency_of)
    return urgency_of(most_urgent), in_words(most_urgent)


def urgency_of(finding: Finding) -> float:
    """Return the urgency of a present finding, 0 to 1: its probability, less for small lesions.

    A lesion whose long axis is below 30 mm counts for less, down to half for the smallest, so that
    a certain speck does not come before a probable mass. Findings without a size count in full.
    What is new or has grown since an earlier study comes before what has not changed.
    """
    size_mm = finding.measured("long_axis")
    urgency = finding.probability
    if size_mm is not None:
        urgency *= 0.5 + 0.5 * min(1.0, size_mm / _FULL_SIZE_MM)
    change = finding.prior.change if finding.prior else None
    if change in _RAISED:
        return urgency + (1 - urgency) * _RAISE
    return urgency * _LOWERED if change in _CALM else urgency


def in_words(finding: Finding) -> str:
    """Return a finding as the worklist shows it: name, size where measured, probability, change."""
    size = finding.measured("long_axis")
    text = finding.label.meaning if size is None else f"{finding.label.meaning} {size:.0f} mm"
    compared = f", {change_in_words(finding.prior)}" if finding.prior else ""
    return f"{text}, p {finding.probability:.2f}{compared}"
