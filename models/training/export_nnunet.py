"""Export a trained nnU-Net v2 network for `overread models import`.

    pip install dynamic-network-architectures
    python -m models.training.export_nnunet FOLDER [--configuration 3d_fullres] [--fold 0]

FOLDER is what nnU-Net leaves of a training: ``plans.json``, ``dataset.json`` and
``fold_0/checkpoint_final.pth``. The network is built from the plans, as nnU-Net itself does since
version 2.4, and written to ``FOLDER/model.onnx``. Opening a checkpoint is left to torch's safe
loader, which builds tensors and nothing else.
"""

import argparse
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from models.training.exporting import export_network

_ALLOWED = ("dynamic_network_architectures.", "torch.nn.")


def build_network(architecture: Mapping[str, Any], channels: int, classes: int) -> nn.Module:
    """Return the network that the plans describe, without weights."""
    arguments = dict(architecture["arch_kwargs"])
    for name in architecture.get("_kw_requires_import", ()):
        if arguments.get(name) is not None:
            arguments[name] = _named(arguments[name])
    made: nn.Module = _named(architecture["network_class_name"])(
        input_channels=channels, num_classes=classes, deep_supervision=False, **arguments
    )
    return made


def _named(path: str) -> Any:
    """Return a class by its path, of the libraries that nnU-Net builds its networks from."""
    if not path.startswith(_ALLOWED):
        message = f"found {path}, allowed classes of {', '.join(_ALLOWED)}"
        raise ValueError(message)
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def read_weights(checkpoint: Path) -> dict[str, Any]:
    """Return the network's weights; those of deep supervision heads and wrappers are left out."""
    # nnU-Net keeps its log of numpy numbers beside the weights.
    numbers = [np.ndarray, np.dtype, type(np.dtype("float64")), type(np.dtype("float32"))]
    scalar = getattr(np, "_core", np).multiarray.scalar
    with torch.serialization.safe_globals([*numbers, scalar]):
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return {
        name.removeprefix("module.").removeprefix("_orig_mod."): value
        for name, value in stored["network_weights"].items()
    }


def export_folder(folder: Path, configuration: str, fold: str) -> None:
    """Build, load and export the network of a folder."""
    plans = json.loads((folder / "plans.json").read_text())
    dataset = json.loads((folder / "dataset.json").read_text())
    settings = plans["configurations"][configuration]
    labels = [value for name, value in dataset["labels"].items() if name != "ignore"]
    network = build_network(settings["architecture"], len(dataset["channel_names"]), len(labels))
    network.load_state_dict(read_weights(folder / f"fold_{fold}" / "checkpoint_final.pth"))
    name = "slab" if len(settings["patch_size"]) == 2 else "volume"
    example = torch.rand(1, len(dataset["channel_names"]), *settings["patch_size"])
    made = export_network(
        network, example, folder / "model.onnx", names=(name, ("logits",)), fixed_size=True
    )
    print(f"{made.size_bytes} bytes, differs by {made.largest_difference:.2g}")


def main() -> None:
    """Read the command line."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--configuration", default="3d_fullres")
    arguments.add_argument("--fold", default="0")
    given = arguments.parse_args()
    export_folder(given.folder, given.configuration, given.fold)


if __name__ == "__main__":
    main()
