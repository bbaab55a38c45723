"""What every test may ask for: databases, Redis, a PACS, browsers; and where tests may reach.

The environment is scrubbed before anything of the product is imported, so that a developer's own
settings never decide a test. Sockets are limited to loopback by pytest-socket (pyproject.toml).
"""

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings as hypothesis_settings

from tests.peers import catalogue, process
from tests.peers.browser import Browser
from tests.peers.catalogue import RealPeer
from tests.peers.orthanc import Orthanc
from tests.peers.pacs import PlayingPacs
from tests.peers.ports import free_port
from tests.peers.postgres import PostgresServer, server_programs
from tests.peers.redis import RedisServer, server_program
from tests.peers.stow import StowServer
from tests.peers.tools import Dciodvfy, Dcmtk, PixelMed

REPOSITORY = Path(__file__).parents[1]

pytest_plugins = ["tests.faults.plugin"]

for _name in [name for name in os.environ if name.startswith("OVERREAD_")]:
    del os.environ[_name]
for _name in ("DATABASE_URL", "REDIS_URL"):
    os.environ.pop(_name, None)
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost,::1"

# Two cores shared with servers and browsers make single examples slow at random.
hypothesis_settings.register_profile("overread", deadline=None, print_blob=True)
hypothesis_settings.load_profile("overread")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run insist on every real peer."""
    parser.addoption(
        "--require-peers", action="store_true", help="a missing real peer is an error, not a skip"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name each real peer that was not here, and how to get it."""
    missing = catalogue.missing()
    if missing:
        terminalreporter.section("real peers that are missing")
        for peer in missing:
            terminalreporter.line(f"{peer.name}: {peer.how_to_get}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run that insists on every peer and lacks one; leave no process behind."""
    process.kill_all()
    lacking = session.config.getoption("--require-peers") and catalogue.missing()
    if lacking and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what the running peers printed to the report of a failed test."""
    report = yield
    if report.failed:
        for peer in process.live():
            report.sections.append((f"log of {peer.name} (pid {peer.pid})", peer.tail()))
    return report


@pytest.fixture(scope="session")
def need_peer(request: pytest.FixtureRequest) -> Callable[[RealPeer], Path]:
    """Return a function that gives a peer's path, or skips (with `--require-peers`: fails)."""

    def need(peer: RealPeer) -> Path:
        path = peer.find()
        if path is None:
            _lacking(request.config, f"{peer.name} is not here: {peer.how_to_get}")
        return path

    return need


def _lacking(config: pytest.Config, reason: str) -> NoReturn:
    if config.getoption("--require-peers"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A PostgreSQL server, one for each test process."""
    programs = server_programs()
    if programs is None:
        _lacking(request.config, f"PostgreSQL is not here: {catalogue.POSTGRESQL.how_to_get}")
    server = PostgresServer(programs)
    yield server
    server.close()


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peers)],
)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'overread.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with server.new_database() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    with postgres_server.new_database() as url:
        yield url


@pytest.fixture(scope="session")
def redis_program(request: pytest.FixtureRequest) -> Path:
    """The path of a Redis server: the machine's, else the wheel's."""
    program = server_program()
    if program is None:
        _lacking(request.config, f"Redis is not here: {catalogue.REDIS.how_to_get}")
    return program


@pytest.fixture(scope="session")
def shared_redis(
    redis_program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisServer]:
    """A Redis server, one for each test process."""
    with RedisServer(redis_program, tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_url(shared_redis: RedisServer) -> str:
    """The URL of an empty Redis."""
    shared_redis.flush()
    return shared_redis.url


@pytest.fixture
def redis_server(redis_program: Path, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, to be killed, frozen and started again."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with RedisServer(redis_program, folder) as server:
        yield server


@pytest.fixture
def orthanc(need_peer: Callable[[RealPeer], Path], tmp_path: Path) -> Iterator[Orthanc]:
    """A real Orthanc as the PACS, set up by what `docker/` ships, with an empty archive."""
    program = need_peer(catalogue.ORTHANC)
    plugin = need_peer(catalogue.ORTHANC_DICOMWEB)
    with Orthanc(program, plugin, folder=tmp_path / "orthanc") as server:
        yield server


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[PlayingPacs]:
    """A small archive that keeps what it is sent and misbehaves on demand."""
    with PlayingPacs(tmp_path / "pacs") as server:
        yield server


@pytest.fixture
def stow() -> Iterator[StowServer]:
    """A small STOW-RS server that keeps what it is sent and misbehaves on demand."""
    with StowServer() as server:
        yield server


@pytest.fixture
def new_port() -> Callable[[], int]:
    """Return the function that hands out free loopback ports."""
    return free_port


@pytest.fixture(scope="session")
def dcmtk(need_peer: Callable[[RealPeer], Path]) -> Dcmtk:
    """The dcmtk programs, called by name."""
    return Dcmtk(need_peer(catalogue.DCMTK).parent)


@pytest.fixture(scope="session")
def dciodvfy(need_peer: Callable[[RealPeer], Path]) -> Dciodvfy:
    """The IOD validator of dicom3tools."""
    return Dciodvfy(need_peer(catalogue.DICOM3TOOLS))


@pytest.fixture(scope="session")
def pixelmed(need_peer: Callable[[RealPeer], Path]) -> PixelMed:
    """The SR template validator of PixelMed."""
    return PixelMed(need_peer(catalogue.JAVA), need_peer(catalogue.PIXELMED))


@pytest.fixture(scope="session")
def browser(need_peer: Callable[[RealPeer], Path]) -> Browser:
    """Chromium, driven by scripts."""
    return Browser(
        node=need_peer(catalogue.NODE),
        chromium=need_peer(catalogue.CHROMIUM),
        playwright=need_peer(catalogue.PLAYWRIGHT).parent,
    )


@pytest.fixture(scope="session")
def ohif_dist(need_peer: Callable[[RealPeer], Path]) -> Path:
    """The folder of OHIF's built viewer, with its `index.html`."""
    return need_peer(catalogue.OHIF).parent
