"""The tools' rules hold: lint, format, types, import contracts, lock file."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.repository import ROOT

SCRIPTS = Path(sys.executable).parent
CHECKS: dict[str, list[str | Path]] = {
    "ruff check": [SCRIPTS / "ruff", "check", "--no-cache", "--output-format=concise", "."],
    "ruff format": [SCRIPTS / "ruff", "format", "--no-cache", "--check", "."],
    "mypy": [SCRIPTS / "mypy"],
    "mypy of the tests' own machinery": [
        SCRIPTS / "mypy",
        "--explicit-package-bases",
        "tests/peers",
        "tests/conftest.py",
        "tests/architecture",
    ],
    "import contracts": [SCRIPTS / "lint-imports"],
    "lock file": [shutil.which("uv") or "uv", "lock", "--check"],
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CHECKS)
def test_the_checkout_satisfies(name: str) -> None:
    done = subprocess.run(
        CHECKS[name],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
