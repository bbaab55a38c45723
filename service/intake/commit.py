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
    spool: Spool
    received: ReceivedInstance
    outcome: Registration | OverreadError | None = None
    done: bool = False


class GroupCommit:
    """Makes instances durable: file and folder on the disk, then the row; one per process."""

    def __init__(self, records: Records, archive: Archive, clock: Clock) -> None:
        self._records = records
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
        mine = _Waiting(spool, received)
        spool.sync()
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
        unnamed = [each for each in batch if not self._is_kept(each)]
        self._archive.keep((each.spool, each.received.file.path) for each in unnamed)
        received = [each.received for each in batch]
        outcomes = studies.register_each(self._records, received, at=at)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            waiting.outcome = outcome

    def _is_kept(self, waiting: _Waiting) -> bool:
        """Return whether exactly this file is in the archive already; its name says its bytes.

        One of another size has another header before the same data set, written by another
        version of this product; it must stay as it is when a row points into it.
        """
        file = waiting.received.file
        size_bytes = self._archive.size_bytes(file.path)
        if size_bytes is None or size_bytes == file.size_bytes:
            return size_bytes is not None
        with self._records.reading() as connection:
            return studies.has_version(
                connection,
                sop_instance_uid=waiting.received.sop_instance_uid,
                sha256=file.sha256,
            )
