"""`overread models evaluate`: progress, the printed summary, and the files asked for."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import Progress

from service.core.clock import SystemClock
from service.core.errors import InvalidRequest
from service.core.packages import ModelPackage
from service.core.startup import DONE, FAILED
from workers.evaluation.report import report_html, rows_of
from workers.evaluation.run import evaluate
from workers.models import load_model

_LINE_EVERY = 10  # cases, where there is no terminal
_SUMMARY = (
    "cpm", "sensitivity at 1 false positive", "dice", "ece", "auroc", "mean auroc", "f1",
    "sensitivity", "false positives per scan", "outline dice", "nsd 2 mm", "hd95 mm median",
)  # fmt: skip


@dataclass(frozen=True)
class Outputs:
    """Files that were asked for."""

    json_file: Path | None = None
    report: Path | None = None


def run_evaluation(
    package: ModelPackage,
    data: Path,
    outputs: Outputs,
    *,
    device: str,
    threads: int = 0,
    operating_point: str | None = None,
    limit: int | None = None,
) -> int:
    """Measure a package on a folder, print what counts, write JSON and report; return exit code.

    Raises
    ------
    InvalidRequest
        ``DATA``, ``REFERENCE`` or ``OUTPUT``: nothing to measure on, or nowhere to write.
    InvalidModel
        The package does not load, or has no such operating point.
    """
    for file in (outputs.json_file, outputs.report):
        if file is not None and not file.resolve().parent.is_dir():
            raise InvalidRequest("OUTPUT", f"found {file}, allowed a file in a folder that exists")
    package.manifest.operating_point(operating_point)
    if not data.is_dir():
        raise InvalidRequest("DATA", f"--data: found {data}, allowed a folder that exists")
    model = load_model(package, device=device, threads=threads)
    with _progress() as progress:
        found = evaluate(
            model, data, operating_point=operating_point, limit=limit, progress=progress
        )
    if outputs.json_file:
        outputs.json_file.write_text(json.dumps(found.document, indent=1) + "\n")
    if outputs.report:
        outputs.report.write_text(report_html(found, SystemClock().now()))
    _print_summary(package, found.document, found.analysed, found.failed)
    return DONE if found.analysed and not found.failed else FAILED


def _print_summary(
    package: ModelPackage, document: dict[str, object], analysed: int, failed: int
) -> None:
    data = document["data"]
    assert isinstance(data, dict)
    refused = sum(data["refused"].values())
    typer.echo(
        f"{package.name} {package.version}: {analysed} analysed, {refused} refused, {failed} failed"
    )
    for name, value in rows_of(document["figures"]):
        if name.split(" · ")[-1] in _SUMMARY:
            typer.echo(f"  {name}: {value}")
    remarks = document["remarks"]
    assert isinstance(remarks, list)
    for remark in remarks:
        typer.echo(f"  {remark}", err=True)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar on a terminal, a line now and then elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines
        return
    with Progress(console=console, transient=True) as shown:
        bars = {}

        def heard(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = shown.add_task(stage, total=total or None)
            shown.update(bars[stage], completed=done, total=total or None)

        yield heard


def _lines(stage: str, done: int, total: int) -> None:
    if total and (done % _LINE_EVERY == 0 or done == total):
        typer.echo(f"{stage}: {done} of {total}", err=True)
