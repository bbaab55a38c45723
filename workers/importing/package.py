"""From a completed draft to an installed package that has been checked."""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import tomli_w

from service.core.errors import InvalidRequest
from service.core.manifest import MANIFEST_NAME, parse_manifest
from service.core.packages import ModelPackage, read_package
from workers.importing.draft import Draft, Sections, merged
from workers.importing.labels import class_sections
from workers.inference.graph import read_graph
from workers.model_check import Checked, check_package

NETWORK = "model.onnx"
_PATCH_3D, _PATCH_2D = [96, 96, 96], [256, 256]
_UNSTATED = "Not stated by its makers; research until a site has validated it."


def manifest_text(draft: Draft, sections: Sections) -> str:
    """Return the manifest of a package, with defaults where neither source nor answers speak.

    Raises
    ------
    InvalidModel
        ``MANIFEST`` with one line when the sections do not make a valid manifest.
    """
    values = _with_defaults(sections)
    entry: dict[str, Any] = {
        **values["networks"][0],
        "file": NETWORK,
        "sha256": hashlib.sha256(draft.network).hexdigest(),
        "opset": read_graph(draft.network).opset,
    }
    values["networks"] = [entry]
    ordered = ("schema_version", "package", "networks", "applicability", "input", "tiling")
    laid = {name: values[name] for name in ordered if name in values}
    text = tomli_w.dumps(laid | {k: v for k, v in values.items() if k not in laid})
    parse_manifest(text, package=values["package"]["name"])
    return text


def install(
    draft: Draft, sections: Sections, models_dir: Path, *, device: str, replace: bool
) -> tuple[ModelPackage, Checked]:
    """Write the package beside the others, check it as `models check` does, and put it in place.

    Raises
    ------
    InvalidRequest
        ``MODEL_EXISTS`` when there is one of that name and it is not to be replaced.
    InvalidModel
        When the package does not pass; nothing is left of it then.
    """
    text = manifest_text(draft, sections)
    name = parse_manifest(text, package="import").package.name
    target = models_dir / name
    if target.exists() and not replace:
        raise InvalidRequest(
            "MODEL_EXISTS", f"found a package {name} in {models_dir}, allowed another --name"
        )
    models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models_dir, prefix=".import-") as held:
        folder = Path(held) / name
        folder.mkdir()
        (folder / NETWORK).write_bytes(draft.network)
        (folder / MANIFEST_NAME).write_text(text)
        (folder / "card.md").write_text(_card(draft, name))
        (folder / "changes.md").write_text(f"# Changes\n\n## First\n- Imported: {draft.source}.\n")
        checked = check_package(read_package(folder), device=device)
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)
    return read_package(target), checked


def _with_defaults(sections: Sections) -> Sections:
    package = sections["package"]
    kind = package["kind"]
    base: Sections = {
        "schema_version": 1,
        "package": {
            "version": "0.0.1",
            "title": package["name"],
            "licence": "not stated",
            "intended_use": _UNSTATED,
        },
        "operating_points": [{"name": "balanced", "present": 0.5, "indeterminate": 0.3}],
        "measurements": {"take": _measurements(kind)},
    }
    said = {name: value for name, value in package.items() if value}
    values = merged(base, {**sections, "package": said})
    values["classes"] = _classes(values["classes"], kind)
    settings = values["input"]
    if kind == "classification":
        settings.setdefault("size", [224, 224])
    elif "size" not in settings:
        flat = settings.get("context_slices", 0) > 0
        values["tiling"] = {"patch": _PATCH_2D if flat else _PATCH_3D} | values.get("tiling", {})
    return values


def _measurements(kind: str) -> list[str]:
    if kind == "classification":
        return ["long_axis", "short_axis", "area"]
    return ["long_axis", "short_axis", "volume", "mean_hu"]


def _classes(said: list[Any], kind: str) -> list[Any]:
    """Return classes as tables; names get theirs from what the field calls them."""
    if all(isinstance(item, str) for item in said):
        return list(class_sections(said, kind))
    return said


def _card(draft: Draft, name: str) -> str:
    lines = [
        f"# {name}",
        "",
        f"Imported from: {draft.source}. Nobody has measured it here: run",
        f"`overread models evaluate {name} --data DIR` before it is believed, and enter operating",
        "points, calibration and codes into `manifest.toml`.",
        "",
        *(f"- {' '.join(remark.split())}" for remark in draft.remarks),
    ]
    return "\n".join(lines).rstrip() + "\n"
