"""An installation without its processes: intake, scheduler and worker called step by step.

Everything is the real thing but the queue's bell: a test takes in instances, lets the scheduler
close and assess them, and runs the jobs that are due, at a time of its own.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from sqlalchemy import select

from service.core.part10 import read_file_meta
from service.core.settings import DicomSettings, ModelsSettings, Settings, StudiesSettings
from service.intake.ingest import Arrival, Ingest
from service.records import jobs, queues
from service.records.archive import Archive
from service.records.database import Records
from service.records.migrations import migrate
from service.records.tables import findings, results, studies
from service.records.tables import jobs as job_rows
from service.studies.scheduler import Scheduler
from tests.builders.dicom import part10
from tests.builders.outgoing import MovingClock
from tests.builders.studies import ball_package
from workers.infer_job import InferContext, infer
from workers.models import LoadedModel, load_model


class Ward:
    """Studies from their first byte to their findings, in one process."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        redis_url: str,
        *,
        model: LoadedModel | None = None,
        **sections: Any,
    ) -> None:
        package = ball_package(folder / "models") if model is None else model.package
        self.model = model or load_model(package, device="cpu", probe=False)
        self.clock = MovingClock()
        self.settings = Settings(
            data_dir=folder / "data",
            dicom=DicomSettings(port=0),
            studies=StudiesSettings(series_quiet_s=0, study_quiet_s=0),
            models=ModelsSettings(dir=package.folder.parent),
            **sections,
        )
        self.records = Records(database_url)
        migrate(self.records)
        self.archive = Archive(self.settings.data_dir)
        self.archive.prepare()
        self.redis = queues.connect(redis_url)
        self.scheduler = Scheduler(
            self.settings, self.records, self.redis, [package], clock=self.clock
        )
        self.context = InferContext(
            self.settings, self.records, self.archive, self.clock, {package.name: self.model}, "cpu"
        )

    def close(self) -> None:
        """Let database and Redis go."""
        self.records.close()
        self.redis.close()

    def receive(self, datasets: Sequence[Dataset]) -> None:
        """Take instances in as the listener does."""
        ingest = Ingest(self.records, self.archive, self.clock, max_instance_bytes=1 << 28)
        for dataset in datasets:
            data = part10(dataset)
            meta = read_file_meta(data)
            assert meta is not None
            arrival = Arrival(meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid)
            with ingest.begin(arrival) as reception:
                reception.write(data[meta.length :])
                reception.finish()

    def schedule(self) -> list[str]:
        """Let the scheduler do what is due; return the ids of jobs that wait for a worker."""
        self.clock.pass_(0.5)
        for _ in range(2):
            self.scheduler.step()
        with self.records.reading() as connection:
            return [job_id for job_id, _ in jobs.due(connection, at=self.clock.now())]

    def run(self) -> None:
        """Run every job that waits, until none does."""
        while waiting := self.schedule():
            for job_id in waiting:
                infer(self.context, job_id)

    def claim(self, job_id: str, *, worker: str = "another") -> jobs.Claim | None:
        """Take a job as another worker would."""
        lease = timedelta(seconds=self.settings.jobs.lease_s)
        with self.records.writing() as connection:
            return jobs.claim(connection, job_id, worker=worker, at=self.clock.now(), lease=lease)

    def job(self, study: Dataset | str | None = None) -> Any:
        """Return the newest job's row, of one study where one is given."""
        query = select(job_rows).join_from(job_rows, studies)
        if study is not None:
            uid = study if isinstance(study, str) else str(study.StudyInstanceUID)
            query = query.where(studies.c.study_instance_uid == uid)
        with self.records.reading() as connection:
            return connection.execute(query.order_by(job_rows.c.created_at.desc())).first()

    def count(self, what: str) -> int:
        """Return how many ``findings`` or ``results`` there are."""
        table = {"findings": findings, "results": results}[what]
        with self.records.reading() as connection:
            return len(connection.execute(select(table.c.id)).all())

    def files(self) -> list[Path]:
        """Return the archived files."""
        return sorted(self.archive.root.rglob("*.dcm"))
