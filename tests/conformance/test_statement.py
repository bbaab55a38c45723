"""The conformance statement says what the code does."""

from tests.conformance.air import CHECKLIST, is_there
from tests.conformance.statement import SENT, STATEMENT, with_tables
from workers.results.context import ResultRole


def test_the_tables_are_those_that_the_code_gives() -> None:
    text = STATEMENT.read_text()
    assert text == with_tables(text), "run python -m tests.conformance.statement"


def test_every_line_of_the_checklist_names_a_test_that_is_there() -> None:
    assert [line.evidence for line in CHECKLIST if not is_there(line.evidence)] == []


def test_every_role_of_a_result_is_among_what_is_sent() -> None:
    assert set(SENT) == set(ResultRole)
