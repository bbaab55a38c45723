"""Start: from `overread serve` to `/readyz`, from nothing and on data that are there."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx

from tests.benchmarks.measure import Goal, Report, in_turn
from tests.benchmarks.receivers import processor_s
from tests.peers.ports import free_port
from tests.peers.process import Process, dying_with_parent

_READY_S = 5.0


def run(*, rounds: int = 3) -> Report:
    """Start and stop the product in turn, and its help beside."""
    report = Report("start")
    spent: list[float] = []
    with tempfile.TemporaryDirectory(prefix="overread-start-") as folder:
        contenders: dict[str, Callable[[], float]] = {
            "new data": lambda: _ready(Path(tempfile.mkdtemp(dir=folder)), spent),
            "data there": lambda: _ready(Path(folder) / "again", spent),
            "--help": lambda: _command("--help"),
        }
        for name, values in in_turn(contenders, rounds).items():
            report.add("start", name, "wall", "s", values)
        report.add("start", "serve", "processor", "s", spent)
    for name in ("new data", "data there"):
        seconds = report.median("start", name, "wall")
        report.goals.append(Goal(f"ready, {name}, in seconds", seconds, _READY_S, at_most=True))
    return report


def _ready(folder: Path, spent: list[float]) -> float:
    folder.mkdir(exist_ok=True)
    port = free_port()
    environment = {
        **os.environ,
        "OVERREAD_DATA_DIR": str(folder / "data"),
        "OVERREAD_DICOM__PORT": str(free_port()),
        "OVERREAD_HTTP__PORT": str(port),
        "OVERREAD_RETENTION__MIN_FREE_BYTES": "0",
        "OVERREAD_JOBS__DEVICE": "cpu",
    }
    started = time.monotonic()
    command = dying_with_parent([sys.executable, "-m", "service.cli", "serve"])
    process = Process("overread", command, log=folder / "log", env=environment)
    with httpx.Client(trust_env=False, timeout=5) as client:

        def is_ready() -> bool:
            with suppress(httpx.TransportError):
                return client.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
            return False

        process.wait_until(is_ready, limit_s=90)
        seconds = time.monotonic() - started
    spent.append(processor_s(process.pid))
    process.stop(limit_s=25)
    return seconds


def _command(*arguments: str) -> float:
    started = time.monotonic()
    command = [sys.executable, "-m", "service.cli", *arguments]
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - started
