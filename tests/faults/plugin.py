"""Tells after a run which faults of the plan were injected and what was seen.

``--faults-report FILE`` writes the table as Markdown: into the marked block of a file that has one
(README.md), else as a file of its own. ``--fault N,N`` runs some faults alone, each with all of its
tests; the rows of the others stay as they stand in the file.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.plan import BY_NUMBER, PLAN

BEGIN, END = (
    "<!-- faults: written by tests/run -m faults --faults-report README.md -->",
    "<!-- end -->",
)
_DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


@dataclass
class Row:
    """What a run has seen of one fault."""

    passed: int = 0
    failed: int = 0
    skipped: list[str] = field(default_factory=list)
    seen: dict[str, None] = field(default_factory=dict)
    databases: set[str] = field(default_factory=set)

    @property
    def verdict(self) -> str:
        """In one word whether the fault was withstood."""
        if self.failed:
            return "no"
        if self.passed:
            return "yes"
        return "skipped" if self.skipped else "not run"

    @property
    def words(self) -> str:
        """What was seen, by how many tests and on which databases."""
        count = self.passed + self.failed
        notes = list(self.seen) or (["as expected"] if self.passed and not self.failed else [])
        notes += [f"skipped: {reason}" for reason in dict.fromkeys(self.skipped)]
        ran = f"{count} test{'s' * (count != 1)}" if count else ""
        databases = " and ".join(_DATABASES[name] for name in sorted(self.databases, reverse=True))
        where = ", ".join(part for part in (ran, databases) if part)
        return "; ".join(notes) + (f" ({where})" if where else "")


_rows: dict[int, Row] = defaultdict(Row)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a run write the table down."""
    parser.addoption("--faults-report", metavar="FILE", help="write the table of faults here")
    parser.addoption("--fault", metavar="N,N", default="", help="only the tests of these faults")
    parser.addoption(
        "--kills", type=int, default=12, help="how much goes wrong in the random crash test"
    )
    parser.addoption("--crash-seed", type=int, default=1, help="the order in which it does")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Note on each test which faults it injects, and on which database."""
    for mark in item.iter_markers("faults"):
        number = mark.kwargs["number"]
        if number not in BY_NUMBER:
            raise pytest.UsageError(f"{item.nodeid}: the plan has no fault {number}")
        item.user_properties.append(("fault", number))
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    for name in ("database_url", "database"):
        if parameters.get(name) in _DATABASES:
            item.user_properties.append(("database", parameters[name]))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes and is no other code, unless the plan was asked for.

    Whole installations are broken on SQLite in every run, and on PostgreSQL with ``-m faults``.
    """
    wanted = {int(number) for number in config.getoption("--fault").split(",") if number}
    if wanted:
        _deselect(config, items, lambda item: not _numbers(item) & wanted)
    asked = wanted or "faults" in (config.getoption("markexpr") or "")
    named = any("faults" in argument or "crashes" in argument for argument in config.args)
    if asked or named:
        return
    _deselect(config, items, _is_long)


def _deselect(
    config: pytest.Config, items: list[pytest.Item], leaves_out: Callable[[pytest.Item], bool]
) -> None:
    left_out = [item for item in items if leaves_out(item)]
    if left_out:
        items[:] = [item for item in items if item not in set(left_out)]
        config.hook.pytest_deselected(items=left_out)


def _numbers(item: pytest.Item) -> set[int]:
    return {int(mark.kwargs["number"]) for mark in item.iter_markers("faults")}


def _is_long(item: pytest.Item) -> bool:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return (
        item.get_closest_marker("faults") is not None and parameters.get("database") == "postgresql"
    )


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return a function that notes for the table what a fault led to."""

    def note(text: str) -> None:
        request.node.user_properties.append(("seen", text))

    return note


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Gather what each test said of its faults; reports come from other processes too."""
    decisive = report.when == "call" or report.outcome != "passed"
    numbers = {value for name, value in report.user_properties if name == "fault"}
    for number in numbers if decisive else ():
        row = _rows[int(str(number))]
        if report.skipped:
            row.skipped.append(_reason(report))
            continue
        row.passed += report.passed
        row.failed += report.failed
        for name, value in report.user_properties:
            if name == "seen":
                row.seen[str(value).replace("|", "/")] = None
            if name == "database":
                row.databases.add(str(value))


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)


def table(rows: dict[int, Row]) -> list[str]:
    """Return the plan with what was seen as lines of a Markdown table."""
    head = ["| # | fault | expected | seen | pass |", "|---|---|---|---|---|"]
    return head + [
        f"| {fault.number} | {fault.fault} | {fault.expected} | {row.words} | {row.verdict} |"
        for fault in PLAN
        for row in [rows.get(fault.number, Row())]
    ]


def kept(text: str, lines: list[str]) -> list[str]:
    """Return the lines, those of faults that were not run replaced by what stands in the text."""
    block = text.partition(BEGIN)[2].partition(END)[0] if BEGIN in text else text
    before = {line.split("|")[1]: line for line in block.splitlines() if line.startswith("| ")}
    return [
        before.get(line.split("|")[1], line) if line.endswith("| not run |") else line
        for line in lines
    ]


def replaced(text: str, lines: list[str]) -> str:
    """Return the text with the lines in its marked block."""
    block = "\n".join([BEGIN, *lines, END])
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: block, text, flags=re.DOTALL)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table where faults were asked for, and write it down where that was asked."""
    if hasattr(config, "workerinput"):  # a process that runs some of the tests; the first tells all
        return
    asked = config.getoption("--fault") or "faults" in (config.getoption("markexpr") or "")
    if asked and _rows:
        terminalreporter.section("faults")
        for line in _padded(table(_rows)):
            terminalreporter.line(line)
    file = config.getoption("--faults-report")
    if file:
        path = Path(file)
        before = path.read_text() if path.exists() else ""
        lines = kept(before, table(_rows))
        if BEGIN in before:
            path.write_text(replaced(before, lines))
        else:
            path.write_text("\n".join(lines) + "\n")


def _padded(lines: list[str]) -> Iterator[str]:
    """Yield the rows without the rule, the short columns of one width."""
    for line in lines:
        number, fault, expected, seen_, verdict = (part.strip() for part in line[2:-2].split("|"))
        if not number.startswith("-"):
            yield f"{number:>2}  {verdict:<7}  {fault}"
            yield f"      expected: {expected}"
            yield f"      seen: {seen_}"
