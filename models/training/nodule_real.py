"""Run the nodule package on real series and note what it finds, with the readers' marks if any.

``python -m models.training.nodule_real --out FILE DIR [DIR ...]``

A ``gt.json`` in a series' folder (LIDC's consensus, as shipped with the partial series) gives the
marks: centre in LPS mm and equivalent diameter.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from models.training.nodule_insertion import read_series
from service.core.identifiers import finding_id, tracking_uid
from service.core.packages import read_package
from workers.golden import volume_of
from workers.models import LoadedModel, load_model


def found_in(model: LoadedModel, folder: Path) -> dict[str, object]:
    """Return the findings of one series that are more than absent, and which marks they hit."""
    hu, grid = read_series(folder)
    affine = np.diag([*grid.spacing_mm, 1.0])
    affine[:3, 3] = grid.origin_mm
    began = time.process_time()
    analysis = model.analyse(
        volume_of(hu.astype(np.int16), affine),
        identify=lambda rank: (finding_id("real", rank), tracking_uid("real", rank)),
    )
    spent = time.process_time() - began
    kept = [f for f in analysis.findings if f.qualifier.value != "absent" and f.location]
    centres = np.array([f.location.center_mm for f in kept]).reshape(-1, 3)
    probabilities = [round(f.probability, 4) for f in kept]
    marks = folder / "gt.json"
    nodules = json.loads(marks.read_text())["nodules"] if marks.exists() else []
    hits = []
    for nodule in nodules:
        away = np.linalg.norm(centres - nodule["centroid_mm_lps"], axis=1)
        near = np.flatnonzero(away < nodule["equiv_diam_mm"] / 2)
        hits.append(
            {
                "diameter_mm": nodule["equiv_diam_mm"],
                "readers": nodule["readers"],
                "probability": probabilities[near[0]] if len(near) else None,
            }
        )
    return {
        "slices": len(hu),
        "slice_spacing_mm": round(grid.spacing_mm[2], 3),
        "processor_seconds": round(spent, 1),
        "findings": [
            {
                "probability": p,
                "qualifier": f.qualifier.value,
                "center_mm": centre.round(1).tolist(),
                "diameter_mm": round(f.measured("diameter") or 0.0, 1),
            }
            for p, f, centre in zip(probabilities, kept, centres, strict=True)
        ],
        "marked_nodules": hits,
    }


def main() -> None:
    """Analyse every series named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, default=Path("models/lung_nodule_detection"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("series", type=Path, nargs="+")
    chosen = parser.parse_args()
    model = load_model(read_package(chosen.package.resolve()), device="cpu")
    report = {}
    for folder in chosen.series:
        report[folder.name] = found_in(model, folder)
        print(folder.name, json.dumps(report[folder.name]), flush=True)
    chosen.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
