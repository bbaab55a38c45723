"""Every error this product raises on purpose, and what happens next.

The boundary that catches an error (a DIMSE handler, the HTTP layer, the scheduler's step,
a job) reads its disposition and nothing else::

    OverreadError
    ├── RefusedInstance      REFUSE          the sender is answered; nothing was stored
    ├── InvalidRequest       REFUSE          an HTTP or command-line request is wrong
    ├── NotFound             REFUSE          what was asked for is not here
    ├── OutOfResources       REFUSE          disk below its watermark, database away
    ├── UnsuitableSeries     NOT_APPLICABLE  a clinical outcome, not a fault
    ├── PeerUnavailable      RETRY           a PACS, Redis or the database is away
    ├── LostClaim            RETRY           somebody else holds the job now
    ├── ContractViolation    FAIL            a model or a peer broke its promise
    ├── InvalidResult        FAIL            a SR or SEG did not pass its own checks
    ├── PeerRefused          FAIL            a PACS refused a result for good
    ├── InvalidModel         STOP            a model package cannot be trusted
    └── InvalidSettings      STOP            the settings are wrong; exit code 2
"""

from enum import StrEnum
from typing import ClassVar


class Disposition(StrEnum):
    """What the boundary that catches the error does with the unit of work."""

    REFUSE = "refuse"
    NOT_APPLICABLE = "not_applicable"
    RETRY = "retry"
    FAIL = "fail"
    STOP = "stop"


class OverreadError(Exception):
    """Base of every error this product raises on purpose.

    ``reason`` is a stable code in capitals, safe to store and to show. The message may carry
    UIDs and numbers, never a patient's name, identifier or birth date.
    """

    disposition: ClassVar[Disposition] = Disposition.FAIL

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        """Return reason and message as one line."""
        return f"{self.reason}: {self.message}"

    def __reduce__(self) -> tuple[type["OverreadError"], tuple[str, str]]:
        """Pickle by reason and message, so that errors cross process borders."""
        return type(self), (self.reason, self.message)


class RefusedInstance(OverreadError):
    """A received instance cannot be accepted; nothing of it is kept."""

    disposition = Disposition.REFUSE


class InvalidRequest(OverreadError):
    """A request names something that is not allowed; the message says what is."""

    disposition = Disposition.REFUSE


class NotFound(OverreadError):
    """The study, job, finding or instance asked for is not here."""

    disposition = Disposition.REFUSE


class OutOfResources(OverreadError):
    """The disk is below its watermark or the database is away: try again later."""

    disposition = Disposition.REFUSE


class UnsuitableSeries(OverreadError):
    """The series cannot be analysed by this model, for a stated reason."""

    disposition = Disposition.NOT_APPLICABLE


class PeerUnavailable(OverreadError):
    """A peer did not answer or asked to be tried again."""

    disposition = Disposition.RETRY


class LostClaim(OverreadError):
    """The lease on a unit of work ran out and another process took it over."""

    disposition = Disposition.RETRY


class ContractViolation(OverreadError):
    """A network or an internal caller returned what it had promised not to."""

    disposition = Disposition.FAIL


class InvalidResult(OverreadError):
    """A written object did not pass validation and must not leave."""

    disposition = Disposition.FAIL


class PeerRefused(OverreadError):
    """A peer refused an object for a reason that a repeat will not change."""

    disposition = Disposition.FAIL


class InvalidModel(OverreadError):
    """A model package is broken, altered or beyond its limits."""

    disposition = Disposition.STOP


class InvalidSettings(OverreadError):
    """A setting is missing, unknown or out of its range."""

    disposition = Disposition.STOP
