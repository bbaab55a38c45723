"""The worklist beside a query written by hand, and beside Orthanc's QIDO, at sixteen readers.

Studies are made by the database itself. The hand-written contender asks the driver for the same
columns in the same order by the same index, with the same statements for what models say, and
writes them with orjson: what is left between the two is what the product's own layers cost. Orthanc
holds fewer studies, since loading it takes longer than all the rest.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import orjson
from sqlalchemy import text

from service.api.answers import to_json
from service.records import worklist
from service.records.database import Records
from service.records.migrations import migrate
from service.records.worklist_query import WorklistQuery
from tests.benchmarks.instances import small_instances
from tests.benchmarks.measure import Goal, Report
from tests.benchmarks.receivers import orthanc
from tests.benchmarks.sending import send
from tests.peers.postgres import PostgresServer, server_programs

READERS = 16
_ORTHANC_STUDIES = 200
_COLUMNS = (
    "study_instance_uid, patient_id, patient_name, patient_birth_date, patient_sex, "
    "accession_number, study_date, study_description, modalities, received_at, "
    "last_received_at, state, priority, urgency, urgency_reason, series_count, "
    "instances_count, source_ae_title"
)
# Name: the question in the contract's words, and the same by hand.
CASES: Mapping[str, tuple[dict[str, Any], str]] = {
    "urgency": ({}, "ORDER BY urgency DESC, received_at DESC, id DESC"),
    "received_at": ({"sort": "received_at"}, "ORDER BY received_at, id"),
    "-received_at": ({"sort": "-received_at"}, "ORDER BY received_at DESC, id DESC"),
    "study_date": ({"sort": "study_date"}, "ORDER BY study_date, id"),
    "-study_date": ({"sort": "-study_date"}, "ORDER BY study_date DESC, id DESC"),
    "patient_name": ({"sort": "patient_name"}, "ORDER BY patient_name, id"),
    "patient_id filter": (
        {"patient_id": "P0004711"},
        "WHERE patient_id = 'P0004711' ORDER BY urgency DESC, received_at DESC, id DESC",
    ),
    "accession filter": (
        {"accession_number": "A0004711"},
        "WHERE accession_number = 'A0004711' ORDER BY urgency DESC, received_at DESC, id DESC",
    ),
    "modality": (
        {"modality": ["CT"]},
        "WHERE modalities = 'CT' ORDER BY urgency DESC, received_at DESC, id DESC",
    ),
    "state": (
        {"state": ["ANALYSED"]},
        "WHERE state = 'ANALYSED' ORDER BY urgency DESC, received_at DESC, id DESC",
    ),
    "min_urgency": (
        {"min_urgency": 0.9},
        "WHERE urgency >= 0.9 ORDER BY urgency DESC, received_at DESC, id DESC",
    ),
    "study_date range": (
        {"study_date_from": "2026-03-01", "study_date_to": "2026-03-02", "sort": "study_date"},
        "WHERE study_date BETWEEN '20260301' AND '20260302' ORDER BY study_date, id",
    ),
    "q, rare": (
        {"q": "Number4711"},
        "WHERE patient_name = 'Tester^Number4711' ORDER BY urgency DESC, received_at DESC, id DESC",
    ),
}
_FILL = """
INSERT INTO studies (study_instance_uid, patient_id, patient_name, patient_birth_date, patient_sex,
  accession_number, study_date, study_description, modalities, source_ae_title, received_at,
  last_received_at, revision, completed_revision, state, priority, urgency, series_count,
  instances_count)
SELECT '2.25.' || (1000000000 + n), {patient}, 'Tester^Number' || n, '19610430', 'F',
  {accession}, {day}, 'CT chest', 'CT', 'MODALITY', {received}, {received}, 1, 1, 'ANALYSED',
  'ROUTINE', (n * 7919 % 10007) / 10007.0, 1, 300
