"""The conformance statement says what the code does."""

from tests.conformance.statement import STATEMENT, with_tables


def test_the_tables_are_those_that_the_code_gives() -> None:
    text = STATEMENT.read_text()
    assert text == with_tables(text), "run python -m tests.conformance.statement"
