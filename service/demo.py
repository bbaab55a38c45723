"""`overread demo`: the whole system on embedded defaults, with three synthetic patients.

It starts `overread serve` on loopback, plays the PACS that sends and receives, and shows what was
found. Everything lives in a temporary folder that is removed at the end.
"""

import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from models.phantoms.demo_studies import DEMO_STUDIES, DemoStudy, write_study
from service.core.errors import OverreadError, PeerUnavailable
from service.core.logs import configure_logs
from service.core.signals import stop_on_signals
from service.demo_pacs import DemoPacs, faults
from service.processes import Child, ProcessTree
from service.send import Peer, send_files

_READY_WITHIN_S = 60.0
_DONE_WITHIN_S = 600.0
_POLL_S = 0.25
_QUIET_S = 1.0
_PACS_AE_TITLE = "DEMO-PACS"
_OWN_AE_TITLE = "OVERREAD"
_STOP_WITHIN_S = 20.0
_FINISHED = frozenset({"ANALYSED", "NOT_ANALYSED", "FAILED"})


@dataclass(frozen=True)
class SentStudy:
    """One study as it was sent."""

    study: DemoStudy
    study_instance_uid: str
    sop_instance_uids: tuple[str, ...]
    sent_at: float


@dataclass(frozen=True)
class StudyOutcome:
    """What became of one study: rows for the table and what was missing or wrong."""

    study: DemoStudy
    findings: tuple[str, ...]
    reports: int
    segmentations: int
    seconds: float
    faults: tuple[str, ...]


def demonstrate(*, exit_when_done: bool) -> int:
    """Run the demo; return 0 only when every study's results came back and passed their checks."""
    console = Console()
    configure_logs(role="demo", form="console", level="warning")
    stop = stop_on_signals()
    with tempfile.TemporaryDirectory(prefix="overread-demo-") as folder:
        data_dir = Path(folder)
        ports = {"dicom": _free_port(11112), "http": _free_port(8080), "pacs": _free_port(0)}
        pacs = DemoPacs(_PACS_AE_TITLE, ports["pacs"])
        log_path = data_dir / "overread.log"
        tree = ProcessTree([_service(data_dir, ports, log_path)])
        console.print("overread demo: synthetic patients, research networks. Not for clinical use.")
        pacs.start()
        tree.start()
        try:
            outcomes = _run(console, data_dir, ports, pacs, stop)
        except OverreadError as error:
            console.print(f"{error}", style="red", markup=False)
            console.print(log_path.read_text()[-4000:], markup=False, highlight=False)
            return 1
        else:
            return _tell(console, outcomes, ports, stop, exit_when_done=exit_when_done)
        finally:
            tree.stop(within_s=_STOP_WITHIN_S)
            pacs.stop()


def _service(data_dir: Path, ports: Mapping[str, int], log_path: Path) -> Child:
    """Return the child that is `overread serve` with everything on loopback."""
    destination = {
        "name": _PACS_AE_TITLE,
        "ae_title": _PACS_AE_TITLE,
        "host": "127.0.0.1",
        "port": ports["pacs"],
    }
    environment = {
        "OVERREAD_DATA_DIR": str(data_dir / "data"),
        "OVERREAD_DICOM__PORT": str(ports["dicom"]),
        "OVERREAD_DICOM__AE_TITLE": _OWN_AE_TITLE,
        "OVERREAD_HTTP__PORT": str(ports["http"]),
        "OVERREAD_STUDIES__SERIES_QUIET_S": str(_QUIET_S),
        "OVERREAD_STUDIES__STUDY_QUIET_S": str(_QUIET_S),
        "OVERREAD_RETENTION__MIN_FREE_BYTES": str(256 << 20),
        "OVERREAD_DESTINATIONS": json.dumps([destination]),
    }
    # The demo's own settings only: what is configured on this machine is somebody's real system.
    inherited = [name for name in os.environ if name.startswith("OVERREAD_")]
    for name in inherited:
        del os.environ[name]
    return Child(
        "serve",
        [sys.executable, "-m", "service.cli", "serve"],
        environment,
        directory=data_dir,
        output=log_path,
    )


