"""`overread serve` and its siblings as an administrator uses them: start, stop, exit codes."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.builders.studies import ball_package
from tests.peers.overread import Overread
from tests.peers.pacs import PlayingPacs
from tests.peers.process import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def command(*arguments: str, folder: Path, **settings: str) -> "subprocess.CompletedProcess[str]":
    environment = {f"OVERREAD_{key.upper()}": value for key, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments],
        env={**os.environ, "OVERREAD_DATA_DIR": str(folder / "data"), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def overread(tmp_path: Path) -> Iterator[Overread]:
    ball_package(tmp_path / "models")
    with Overread(tmp_path / "overread", models__dir=tmp_path / "models") as running:
        yield running


def test_a_signal_ends_everything_in_time_and_leaves_no_process(overread: Overread) -> None:
    tree = psutil.Process(overread.process.pid).children(recursive=True)
    socket = overread.folder / "data" / "redis"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o700
    started = time.monotonic()
    assert overread.process.stop(limit_s=20, first=signal.SIGTERM) == 0
    assert time.monotonic() - started < 20
    assert [child for child in tree if child.is_running()] == []


def test_what_it_started_ends_with_it_even_when_it_is_killed(overread: Overread) -> None:
    tree = psutil.Process(overread.process.pid).children(recursive=True)
    assert len(tree) >= 6
    os.kill(overread.process.pid, signal.SIGKILL)
    _gone, alive = psutil.wait_procs(tree, timeout=20)
    assert alive == []


def test_a_role_that_dies_is_started_again(overread: Overread) -> None:
    for role in ("receiver", "scheduler", "worker", "deliverer", "api"):
        first = {process.pid for process in overread.processes(role)}
        assert overread.kill(role) >= 1
        wait_for(lambda: {p.pid for p in overread.processes(role)} - first, limit_s=10)  # noqa: B023
    wait_for(overread.is_ready, limit_s=120)


def test_doctor_tells_what_answers_and_what_is_down(tmp_path: Path, pacs: PlayingPacs) -> None:
    ball_package(tmp_path / "models")
    peers = [
        {"name": "here", "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port},
        {"name": "away", "ae_title": "AWAY", "host": "127.0.0.1", "port": 9},
    ]
    with Overread(
        tmp_path / "overread",
        models__dir=tmp_path / "models",
        destinations=peers,
        http__api_keys='["a-secret-key"]',
    ) as overread:
        examined = overread.command("doctor")
        assert examined.returncode == 1
        assert "a-secret-key" not in examined.stdout
        lines = examined.stdout.splitlines()
        assert any("ok" in line and "destination here" in line for line in lines)
        assert any("DOWN" in line and "destination away" in line for line in lines)
        assert any("ok" in line and "database" in line for line in lines)
        assert any("ok" in line and "ball_detection" in line for line in lines) or any(
            "ok" in line and "models" in line for line in lines
        )


def test_a_changed_network_stops_serve_with_the_reason(tmp_path: Path) -> None:
    package = ball_package(tmp_path / "models")
    network = package.folder / "detector.onnx"
    network.write_bytes(network.read_bytes()[:-1] + b"x")
    settings = {
        "models__dir": str(tmp_path / "models"),
        "dicom__port": "0",
        "http__port": "0",
        "retention__min_free_bytes": "0",
    }
    served = command("serve", folder=tmp_path, **settings)
    assert served.returncode == 2
    assert "DIGEST" in served.stderr
    checked = command("models", "check", folder=tmp_path, **settings)
    assert checked.returncode == 1
    assert "DIGEST" in checked.stderr


def test_wrong_commands_and_settings_exit_2_with_one_line(tmp_path: Path) -> None:
    for arguments, settings, said in (
        (["serve"], {"dicom__port": "99999"}, "dicom.port: found '99999'"),
        (["serve"], {"http__host": "0.0.0.0"}, "http.auth"),
        (["send", str(tmp_path), "--to", "nowhere"], {}, "AE@HOST:PORT"),
        (["replay", "f" * 32], {}, "overread: "),
        (["models", "check", "none"], {}, "MODEL_UNKNOWN"),
    ):
        done = command(*arguments, folder=tmp_path, **settings)
        assert done.returncode == 2, (arguments, done.stderr)
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert command("nonsense", folder=tmp_path).returncode == 2


def test_sending_to_nobody_fails_with_1(tmp_path: Path) -> None:
    (tmp_path / "note.dcm").write_text("not DICOM")
    done = command("send", str(tmp_path / "note.dcm"), "--to", "A@127.0.0.1:9", folder=tmp_path)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr


def test_migrate_and_list_models(tmp_path: Path) -> None:
    package = ball_package(tmp_path / "models")
    migrated = command("migrate", folder=tmp_path)
    assert (migrated.returncode, migrated.stdout.startswith("schema 0")) == (0, True)
    listed = command("models", "list", folder=tmp_path, models__dir=str(tmp_path / "models"))
    assert package.sha256 in listed.stdout


@pytest.mark.parametrize("place", [0, 2])
def test_the_settings_file_is_named_before_or_after_the_command(tmp_path: Path, place: int) -> None:
    package = ball_package(tmp_path / "models")
    file = tmp_path / "site.toml"
    file.write_text(f'[models]\ndir = "{tmp_path / "models"}"\n')
    words = ["models", "list"]
    words[place:place] = ["--config", str(file)]
    assert package.sha256 in command(*words, folder=tmp_path).stdout
