"""A MONAI bundle: ``configs/metadata.json`` and ``inference.json`` round an ONNX network.

Of the inference configuration only the transforms that the manifest has words for are read, by
their names; nothing in it is executed. References (``@spacing``) are resolved within the file.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from service.core.errors import InvalidModel
from workers.importing.documents import Document
from workers.importing.draft import Draft, Sections, merged
from workers.importing.onnx_file import graph_sections, package_name
from workers.inference.files import regular_bytes

METADATA = "configs/metadata.json"
_CONFIGURATION = "configs/inference.json"
_NETWORK = "models/model.onnx"
_OTHER_NETWORKS = ("models/model.ts", "models/model.pt")
_REFERENCES = 8

# MONAI's arrays run (x, y, z); Orientationd names the direction that each axis runs to.
_DEFAULT_AXES = "RAS"


def monai_draft(folder: Path, *, kind: str | None) -> Draft:
    """Return the draft of a package from a bundle.

    Raises
    ------
    InvalidModel
        ``MODEL_FORMAT`` when the bundle has no ONNX network, saying how to get one; ``SOURCE``
        when its documents cannot be used.
    """
    metadata = Document.read(folder, METADATA)
    content = _network(folder)
    name = package_name(metadata.text("name", folder.resolve().name))
    graph = graph_sections(content, name, kind=kind)
    said = _described(metadata, graph)
    remarks = [metadata.text("description"), metadata.text("intended_use")]
    if (folder / _CONFIGURATION).exists():
        transforms = _Transforms(Document.read(folder, _CONFIGURATION))
        said = merged(said, transforms.sections(graph["package"]["kind"]))
        remarks += transforms.remarks
    sections = merged(graph, said)
    return Draft("MONAI bundle", content, sections, tuple(line for line in remarks if line))


def _network(folder: Path) -> bytes:
    if (folder / _NETWORK).exists():
        return regular_bytes(folder, _NETWORK)
    other = next((name for name in _OTHER_NETWORKS if (folder / name).exists()), "no network")
    raise InvalidModel(
        "MODEL_FORMAT",
        f"{folder.name}: found {other}, allowed {_NETWORK}; make it where MONAI is installed:"
        f" python -m monai.bundle onnx_export --bundle_root {folder.name}"
        f" --filepath {folder.name}/{_NETWORK}",
    )


def _described(metadata: Document, graph: Sections) -> Sections:
    formats = metadata.part("network_data_format")
    inputs = formats.part("inputs")
    image = inputs.part(next(iter(inputs.values), "image"))
    outputs = formats.part("outputs")
    prediction = outputs.part(next(iter(outputs.values), "pred"))
    authors = metadata.text("authors")
    sections: Sections = {
        "package": {
            "title": metadata.text("name", graph["package"]["name"])[:64],
            "version": _version(metadata.text("version")),
            "intended_use": metadata.text("intended_use"),
            "licence": metadata.text("license"),
            "authors": [authors] if authors else [],
        },
    }
    modality = image.text("modality").upper()
    if modality in ("CT", "MR"):
        sections["applicability"] = {"modalities": [modality]}
    names = [text for _, text in _channels(prediction)]
    if names:
        sections["classes"] = names
    axes = _lesser_window(image)
    return merged(sections, axes)


def _version(text: str) -> str:
    parts = text.split(".")
    return text if len(parts) == 3 and all(part.isdigit() for part in parts) else "0.0.1"


def _channels(prediction: Document) -> list[tuple[int, str]]:
    """Return what the output's channels mean, in their order."""
    defined = prediction.part("channel_def").values
    try:
        return sorted((int(number), str(name)) for number, name in defined.items())
    except ValueError:
        return []


def _lesser_window(image: Document) -> Sections:
    """Return the window of patch data of a fixed size."""
    shape = image.values.get("spatial_shape")
    fixed = isinstance(shape, list) and all(isinstance(edge, int) and edge > 0 for edge in shape)
    return {"tiling": {"patch": shape}} if fixed and image.values.get("is_patch_data") else {}


