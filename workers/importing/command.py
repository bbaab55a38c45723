"""`overread models import`: recognise the source, ask for what it does not say, install."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import typer

from service.core.errors import InvalidModel, InvalidRequest
from service.core.packages import ModelPackage
from service.core.startup import DONE
from workers.importing.answers import Flags, complete, told
from workers.importing.draft import Draft, Sections, merged
from workers.importing.monai_bundle import METADATA, monai_draft
from workers.importing.nnunet import DATASET, PLANS, nnunet_draft
from workers.importing.onnx_file import onnx_draft
from workers.importing.package import install
from workers.importing.torchxrayvision import DESCRIPTION, torchxrayvision_draft

_PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".ts")


def import_package(
    source: Path,
    flags: Flags,
    models_dir: Path,
    *,
    answers: Path | None,
    configuration: str | None,
    device: str,
    replace: bool,
) -> int:
    """Turn a foreign network into an installed package; return the exit code.

    Raises
    ------
    InvalidRequest, InvalidModel
        With one line: what was found and what is allowed.
    """
    over = told(flags, answers)
    kind = over.get("package", {}).get("kind") if isinstance(over.get("package"), dict) else None
    draft = read_source(source, kind=kind, configuration=configuration)
    sections = complete(merged(draft.sections, over), _asker())
    _require_classes(draft, sections)
    package, checked = install(draft, sections, models_dir, device=device, replace=replace)
    typer.echo(
        f"{package.name} {package.version} from {draft.source}: {package.kind},"
        f" {len(package.manifest.classes)} classes, loads and runs on {checked.device}"
    )
    for remark in (*draft.remarks, *_unfinished(package)):
        typer.echo(f"  {' '.join(remark.split())}")
    return DONE


def read_source(source: Path, *, kind: str | None, configuration: str | None) -> Draft:
    """Return the draft of whatever lies at `source`.

    Raises
    ------
    InvalidRequest
        ``SOURCE`` when it is nothing that is known.
    InvalidModel
        When it is known and cannot be used.
    """
    if source.is_symlink():
        raise InvalidRequest("SOURCE", f"found {source}, a link; allowed a file or folder itself")
    if source.is_dir():
        readers: dict[str, Callable[[], Draft]] = {
            METADATA: lambda: monai_draft(source, kind=kind),
            DESCRIPTION: lambda: torchxrayvision_draft(source),
        }
        for name, reader in readers.items():
            if os.path.lexists(source / name):
                return reader()
        if os.path.lexists(source / PLANS) and os.path.lexists(source / DATASET):
            return nnunet_draft(source, configuration=configuration)
    elif source.suffix.lower() == ".onnx":
        return onnx_draft(source, kind=kind)
    elif source.suffix.lower() in _PICKLES:
        raise InvalidModel(
            "MODEL_FORMAT",
            f"found {source.name}, a file that runs code when it is opened; allowed .onnx,"
            " exported where it was trained (see models/README.md)",
        )
    raise InvalidRequest(
        "SOURCE",
        f"found {source}, allowed an .onnx file, a MONAI bundle ({METADATA}), an nnU-Net v2"
        f" folder ({PLANS}, {DATASET}) or an exported torchxrayvision classifier ({DESCRIPTION})",
    )


def _require_classes(draft: Draft, sections: Sections) -> None:
    """Compare the classes that were named with the network's outputs, where it fixes them."""
    outputs, named = len(draft.sections.get("classes", ())), len(sections["classes"])
    if outputs and named != outputs:
        raise InvalidRequest(
            "ANSWERS", f"--classes: found {named} names, allowed {outputs}, the network's outputs"
        )


def _asker() -> Callable[[str], str] | None:
    """Return how to ask, where there is somebody to answer."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    return lambda text: str(typer.prompt(text, err=True))


def _unfinished(package: ModelPackage) -> list[str]:
    """Return what the site has to see to before the package is more than a trial."""
    manifest = package.manifest
    private = [
        spec.name for spec in manifest.classes
        if spec.label is not None and spec.label.scheme.startswith("99")
    ]  # fmt: skip
    remarks = []
    if private:
        remarks.append(f"private codes stand for {', '.join(private[:8])}: give better ones")
    if not manifest.guard.rules and manifest.guard.distribution is None:
        remarks.append("no guard: series are refused by their headers alone")
    if manifest.calibration.method == "none":
        remarks.append("probabilities are the network's own, not calibrated")
    return remarks
