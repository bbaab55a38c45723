"""Free loopback ports, taken from a range of its own per test process."""

import itertools
import os
import socket

_FIRST_PORT = 20_000  # below Linux's ephemeral range (32768), so no client socket takes them
_PORTS_PER_WORKER = 1_000
_WORKERS = 12


def _start() -> int:
    """Return an offset that differs between xdist workers and between test runs side by side."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return (int(worker) % _WORKERS) * _PORTS_PER_WORKER + os.getpid() * 7 % _PORTS_PER_WORKER


_offsets = itertools.count(_start())


def free_port() -> int:
    """Return a loopback TCP port that nothing listens on and that was not handed out before."""
    for offset in itertools.islice(_offsets, _PORTS_PER_WORKER):
        port = _FIRST_PORT + offset % (_WORKERS * _PORTS_PER_WORKER)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise RuntimeError("no free loopback port in the tests' range")


def accepts_connections(port: int) -> bool:
    """Return whether something listens on the loopback port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5):
            return True
    except OSError:
        return False
