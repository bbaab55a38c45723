"""An nnU-Net v2 folder: ``plans.json`` and ``dataset.json`` beside an exported network.

nnU-Net keeps weights as pickles of torch, which are never opened here: the network is exported
where it was trained (``python -m models.training.export_nnunet``), and this reads the plans.
"""

from pathlib import Path
from typing import Any

from service.core.errors import InvalidModel
from workers.importing.documents import Document
from workers.importing.draft import Draft, Sections, merged
from workers.importing.onnx_file import graph_sections, package_name
from workers.inference.files import regular_bytes

PLANS, DATASET = "plans.json", "dataset.json"
_NETWORK = "model.onnx"
_CONFIGURATIONS = ("3d_fullres", "3d_lowres", "2d")
_CLIPS = ("percentile_00_5", "percentile_99_5", "mean", "std")


def nnunet_draft(folder: Path, *, configuration: str | None) -> Draft:
    """Return the draft of a package from a folder of nnU-Net v2.

    Raises
    ------
    InvalidModel
        ``MODEL_FORMAT`` when no network was exported, saying how; ``SOURCE`` when plans or data
        set are not what one network of this product can be.
    """
    plans, dataset = Document.read(folder, PLANS), Document.read(folder, DATASET)
    if not (folder / _NETWORK).exists():
        raise InvalidModel(
            "MODEL_FORMAT",
            f"{folder.name}: found no {_NETWORK}; make it where nnU-Net is installed:"
            f" python -m models.training.export_nnunet {folder.name}",
        )
    content = regular_bytes(folder, _NETWORK)
    chosen, settings = _configuration(plans, configuration)
    name = package_name(plans.text("dataset_name", folder.resolve().name))
    graph = graph_sections(content, name, kind="segmentation")
    sections = merged(graph, _planned(plans, dataset, settings, flat=chosen == "2d"))
    remarks = (
        f"nnU-Net v2 configuration {chosen}, without test-time mirroring",
        "nnU-Net keeps the orientation of its files: the axes are those of axial DICOM series",
    )
    return Draft("nnU-Net v2", content, sections, remarks)


def _configuration(plans: Document, wanted: str | None) -> tuple[str, Document]:
    known = plans.part("configurations").values
    order = (wanted,) if wanted else _CONFIGURATIONS
    for name in order:
        if name in known:
            settings = plans.part("configurations", name)
            base = settings.text("inherits_from")
            inherited = plans.part("configurations", base).values if base else {}
            joined = merged(inherited, settings.values)
            return name, Document(joined, f"{PLANS}: configurations.{name}")
    raise InvalidModel(
        "SOURCE", f"{PLANS}: configurations: found {', '.join(known)}, allowed {', '.join(order)}"
    )


def _planned(plans: Document, dataset: Document, settings: Document, *, flat: bool) -> Sections:
    channels = dataset.part("channel_names").values
    if len(channels) != 1:
        found = ", ".join(map(str, channels.values())) or "none"
        raise InvalidModel("SOURCE", f"{DATASET}: channel_names: found {found}, allowed one")
    if plans.values.get("transpose_forward", [0, 1, 2]) != [0, 1, 2]:
        raise plans.wrong("transpose_forward", "[0, 1, 2]")
    spacing = settings.numbers("spacing", 2 if flat else 3)
    patch = settings.numbers("patch_size", 2 if flat else 3)
    if spacing is None or patch is None:
        raise settings.wrong("spacing" if spacing is None else "patch_size", "numbers")
    modality = _modality(str(next(iter(channels.values()))))
    sections: Sections = {
        "package": {"title": plans.text("dataset_name", "nnU-Net")[:64]},
        "input": {
            # A two-dimensional network keeps the slices as they are.
            "spacing_mm": [0.0, *spacing] if flat else spacing,
            "axes": "SPL",
            "intensity": _intensity(plans, settings),
        },
        "tiling": {"patch": [int(edge) for edge in patch], "overlap": 0.5, "blending": "gaussian"},
        "decoding": {"activation": "softmax"},
        "classes": _classes(dataset),
    }
    if flat:
        sections["input"]["context_slices"] = 1
    return sections | ({"applicability": {"modalities": [modality]}} if modality else {})


def _modality(channel: str) -> str:
    words = channel.upper()
    if "CT" in words:
        return "CT"
    return "MR" if any(word in words for word in ("MR", "T1", "T2", "FLAIR", "ADC")) else ""


def _intensity(plans: Document, settings: Document) -> Sections:
    schemes: Any = settings.values.get("normalization_schemes") or [""]
    scheme = str(schemes[0])
    if scheme == "CTNormalization":
        statistics = plans.part("foreground_intensity_properties_per_channel", "0")
        low, high, mean, deviation = (statistics.values.get(key) for key in _CLIPS)
        numbers = [low, high, mean, deviation]
        if not all(isinstance(value, int | float) for value in numbers):
            raise statistics.wrong(
                _CLIPS[numbers.index(None) if None in numbers else 0], "a number"
            )
        return {
            "mode": "window", "lower": low, "upper": high, "to": [low, high],
            "mean": mean, "sd": max(float(deviation), 1e-8),  # type: ignore[arg-type]
        }  # fmt: skip
    if scheme == "ZScoreNormalization":
        masked: Any = settings.values.get("use_mask_for_norm") or [False]
        intensity: Sections = {"mode": "standardise", "lower": 0.0, "upper": 100.0}
        return intensity | ({"foreground_above": 0.0} if masked[0] else {})
    if scheme == "RescaleTo01Normalization":
        return {"mode": "range", "to": [0.0, 1.0]}
    allowed = "CTNormalization, ZScoreNormalization or RescaleTo01Normalization"
    raise settings.wrong("normalization_schemes", allowed)


def _classes(dataset: Document) -> list[str]:
    """Return the names of the labels in the order of the channels."""
    labels = dataset.part("labels").values
    regions = any(isinstance(value, list) for value in labels.values())
    numbers = sorted(
        (value, name) for name, value in labels.items()
        if isinstance(value, int) and name != "ignore"
    )  # fmt: skip
    if regions or [value for value, _ in numbers] != list(range(len(numbers))):
        raise dataset.wrong("labels", "whole numbers from 0 on, one a name")
    return [name for _, name in numbers]
