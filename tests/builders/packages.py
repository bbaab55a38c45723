"""Model packages for tests: a manifest of a few lines and networks of a few nodes."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.core.packages import ModelPackage, read_package
from tests.builders import onnx

NODULE = {"value": "27925004", "scheme": "SCT", "meaning": "Nodule"}
LESION = {"value": "52988006", "scheme": "SCT", "meaning": "Lesion"}
LUNG = {"value": "39607008", "scheme": "SCT", "meaning": "Lung"}
LIVER = {"value": "10200004", "scheme": "SCT", "meaning": "Liver"}
OPACITY = {"value": "128309005", "scheme": "SCT", "meaning": "Opacity"}
NORMAL = {"value": "17621005", "scheme": "SCT", "meaning": "Normal"}

# HU -1000 is 0 and 0 HU is 0.5 for the networks.
WINDOW = {"mode": "window", "lower": -1000, "upper": 1000}


def manifest(kind: str = "detection", **sections: Any) -> dict[str, Any]:
    """Return a manifest's values; a section given replaces the one that stands here."""
    values: dict[str, Any] = {
        "schema_version": 1,
        "package": {
            "name": "test_package",
            "version": "1.2.3",
            "title": "A package for tests",
            "task": "testing",
            "kind": kind,
            "licence": "MIT",
            "intended_use": "tests",
        },
        "networks": [],
        "applicability": {"modalities": ["CT"]},
        "input": {"spacing_mm": [2.0, 2.0, 2.0], "intensity": WINDOW},
        "tiling": {"patch": [32, 32, 32]},
        "decoding": {},
        "classes": [{"name": "nodule", "kind": "lesion", "label": NODULE, "site": LUNG}],
        "operating_points": [
            {"name": "balanced", "present": 0.7, "indeterminate": 0.3},
            {"name": "sensitive", "present": 0.3, "indeterminate": 0.1},
        ],
    }
    return values | sections


def network_entry(role: str, content: bytes, **fields: Any) -> dict[str, Any]:
    """Return the manifest's entry for a network, read from its own graph."""
    return {
        "role": role,
        "file": f"{role}.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
        **onnx.tensors(content),
        **fields,
    }


def write_package(
    models_dir: Path,
    values: Mapping[str, Any],
    networks: Mapping[str, bytes],
    *,
    crops: Mapping[str, Any] | None = None,
) -> ModelPackage:
    """Write a package and read it back; networks by role, second-stage crops by role."""
    folder = models_dir / str(values["package"]["name"])
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for role, content in networks.items():
        onnx.write(folder, f"{role}.onnx", content)
        crop = (crops or {}).get(role)
        entries.append(network_entry(role, content, **({"crop": crop} if crop else {})))
    (folder / "manifest.toml").write_text(toml({**values, "networks": entries}))
    return read_package(folder)


def toml(values: Mapping[str, Any]) -> str:
    """Write values as TOML, nested tables inline."""
    return "".join(f"{key} = {_inline(value)}\n" for key, value in values.items())


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_inline(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return json.dumps(value)
