"""Draw the nodule package's FROC curves and reliability diagram as SVG.

``python -m models.training.nodule_plots --candidates DIR/candidates.json --package DIR``
"""

import argparse
from pathlib import Path

import numpy as np

from models.phantoms.seeds import Split
from models.training.nodule_metrics import FLOOR, fit_weights, labelled, outcome, read_scans
from workers.evaluation.calibration import reliability, sigmoid
from workers.evaluation.charts import log_place
from workers.evaluation.curves import Axis, Line, drawing
from workers.evaluation.froc import RATES, froc


def main() -> None:
    """Write ``froc.svg`` and ``reliability.svg`` into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=Path, required=True)
    parser.add_argument("--package", type=Path, default=Path("models/lung_nodule_detection"))
    chosen = parser.parse_args()
    scans = read_scans(chosen.candidates)
    weights = fit_weights([scan for scan in scans if scan.split is Split.VALIDATION])
    curves, bins = [], []
    for split, name in ((Split.TEST, "test"), (Split.SHIFT, "shifted")):
        mine = [scan for scan in scans if scan.split is split]
        curve = froc([outcome(scan, weights) for scan in mine])
        rates = np.geomspace(RATES[0], RATES[-1], 120)
        points = tuple(
            (log_place(r), float(s)) for r, s in zip(rates, curve.at(rates), strict=True)
        )
        curves.append(Line(name, points))
        rows, labels = labelled(mine)
        probability = sigmoid(weights.logits(rows))
        kept = probability >= FLOOR
        found = reliability(probability[kept], labels[kept])
        bins.append(
            Line(name, tuple((b.mean_probability, b.positive_rate) for b in found), dots=True)
        )
    tenths = tuple((v / 10, f"{v / 10:g}") for v in range(0, 11, 2))
    rates_axis = Axis("false positives per scan", tuple((log_place(r), f"{r:g}") for r in RATES))
    froc_svg = drawing(curves, rates_axis, Axis("sensitivity", tenths))
    (chosen.package / "froc.svg").write_text(froc_svg)
    reliable = drawing(
        bins, Axis("probability said", tenths), Axis("share that were nodules", tenths)
    )
    (chosen.package / "reliability.svg").write_text(reliable)


if __name__ == "__main__":
    main()
