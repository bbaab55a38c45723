"""How cost grows with archive, series, findings and queue: the order is the slope in log-log."""

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from service.core.headers import InstanceHeader
from service.core.identifiers import derive_uid
from service.core.received import StudyAttributes
from service.core.states import Priority
from service.records import queues, worklist
from service.records.archive import ArchivedFile
from service.records.database import Records
from service.records.migrations import migrate
from service.records.studies import ReceivedInstance, register_each
from service.records.topics import Topic
from service.records.worklist_query import WorklistQuery
from tests.benchmarks.measure import Goal, Report
from tests.benchmarks.results import without_segments
from tests.benchmarks.worklist import fill
from tests.builders.dicom import AXIAL, ct_series
from tests.builders.results import nodules, result_context, source_frames
from tests.peers.redis import RedisServer, server_program
from workers.results.source import read_source
from workers.results.sr import write_sr

_NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
_LINEAR = 1.15  # an order of one, and what the noise of a few points adds
_REPEATS = 5


def run(*, rounds: int = _REPEATS) -> Report:
    """Measure each curve; the least time of some rounds stands for a point."""
    report = Report("growth")
    with tempfile.TemporaryDirectory(prefix="overread-growth-") as folder, ExitStack() as stack:
        _archive(report, Path(folder), rounds)
        _series(report, Path(folder), rounds)
        _findings(report, rounds)
        _queue(report, Path(folder), stack, rounds)
    for name, points in report.curves.items():
        report.goals.append(Goal(f"order of: {name}", _order(points), _LINEAR, at_most=True))
    return report


def _archive(report: Report, folder: Path, rounds: int) -> None:
    pages, receipts = [], []
    for count in (1_000, 10_000, 100_000):
        records = Records(f"sqlite:///{folder}/{count}.db")
        migrate(records)
        fill(records, count)
        query = WorklistQuery()

        def page(records: Records = records, query: WorklistQuery = query) -> None:
            with records.reading() as connection:
                worklist.page(connection, query)

        pages.append((count, _least(page, rounds)))
        receipts.append((count, _least(_receipt(records, count), rounds)))
        records.close()
    report.curves["a worklist page, by studies in the archive"] = pages
    report.curves["receipt of an instance, by studies in the archive"] = receipts


def _series(report: Report, folder: Path, rounds: int) -> None:
    points = []
    records = Records(f"sqlite:///{folder}/series.db")
    migrate(records)
    for size in (100, 1_000, 4_000):
        whole = [_received(size, number) for number in range(size)]
        for start in range(0, size, 100):
            register_each(records, whole[start : start + 100], at=_NOW)
        more = iter(range(size, size + 1000))

        def one(size: int = size, more: Iterator[int] = more) -> None:
            register_each(records, [_received(size, next(more))], at=_NOW)

        points.append((size, _least(one, rounds)))
    records.close()
    report.curves["receipt of an instance, by instances in its series"] = points


def _findings(report: Report, rounds: int) -> None:
    values = np.zeros((100, 256, 256), np.int16)
    instances = ct_series(hounsfield=values, orientation=AXIAL, bits_stored=12)
    frames = source_frames(instances)
    context = result_context(instances[0])
    points = []
    for count in (5, 20, 80):
        analysis = without_segments(nodules(frames, count))

        def write(analysis: object = analysis) -> None:
            source = read_source(context.source_header)
            write_sr(context, source, analysis, frames=frames, segmentation=None)

        points.append((count, _least(write, rounds)))
    report.curves["an SR, by findings"] = points


def _queue(report: Report, folder: Path, stack: ExitStack, rounds: int) -> None:
    program = server_program()
    if program is None:
        report.notes.append("Redis is not here: the queue is not measured")
        return
    server = stack.enter_context(RedisServer(program, folder, persistent=False))
    connection = stack.enter_context(queues.connect(server.url))
    points, rung = [], 0
    for length in (100, 1_000, 5_000):
        waiting = [(f"{number:032x}", Priority.ROUTINE) for number in range(rung, length)]
        queues.ring(connection, Topic.INFER, waiting)
        rung = length

        def ring() -> None:
            queues.ring(connection, Topic.INFER, [(f"{0:032x}", Priority.ROUTINE)])

        points.append((length, _least(ring, rounds)))
    report.curves["ringing for a job, by jobs in the queue"] = points


def _receipt(records: Records, count: int) -> Callable[[], object]:
    numbers = iter(range(10_000))

    def one() -> object:
        return register_each(records, [_received(count, next(numbers))], at=_NOW)

    return one


def _received(series: int, number: int) -> ReceivedInstance:
    header = InstanceHeader(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=derive_uid("growth", str(series), str(number)),
        study_instance_uid=derive_uid("growth study", str(series)),
        series_instance_uid=derive_uid("growth series", str(series)),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="CT",
    )
    file = ArchivedFile(f"aa/{series}-{number}.dcm", f"{number:064x}", 526_000)
    return ReceivedInstance(header, StudyAttributes(patient_id="P"), file, bytes(2000))


def _least(run_once: Callable[[], object], rounds: int) -> float:
    """Return the least milliseconds of some rounds, after one that warms up."""
    run_once()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        run_once()
        times.append(1e3 * (time.perf_counter() - started))
    return min(times)


def _order(points: Sequence[tuple[int, float]]) -> float:
    """Return the slope of a line through the points in log-log."""
    x = [math.log(size) for size, _ in points]
    y = [math.log(cost) for _, cost in points]
    return float(np.polyfit(x, y, 1)[0])
