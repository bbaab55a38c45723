"""What the product is made of: a bill of materials, licences, and known vulnerabilities.

``python -m tests.supply_chain sbom FILE`` writes CycloneDX 1.5 JSON of every locked dependency and
every model package. ``licences`` lists what is installed with the product. ``audit`` asks the
registry for known vulnerabilities (pip-audit over the lock file) and ends with 1 when there are
some; where no registry tells any, it says so and ends with 0.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from service.core.packages import ModelPackage, installed_packages

ROOT = Path(__file__).parents[1]
_EXPORT = ("export", "--frozen", "--no-dev", "--no-emit-project", "--quiet")
_AUDIT_LIMIT_S = 300


def main() -> int:
    """Do what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.supply_chain", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sbom").add_argument("file", type=Path)
    commands.add_parser("licences")
    commands.add_parser("audit")
    asked = parser.parse_args()
    if asked.command == "sbom":
        asked.file.write_text(json.dumps(bill_of_materials(), indent=2))
        return 0
    if asked.command == "licences":
        for line in licences():
            print(line)
        return 0
    return audit()


def bill_of_materials() -> dict[str, Any]:
    """Return the CycloneDX document: locked dependencies by uv, and the model packages."""
    bill: dict[str, Any] = json.loads(_uv(*_EXPORT, "--format", "cyclonedx1.5"))
    bill["components"] += [
        _model_component(package) for package in installed_packages(ROOT / "models")
    ]
    return bill


def licences() -> Iterator[str]:
    """Yield name, version and licence of everything that is installed with the product."""
    # Imported late: the walk over what is installed needs the test extra.
    from tests.architecture.test_dependencies import _installed, _licence  # noqa: PLC0415

    for name, found in sorted(_installed("overread")):
        yield f"{name} {found.version}: {_licence(found).strip(' |')}"


def audit() -> int:
    """Compare the lock file with known vulnerabilities; return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        locked = Path(folder) / "requirements.txt"
        locked.write_text(_uv(*_EXPORT, "--format", "requirements.txt"))
        command = [*_program(), "tool", "run", "pip-audit", "--disable-pip", "-f", "json"]
        try:
            done = subprocess.run(
                [*command, "-r", str(locked)],
                capture_output=True, text=True, timeout=_AUDIT_LIMIT_S, check=False,
            )  # fmt: skip
            found = json.loads(done.stdout)["dependencies"]
        except (subprocess.TimeoutExpired, json.JSONDecodeError, KeyError):
            print("audit skipped: no registry to get pip-audit or advisories from")
            return 0
    return _judged(found)


def _judged(found: list[dict[str, Any]]) -> int:
    told = [each for each in found if "skip_reason" not in each]
    if not told:
        print(f"audit skipped: the registry tells nothing of {len(found)} dependencies")
        return 0
    bad = [each for each in told if each["vulns"]]
    for each in bad:
        names = ", ".join(vulnerability["id"] for vulnerability in each["vulns"])
        print(f"{each['name']} {each['version']}: {names}")
    print(f"{len(told)} of {len(found)} dependencies audited, {len(bad)} with vulnerabilities")
    return 1 if bad else 0


def _model_component(package: ModelPackage) -> dict[str, Any]:
    """Return a model package as a component, its networks inside by their digests."""
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{package.name}@{package.version}",
        "name": package.name,
        "version": package.version,
        "hashes": [{"alg": "SHA-256", "content": package.sha256}],
        "licenses": [{"license": {"name": package.manifest.package.licence}}],
        "components": [
            {
                "type": "file",
                "bom-ref": f"model:{package.name}@{package.version}/{network.file}",
                "name": network.file,
                "hashes": [{"alg": "SHA-256", "content": network.sha256}],
            }
            for network in package.manifest.networks
        ],
    }


def _uv(*arguments: str) -> str:
    done = subprocess.run(
        [*_program(), *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def _program() -> list[str]:
    found = shutil.which("uv")
    return [found] if found else [sys.executable, "-m", "uv"]


if __name__ == "__main__":
    sys.exit(main())
