"""One command runs the suite: what it does when something is missing."""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers import catalogue, install
from tests.peers.catalogue import NpmPackage

REPOSITORY = Path(__file__).parents[3]
ONE_TEST = "tests/integration/peers/test_browser.py::test_ohif_is_a_built_viewer"


def suite(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run pytest as `tests/run` does, with no downloaded peers but those in the folder."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_peer_skips_its_tests_and_is_named_with_the_way_to_get_it(
    tmp_path: Path,
) -> None:
    done = suite(ONE_TEST, cache=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "1 skipped" in done.stdout
    assert f"OHIF: npm pack @ohif/app@{catalogue.OHIF_PACKAGE.version}" in done.stdout


def test_a_run_that_requires_peers_fails_for_a_missing_one(tmp_path: Path) -> None:
    done = suite("--require-peers", ONE_TEST, cache=tmp_path)
    assert done.returncode == 1
    assert "OHIF is not here" in done.stdout


def test_a_run_that_requires_peers_fails_when_no_test_noticed(tmp_path: Path) -> None:
    done = suite(
        "--require-peers",
        "tests/architecture/test_layout.py",
        "-k",
        "is_no_package",
        cache=tmp_path,
    )
    assert " passed" in done.stdout
    assert done.returncode == 1


def test_the_command_without_uv_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "dirname").symlink_to(shutil.which("dirname") or "")
    done = subprocess.run(
        [shutil.which("bash") or "bash", REPOSITORY / "tests" / "run"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "tests/run needs uv: pip install uv\n"


@pytest.mark.parametrize("intact", [True, False])
def test_a_download_is_used_only_when_it_has_the_pinned_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, intact: bool
) -> None:
    archive = _archive(tmp_path)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    package = NpmPackage("thing", "1.0.0", f"sha512-{digest if intact else digest[::-1]}")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\ncp {archive} .\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    install._install_npm(package)
    assert (package.folder / "index.js").exists() == intact


def _archive(folder: Path) -> Path:
    """Return an npm archive of one file."""
    content = folder / "package"
    content.mkdir()
    (content / "index.js").write_text("export {}\n")
    archive = folder / "thing-1.0.0.tgz"
    subprocess.run(["tar", "-czf", archive, "-C", folder, "package"], check=True)
    return archive
