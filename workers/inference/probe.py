"""Loading a package's networks in a child process first, where they can do no harm.

A hostile or broken file may exhaust memory, crash the runtime or never come back; here that ends a
child with limits on memory and time, not the worker.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from service.core.errors import InvalidModel
from service.core.manifest_input import Network

# What interpreter, libraries and their threads reserve before any network is loaded.
_BASE_MB = 2048
_LOAD_LIMIT_S = 60.0


def probe_networks(
    folder: Path, networks: Sequence[Network], *, time_limit_s: float = _LOAD_LIMIT_S
) -> None:
    """Load and warm up the networks of a package in a child process on the CPU.

    Raises
    ------
    InvalidModel
        Whatever the child found wrong (see `workers.inference.session`), ``MODEL_RUN`` when warming
        up failed, ``MODEL_LIMITS`` when it passed its time, or its memory ended it.
    """
    request = {
        "folder": str(folder),
        "networks": [network.model_dump() for network in networks],
        "memory_mb": _BASE_MB + max(network.memory_limit_mb for network in networks),
        "cpu_s": int(time_limit_s) + 1,
    }
    # One thread each: thread stacks and arenas would count against the address space.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        child = subprocess.run(
            [sys.executable, "-m", "workers.inference.child"],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=time_limit_s,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InvalidModel(
            "MODEL_LIMITS", f"{folder.name}: did not load and run within {time_limit_s:g} s"
        ) from error
    _read_answer(folder.name, child)


def _read_answer(package: str, child: "subprocess.CompletedProcess[bytes]") -> None:
    try:
        answer = json.loads(child.stdout)
    except ValueError as error:
        raise InvalidModel(
            "MODEL_LIMITS", f"{package}: loading ended with status {child.returncode}"
        ) from error
    if answer["reason"]:
        raise InvalidModel(answer["reason"], answer["message"])
