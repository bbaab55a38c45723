"""Tells commitment reports to requestors that hung up, on associations of our own.

The reports are rows, so that none is forgotten when a process dies; whichever process of the
listener finds one due tells it.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Final

from pynetdicom import AE, build_context, build_role

from service.core.clock import Clock
from service.core.errors import OutOfResources
from service.core.logs import get_logger
from service.core.settings import Destination
from service.intake.commitment import COMMITMENT, COMMITMENT_INSTANCE, Commitment, Report
from service.intake.tls import calling_context
from service.records import commitments
from service.records.commitments import OwedReport
from service.records.database import Records

_LOOK_EVERY_S: Final = 2.0
_TIMEOUT_S: Final = 15.0

log: Final = get_logger()


class Reporter:
    """Looks for owed reports until the listener stops."""

    def __init__(
        self,
        records: Records,
        commitment: Commitment,
        destinations: Sequence[Destination],
        *,
        clock: Clock,
        calling_ae_title: str,
    ) -> None:
        self._records = records
        self._commitment = commitment
        self._clock = clock
        self._calling_ae_title = calling_ae_title
        self._destinations: Mapping[str, Destination] = {
            each.ae_title.strip(): each for each in destinations if each.ae_title is not None
        }

    def run(self, stopping: threading.Event) -> None:
        """Tell what is due, every few seconds; a database that is away is tried again."""
        while not stopping.wait(_LOOK_EVERY_S):
            try:
                self.step()
            except OutOfResources as error:
                log.warning("reports_not_looked_at", reason=error.reason)

    def step(self) -> None:
        """Tell every report that is due.

        Raises
        ------
        OutOfResources
            ``DATABASE_AWAY``.
        """
        while (owed := self._next()) is not None:
            destination = self._destinations.get(owed.calling_ae_title)
            if destination is None:
                log.warning("commitment_not_told", calling_ae_title=owed.calling_ae_title)
            elif not _told(destination, self._commitment.again(owed), self._calling_ae_title):
                log.warning("commitment_not_told", destination=destination.name)
                continue
            with self._records.writing() as connection:
                commitments.settle(connection, owed.id)

    def _next(self) -> OwedReport | None:
        now = self._clock.now()
        with self._records.reading() as connection:
            if not commitments.is_any_owed(connection, at=now):
                return None
        with self._records.writing() as connection:
            late = commitments.forget_old(connection, at=now)
            owed = commitments.take_owed(connection, at=now)
        if late:
            log.error("commitments_given_up", count=late)
        return owed


def _told(destination: Destination, report: Report, calling_ae_title: str) -> bool:
    """Send one N-EVENT-REPORT; we remain the provider though we open the association."""
    entity = AE(calling_ae_title)
    entity.connection_timeout = _TIMEOUT_S
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _TIMEOUT_S
    tls = destination.tls
    association = entity.associate(
        destination.host or "",
        destination.port or 0,
        contexts=[build_context(COMMITMENT)],
        ae_title=destination.ae_title or "",
        ext_neg=[build_role(COMMITMENT, scp_role=True)],
        tls_args=(calling_context(tls), destination.host or "") if tls.enabled else None,
    )
    if not association.is_established:
        return False
    try:
        status, _ = association.send_n_event_report(
            report.dataset(), report.event_type, COMMITMENT, COMMITMENT_INSTANCE
        )
        return bool(status.get("Status") == 0)
    except (RuntimeError, ValueError):  # aborted under way, or the context was not accepted
        return False
    finally:
        association.release()
