"""An installation in one thread: what comes in, runs and goes out does so when a test says so.

Rows, archive, model and network are the real ones; only the queue and the processes are left out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import select

from service.core.elements import Encoding, walk
from service.core.part10 import header_only, read_file_meta
from service.core.received import read_instance
from service.core.settings import DatabaseSettings, RetentionSettings, Settings, StudiesSettings
from service.core.states import DeliveryState, JobState
from service.records import assembly, study_view
from service.records.archive import Archive
from service.records.database import Records
from service.records.migrations import migrate
from service.records.studies import ReceivedInstance, register_instances
from service.records.study_view import ResultItem, StoredFinding
from service.records.tables import deliveries, jobs
from service.studies.assessment import assess_study
from workers.deliver_job import DeliveryContext, deliver
from workers.infer_job import InferContext, infer
from workers.models import LoadedModel

_AT_ONCE = timedelta(0)


class SteppingClock:
    """A clock that goes on by a second whenever it is read."""

    def __init__(self) -> None:
        self._at = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)

    def now(self) -> datetime:
        """Return the time."""
        self._at += timedelta(seconds=1)
        return self._at


class _Watched(Mapping[str, LoadedModel]):
    """One model by its name, which tells when a job asks for it."""

    def __init__(self, model: LoadedModel, asked: Callable[[], object]) -> None:
        self._model, self._asked = model, asked

    def __getitem__(self, name: str) -> LoadedModel:
        if name != self._model.package.name:
            raise KeyError(name)
        self._asked()
        return self._model

    def __iter__(self) -> Iterator[str]:
        return iter((self._model.package.name,))

    def __len__(self) -> int:
        return 1


class Bench:
    """Everything that happens between receipt and delivery, step by step."""

    def __init__(
        self, folder: Path, database_url: str, model: LoadedModel, **sections: Any
    ) -> None:
        self.settings = Settings(
            data_dir=folder / "data",
            database=DatabaseSettings(url=database_url),
            studies=StudiesSettings(series_quiet_s=0, study_quiet_s=0),
            retention=RetentionSettings(min_free_bytes=0),
            **sections,
        )
        self.clock = SteppingClock()
        self.records = Records(database_url)
        migrate(self.records)
        self.archive = Archive(self.settings.data_dir)
        self.archive.prepare()
        self._model = model

    def __enter__(self) -> Self:
        """Return the bench."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the database."""
        self.records.close()

    def receive(self, files: Sequence[Path]) -> None:
        """Take instances in, take their study for complete, and schedule what suits it."""
        received = [self._received(file.read_bytes()) for file in files]
        with self.records.writing() as connection:
            register_instances(connection, received, at=self.clock.now())
        self._assess()

    def work(self, *, meanwhile: Callable[[], object] = lambda: None) -> list[str]:
        """Run every job that waits; return their ids.

        `meanwhile` is called for each when it is taken and before it reads anything.
        """
        context = InferContext(
            self.settings, self.records, self.archive, self.clock,
            _Watched(self._model, meanwhile), "cpu",
        )  # fmt: skip
        with self.records.reading() as connection:
            query = select(jobs.c.id).where(jobs.c.state == JobState.SCHEDULED)
            waiting = list(connection.execute(query.order_by(jobs.c.created_at)).scalars())
        for job_id in waiting:
            infer(context, job_id)
        return waiting

    def send(self) -> None:
        """Attempt every delivery that waits, once."""
        context = DeliveryContext(self.settings, self.records, self.archive, self.clock)
        with self.records.reading() as connection:
            query = select(deliveries.c.id).where(deliveries.c.state == DeliveryState.SCHEDULED)
            waiting = list(connection.execute(query.order_by(deliveries.c.id)).scalars())
        for delivery_id in waiting:
            deliver(context, delivery_id)

    def findings(self, study_instance_uid: str) -> Sequence[StoredFinding]:
        """Return the study's current findings."""
        with self.records.reading() as connection:
            return study_view.current_findings(connection, study_instance_uid)

    def results(self, study_instance_uid: str) -> Sequence[ResultItem]:
        """Return the study's result objects."""
        with self.records.reading() as connection:
            return study_view.result_items(connection, study_instance_uid)

    def job(self, job_id: str) -> Any:
        """Return a job's row."""
        with self.records.reading() as connection:
            return connection.execute(select(jobs).where(jobs.c.id == job_id)).one()

    def _received(self, content: bytes) -> ReceivedInstance:
        meta = read_file_meta(content)
        assert meta is not None
        encoding = Encoding.of(meta.transfer_syntax_uid)
        elements = walk(content, encoding, start=meta.length)
        header, study = read_instance(
            content, encoding, elements, transfer_syntax_uid=meta.transfer_syntax_uid
        )
        head = content[: meta.length]
        file = self.archive.store(
            head,
            content[meta.length :],
            study_instance_uid=header.study_instance_uid,
            sop_instance_uid=header.sop_instance_uid,
        )
        return ReceivedInstance(
            header, study, file, header_bytes=header_only(content, elements, meta=head)
        )

    def _assess(self) -> None:
        at = self.clock.now()
        with self.records.writing() as connection:
            assembly.close_quiet_series(connection, at=at, quiet=_AT_ONCE)
            ready = assembly.quiet_studies(connection, at=at, quiet=_AT_ONCE)
        for study in ready:
            with self.records.writing() as connection:
                assess_study(
                    connection,
                    study,
                    packages=[self._model.package],
                    settings=self.settings,
                    at=self.clock.now(),
                )
