"""The whole story of one search for earlier studies: claim, ask the PACS, write what comes."""

from dataclasses import dataclass
from datetime import timedelta

from service.core.clock import Clock
from service.core.errors import ContractViolation, Disposition, LostClaim, OverreadError
from service.core.logs import get_logger
from service.core.settings import Settings
from service.records import comparisons
from service.records.comparisons import Comparison
from service.records.database import Records
from workers.priors.fetching import Fetched, fetch_priors, source_of

_MAX_ATTEMPTS = 3
_FIRST_PAUSE = timedelta(seconds=5)

log = get_logger()


@dataclass(frozen=True)
class PriorsContext:
    """What a process that asks for priors holds from message to message."""

    settings: Settings
    records: Records
    clock: Clock


_context: PriorsContext | None = None


def use(context: PriorsContext) -> None:
    """Set what the messages that this process takes are handled with."""
    global _context  # noqa: PLW0603  RQ calls `run` by name with the message's id alone
    _context = context


def run(comparison_id: str) -> None:
    """Handle one message; the entry point that the queue names."""
    if _context is None:
        raise ContractViolation("NOT_PREPARED", "this process asks for no priors")
    if not comparison_id.isdecimal():
        raise ContractViolation("QUEUE_MESSAGE", "a comparison id is a number")
    seek(_context, int(comparison_id))


def seek(context: PriorsContext, comparison_id: int) -> None:
    """Ask for a study's priors once, if that is there to be done; every error ends here."""
    # As long as the study would wait anyway: after that nobody cares for what comes.
    lease = timedelta(seconds=context.settings.priors.give_up_s)
    with context.records.writing() as connection:
        held = comparisons.claim(connection, comparison_id, at=context.clock.now(), lease=lease)
    if held is None:
        return
    try:
        _finish(context, held, _ask(context, held))
    except LostClaim:
        return
    except OverreadError as error:
        _give_up_or_wait(context, held, error)
    except Exception as error:
        log.exception("priors_failed", study_instance_uid=held.study_instance_uid)
        unexpected = ContractViolation("UNEXPECTED", f"{type(error).__name__} while fetching")
        _give_up_or_wait(context, held, unexpected)


def _ask(context: PriorsContext, held: Comparison) -> Fetched:
    source = source_of(context.settings)
    if source is None:
        return Fetched((), "NO_SOURCE", "no PACS is configured")
    return fetch_priors(
        source, held, settings=context.settings, records=context.records, clock=context.clock
    )


def _give_up_or_wait(context: PriorsContext, held: Comparison, error: OverreadError) -> None:
    """Try again soon what may pass; otherwise the study goes on without its priors."""
    now = context.clock.now()
    log.warning(
        "priors_not_fetched",
        study_instance_uid=held.study_instance_uid,
        reason=error.reason,
        attempt=held.attempts,
    )
    due_at = now + _FIRST_PAUSE * 2 ** (held.attempts - 1)
    again = error.disposition is Disposition.RETRY and held.attempts < _MAX_ATTEMPTS
    if again and due_at < held.give_up_at:
        with context.records.writing() as connection:
            comparisons.fetch_later(connection, held, reason=error.reason, due_at=due_at)
        return
    _finish(context, held, Fetched((), error.reason, error.message))


def _finish(context: PriorsContext, held: Comparison, came: Fetched) -> None:
    with context.records.writing() as connection:
        comparisons.fetched(
            connection,
            held,
            came.study_instance_uids,
            reason=came.reason,
            message=came.message,
        )
    log.info(
        "priors_asked",
        study_instance_uid=held.study_instance_uid,
        count=len(came.study_instance_uids),
        reason=came.reason,
    )
