"""The product's own receiver: as threads of the test, or as processes to be killed."""

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from service.core.settings import (
    DatabaseSettings,
    Destination,
    DicomSettings,
    RetentionSettings,
    Settings,
)
from service.intake import receiver
from service.records.database import Records
from service.records.migrations import migrate
from tests.peers.ports import accepts_connections, free_port
from tests.peers.process import Process, dying_with_parent

STOP_LIMIT_S = 30


class Receiver:
    """The receiver in threads of the test, on a free port, over a migrated database.

    Keywords are settings of the section ``dicom``; ``min_free_bytes`` is the disk's watermark.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        *,
        min_free_bytes: int = 0,
        destinations: Sequence[Mapping[str, Any]] = (),
        **dicom: Any,
    ) -> None:
        self.port = free_port()
        self.data_dir = folder / "data"
        self.database_url = database_url
        self.min_free_bytes = min_free_bytes
        self.destinations = destinations
        self.dicom = {"port": self.port, "processes": 1, **dicom}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        records = Records(database_url)
        migrate(records)
        records.close()

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()

    @property
    def settings(self) -> Settings:
        """What it runs with."""
        return Settings(
            data_dir=self.data_dir,
            database=DatabaseSettings(url=self.database_url),
            dicom=DicomSettings(**self.dicom),
            destinations=tuple(Destination(**each) for each in self.destinations),
            retention=RetentionSettings(min_free_bytes=self.min_free_bytes),
        )

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        ready = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=receiver.run,
            args=(self.settings, self._stop),
            kwargs={"on_ready": lambda _: ready.set()},
        )
        self._thread.start()
        if not ready.wait(STOP_LIMIT_S):
            raise TimeoutError("the receiver did not start")

    def stop(self) -> None:
        """Ask it to end and wait for it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_LIMIT_S)
            assert not self._thread.is_alive(), "the receiver did not end"

    def files(self) -> list[Path]:
        """Return the files in the archive."""
        return sorted((self.data_dir / "archive").rglob("*.dcm"))

    def unfinished(self) -> list[Path]:
        """Return files that are being written."""
        return sorted((self.data_dir / "incoming").iterdir())


class ReceiverProcess(Receiver):
    """`overread receiver`: processes of their own, to be killed and started again."""

    def __init__(self, folder: Path, database_url: str, **settings: Any) -> None:
        super().__init__(folder, database_url, **settings)
        self._log = folder / "receiver.log"
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """Process id of the parent process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        environment = {
            "OVERREAD_DATA_DIR": str(self.data_dir),
            "OVERREAD_DATABASE__URL": self.database_url,
            "OVERREAD_RETENTION__MIN_FREE_BYTES": str(self.min_free_bytes),
            "OVERREAD_LOG__FORMAT": "json",
            "OVERREAD_DESTINATIONS": json.dumps([dict(each) for each in self.destinations]),
            **{f"OVERREAD_DICOM__{name.upper()}": str(v) for name, v in self.dicom.items()},
        }
        command = [sys.executable, "-c", "from service.cli import main; main()", "receiver"]
        self._process = Process(
            "receiver",
            dying_with_parent(command),
            log=self._log,
            cwd=Path(__file__).parents[2],
            env={**os.environ, **environment},
        )
        self._process.wait_until(lambda: accepts_connections(self.port), limit_s=60)

    def stop(self) -> None:
        """Ask it to end; it must end well."""
        if self._process is not None:
            status = self._process.stop(limit_s=STOP_LIMIT_S)
            self._process = None
            assert status == 0, self._log.read_text()

    def kill(self) -> None:
        """Kill it and everything it started."""
        assert self._process is not None
        self._process.kill()
        self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the parent process alone."""
        assert self._process is not None
        self._process.send_signal(number)
