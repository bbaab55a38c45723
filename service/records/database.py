"""The database: an engine for SQLite or PostgreSQL, and transactions as context managers."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.core.errors import InvalidSettings, OutOfResources

_BUSY_TIMEOUT_MS = 8_000  # a sender must hear within ten seconds that it has to try again
_CONNECT_TIMEOUT_S = 5
_STATEMENT_TIMEOUT_MS = 30_000

# What `reading` and `writing` give; other rooms pass it on and never speak SQL themselves.
Transaction: TypeAlias = Connection


class Records:
    """A handle on the database; one per process, shared by its threads.

    Rooms get it from their entry point. ``writing`` and ``reading`` open one transaction each;
    a driver's error inside becomes `OutOfResources` with reason ``DATABASE_AWAY`` when the
    database could not be reached or was locked for too long.
    """

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        self.engine = _engine(url, pool_size)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self._writers: list[Writer] = []
        self._reading = self.engine.execution_options(overread_reading=True)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction that may write; commits at the end, rolls back on any error."""
        with _translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that only reads and never waits for writers."""
        with _translated(), self._reading.begin() as connection:
            yield connection

    def writer(self) -> "Writer":
        """Return a connection of one's own, for who writes many times a second."""
        writer = Writer(self.engine)
        self._writers.append(writer)
        return writer

    def ping(self) -> None:
        """Ask the database for an answer; raise `OutOfResources` when there is none."""
        with self.reading() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close every connection; nobody may be using them any more."""
        for writer in self._writers:
            writer.close()
        self.engine.dispose()


class Writer:
    """A connection that stays out of the pool; for one thread at a time.

    Taking a connection from the pool and giving it back costs more than a short transaction.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Connection | None = None

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction as `Records.writing` does."""
        try:
            with _translated():
                if self._connection is None:
                    self._connection = self._engine.connect()
                with self._connection.begin():
                    yield self._connection
        except BaseException:
            self.close()  # whatever it was, the next transaction gets a sound connection
            raise

    def close(self) -> None:
        """Give the connection back; the next transaction opens another."""
        if self._connection is not None:
            with suppress(SQLAlchemyError):
                self._connection.close()
            self._connection = None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OperationalError, PoolTimeout) as error:
        raise OutOfResources("DATABASE_AWAY", f"the database did not answer: {_name(error)}") from (
            error
        )
    except DBAPIError as error:
        if error.connection_invalidated:
            raise OutOfResources("DATABASE_AWAY", "the database closed the connection") from error
        raise


def _name(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return type(cause).__name__


def _engine(url: str, pool_size: int) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(
            parsed,
            pool_size=pool_size,
            max_overflow=40,
            connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
        )
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if parsed.get_backend_name() == "postgresql":
        options = (
            f"-c timezone=UTC -c statement_timeout={_STATEMENT_TIMEOUT_MS} "
            f"-c lock_timeout={_BUSY_TIMEOUT_MS}"
        )
        return create_engine(
            parsed,
            pool_size=pool_size,
            max_overflow=40,
            pool_pre_ping=True,
            connect_args={"connect_timeout": _CONNECT_TIMEOUT_S, "options": options},
        )
    raise InvalidSettings(
        "SETTINGS",
        f"database.url: found {parsed.get_backend_name()}; allowed: sqlite, postgresql+psycopg",
    )


def _set_up_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver's own transaction control is switched off so that "begin" below decides.
    connection.isolation_level = None
    cursor = connection.cursor()
    # FULL, not NORMAL: a C-STORE answered with success must survive a power cut.
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"busy_timeout={_BUSY_TIMEOUT_MS}",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later can fail with "locked" however long it
    # waits; taking the write lock at the start cannot.
    reading = connection.get_execution_options().get("overread_reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
