"""The child process that loads untrusted networks: a request on standard input, one line back.

The limits are set before any byte of a network is read; see `workers.inference.probe`.
"""

import json
import resource
import sys
from pathlib import Path

from service.core.errors import OverreadError
from service.core.manifest_input import Network
from workers.inference.device import CPU
from workers.inference.session import open_session


def main() -> None:
    """Load and warm up what standard input names; write reason and message as JSON."""
    request = json.load(sys.stdin)
    _limit(memory_mb=request["memory_mb"], cpu_s=request["cpu_s"])
    answer = {"reason": "", "message": ""}
    try:
        for values in request["networks"]:
            network = Network.model_validate(values)
            open_session(Path(request["folder"]), network, CPU, threads=1).warm_up()
    except OverreadError as error:
        answer = {"reason": error.reason, "message": error.message}
    except MemoryError:
        package = Path(request["folder"]).name
        answer = {"reason": "MODEL_LIMITS", "message": f"{package}: ran out of memory"}
    sys.stdout.write(json.dumps(answer))


def _limit(*, memory_mb: int, cpu_s: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))


if __name__ == "__main__":
    main()