def _run(
    console: Console,
    data_dir: Path,
    ports: Mapping[str, int],
    pacs: DemoPacs,
    stop: threading.Event,
) -> list[StudyOutcome]:
    """Make the studies while the service starts, send them, wait for what comes back."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    spawned = get_context("spawn")
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        ProcessPoolExecutor(min(len(DEMO_STUDIES), os.cpu_count() or 1), spawned) as pool,
        httpx.Client(base_url=f"http://127.0.0.1:{ports['http']}", trust_env=False) as web,
    ):
        made = {
            study: pool.submit(write_study, study, data_dir / study.name) for study in DEMO_STUDIES
        }
        task = progress.add_task("starting the service", total=None)
        _wait_ready(web, stop)
        sent = []
        for study, future in made.items():
            progress.update(task, description=f"making and sending: {study.title}")
            uids = future.result()
            files = sorted((data_dir / study.name).glob("*.dcm"))
            sent.append(_send(study, files, uids, ports["dicom"]))
            _plain(console, f"sent {study.title}: {len(files)} instances")
        outcomes = []
        for item in sent:
            progress.update(task, description=f"analysing: {item.study.title}")
            outcomes.append(_wait_done(web, pacs, item, stop))
            _plain(console, f"done {item.study.title}: {outcomes[-1].seconds:.1f} s")
        return outcomes


def _wait_ready(web: httpx.Client, stop: threading.Event) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline and not stop.wait(_POLL_S):
        try:
            if web.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            continue
    raise PeerUnavailable("NOT_READY", "the service did not become ready")


def _send(
    study: DemoStudy, files: Sequence[Path], uids: tuple[str, Sequence[str]], port: int
) -> SentStudy:
    failures = [
        failure
        for failure in send_files(
            files, Peer(_OWN_AE_TITLE, "127.0.0.1", port), calling_ae_title=_PACS_AE_TITLE
        )
        if failure is not None
    ]
    if failures:
        raise PeerUnavailable("NOT_STORED", failures[0])
    return SentStudy(study, uids[0], tuple(uids[1]), time.monotonic())


def _wait_done(
    web: httpx.Client, pacs: DemoPacs, sent: SentStudy, stop: threading.Event
) -> StudyOutcome:
    """Wait until the study is over and what it must send back has arrived, or time is up."""
    path = f"/api/v1/studies/{sent.study_instance_uid}"
    deadline = time.monotonic() + _DONE_WITHIN_S
    missing = ["no answer in time"]
    while time.monotonic() < deadline and not stop.wait(_POLL_S):
        answer = web.get(path)
        if answer.status_code != 200 or answer.json()["state"] not in _FINISHED:
            continue
        findings = _present(web, sent)
        missing = _missing(pacs, sent, findings)
        if not missing:
            break
        if answer.json()["state"] == "FAILED":
            break
    findings = _present(web, sent)
    reports, segmentations = pacs.results(sent.study_instance_uid)
    wrong = [
        fault
        for result in (*reports, *segmentations)
        for fault in faults(result, sent.sop_instance_uids)
    ]
    return StudyOutcome(
        study=sent.study,
        findings=tuple(_words(finding) for finding in findings),
        reports=len(reports),
        segmentations=len(segmentations),
        seconds=time.monotonic() - sent.sent_at,
        faults=(*missing, *wrong),
    )


def _present(web: httpx.Client, sent: SentStudy) -> list[Mapping[str, Any]]:
    answer = web.get(f"/api/v1/studies/{sent.study_instance_uid}/findings")
    if answer.status_code != 200:
        return []
    body = answer.json()
    return [item for item in body["items"] if item["qualifier"] == "present"]


def _missing(pacs: DemoPacs, sent: SentStudy, findings: Sequence[Mapping[str, Any]]) -> list[str]:
    reports, segmentations = pacs.results(sent.study_instance_uid)
    missing = []
    if not findings:
        missing.append("nothing was found in a patient with known findings")
    if len(reports) < sent.study.reports:
        missing.append(f"{len(reports)} of {sent.study.reports} SR came back")
    if sent.study.segmentations and not segmentations:
        missing.append("no SEG came back")
    return missing


def _words(finding: Mapping[str, Any]) -> str:
    sizes = {item["name"]: item["value"] for item in finding["measurements"]}
    size = f" {sizes['long_axis']:.0f} mm" if "long_axis" in sizes else ""
    return f"{finding['label']['meaning']}{size}, p {finding['probability']:.2f}"


def _tell(
    console: Console,
    outcomes: Sequence[StudyOutcome],
    ports: Mapping[str, int],
    stop: threading.Event,
    *,
    exit_when_done: bool,
) -> int:
    table = Table("study", "task", "findings", "SR", "SEG", "seconds", title_justify="left")
    for outcome in outcomes:
        table.add_row(
            outcome.study.title,
            outcome.study.task,
            "\n".join(outcome.findings) or "none",
            str(outcome.reports),
            str(outcome.segmentations),
            f"{outcome.seconds:.1f}",
        )
    console.print(table)
    wrong = [(outcome.study.title, fault) for outcome in outcomes for fault in outcome.faults]
    for title, fault in wrong:
        console.print(f"{title}: {fault}", style="red", markup=False)
    if not exit_when_done:
        base = f"http://127.0.0.1:{ports['http']}"
        console.print(f"worklist {base}/\nviewer   {base}/viewer/\nCtrl-C ends the demo.")
        stop.wait()
    return 1 if wrong else 0


def _plain(console: Console, line: str) -> None:
    """Print progress where there is no terminal to show a moving line on."""
    if not console.is_terminal:
        console.print(line, markup=False, highlight=False)


def _free_port(preferred: int) -> int:
    """Return the preferred port when it is free, else any that is."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise PeerUnavailable("NO_PORT", "no free port on 127.0.0.1")
