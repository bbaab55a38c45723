"""The receivers that are measured side by side: Orthanc and dcmtk as they come, and ours."""

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import psutil

from tests.peers import catalogue
from tests.peers.ports import accepts_connections, free_port
from tests.peers.process import Process, dying_with_parent
from tests.peers.receiver import ReceiverProcess


class Peer(Protocol):
    """A receiver that runs."""

    port: int
    ae_title: str

    def processor_s(self) -> float:
        """Return the processor time of all its processes so far."""
        ...


class _Program:
    """A receiver in a process of its own."""

    ae_title = "OVERREAD"

    def __init__(self, process: Process, port: int, http_port: int = 0) -> None:
        self.process = process
        self.http_port = http_port
        self.port = port
        process.wait_until(lambda: accepts_connections(port))

    def processor_s(self) -> float:
        """Return the processor time of the process and its children."""
        return processor_s(self.process.pid)


class _Ours:
    ae_title = "OVERREAD"

    def __init__(self, receiver: ReceiverProcess) -> None:
        self.receiver = receiver
        self.port = receiver.port

    def processor_s(self) -> float:
        """Return the processor time of the receiver's processes."""
        return processor_s(self.receiver.pid)


def processor_s(pid: int) -> float:
    """Return the processor time of a process, its children and those that have ended."""
    parent = psutil.Process(pid)
    total = 0.0
    for process in [parent, *parent.children(recursive=True)]:
        try:
            # The process's own clock counts nanoseconds, the kernel's statistics hundredths.
            total += time.clock_gettime((~process.pid << 3) | 2)
            times = process.cpu_times()
        except (OSError, psutil.Error):
            continue
        total += times.children_user + times.children_system
    return total


def orthanc(folder: Path, stack: ExitStack, *, dicomweb: bool = False) -> "_Program":
    """Start Orthanc with its default settings: SQLite index, every file synchronised."""
    program = catalogue.ORTHANC.find()
    if program is None:
        raise FileNotFoundError(catalogue.ORTHANC.how_to_get)
    folder.mkdir(parents=True)
    port, http = free_port(), free_port()
    settings = {
        "StorageDirectory": str(folder / "archive"),
        "DicomPort": port,
        "HttpPort": http,
        "DicomCheckCalledAet": False,
        "RemoteAccessAllowed": False,
    }
    if dicomweb:
        plugin = catalogue.ORTHANC_DICOMWEB.find()
        if plugin is None:
            raise FileNotFoundError(catalogue.ORTHANC_DICOMWEB.how_to_get)
        settings["Plugins"] = [str(plugin)]
    (folder / "orthanc.json").write_text(json.dumps(settings))
    command = dying_with_parent([program, folder / "orthanc.json"])
    process = Process("Orthanc", command, log=folder / "log", cwd=folder)
    stack.callback(process.kill)
    return _Program(process, port, http)


def storescp(folder: Path, stack: ExitStack) -> Peer:
    """Start dcmtk's storescp with a process for each association."""
    program = shutil.which("storescp")
    if program is None:
        raise FileNotFoundError(catalogue.DCMTK.how_to_get)
    folder.mkdir(parents=True)
    port = free_port()
    command = [program, "--fork", "--output-directory", folder, port]
    wrapped = dying_with_parent([str(part) for part in command])
    process = Process("storescp", wrapped, log=folder / "log", cwd=folder)
    stack.callback(process.kill)
    return _Program(process, port)


def overread(folder: Path, stack: ExitStack, *, database_url: str = "") -> Peer:
    """Start our receiver with its default number of processes, on SQLite unless told otherwise."""
    folder.mkdir(parents=True)
    url = database_url or f"sqlite:///{folder / 'overread.db'}"
    processes = min(4, os.cpu_count() or 1)
    receiver = ReceiverProcess(folder, url, processes=processes)
    receiver.start()
    stack.callback(receiver.kill)
    return _Ours(receiver)


def machine() -> Mapping[str, object]:
    """Return what the figures were measured on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else "unknown",
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": os.uname().release,
        "python": sys.version.split()[0],
    }
