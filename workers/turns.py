"""One job at a time on the device, while the one before is written and the next one is read.

A worker works on two jobs at once in two threads. Networks run under a lock, so that they get
the whole device and their results do not depend on what else runs; reading images and writing
results happen beside it. A job that is tried again has the process to itself: what ends one
process after the other must not use up the attempts of its neighbours.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

JOBS_AT_ONCE: Final = 2
ON_DEVICE: Final = "analysis"  # the stage that needs the device
_WAITING: Final = "waiting"

Stage = Callable[[str], AbstractContextManager[None]]


class Turns:
    """What the jobs of one worker process share."""

    def __init__(self) -> None:
        self.device = threading.Lock()
        self._changed = threading.Condition()
        self._present = 0
        self._wanting_alone = 0

    @contextmanager
    def together(self, *, alone: bool) -> Iterator[None]:
        """Be one of the jobs of this process; with `alone`, the only one."""
        with self._changed:
            if alone:
                self._wanting_alone += 1
                self._changed.wait_for(lambda: not self._present)
            else:
                self._changed.wait_for(lambda: not self._wanting_alone)
            self._present += 1
        try:
            yield
        finally:
            with self._changed:
                self._present -= 1
                self._wanting_alone -= alone
                self._changed.notify_all()


class Turn:
    """A job's way through a worker; `waited_s` is no part of the time that the job may take."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._waited_s = 0.0
        self._since: float | None = None

    def waited_s(self) -> float:
        """Return the seconds spent waiting for other jobs, up to now."""
        since = self._since
        return self._waited_s + (0.0 if since is None else time.monotonic() - since)

    @contextmanager
    def together(self, *, alone: bool) -> Iterator[None]:
        """Wait until the job may run in this process, and hold its place."""
        self._since = time.monotonic()
        with self._turns.together(alone=alone):
            self._waited_s, self._since = self.waited_s(), None
            yield

    def stages(self, timed: Stage) -> Stage:
        """Return `timed` such that the stage on the device waits for its turn first."""

        @contextmanager
        def stage(name: str) -> Iterator[None]:
            if name != ON_DEVICE:
                with timed(name):
                    yield
                return
            with timed(_WAITING):
                self._take()
            try:
                with timed(name):
                    yield
            finally:
                self._turns.device.release()

        return stage

    def _take(self) -> None:
        self._since = time.monotonic()
        self._turns.device.acquire()
        self._waited_s, self._since = self.waited_s(), None
