"""The demo does the main job with the networks that come with the product."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_finds_something_in_each_patient_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "demo", "--exit"],
        env={**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "160"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("lung nodules", "chest X-ray", "liver lesions", "Nodule", "Lesion"):
        assert words in done.stdout
    assert list(tmp_path.glob("overread-*")) == []
