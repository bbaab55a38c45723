"""Group commit: instances that come in at the same time share one trip to disk and database.

Whoever finds the turn free commits for everybody who waits by then; one association alone pays
for one round each, forty together pay for a few.
"""

import threading
from dataclasses import dataclass
from datetime import datetime

from service.core.clock import Clock
from service.core.errors import OutOfResources, OverreadError
from service.records import studies
from service.records.archive import Archive, Spool
from service.records.database import Records
from service.records.studies import ReceivedInstance, Registration


@dataclass
class _Waiting:
    received: ReceivedInstance
    outcome: Registration | OverreadError | None = None
    done: bool = False


class GroupCommit:
    """Makes instances durable: file and folder on the disk, then the row; one per process."""

    def __init__(self, records: Records, archive: Archive, clock: Clock) -> None:
        self._records = records
        self._writer = records.writer()
        self._archive = archive
        self._clock = clock
        self._waiting: list[_Waiting] = []
        self._guard = threading.Lock()
        self._turn = threading.Lock()

    def commit(self, spool: Spool, received: ReceivedInstance) -> Registration:
        """Return once the instance is durable and its row committed.

        Raises
        ------
        OutOfResources
            When disk or database did not take it: the sender must try again.
        RefusedInstance
            ``UNSTORABLE`` when the database cannot hold its values.
        """
        mine = _Waiting(received)
        if not self._is_kept(received):
            # Each association waits for the disk itself: the kernel joins such waits into one.
            self._archive.keep([(spool, received.file.path)])
        with self._guard:
            self._waiting.append(mine)
        with self._turn:
            if not mine.done:
                self._round()
        if mine.outcome is None:  # who committed for us met a fault of our own making
            raise OutOfResources("NOT_COMMITTED", "the instance was not committed")
        if isinstance(mine.outcome, OverreadError):
            raise mine.outcome
        return mine.outcome

    def _round(self) -> None:
        with self._guard:
            batch, self._waiting = self._waiting, []
        try:
            self._commit(batch, self._clock.now())
        except OverreadError as error:
            for waiting in batch:
                waiting.outcome = error
        finally:
            for waiting in batch:
                waiting.done = True

    def _commit(self, batch: list[_Waiting], at: datetime) -> None:
        received = [each.received for each in batch]
        outcomes = studies.register_each(self._writer, received, at=at)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            waiting.outcome = outcome

    def _is_kept(self, received: ReceivedInstance) -> bool:
        """Return whether exactly these bytes are in the archive for good: file and row.

        A file without a row may be what a power cut left, or on its way to the disk by another
        association; it is written again. One with a row stays as it is, since the row points into
        it, even when another version of this product wrote another header before the data set.
        """
        if self._archive.size_bytes(received.file.path) is None:
            return False
        with self._records.reading() as connection:
            return studies.has_version(
                connection,
                sop_instance_uid=received.sop_instance_uid,
                sha256=received.file.sha256,
            )
