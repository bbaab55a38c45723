"""Results on their way out: rows and files as a finished job leaves them, and a deliverer to call.

Nothing but the queue is left out: each call is what one message would do, at a time of the test's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from service.core.part10 import read_file_meta
from service.core.settings import Destination, DicomSettings, Settings
from service.core.states import Priority
from service.records import deliveries
from service.records.archive import Archive
from service.records.database import Records
from service.records.migrations import migrate
from service.records.tables import deliveries as delivery_rows
from tests.builders import rows
from tests.builders.dicom import ct_series, part10
from workers.deliver_job import DeliveryContext, deliver


@dataclass
class MovingClock:
    """A clock that stands still until the test moves it."""

    at: datetime = rows.NOW

    def now(self) -> datetime:
        """Return the time."""
        return self.at

    def pass_(self, seconds: float) -> None:
        """Let time go by."""
        self.at += timedelta(seconds=seconds)


@dataclass
class Outgoing:
    """An installation's way out, with results to send; ``destinations`` as settings have them."""

    folder: Path
    database_url: str
    destinations: Sequence[dict[str, Any]]
    clock: MovingClock = field(default_factory=MovingClock)

    def __post_init__(self) -> None:
        """Make the schema and the archive."""
        self.records = Records(self.database_url)
        migrate(self.records)
        self.archive = Archive(self.folder)
        self.archive.prepare()
        self.context = DeliveryContext(
            settings=Settings(
                data_dir=self.folder,
                dicom=DicomSettings(port=0),
                destinations=tuple(Destination(**each) for each in self.destinations),
            ),
            records=self.records,
            archive=self.archive,
            clock=self.clock,
        )

    def close(self) -> None:
        """Let the database go."""
        self.records.close()

    def add_result(self, *names: str, name: str = "result") -> list[int]:
        """Write a result with a delivery to each destination; return the deliveries' ids."""
        dataset = ct_series(slices=1, name=name, study=name)[0]
        content = part10(dataset)
        meta = read_file_meta(content)
        assert meta is not None
        begins = meta.length
        uids = {"study_instance_uid": dataset.StudyInstanceUID}
        file = self.archive.store(
            content[:begins], content[begins:], sop_instance_uid=dataset.SOPInstanceUID, **uids
        )
        with self.records.writing() as connection:
            study_id = rows.add_study(connection, **uids)
            job_id = rows.add_job(connection, study_id, rows.add_series(connection, study_id))
            result_id = rows.add_result(
                connection,
                study_id,
                job_id,
                sop_class_uid=dataset.SOPClassUID,
                sop_instance_uid=dataset.SOPInstanceUID,
                transfer_syntax_uid=dataset.file_meta.TransferSyntaxUID,
                path=file.path,
                sha256=file.sha256,
                size_bytes=file.size_bytes,
            )
            for destination in names or [each["name"] for each in self.destinations]:
                deliveries.schedule(
                    connection,
                    result_id=result_id,
                    study_id=study_id,
                    destination=destination,
                    priority=Priority.ROUTINE,
                    at=self.clock.now(),
                )
            query = select(delivery_rows.c.id).where(delivery_rows.c.result_id == result_id)
            return list(connection.execute(query.order_by(delivery_rows.c.id)).scalars())

    def step(self) -> int:
        """Attempt what is due now, in the order of the scheduler; return how much that was."""
        with self.records.reading() as connection:
            due = deliveries.due(connection, at=self.clock.now())
        for delivery_id, _ in due:
            deliver(self.context, int(delivery_id))
        return len(due)

    def row(self, delivery_id: int) -> Any:
        """Return a delivery's row."""
        with self.records.reading() as connection:
            query = select(delivery_rows).where(delivery_rows.c.id == delivery_id)
            return connection.execute(query).one()

    def pass_until_due(self, delivery_id: int) -> float:
        """Move the clock to the next attempt; return how long the pause was, in seconds."""
        pause_s = (self.row(delivery_id).due_at - self.clock.now()).total_seconds()
        self.clock.pass_(max(0.0, pause_s))
        return pause_s
