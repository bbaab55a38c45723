"""The product itself as a child process: `overread serve` with settings of the test's own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from service.send import Peer, send_files
from tests.peers.ports import free_port
from tests.peers.process import Process, dying_with_parent, wait_for

AE_TITLE = "OVERREAD"
FINISHED = frozenset({"ANALYSED", "NOT_ANALYSED", "FAILED"})


class Overread:
    """A running installation in its own folder; ``settings`` are environment values by key."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.dicom_port = int(settings.pop("dicom__port", 0)) or free_port()
        self.http_port = free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        values: dict[str, Any] = {
            "data_dir": folder / "data",
            "dicom__port": self.dicom_port,
            "http__port": self.http_port,
            "dicom__processes": 1,
            "studies__series_quiet_s": 0.5,
            "studies__study_quiet_s": 1,
            "retention__min_free_bytes": 0,
            "jobs__lease_s": 6,
            "jobs__device": "cpu",
            **settings,
        }
        self.environment = {
            f"OVERREAD_{key.upper()}": value if isinstance(value, str) else _text(value)
            for key, value in values.items()
        }
        self._client = httpx.Client(base_url=self.url, timeout=30, trust_env=False)
        folder.mkdir(parents=True, exist_ok=True)
        self.process = self.start()

    def __enter__(self) -> Self:
        """Return the running installation."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self._client.close()
        self.process.stop()

    def start(self, *, ready: bool = True) -> Process:
        """Start it on the data that are there and wait until it is ready."""
        self.process = Process(
            "overread",
            dying_with_parent([sys.executable, "-m", "service.cli", "serve"]),
            log=self.folder / "overread.log",
            cwd=self.folder,
            env={**os.environ, **self.environment},
        )
        if ready:
            self.process.wait_until(self.is_ready, limit_s=180)
        return self.process

    def is_ready(self) -> bool:
        """Return whether `/readyz` says so."""
        try:
            return self._client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def get(self, path: str, **query: Any) -> Any:
        """GET a path below ``/api/v1`` and return its JSON."""
        return self._client.get(f"/api/v1{path}", params=query).raise_for_status().json()

    def post(self, path: str, body: object = None) -> Any:
        """POST JSON to a path below ``/api/v1`` and return the JSON it answers."""
        return self._client.post(f"/api/v1{path}", json=body).raise_for_status().json()

    def send(self, files: Sequence[Path], *, calling_ae_title: str = "TESTS") -> list[str]:
        """C-STORE files to it; return what failed."""
        peer = Peer(AE_TITLE, "127.0.0.1", self.dicom_port)
        outcomes = send_files(files, peer, calling_ae_title=calling_ae_title)
        return [failure for failure in outcomes if failure is not None]

    def state(self, study_instance_uid: str) -> str:
        """Return a study's state, empty when it is not known yet."""
        answer = self._client.get(f"/api/v1/studies/{study_instance_uid}")
        return str(answer.json()["state"]) if answer.status_code == 200 else ""

    def wait_finished(self, study_instance_uid: str, *, limit_s: float = 60) -> str:
        """Return the study's final state as soon as it has one."""
        wait_for(lambda: self._answers_finished(study_instance_uid), limit_s=limit_s, pause_s=0.2)
        return self.state(study_instance_uid)

    def _answers_finished(self, study_instance_uid: str) -> bool:
        try:
            return self.state(study_instance_uid) in FINISHED
        except httpx.TransportError:
            return False

    def present(self, study_instance_uid: str) -> list[Mapping[str, Any]]:
        """Return the findings that are present."""
        found = self.get(f"/studies/{study_instance_uid}/findings")["items"]
        return [item for item in found if item["qualifier"] == "present"]

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run an `overread` command with the same settings."""
        return subprocess.run(
            [sys.executable, "-m", "service.cli", *arguments],
            env={**os.environ, **self.environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def processes(self, name: str) -> list[psutil.Process]:
        """Return the processes of a role (receiver, worker, ...) or of ``redis``."""
        wanted = "redis-server" if name == "redis" else f"overread {name}"
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        found = []
        for child in children:
            try:
                if wanted in " ".join(child.cmdline()):
                    found.append(child)
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def kill(self, name: str) -> int:
        """SIGKILL every process of a role; return how many there were."""
        victims = self.processes(name)
        for victim in victims:
            _kill(victim)
        return len(victims)

    def kill_everything(self) -> None:
        """SIGKILL the whole tree at one go, as a power cut would."""
        try:
            tree = psutil.Process(self.process.pid)
            victims = [tree, *tree.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for victim in victims:
            _kill(victim)
        for victim in victims:
            victim.wait(10)


def _kill(process: psutil.Process) -> None:
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, list | dict | bool) else str(value)