class _Transforms:
    """The transforms and the inferer of a configuration."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.remarks: list[str] = []

    def sections(self, kind: str) -> Sections:
        """Return input, tiling and decoding as far as known transforms say them."""
        sections: Sections = {"input": {}, "decoding": {}}
        if kind != "classification":
            sections["input"]["axes"] = _DEFAULT_AXES
        for step in self._steps():
            name = str(step.get("_target_", "")).split(".")[-1].removesuffix("d")
            known = getattr(self, f"_read_{name.lower()}", None)
            if known is not None and not step.get("_disabled_", False):
                sections = merged(sections, known({k: self._resolved(v) for k, v in step.items()}))
        return merged(sections, self._tiling())

    def _steps(self) -> Iterator[Mapping[str, Any]]:
        for part in ("preprocessing", "postprocessing"):
            steps = self._document.part(part).values.get("transforms", [])
            for step in steps if isinstance(steps, list) else []:
                found = self._resolved(step)
                if isinstance(found, Mapping):
                    yield found

    def _resolved(self, value: Any, depth: int = 0) -> Any:
        """Follow ``@name`` and ``@name#0``; what leads nowhere stays as it stands."""
        if not isinstance(value, str) or not value.startswith("@") or depth > _REFERENCES:
            return value
        found: Any = self._document.values
        for key in value[1:].replace("::", "#").split("#"):
            if isinstance(found, Mapping) and key in found:
                found = found[key]
            elif isinstance(found, list) and key.isdigit() and int(key) < len(found):
                found = found[int(key)]
            else:
                return value
        return self._resolved(found, depth + 1)

    def _read_orientation(self, step: Mapping[str, Any]) -> Sections:
        return {"input": {"axes": str(step.get("axcodes", _DEFAULT_AXES))}}

    def _read_spacing(self, step: Mapping[str, Any]) -> Sections:
        pixdim = Document(step, self._place("Spacingd")).numbers("pixdim", 3)
        # MONAI: along its array axes x, y, z; ours: z, y, x.
        return {"input": {"spacing_mm": [max(0.0, edge) for edge in (pixdim or [0, 0, 0])[::-1]]}}

    def _read_scaleintensityrange(self, step: Mapping[str, Any]) -> Sections:
        here = Document(step, self._place("ScaleIntensityRanged"))
        low, high, bottom, top = (_number(here, k) for k in ("a_min", "a_max", "b_min", "b_max"))
        intensity = {"mode": "window", "lower": low, "upper": high, "to": [bottom, top]}
        if not step.get("clip", False):
            self.remarks.append("the bundle does not clip intensities; the package does")
        return {"input": {"intensity": intensity}}

    def _read_scaleintensityrangepercentiles(self, step: Mapping[str, Any]) -> Sections:
        here = Document(step, self._place("ScaleIntensityRangePercentilesd"))
        low, high, bottom, top = (_number(here, k) for k in ("lower", "upper", "b_min", "b_max"))
        return {"input": {"intensity": {
            "mode": "percentile", "lower": low, "upper": high, "to": [bottom, top],
        }}}  # fmt: skip

    def _read_scaleintensity(self, step: Mapping[str, Any]) -> Sections:
        bottom, top = step.get("minv", 0.0), step.get("maxv", 1.0)
        return {"input": {"intensity": {"mode": "range", "to": [bottom, top]}}}

    def _read_normalizeintensity(self, step: Mapping[str, Any]) -> Sections:
        intensity: Sections = {"mode": "standardise", "lower": 0.0, "upper": 100.0}
        if step.get("nonzero", False):
            intensity["foreground_above"] = 0.0
        return {"input": {"intensity": intensity}}

    def _read_activations(self, step: Mapping[str, Any]) -> Sections:
        activation = "sigmoid" if step.get("sigmoid") else "softmax" if step.get("softmax") else ""
        return {"decoding": {"activation": activation}} if activation else {}

    def _tiling(self) -> Sections:
        inferer = self._document.part("inferer")
        edges = self._resolved(inferer.values.get("roi_size"))
        if not isinstance(edges, list) or not all(isinstance(e, int) and e > 0 for e in edges):
            return {}
        overlap = self._resolved(inferer.values.get("overlap", 0.25))
        sections: Sections = {"patch": edges}
        if isinstance(overlap, int | float) and 0 <= overlap <= 0.9:
            sections["overlap"] = overlap
        mode = self._resolved(inferer.values.get("mode"))
        if mode in ("gaussian", "constant"):
            sections["blending"] = mode
        return {"tiling": sections}

    def _place(self, transform: str) -> str:
        return f"{_CONFIGURATION}: {transform}"


def _number(step: Document, key: str) -> float:
    value = step.values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise step.wrong(key, "a number")
    return float(value)
