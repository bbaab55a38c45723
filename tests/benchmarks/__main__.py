"""Run the benchmarks: ``python -m tests.benchmarks [NAME...] [--json FILE] [--check]``.

Every contender of a benchmark runs in the same run, in turn, on the same bytes; figures are
medians with their range. ``--check`` ends with 1 when a goal is not met.
"""

import argparse
import importlib
import inspect
import json
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks import receivers
from tests.benchmarks.measure import Report
from tests.benchmarks.page import page

NAMES = ("ingest", "volume", "results", "worklist", "growth", "start")


def main() -> int:
    """Run what was asked for, print it, record it."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, help="record the figures here, and beside it as HTML")
    parser.add_argument("--check", action="store_true", help="end with 1 when a goal is not met")
    parser.add_argument("--rounds", type=int, help="rounds of each benchmark")
    parser.add_argument("--cases", default="", help="only cases with this in their name")
    parser.add_argument("--only", default="", help="only contenders with this in their name")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    warnings.simplefilter("ignore")
    reports = [_run(name, arguments) for name in arguments.names or NAMES]
    if arguments.json:
        record = _record(arguments.json, reports)
        arguments.json.with_suffix(".html").write_text(page(record))
    missed = [goal for report in reports for goal in report.goals if not goal.is_met]
    return 1 if missed and arguments.check else 0


def _run(name: str, arguments: argparse.Namespace) -> Report:
    run = importlib.import_module(f"tests.benchmarks.{name}").run
    taken = inspect.signature(run).parameters
    asked = {key: getattr(arguments, key) for key in ("rounds", "cases", "only")}
    report: Report = run(**{key: value for key, value in asked.items() if value and key in taken})
    print(f"\n{report.name}")
    for line in (*report.figures, *report.goals, *report.notes):
        print(f"  {line}")
    return report


def _record(path: Path, reports: list[Report]) -> dict[str, Any]:
    """Write the reports, beside those of other benchmarks that the file holds already."""
    record = json.loads(path.read_text()) if path.exists() else {"benchmarks": {}}
    record["machine"] = receivers.machine()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for report in reports:
        record["benchmarks"][report.name] = {"measured_at": now, **report.json()}
    path.write_text(json.dumps(record, indent=1))
    return record


if __name__ == "__main__":
    sys.exit(main())
