"""What the README tells people to type and to set exists."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import pytest
from pydantic import BaseModel

from service.core.settings import PREFIX, Settings
from tests.architecture.command_line import program
from tests.architecture.repository import ROOT, relative
from tests.architecture.settings_names import is_setting
from tests.architecture.test_compose import SERVICES

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "service" / "docs").glob("*.md"))]
COMMAND = re.compile(r"^(?:\$ )?(?:uv run )?overread ([a-z]+)((?: [^#\n|&;]*)?)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_command_line_is_understood(page: Path) -> None:
    for name, rest in COMMAND.findall(code_of(page)):
        command = program().commands[name]
        options = re.findall(r"(?<!\S)--[a-z-]+", rest)
        known = {"--help"} | {text for option in command.params for text in option.opts}
        nested = getattr(command, "commands", {})
        for word in rest.split():
            if word in nested:
                known |= {text for option in nested[word].params for text in option.opts}
        assert set(options) <= known, f"overread {name}{rest}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_variable_is_a_setting(page: Path) -> None:
    variables = set(re.findall(r"\bOVERREAD_[A-Z_]+[A-Z]\b", page.read_text()))
    assert {name for name in variables if not is_setting(name)} == set()


def test_the_readme_names_profiles_that_exist() -> None:
    profiles = {name for one in SERVICES.values() for name in one.get("profiles", [])}
    assert set(re.findall(r"--profile (\w+)", README.read_text())) <= profiles


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_link_within_the_checkout_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


def test_the_readme_begins_with_the_two_commands() -> None:
    text = code_of(README)
    assert "pip install uv && uv run overread demo" in text
    assert "pip install uv && tests/run" in text


def test_the_readme_lists_every_setting_and_no_other() -> None:
    listed = set(settings_of_table(README.read_text()))
    assert {
        key for key in listed if not is_setting(PREFIX + key.upper().replace(".", "__"))
    } == set()
    known = {
        f"{section}.{name}" if is_section(field.annotation) else section
        for section, field in Settings.model_fields.items()
        for name in fields_of(field.annotation)
    }
    assert {key for key in known if not any(is_within(key, line) for line in listed)} == set()


def settings_of_table(text: str) -> Iterator[str]:
    """Yield the keys in the first column of the table; `.port` continues the key before it."""
    table = text.partition("## Settings")[2].partition("\n## ")[0]
    for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE):
        before = ""
        for key in re.findall(r"`([^`]+)`", row):
            whole = before.rpartition(".")[0] + key if key.startswith(".") else key
            before = whole
            yield whole.replace("<name>", "a-model")


def fields_of(annotation: object) -> list[str]:
    """Return the names of a section's fields, or one empty name for a plain value."""
    return list(annotation.model_fields) if is_section(annotation) else [""]


def is_section(annotation: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def is_within(key: str, listed: str) -> bool:
    """Return whether a listed key is the key or lies below it."""
    return listed == key or listed.startswith(f"{key}.")


def code_of(page: Path) -> str:
    """Return the lines of a page's code blocks, continued lines joined."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join(blocks).replace("\\\n", " ")
