"""Export a torchxrayvision classifier for `overread models import`.

    pip install torchxrayvision
    python -m models.training.export_torchxrayvision densenet121-res224-all --out DIR

DIR then holds ``model.onnx`` and ``torchxrayvision.json``. Weights come from that library under its
own licences; this only changes their format.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.training.exporting import export_network

_RESOLUTION = 224


class Logits(nn.Module):
    """Names the classifier's only output; its images are (N, 1, 224, 224) in -1024..1024."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, image: Tensor) -> Tensor:
        """Return what the classifier gives: probabilities, or logits without thresholds."""
        scores: Tensor = self.classifier(image)
        return scores


def export_classifier(classifier: Any, weights: str, out: Path) -> None:
    """Write a classifier with its ``pathologies`` and, where it has them, thresholds."""
    out.mkdir(parents=True, exist_ok=True)
    example = torch.rand(2, 1, _RESOLUTION, _RESOLUTION) * 2048 - 1024
    made = export_network(
        Logits(classifier), example, out / "model.onnx", names=("image", ("logits",)),
        fixed_size=True,
    )  # fmt: skip
    description = {
        "weights": weights,
        "pathologies": [str(name) for name in classifier.pathologies],
        "resolution": _RESOLUTION,
        # With thresholds the library squashes and normalises its outputs itself.
        "probabilities": getattr(classifier, "op_threshs", None) is not None,
    }
    (out / "torchxrayvision.json").write_text(json.dumps(description, indent=1) + "\n")
    print(f"{made.size_bytes} bytes, differs by {made.largest_difference:.2g}")


def main() -> None:
    """Read the command line, fetch the weights by the library, export."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("weights", help="as the library names them")
    arguments.add_argument("--out", type=Path, required=True)
    given = arguments.parse_args()
    import torchxrayvision  # noqa: PLC0415  only this command needs it

    classifier = torchxrayvision.models.DenseNet(weights=given.weights).eval()
    export_classifier(classifier, given.weights, given.out)


if __name__ == "__main__":
    main()
