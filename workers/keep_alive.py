"""Keep a claim alive while its work runs, and end a process that native code holds up for ever."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.core.errors import OverreadError
from service.core.logs import get_logger

# What the supervisor sees when the watchdog ended a worker (sysexits' EX_SOFTWARE).
OVERRUN_EXIT_CODE = 70
_GRACE_S = 10.0

log = get_logger()


@contextmanager
def kept_alive(
    extend: Callable[[], bool],
    *,
    every_s: float,
    limit_s: float | None = None,
    on_overrun: Callable[[], None] | None = None,
    waited_s: Callable[[], float] = lambda: 0.0,
) -> Iterator[threading.Event]:
    """Call `extend` every so often while the body runs.

    Yields an event that is set when `extend` returned False: the claim is somebody else's now and
    nothing more may be written. A body that is still running ten seconds beyond `limit_s` (its
    own limit, by which it should have stopped) cannot be stopped from Python: `on_overrun` writes
    that down, and the process ends, to be started afresh by its supervisor. Time that it spent
    waiting for others does not count.
    """
    done, lost = threading.Event(), threading.Event()
    ends_at = None if limit_s is None else time.monotonic() + limit_s + _GRACE_S

    def loop() -> None:
        while not done.wait(every_s):
            if ends_at is not None and time.monotonic() > ends_at + waited_s():
                _end_process(on_overrun)
            try:
                if not lost.is_set() and not extend():
                    lost.set()
            except OverreadError as error:
                # The database is away: the lease may run out, and then the fence decides.
                log.warning("lease_not_extended", reason=error.reason)

    thread = threading.Thread(target=loop, name="keep-alive", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        done.set()
        thread.join()


def _end_process(on_overrun: Callable[[], None] | None) -> None:
    log.error("job_overran")
    try:
        if on_overrun is not None:
            on_overrun()
    finally:
        os._exit(OVERRUN_EXIT_CODE)
