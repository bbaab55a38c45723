"""The states of studies, jobs and deliveries, and every change of state that is allowed.

Job states are those of the Unified Procedure Step (PS3.4 Annex CC) plus NOT_APPLICABLE, a clinical
outcome, and FAILED, which a person may put back in the queue.
"""

from enum import StrEnum
from types import MappingProxyType
from typing import Final


class StudyState(StrEnum):
    """What a study is waiting for, as the worklist shows it."""

    RECEIVING = "RECEIVING"  # instances are still coming in, or the quiet time runs
    QUEUED = "QUEUED"  # complete; at least one job waits and none runs
    ANALYSING = "ANALYSING"  # at least one job runs
    ANALYSED = "ANALYSED"  # every job is over and at least one completed
    NOT_ANALYSED = "NOT_ANALYSED"  # no model could be applied; the reasons say why
    FAILED = "FAILED"  # a job failed and waits for a person


class JobState(StrEnum):
    """The life of one model run on one series."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    NOT_APPLICABLE = "NOT_APPLICABLE"  # the volume showed that the model must not be used
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class DeliveryState(StrEnum):
    """The life of one result on its way to one destination."""

    SCHEDULED = "SCHEDULED"  # due now, or at its next attempt
    IN_PROGRESS = "IN_PROGRESS"
    DELIVERED = "DELIVERED"  # the destination answered success
    PARKED = "PARKED"  # refused for good, or tried for too long: a person must look
    CANCELED = "CANCELED"


class ReadingState(StrEnum):
    """How far a person is with a study."""

    UNREAD = "UNREAD"
    READING = "READING"  # somebody has taken it
    READ = "READ"


class CommitmentState(StrEnum):
    """Whether a destination said that it keeps a delivered result (PS3.4 annex J)."""

    NONE = ""  # it is not asked
    DUE = "DUE"  # it is to be asked
    REQUESTED = "REQUESTED"  # it took the question; its report is awaited
    COMMITTED = "COMMITTED"
    REFUSED = "REFUSED"  # it does not keep the result, which is sent again
    FAILED = "FAILED"  # it never said


class ResultState(StrEnum):
    """Whether a written object may leave."""

    VALID = "VALID"
    QUARANTINED = "QUARANTINED"  # did not pass its checks; kept for an administrator to look at
    SUPERSEDED = "SUPERSEDED"  # a newer result says something else, or nothing


class ReportKind(StrEnum):
    """Why results are made anew from what a run kept."""

    ANEW = "anew"  # another operating point, a review, or objects that were held back
    FORM = "form"  # the same document for a destination that refused a form of it
    WITHDRAWAL = "withdrawal"  # the run's model does not suit the study any more


class Priority(StrEnum):
    """How soon a study is wanted; STAT overtakes HIGH overtakes ROUTINE."""

    STAT = "STAT"
    HIGH = "HIGH"
    ROUTINE = "ROUTINE"


PRIORITY_RANK: Final = MappingProxyType({Priority.STAT: 2, Priority.HIGH: 1, Priority.ROUTINE: 0})

JOB_TRANSITIONS: Final = MappingProxyType(
    {
        JobState.SCHEDULED: frozenset(
            {JobState.IN_PROGRESS, JobState.CANCELED, JobState.FAILED}  # FAILED: poison, parked
        ),
        JobState.IN_PROGRESS: frozenset(
            {
                JobState.COMPLETED,
                JobState.NOT_APPLICABLE,
                JobState.FAILED,
                JobState.SCHEDULED,  # to be tried again, or the lease ran out
                JobState.CANCELED,
            }
        ),
        JobState.FAILED: frozenset({JobState.SCHEDULED}),  # a person asked for another try
        JobState.CANCELED: frozenset({JobState.SCHEDULED}),
        JobState.COMPLETED: frozenset(),
        JobState.NOT_APPLICABLE: frozenset(),
    }
)

DELIVERY_TRANSITIONS: Final = MappingProxyType(
    {
        DeliveryState.SCHEDULED: frozenset({DeliveryState.IN_PROGRESS, DeliveryState.CANCELED}),
        DeliveryState.IN_PROGRESS: frozenset(
            {
                DeliveryState.DELIVERED,
                DeliveryState.SCHEDULED,
                DeliveryState.PARKED,
                DeliveryState.CANCELED,
            }
        ),
        # CANCELED: a newer result took its place, or another form of it goes out instead.
        DeliveryState.PARKED: frozenset({DeliveryState.SCHEDULED, DeliveryState.CANCELED}),
        DeliveryState.DELIVERED: frozenset({DeliveryState.SCHEDULED}),  # "send again"
        DeliveryState.CANCELED: frozenset(),
    }
)

FINISHED_JOB_STATES: Final = frozenset(
    {JobState.COMPLETED, JobState.NOT_APPLICABLE, JobState.FAILED, JobState.CANCELED}
)
