"""Writes the files of a model package: manifest, golden case, digests.

The manifest is assembled as TOML text here because it is meant to be read by people too.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workers.model_check import write_golden

# Chest findings and liver lesions, SNOMED CT (SCT).
CODES = {
    "nodule_mass": ("27925004", "Nodule"),
    "consolidation": ("95436008", "Lung consolidation"),
    "pleural_effusion": ("60046008", "Pleural effusion"),
    "pneumothorax": ("36118008", "Pneumothorax"),
    "cardiomegaly": ("8186001", "Cardiomegaly"),
    "atelectasis": ("46621007", "Atelectasis"),
    "liver": ("10200004", "Liver"),
    "lesion": ("52988006", "Lesion"),
    "lung": ("39607008", "Lung"),
    "pleura": ("3120008", "Pleura"),
    "heart": ("80891009", "Heart"),
}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def value(item: Any) -> str:
    """Return a number, string, list or mapping as TOML on one line."""
    if isinstance(item, Mapping):
        return "{ " + ", ".join(f"{k} = {value(v)}" for k, v in item.items()) + " }"
    if isinstance(item, Sequence) and not isinstance(item, str):
        return "[" + ", ".join(value(v) for v in item) + "]"
    return json.dumps(item, ensure_ascii=False)


def table(head: str, items: Mapping[str, Any]) -> str:
    """Return a TOML table; `head` is its line, such as ``[package]``."""
    lines = [f"{k} = {value(v)}" for k, v in items.items()]
    return "\n".join([head, *lines])


def code(name: str) -> dict[str, str]:
    """Return the coded concept that stands for a finding or a site."""
    number, meaning = CODES[name]
    return {"value": number, "scheme": "SCT", "meaning": meaning}


def write_package(folder: Path, sections: Sequence[str], golden: str) -> None:
    """Write ``manifest.toml`` with the golden case that the package itself now gives.

    The golden input ``golden/<golden>.npz`` has to lie in the folder.
    """
    head = "#:schema ../manifest.schema.json\nschema_version = 1"
    manifest = folder / "manifest.toml"
    manifest.write_text("\n\n".join([head, *sections]) + "\n")
    section = write_golden(folder, golden)
    manifest.write_text("\n\n".join([head, *sections, section.strip()]) + "\n")
