"""A peer as a child process that never outlives the tests, with its output kept for reports."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

STOP_LIMIT_S = 10
LOG_TAIL_LINES = 60

# Linux kills the child when the thread that started it dies, however that happened. The wrapper
# sets it between fork and exec without `preexec_fn`, which is unsafe beside running threads.
_DIE_WITH_PARENT = (
    "import ctypes, os, sys\n"
    "if sys.platform == 'linux': ctypes.CDLL(None).prctl(1, 9)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    "os.execvp(sys.argv[2], sys.argv[2:])\n"
)

_live: list["Process"] = []


def dying_with_parent(command: Sequence[str | Path]) -> list[str]:
    """Return the command wrapped so that Linux kills it when this process dies."""
    interpreter = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
    return [*interpreter, *map(str, command)]


def as_user(user: str, command: Sequence[str | Path]) -> list[str]:
    """Return the command run by root as the user, killed when this process dies.

    Linux forgets the death signal when credentials change, so the one program that does both,
    util-linux's `setpriv`, does them in the right order.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise RuntimeError("setpriv (Debian: util-linux) is needed to start a server as root")
    change = [f"--reuid={user}", f"--regid={user}", "--clear-groups", "--pdeathsig=KILL"]
    if user == "nobody":
        change[1] = "--regid=nogroup"
    return [setpriv, *change, "--", *map(str, command)]


class Process:
    """A started command; a context manager that stops it.

    ``log`` is the file that takes standard output and error. ``command`` is run as given, so wrap
    it by `dying_with_parent` or `as_user`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=None if env is None else dict(env),
                start_new_session=True,
            )
        _live.append(self)

    def __enter__(self) -> Self:
        """Return the running process."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the process."""
        self.stop()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, or None while it runs."""
        return self._child.poll()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        self._child.send_signal(number)

    def stop(self, *, limit_s: float = STOP_LIMIT_S, first: signal.Signals = signal.SIGTERM) -> int:
        """Ask the process to end, kill its group when it does not, and return its exit status."""
        if self._child.poll() is None:
            self._child.send_signal(first)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(limit_s)
        return self.kill()

    def kill(self) -> int:
        """Kill the process and what it started; return its exit status."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        status = self._child.wait(STOP_LIMIT_S)
        if self in _live:
            _live.remove(self)
        return status

    def tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """Return the last lines of the process's output."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def wait_until(self, ready: Callable[[], bool], *, limit_s: float = 30) -> None:
        """Wait until the process is ready; raise with its output when it ends or takes too long."""
        end = time.monotonic() + limit_s
        while not ready():
            if self.returncode is not None:
                raise RuntimeError(f"{self.name} ended with {self.returncode}:\n{self.tail()}")
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name} not ready after {limit_s} s:\n{self.tail()}")
            time.sleep(0.02)


def live() -> Iterator[Process]:
    """Yield the processes that run now, oldest first."""
    yield from tuple(_live)


def kill_all() -> None:
    """Kill every process that is still there."""
    for process in live():
        process.kill()


def wait_for(value: Callable[[], T], *, limit_s: float = 30, pause_s: float = 0.1) -> T:
    """Return the first true value, asking again until the limit; raise `TimeoutError` after it."""
    end = time.monotonic() + limit_s
    while not (found := value()):
        if time.monotonic() > end:
            raise TimeoutError(f"nothing after {limit_s} s; last answer: {found!r}")
        time.sleep(pause_s)
    return found
