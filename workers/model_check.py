"""Whether a package can be trusted: files, limits, device, golden cases.

For authors of packages: ``python -m workers.model_check golden FOLDER NAME`` runs the package on
``golden/NAME.npz``, writes ``golden/NAME.json`` and prints the section for the manifest;
``python -m workers.model_check schema`` prints the JSON schema of the manifest.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from service.core.manifest import manifest_schema
from service.core.packages import ModelPackage, read_package
from workers.golden import analyse_input, expected_of, golden_section, run_golden
from workers.models import load_model


@dataclass(frozen=True)
class Checked:
    """A package that passed: what it is, where it ran, which golden cases, how long it took."""

    name: str
    version: str
    sha256: str
    device: str
    networks: tuple[str, ...]
    golden: tuple[str, ...]
    load_s: float
    golden_s: float


def check_package(package: ModelPackage, *, device: str = "cpu", threads: int = 0) -> Checked:
    """Verify, load with limits, warm up and run the golden cases of a package.

    Raises
    ------
    InvalidModel
        With the first thing that is wrong: package, field, found, allowed.
    """
    started = time.perf_counter()
    model = load_model(package, device=device, threads=threads)
    loaded = time.perf_counter()
    for golden in package.manifest.golden:
        run_golden(model, golden)
    return Checked(
        name=package.name,
        version=package.version,
        sha256=package.sha256,
        device=model.device,
        networks=tuple(model.sessions),
        golden=tuple(golden.name for golden in package.manifest.golden),
        load_s=loaded - started,
        golden_s=time.perf_counter() - loaded,
    )


def write_golden(folder: Path, name: str) -> str:
    """Write what the package finds in ``golden/NAME.npz`` now; return the manifest's section."""
    content = (folder / "golden" / f"{name}.npz").read_bytes()
    model = load_model(read_package(folder), device="cpu")
    expected = expected_of(analyse_input(model, content))
    (folder / "golden" / f"{name}.json").write_bytes(expected)
    return golden_section(name, expected, content)


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m workers.model_check", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    golden = commands.add_parser("golden", help="write the expected findings of a golden input")
    golden.add_argument("folder", type=Path)
    golden.add_argument("name")
    commands.add_parser("schema", help="print the JSON schema of the manifest")
    arguments = parser.parse_args()
    if arguments.command == "golden":
        sys.stdout.write(write_golden(arguments.folder.resolve(), arguments.name))
    else:
        sys.stdout.write(manifest_schema())


if __name__ == "__main__":
    main()
