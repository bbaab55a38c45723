"""A torchxrayvision classifier, exported by ``python -m models.training.export_torchxrayvision``.

The export leaves ``model.onnx`` and ``torchxrayvision.json`` in a folder: names of the outputs, the
resolution, and whether outputs are probabilities (weights that carry thresholds) or logits.
"""

from pathlib import Path

from service.core.errors import InvalidModel
from workers.importing.documents import Document
from workers.importing.draft import Draft, merged
from workers.importing.onnx_file import graph_sections, package_name
from workers.inference.files import regular_bytes

DESCRIPTION = "torchxrayvision.json"
_NETWORK = "model.onnx"
_RANGE = (-1024.0, 1024.0)


def torchxrayvision_draft(folder: Path) -> Draft:
    """Return the draft of a package from an exported classifier.

    Raises
    ------
    InvalidModel
        ``SOURCE`` when the description is not what the export writes.
    """
    described = Document.read(folder, DESCRIPTION)
    content = regular_bytes(folder, _NETWORK)
    weights = described.text("weights", folder.resolve().name)
    names = described.values.get("pathologies")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise described.wrong("pathologies", "a list of names")
    graph = graph_sections(content, package_name(f"xrv_{weights}"), kind="classification")
    resolution = described.values.get("resolution", 224)
    if not isinstance(resolution, int) or not 16 <= resolution <= 1024:
        raise described.wrong("resolution", "16 to 1024")
    if graph.get("classes") and len(graph["classes"]) != len(names):
        raise InvalidModel(
            "SOURCE",
            f"{folder.name}: pathologies: found {len(names)}, the network has"
            f" {len(graph['classes'])}",
        )
    said = {
        "package": {
            "title": f"torchxrayvision {weights}"[:64],
            "licence": described.text("licence", "Apache-2.0"),
        },
        "applicability": {
            "modalities": ["DX", "CR"],
            "view_positions": ["PA", "AP"],
            "body_part": {"words": ["CHEST", "THORAX", "LUNG"]},
        },
        "input": {
            "size": [resolution, resolution],
            # Its images are squares cut from the middle, scaled by what their bits can hold.
            "fit": "crop",
            "intensity": {"mode": "format", "to": list(_RANGE)},
            "channels": 1,
        },
        "decoding": {"activation": "none" if described.values.get("probabilities") else "sigmoid"},
        # Weights that were not trained for a finding leave its place empty.
        "classes": [name or f"unused {number}" for number, name in enumerate(names)],
    }
    return Draft("torchxrayvision", content, merged(graph, said))
