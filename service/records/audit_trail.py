"""A process's way into the audit trail: entries are noted at once and written behind the answer.

What is noted while one batch is being written makes up the next, so that a busy process writes
few transactions and an idle one writes at once. A database that is away keeps entries waiting, up
to a bound; what does not fit is counted, and the count is the next entry.
"""

import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from service.core.clock import Clock
from service.core.errors import OverreadError
from service.core.logs import get_logger
from service.records import audit
from service.records.audit import AuditEntry, AuditKind, AuditOutcome
from service.records.database import Records, Transaction
from service.records.heartbeats import process_name
from service.records.subjects import study_of

_WAITING_LIMIT = 20_000
_BATCH = 500
_SEEN_LIMIT = 20_000
# Seen again and again by a page that refreshes or a viewer that loads frame by frame.
_REPEATED = frozenset({AuditKind.QUERY, AuditKind.VIEW, AuditKind.RETRIEVE, AuditKind.IMPORT})
# Refusals are told one by one to a person who looks, but not a thousand a second.
_REFUSED_AGAIN_S = 10.0

log = get_logger()


class AuditTrail:
    """Takes entries from any thread; `close` writes what still waits."""

    def __init__(
        self, records: Records, clock: Clock, role: str, *, same_again_s: float = 300.0
    ) -> None:
        self._records = records
        self._clock = clock
        self._process = process_name(role)
        self._same_again_s = same_again_s
        self._waiting: deque[AuditEntry] = deque()
        self._seen: OrderedDict[AuditEntry, float] = OrderedDict()
        self._lost = 0
        self._lock = threading.Lock()
        self._writing = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="audit")

    def note(
        self,
        kind: AuditKind,
        operation: str,
        *,
        actor: str,
        outcome: AuditOutcome = AuditOutcome.SUCCESS,
        **more: str,
    ) -> None:
        """Note that something was done, or refused, now; returns at once.

        `more` are the other fields of an entry. The same thing again within a few minutes, by the
        same actor from the same address, makes no second entry where it only was looked at.
        """
        now = self._clock.now()
        entry = AuditEntry(
            at=now, kind=kind, operation=operation, actor=actor, outcome=outcome, **more
        )
        with self._lock:
            if self._is_repeated(replace(entry, at=now.min)):
                return
            if len(self._waiting) >= _WAITING_LIMIT:
                self._lost += 1
                return
            self._waiting.append(entry)
            if self._writing:
                return
            self._writing = True
        self._submit()

    def flush(self) -> None:
        """Wait until everything noted so far is written, or could not be."""
        self._writer.submit(self._drain).result()

    def close(self) -> None:
        """Write what waits and end; what cannot be written is told to the log."""
        self._writer.submit(self._drain)
        self._writer.shutdown()
        if self._waiting:
            log.error("audit_entries_lost", count=len(self._waiting) + self._lost)

    def _is_repeated(self, what: AuditEntry) -> bool:
        if what.kind is not AuditKind.REFUSAL and what.kind not in _REPEATED:
            return False
        again_s = _REFUSED_AGAIN_S if what.kind is AuditKind.REFUSAL else self._same_again_s
        now = time.monotonic()
        seen_at = self._seen.get(what)
        if seen_at is not None and now - seen_at < again_s:
            return True
        self._seen[what] = now
        self._seen.move_to_end(what)
        if len(self._seen) > _SEEN_LIMIT:
            self._seen.popitem(last=False)
        return False

    def _submit(self) -> None:
        try:
            future: Future[None] = self._writer.submit(self._drain)
        except RuntimeError:  # closed: the process ends
            return
        future.add_done_callback(_told)

    def _drain(self) -> None:
        while batch := self._batch():
            try:
                with self._records.writing() as connection:
                    entries = [_with_study(connection, entry) for entry in batch]
                    audit.append(connection, entries, process=self._process)
            except OverreadError as error:
                log.error("audit_waits", reason=error.reason, count=len(batch))
                with self._lock:
                    self._waiting.extendleft(reversed(batch))
                    self._writing = False  # the next entry tries again
                return

    def _batch(self) -> list[AuditEntry]:
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            if self._lost:
                batch.append(self._gap())
                self._lost = 0
            self._writing = bool(batch)
            return batch

    def _gap(self) -> AuditEntry:
        return AuditEntry(
            at=self._clock.now(),
            kind=AuditKind.SECURITY,
            operation="audit_overflow",
            actor=self._process,
            outcome=AuditOutcome.FAILURE,
            detail=f"{self._lost} entries could not be kept while the database was away",
        )


def _with_study(connection: Transaction, entry: AuditEntry) -> AuditEntry:
    """Return an entry with the study that its subject belongs to."""
    if entry.study_instance_uid or not entry.subject_id:
        return entry
    return replace(entry, study_instance_uid=study_of(connection, entry.subject_id))


def _told(future: "Future[None]") -> None:
    """Log what nobody foresaw: a future keeps its error to itself."""
    error = None if future.cancelled() else future.exception()
    if error is not None:
        log.error("audit_failed", error=type(error).__name__)
