"""What the product stands on: licences of what it installs, and what each room may import."""

import importlib.metadata
import re
from collections.abc import Iterator
from email.message import Message

import grimp
import pytest
from packaging.requirements import Requirement

from tests.architecture.repository import PACKAGES, ROOT

# The whole work would have to be under these licences; the "Lesser" ones do not ask for that.
FORBIDDEN_LICENCE = re.compile(r"(?<![L])\bA?GPL|(?<!Lesser )General Public", re.IGNORECASE)
RUNTIME_EXCEPTION = re.compile(r"GPL-3\.0(-or-later)? WITH GCC-exception-3\.1")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def test_nothing_that_is_installed_with_the_product_is_under_the_gpl() -> None:
    licences = {name: _licence(found) for name, found in _installed("overread")}
    assert len(licences) > 30
    assert {name: text for name, text in licences.items() if FORBIDDEN_LICENCE.search(text)} == {}


def test_workers_import_only_the_two_shared_rooms_of_the_service(
    graph: grimp.ImportGraph,
) -> None:
    allowed = ("service.core", "service.records")
    foreign = {
        (importer, imported)
        for importer in sorted(graph.modules)
        if importer.split(".")[0] == "workers"
        for imported in graph.find_modules_directly_imported_by(importer)
        if imported.startswith("service") and not imported.startswith(allowed)
    }
    assert foreign == set()


def test_sql_is_spoken_in_one_room(graph: grimp.ImportGraph) -> None:
    speakers = graph.find_modules_that_directly_import("sqlalchemy")
    assert {name for name in speakers if not name.startswith("service.records")} == set()
    assert speakers


def test_every_module_is_imported_by_name_and_not_by_its_path(graph: grimp.ImportGraph) -> None:
    # A package whose module lacks an __init__.py on the way is invisible to the contracts.
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert files <= graph.modules


def _installed(root: str) -> Iterator[tuple[str, importlib.metadata.Distribution]]:
    """Yield what the distribution needs, directly or not, as installed here."""
    waiting, seen = [Requirement(root)], set()
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in seen:
            continue
        seen.add(name)
        found = importlib.metadata.distribution(name)
        yield name, found
        extras = requirement.extras or {""}
        for line in found.requires or ():
            needed = Requirement(line)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)


def _licence(found: importlib.metadata.Distribution) -> str:
    """Return what the distribution says of its licence, in SPDX where it does."""
    metadata = found.metadata
    assert isinstance(metadata, Message)
    classifiers = [
        str(line) for line in metadata.get_all("Classifier", []) if str(line).startswith("License")
    ]
    named = str(metadata.get("License-Expression") or metadata.get("License") or "")
    # Some put the whole text there, with the licences of bundled parts; its first line names it.
    first_line = named.strip().split("\n")[0]
    return RUNTIME_EXCEPTION.sub("", " | ".join([first_line, *classifiers]))
