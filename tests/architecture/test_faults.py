"""The plan of faults is covered: by tests, by a row of Operations each, by the README's table."""

import re

from tests.architecture.repository import ROOT
from tests.faults.plan import PLAN
from tests.faults.plugin import BEGIN, END

NUMBERS = set(range(1, 41))


def test_the_plan_has_forty_faults() -> None:
    assert [fault.number for fault in PLAN] == sorted(NUMBERS)


def test_every_fault_is_injected_by_a_test() -> None:
    marked = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        marked |= {int(each) for each in re.findall(r"faults\(number=(\d+)\)", path.read_text())}
    assert marked == NUMBERS


def test_every_fault_has_its_row_in_operations() -> None:
    text = (ROOT / "service/docs/operations.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE)
    assert {int(number) for number, _ in rows} == NUMBERS


def test_the_table_of_the_readme_names_every_fault_once_it_is_written() -> None:
    text = (ROOT / "README.md").read_text()
    assert BEGIN in text
    block = text.partition(BEGIN)[2].partition(END)[0]
    rows = re.findall(r"^\| (\d+) \|.*\| ([a-z ]+) \|$", block, re.MULTILINE)
    assert not rows or {int(number) for number, _ in rows} == NUMBERS
    assert {verdict for _, verdict in rows} <= {"yes", "skipped"}
