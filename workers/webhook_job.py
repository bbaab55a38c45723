"""The whole story of one webhook call: claim, post, write down what the webhook said."""

from dataclasses import dataclass
from datetime import timedelta

from service.core.clock import Clock
from service.core.errors import (
    ContractViolation,
    Disposition,
    LostClaim,
    OverreadError,
    PeerRefused,
)
from service.core.logs import get_logger
from service.core.settings import Settings, WebhookSettings
from service.records import webhooks
from service.records.database import Records
from service.records.webhooks import CallClaim
from workers.delivery import webhook

# Longer than one call can take: its connection and answer are bounded by timeouts.
_LEASE = timedelta(seconds=60)

log = get_logger()


@dataclass(frozen=True)
class CallContext:
    """What a process that calls webhooks holds from message to message."""

    settings: Settings
    records: Records
    clock: Clock

    def webhook(self, name: str) -> WebhookSettings | None:
        """Return the configured webhook of that name."""
        return next((item for item in self.settings.webhooks if item.name == name), None)


_context: CallContext | None = None


def use(context: CallContext) -> None:
    """Set what the messages that this process takes are handled with."""
    global _context  # noqa: PLW0603  RQ calls `run` by name with the message's id alone
    _context = context


def run(call_id: str) -> None:
    """Handle one message; the entry point that the queue names."""
    if _context is None:
        raise ContractViolation("NOT_PREPARED", "this process calls no webhooks")
    if not call_id.isdecimal():
        raise ContractViolation("QUEUE_MESSAGE", "a call id is a number")
    make_call(_context, int(call_id))


def make_call(context: CallContext, call_id: int) -> None:
    """Attempt a call once, if it is there to be taken, and write the outcome."""
    with context.records.writing() as connection:
        held = webhooks.claim(connection, call_id, at=context.clock.now(), lease=_LEASE)
    if held is None:
        return
    bound = log.bind(queue=held.webhook, kind=held.event, attempt=held.attempt)
    try:
        try:
            _post(context, held)
        except OverreadError as error:
            _write_failure(context, held, error)
            bound.warning("webhook_failed", reason=error.reason, message=error.message)
        except Exception as error:  # noqa: BLE001  the boundary: whatever a library raised
            unexpected = ContractViolation("UNEXPECTED", type(error).__name__)
            _write_failure(context, held, unexpected, again=True)
            bound.exception("webhook_failed", reason="UNEXPECTED")
        else:
            with context.records.writing() as connection:
                webhooks.delivered(connection, held, at=context.clock.now())
            bound.info("webhook_called")
    except LostClaim as lost:
        bound.warning("claim_lost", reason=lost.reason)


def _post(context: CallContext, held: CallClaim) -> None:
    hook = context.webhook(held.webhook)
    if hook is None:
        raise PeerRefused("WEBHOOK_UNKNOWN", "the settings name no such webhook")
    webhook.call(hook, held, at=context.clock.now())


def _write_failure(
    context: CallContext, held: CallClaim, error: OverreadError, *, again: bool = False
) -> None:
    with context.records.writing() as connection:
        if again or error.disposition is Disposition.RETRY:
            webhooks.try_later(
                connection,
                held,
                reason=error.reason,
                message=error.message,
                at=context.clock.now(),
            )
        else:
            webhooks.park(connection, held, reason=error.reason, message=error.message)