FROM {numbers}
"""
_SQLITE = {
    "patient": "printf('P%07d', n)",
    "accession": "printf('A%07d', n)",
    "day": "strftime('%Y%m%d', '2026-01-01', '+' || (n % 300) || ' days')",
    "received": "strftime('%Y-%m-%d %H:%M:%f000', '2026-01-01', '+' || n || ' seconds')",
    "numbers": "(WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {count})"
    " SELECT n FROM c)",
}
_POSTGRESQL = {
    "patient": "'P' || lpad(n::text, 7, '0')",
    "accession": "'A' || lpad(n::text, 7, '0')",
    "day": "to_char(date '2026-01-01' + (n % 300)::int, 'YYYYMMDD')",
    "received": "timestamptz '2026-01-01Z' + n * interval '1 second'",
    "numbers": "generate_series(1, {count}) AS n",
}


def run(*, rounds: int = 3, studies: int = 0) -> Report:
    """Measure SQLite with 100,000 studies, PostgreSQL with a million, Orthanc with fewer."""
    report = Report("worklist")
    with tempfile.TemporaryDirectory(prefix="overread-worklist-") as folder, ExitStack() as stack:
        databases = {"sqlite": (f"sqlite:///{folder}/worklist.db", studies or 100_000)}
        programs = server_programs()
        if programs is not None:
            server = PostgresServer(programs)
            stack.callback(server.close)
            url = stack.enter_context(server.new_database())
            databases["postgresql"] = (url, studies or 1_000_000)
        for name, (url, count) in databases.items():
            _database(report, name, url, count, rounds)
        _qido(report, Path(folder), stack, rounds)
    return report


def _database(report: Report, name: str, url: str, count: int, rounds: int) -> None:
    records = Records(url, pool_size=READERS)
    migrate(records)
    began = time.monotonic()
    fill(records, count)
    report.notes.append(f"{name}: {count} studies made in {time.monotonic() - began:.0f} s")
    worst = 0.0
    for case, (asked, by_hand) in CASES.items():
        query = WorklistQuery.model_validate(asked)
        contenders: dict[str, Callable[[], int]] = {
            "overread": lambda query=query: _ours(records, query),
            "by hand": lambda by_hand=by_hand: _hand(records, by_hand),
        }
        costs: dict[str, list[float]] = {}
        for _ in range(rounds + 1):
            for contender, ask in contenders.items():
                costs.setdefault(contender, []).append(_sixteen(ask))
        for contender, values in costs.items():
            report.add(f"{name}, {case}", contender, "time", "ms a page", values[1:])
        ratio = statistics.median(costs["overread"][1:]) / statistics.median(costs["by hand"][1:])
        worst = max(worst, ratio)
    report.goals.append(Goal(f"{name}: dearest case against by hand", worst, 3, at_most=True))
    records.close()


def fill(records: Records, count: int) -> None:
    words = _SQLITE if records.is_sqlite else _POSTGRESQL
    values = {**words, "numbers": words["numbers"].format(count=count)}
    with records.writing() as connection:
        connection.execute(text(_FILL.format(**values).replace(":%", r"\:%")))
    with records.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


def _ours(records: Records, query: WorklistQuery) -> int:
    with records.reading() as connection:
        return len(to_json(worklist.page(connection, query)))


def _hand(records: Records, tail: str) -> int:
    with records.engine.connect() as connection:
        cursor = connection.connection.cursor()
        cursor.execute(f"SELECT id, {_COLUMNS} FROM studies {tail} LIMIT 51")
        names = [each[0] for each in cursor.description]
        rows = cursor.fetchall()
        keys = ", ".join(str(row[0]) for row in rows[:50]) or "0"
        for statement in (
            f"SELECT study_id, task, state, id FROM jobs WHERE study_id IN ({keys}) AND current",
            f"SELECT study_id, task, reason FROM assessments WHERE study_id IN ({keys})",
            f"SELECT study_id, body_part_examined FROM series WHERE study_id IN ({keys})",
            f"SELECT study_id, label FROM labels WHERE study_id IN ({keys})",
            f"SELECT study_id, state FROM readings WHERE study_id IN ({keys})",
        ):
            cursor.execute(statement)
            cursor.fetchall()
        items = [dict(zip(names, row, strict=True)) for row in rows[:50]]
        return len(orjson.dumps({"items": items, "next": None}))


def _sixteen(ask: Callable[[], object], each: int = 8) -> float:
    """Return the milliseconds of one page when sixteen readers ask at once."""
    with ThreadPoolExecutor(READERS) as pool:
        started = time.perf_counter()
        for done in [pool.submit(ask) for _ in range(READERS * each)]:
            done.result()
        return 1e3 * (time.perf_counter() - started) / (READERS * each)


def _qido(report: Report, folder: Path, stack: ExitStack, rounds: int) -> None:
    """Ask Orthanc's DICOMweb for a page of studies; the same page of ours is beside."""
    try:
        peer = orthanc(folder / "orthanc", stack, dicomweb=True)
    except FileNotFoundError as error:
        report.notes.append(f"Orthanc is not here: {error}")
        return
    for _ in range(_ORTHANC_STUDIES):
        send(small_instances(1), associations=1, port=peer.port, called_ae_title=peer.ae_title)
    url = f"http://127.0.0.1:{peer.http_port}/dicom-web/studies"
    with httpx.Client(trust_env=False, timeout=60) as client:
        values = [
            _sixteen(lambda: client.get(url, params={"limit": 50}).raise_for_status(), each=1)
            for _ in range(rounds)
        ]
    report.add("qido, 50 studies", f"orthanc with {_ORTHANC_STUDIES}", "time", "ms a page", values)
    ours = report.median("sqlite, urgency", "overread", "time")
    report.goals.append(
        Goal("worklist against Orthanc's QIDO", statistics.median(values) / ours, 10)
    )
