"""Child processes that end when we end: start, watch, restart, stop.

A child is a command, or a fork of this process when that has all imports done and no threads.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from setproctitle import setproctitle

from service.core.logs import get_logger

_PR_SET_PDEATHSIG = 1
_WATCH_EVERY_S = 0.1
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 30.0
# A child that lived this long had started well; its next pause is the first again.
_HEALTHY_AFTER_S = 30.0
# Settings and packages are judged at the start; later the rest must go on without the child.
_JUDGED_WITHIN_S = 30.0

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_POLL_S = 0.02
_CRASHED = 70  # sysexits' EX_SOFTWARE

log = get_logger()


class Forked:
    """A fork of this process that runs one function; used as `subprocess.Popen` is."""

    def __init__(self, target: Callable[[], int], *, title: str) -> None:
        self.returncode: int | None = None
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Python warns of threads that numerical libraries keep and bring through a fork.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            _be_child(target, title, parent)

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raise `subprocess.TimeoutExpired` when it does not come in time."""
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() >= end:
                raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0.0)
            time.sleep(_POLL_S)
        return code

    def terminate(self) -> None:
        """Ask it to end."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


def can_fork() -> bool:
    """Return whether a fork of this process would be whole: Linux, and no other thread."""
    return sys.platform == "linux" and threading.active_count() == 1


def _be_child(target: Callable[[], int], title: str, parent: int) -> NoReturn:
    status = _CRASHED
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        _end_with_parent()
        if os.getppid() != parent:
            os._exit(_CRASHED)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        setproctitle(title)
        status = target()
    except BaseException:  # noqa: BLE001  what runs here must not go on as its parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@dataclass
class Child:
    """One process of the tree and how it has fared."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    output: Path | None = None  # a file for what it prints; else our own terminal
    target: Callable[[], int] | None = None  # run in a fork instead of the command
    process: "subprocess.Popen[bytes] | Forked | None" = None
    started_at: float = 0.0
    pause_s: float = _FIRST_PAUSE_S
    restart_at: float | None = None

    def start(self) -> None:
        """Start the process in a session of its own, to be ended when this process dies."""
        self.started_at = time.monotonic()
        self.restart_at = None
        if self.target is not None and can_fork():
            self.process = Forked(self.target, title=f"overread {self.name}")
            return
        with ExitStack() as stack:
            output = None if self.output is None else stack.enter_context(self.output.open("ab"))
            self.process = subprocess.Popen(
                list(self.command),
                env={**os.environ, **self.environment},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  two system calls, no locks
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None

    def plan_restart(self) -> None:
        """Choose when to start again: soon after a long life, later after each short one."""
        if time.monotonic() - self.started_at > _HEALTHY_AFTER_S:
            self.pause_s = _FIRST_PAUSE_S
        self.restart_at = time.monotonic() + self.pause_s
        self.pause_s = min(_LONGEST_PAUSE_S, self.pause_s * 2)


class ProcessTree:
    """Starts children in order, restarts those that die, stops all within a deadline."""

    def __init__(self, children: Sequence[Child]) -> None:
        self.children = list(children)
        self._started_at = time.monotonic()

    def start(self, *, only: str = "") -> None:
        """Start every child that is not running, or the one of this name alone."""
        for child in self.children:
            if not child.is_running and only in {"", child.name}:
                child.start()
                log.info(
                    "process_started", kind=child.name, pid=child.process and child.process.pid
                )

    def watch(self, stop: threading.Event) -> int:
        """Keep the children running until `stop` is set; return the exit code for the whole.

        A child that says within the first half minute that the command or settings are wrong
        (exit code 2) ends the tree with that code.
        """
        while not stop.wait(_WATCH_EVERY_S):
            for child in self.children:
                if child.is_running or child.process is None:
                    continue
                if child.restart_at is None:
                    code = child.process.returncode
                    log.warning("process_ended", kind=child.name, exit_code=code)
                    if code == 2 and time.monotonic() - self._started_at < _JUDGED_WITHIN_S:
                        return 2
                    child.plan_restart()
                elif time.monotonic() >= child.restart_at:
                    child.start()
                    log.info("process_restarted", kind=child.name)
        return 0

    def stop(self, *, within_s: float) -> None:
        """Ask every child to end, in one go; kill what has not ended in time."""
        for child in self.children:
            if child.is_running and child.process is not None:
                child.process.terminate()
        deadline = time.monotonic() + within_s
        for child in self.children:
            if child.process is None:
                continue
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("process_killed", kind=child.name)
                os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()


def _end_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies, also when it is killed outright."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
