"""Make the lung nodule package from trained weights and measured candidates.

``python -m models.training.nodule_package --run DIR [--package models/lung_nodule_detection]``

Exports the four networks to ONNX, measures, and writes ``manifest.toml`` and ``metrics.json``; the
card and the changes are kept by hand. The golden case is made by `models.training.nodule_golden`;
its section is carried over from the manifest that was there. ``real.json`` and ``inserted.json`` of
`models.training.nodule_real` and `models.training.nodule_insertion` join the metrics if they lie
in DIR.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from models.training.exporting import Export, export_network
from models.training.nodule_metrics import POINTS, measure, read_scans, write_compact
from models.training.nodule_networks import CropClassifier, NoduleDetector, NoduleSegmenter

_TEMPLATE = Path(__file__).with_name("nodule_manifest.toml")
_OUTPUTS: Mapping[str, tuple[str, tuple[str, ...], int]] = {
    "detector": ("volume", ("heat", "offset", "log_diameter"), 64),
    "reduction": ("crop", ("logit",), 32),
    "segmentation": ("crop", ("logits",), 64),
    "malignancy": ("crop", ("logit",), 48),
}
_GOLDEN = re.compile(r"^\[\[golden\]\].*?(?=^\[|\Z)", re.MULTILINE | re.DOTALL)


def load_network(role: str, path: Path) -> nn.Module:
    """Return a trained network with its weights, in eval mode."""
    stored = torch.load(path, weights_only=True, map_location="cpu")
    kinds = {"detector": NoduleDetector, "segmentation": NoduleSegmenter}
    network: nn.Module = kinds.get(role, CropClassifier)(stored["channels"])
    network.load_state_dict(stored["state"])
    return network.eval()


def export_all(run: Path, package: Path) -> dict[str, Export]:
    """Write every network of the run into the package."""
    exports = {}
    for role, (input_name, outputs, side) in _OUTPUTS.items():
        torch.manual_seed(0)
        example = torch.randn(2, 1, side, side, side) * 0.5
        exports[role] = export_network(
            load_network(role, run / f"{role}.pt"), example, package / f"{role}.onnx",
            names=(input_name, outputs), fixed_size=role != "detector",
        )  # fmt: skip
        made = exports[role]
        print(f"{role}: {made.size_bytes} bytes, differs by {made.largest_difference:.2g}")
    return exports


def operating_points(test: Mapping[str, object]) -> str:
    """Return the manifest's operating points with what was measured on the test set."""
    sections = []
    measured: Mapping[str, Mapping[str, object]] = test["operating_points"]
    for name in ("balanced", "sensitive", "specific"):
        present, indeterminate = POINTS[name]
        figures = measured[name]
        sections.append(
            "[[operating_points]]\n"
            f'name = "{name}"\n'
            f"present = {present}\n"
            f"indeterminate = {indeterminate}\n"
            f"sensitivity = {figures['sensitivity']}\n"
            f"sensitivity_interval = {figures['sensitivity_interval']}\n"
            f"false_positives_per_scan = {figures['false_positives_per_scan']}\n"
            'measured_on = "100 unseen synthetic chest CTs (test set), at present"\n'
        )
    return "\n".join(sections)


def write_manifest(package: Path, digests: Mapping[str, str], report: Mapping[str, object]) -> None:
    """Fill the template; golden cases are kept from the manifest that was there."""
    path = package / "manifest.toml"
    before = path.read_text() if path.exists() else ""
    text = _TEMPLATE.read_text()
    weights: Mapping[str, object] = report["calibration"]
    test: Mapping[str, object] = report["test"]
    error: Mapping[str, object] = test["calibration"]
    values = {
        **{f"{role}_sha256": digest for role, digest in digests.items()},
        "operating_points": operating_points(test),
        "calibration_detector": weights["detector"],
        "calibration_reduction": weights["reduction"],
        "calibration_bias": weights["bias"],
        "calibration_ece": error["ece"],
        "golden": "\n".join(section.strip() for section in _GOLDEN.findall(before)),
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    path.write_text(text.rstrip() + "\n")


def main() -> None:
    """Make the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--package", type=Path, default=Path("models/lung_nodule_detection"))
    parser.add_argument("--keep-networks", action="store_true", help="only measure and describe")
    chosen = parser.parse_args()
    chosen.package.mkdir(parents=True, exist_ok=True)
    if not chosen.keep_networks:
        export_all(chosen.run, chosen.package)
    digests = {
        role: hashlib.sha256((chosen.package / f"{role}.onnx").read_bytes()).hexdigest()
        for role in _OUTPUTS
    }
    compact = chosen.package / "candidates.json.gz"
    write_compact(chosen.run / "candidates.json", compact)
    report = measure(read_scans(compact))
    # What was trained; and, where they were run, real series and nodules inserted into one.
    for name in ("run", "real", "inserted"):
        if (chosen.run / f"{name}.json").exists():
            report[name] = json.loads((chosen.run / f"{name}.json").read_text())
    (chosen.package / "metrics.json").write_text(json.dumps(report, indent=1) + "\n")
    write_manifest(chosen.package, digests, report)


if __name__ == "__main__":
    main()
