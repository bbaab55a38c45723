"""An ONNX file as the beginning of a package: what its graph says, and nothing more."""

import re
from pathlib import Path

from workers.importing.draft import Draft, Sections
from workers.importing.kinds import read_kind
from workers.inference.files import regular_bytes
from workers.inference.tensors import read_ports

_NAME_LENGTH = 60


def onnx_draft(path: Path, *, kind: str | None, source: str = "ONNX file") -> Draft:
    """Return the draft of a package round an ONNX file.

    Raises
    ------
    InvalidModel
        ``MODEL_FILE`` or ``MODEL_GRAPH`` when it is no network of a kind.
    """
    content = regular_bytes(path.parent, path.name)
    return Draft(source, content, graph_sections(content, package_name(path.stem), kind=kind))


def graph_sections(content: bytes, name: str, *, kind: str | None) -> Sections:
    """Return the sections that the graph alone gives: kind, tensors, sizes that are fixed."""
    ports = read_ports(content)
    reading = read_kind(ports, kind)
    sections: Sections = {
        "package": {"name": name, "kind": reading.kind, "task": name},
        "networks": [reading.network(ports)],
        "input": {},
        "decoding": {},
    }
    channels, *sizes = reading.image.shape[1:]
    if reading.kind == "classification":
        sections["input"]["channels"] = 3 if channels == 3 else 1
        if all(sizes):
            sections["input"]["size"] = sizes
    elif reading.is_flat:
        sections["input"]["context_slices"] = channels or 1
        if all(sizes):
            sections["tiling"] = {"patch": sizes}
    elif all(sizes):
        sections["tiling"] = {"patch": sizes}
    if {"boxes", "scores"} <= set(reading.meanings):
        sections["decoding"]["form"] = "boxes"
    if "boxes" in reading.meanings.values():
        sections["classes"] = ["class 0"]
    elif reading.classes:
        sections["classes"] = [f"class {number}" for number in range(reading.classes)]
    return sections


def package_name(text: str) -> str:
    """Return a name that a package may bear.

    >>> package_name("Spleen CT-v2 (final)")
    'spleen_ct_v2_final'
    """
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    name = name if name[:1].isalpha() else f"model_{name}"
    return name[:_NAME_LENGTH].rstrip("_")
