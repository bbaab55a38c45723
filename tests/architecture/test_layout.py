"""The top level, package files, and how long functions and modules may become."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.repository import (
    PACKAGES,
    ROOT,
    functions,
    modules,
    relative,
    tracked_files,
    without_docstring,
)

TOP_LEVEL = {
    ".ci",
    ".dockerignore",
    ".gitattributes",
    ".gitignore",
    "LICENSE",
    "README.md",
    "alembic",
    "compose.yaml",
    "docker",
    "models",
    "pyproject.toml",
    "service",
    "tests",
    "uv.lock",
    "workers",
}
FUNCTION_CEILING_LINES = 50
# One keyword a line and nothing else: tables, not procedures.
TABLES = {"service/core/headers.py:read_header"}
MODULE_CEILING_LINES = 400

# What a reader outside this machine cannot follow. The brackets keep the patterns from matching
# themselves.
UNREADABLE_ELSEWHERE = {
    "a path of one machine": r"(?<![\w.])/(?:[w]ork|[r]oot|[h]ome/\w+)/",
    "an unfinished thought": r"\b(?:[T]ODO|[F]IXME|[X]XX)\b",
    "a number of a discussion": r"(?i)\b[i]ssue #?\d",
    "a throwaway program": r"(?i)\b[p]rototype(?:s\b|\b(?![.\[]))",
    "an author's tool": r"(?i)\b(?:[c]laude|[a]nthropic|[c]hatgpt|[c]opilot)\b",
}
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".lua", ".html", ".css", ".mjs", ""}


def test_the_top_level_holds_what_it_should_and_nothing_else() -> None:
    found = {relative(path).split("/")[0] for path in tracked_files()}
    assert found == TOP_LEVEL


@pytest.mark.parametrize("path", list(modules(*PACKAGES)), ids=relative)
def test_a_package_file_holds_one_docstring_and_a_module_opens_with_one(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    if path.name == "__init__.py":
        assert without_docstring(tree.body) == []


def test_alembic_is_no_package() -> None:
    # With one, it would shadow the library of the same name.
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_no_python_version_is_pinned() -> None:
    # uv would download exactly that interpreter, which fails where only another one is.
    assert not (ROOT / ".python-version").exists()


@pytest.mark.parametrize("name", UNREADABLE_ELSEWHERE)
def test_tracked_files_hold_no(name: str) -> None:
    pattern = re.compile(UNREADABLE_ELSEWHERE[name])
    found = [
        f"{relative(path)}:{number}: {line.strip()[:120]}"
        for path in tracked_files()
        if path.suffix in TEXT and path.name != "uv.lock" and ".min." not in path.name
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == []


def test_functions_stay_short() -> None:
    # Scripts of models/training run once, by hand; their length is their authors' business.
    too_long = [
        f"{relative(path)}:{node.lineno} {node.name} has {lines} lines"
        for path in modules("service", "workers", "models/phantoms", "tests/peers")
        for node, lines in _function_lines(path)
        if lines > FUNCTION_CEILING_LINES and f"{relative(path)}:{node.name}" not in TABLES
    ]
    assert too_long == []


def test_modules_stay_short() -> None:
    too_long = [
        f"{relative(path)} has {lines} lines"
        for path in modules(*PACKAGES, "tests/peers")
        # Every table in one file is easier to read than any way of splitting them.
        if relative(path) != "service/records/tables.py"
        and (lines := filled(path.read_text().splitlines())) > MODULE_CEILING_LINES
    ]
    assert too_long == []


def _function_lines(path: Path) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    """Yield each function with the code lines of its body, docstring and blank lines apart."""
    text = path.read_text()
    lines = text.splitlines()
    for node in functions(ast.parse(text)):
        if body := without_docstring(node.body):
            span = lines[body[0].lineno - 1 : node.end_lineno]
            yield node, filled(span)


def filled(lines: list[str]) -> int:
    """Return how many lines are not blank."""
    return sum(1 for line in lines if line.strip())
