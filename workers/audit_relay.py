"""Passes the audit trail on to a syslog server, in order, from where it stopped.

The trail itself is the queue: a server that is away for a day gets everything afterwards. TCP says
nothing of what arrived; after a lost connection the last batch is therefore sent once more.
"""

import socket
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from service.core.clock import Clock
from service.core.errors import OverreadError, PeerUnavailable
from service.core.logs import get_logger
from service.core.settings import Settings
from service.records import audit, patients, relays
from service.records.audit import AuditEvent, AuditOutcome
from service.records.database import Records
from service.records.heartbeats import process_name
from workers.delivery.audit_message import message
from workers.delivery.syslog import Syslog, line

RELAY: Final = "syslog"
_APPLICATION: Final = "overread"
_LEASE: Final = timedelta(seconds=30)
_AT_ONCE: Final = 100
_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0

log = get_logger()


class AuditRelay:
    """Sends what is new; one process at a time does."""

    def __init__(self, settings: Settings, records: Records, clock: Clock) -> None:
        self._settings = settings
        self._records = records
        self._clock = clock
        self._holder = process_name("deliverer")
        self._syslog = Syslog(settings.audit.syslog)
        self._before: int | None = None  # where the batch began whose arrival is not certain

    def step(self) -> int:
        """Send one batch and return how many entries it had.

        Raises
        ------
        PeerUnavailable
            ``SYSLOG``.
        OutOfResources
            The database is away.
        """
        now = self._clock.now()
        with self._records.writing() as connection:
            position = relays.take(connection, RELAY, self._holder, at=now, lease=_LEASE, start=0)
        if position is None:
            return 0
        position = self._certain(position)
        with self._records.reading() as connection:
            found = audit.after(connection, position, limit=_AT_ONCE)
            uids = {event.study_instance_uid for event in found} - {""}
            named = self._settings.audit.syslog.names_patients
            patient_ids = patients.ids_of(connection, uids) if named else {}
        if not found:
            return 0
        try:
            self._send(found, patient_ids)
        except PeerUnavailable as error:
            with self._records.writing() as connection:
                relays.stuck(connection, RELAY, self._holder, reason=error.reason)
            raise
        with self._records.writing() as connection:
            last = found[-1].id
            relays.advance(connection, RELAY, self._holder, position=last, at=self._clock.now())
        self._before = position
        return len(found)

    def close(self) -> None:
        """Close the connection."""
        self._syslog.close()

    def _certain(self, position: int) -> int:
        """Return where to go on: a batch back when the server has hung up since."""
        try:
            self._syslog.check()
        except PeerUnavailable as error:
            log.warning("syslog_lost", reason=error.reason)
            return position if self._before is None else min(position, self._before)
        return position

    def _send(self, found: Sequence[AuditEvent], patient_ids: Mapping[str, str]) -> None:
        source = self._settings.dicom.ae_title
        for event in found:
            body = message(
                event,
                source_id=source,
                patient_id=patient_ids.get(event.study_instance_uid, ""),
            )
            self._syslog.send(
                line(
                    body,
                    at=event.at,
                    host=socket.gethostname(),
                    process=event.process,
                    failed=event.outcome is AuditOutcome.FAILURE,
                    application=_APPLICATION,
                )
            )


def run(settings: Settings, records: Records, clock: Clock, stop: threading.Event) -> None:
    """Pass the trail on until `stop` is set; a server that is away is waited for."""
    relay = AuditRelay(settings, records, clock)
    pause_s = _PAUSE_S
    while not stop.is_set():
        try:
            sent = relay.step()
            pause_s = _PAUSE_S
        except OverreadError as error:
            sent = 0
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
            log.warning("audit_not_passed_on", reason=error.reason, message=error.message)
        if not sent:
            stop.wait(pause_s)
    relay.close()
