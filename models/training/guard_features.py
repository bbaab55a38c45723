"""Measure what guards compare new images with: the features of a training set.

    python -m models.training.guard_features radiographs OUT.json [--patients 150] [--real X.npy]
    python -m models.training.guard_features abdomens OUT.json [--patients 60]

`--real` adds radiographs as an array (n, rows, columns), so that a guard fitted on synthetic
patients does not turn real ones away.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import stats

from models.phantoms.abdomen import make_abdomen
from models.phantoms.abdomen_lesions import make_liver_disease
from models.phantoms.abdomen_scan import draw_abdomen_protocol, scan_abdomen
from models.phantoms.detector import develop
from models.phantoms.geometry import ArrayModules
from models.phantoms.radiograph import cast_shadows, draw_exposure, make_chest_patient
from models.phantoms.seeds import SEEDS, Domain, Split
from models.training.generators import Generators, Produce, Sample, Seeds
from workers.kinds.guards import radiograph_features, volume_features

Row = dict[str, float]


def radiograph(seed: int, domain: Domain, modules: ArrayModules) -> Iterator[Sample]:
    """Yield the features of one patient's radiograph, as JSON.

    The features look at 64 by 64 means, so a small, quick radiograph serves.
    """
    thorax = make_chest_patient(seed, domain)
    exposure = draw_exposure(thorax, (192, 192))
    shadow = next(cast_shadows(thorax, exposure, detail_mm=3.5, modules=modules))
    rng = np.random.default_rng([seed, 304])
    image = develop(shadow.path, rng, pixel_mm=exposure.pixel_mm, domain=domain, modules=modules)
    yield (np.array(json.dumps(radiograph_features(image))),)


def abdomen(seed: int, domain: Domain, modules: ArrayModules) -> Iterator[Sample]:
    """Yield the features of a part of one patient's scan, as JSON.

    They look at voxels of 4 mm. Between a third and all of the height is kept, because real scans
    start and end anywhere.
    """
    patient = make_abdomen(seed, domain)
    protocol = draw_abdomen_protocol(np.random.default_rng([seed, 104]), domain, thickness_mm=5.0)
    protocol = replace(protocol, pixel_mm=2.0)
    scan = scan_abdomen(patient, make_liver_disease(patient), protocol, modules=modules)
    rng = np.random.default_rng([seed, 305])
    count = int(len(scan.hu) * rng.uniform(0.33, 1))
    first = int(rng.integers(0, len(scan.hu) - count + 1))
    affine = np.diag([*scan.grid.spacing_mm, 1.0])
    affine[:3, 3] = scan.grid.origin_mm
    features = volume_features(scan.hu[first : first + count], affine)
    yield (np.array(json.dumps(features)),)


def distribution(
    rows: list[Row], names: tuple[str, ...], *, allowance: tuple[float, ...] | None = None
) -> dict[str, object]:
    """Return mean, inverse covariance and threshold for a manifest.

    Parameters
    ----------
    allowance
        Standard deviation, by feature, that is added to the training set's own: by how much real
        patients vary more than synthetic ones are made to.

    Returns
    -------
    dict
        The threshold is the distance that one image in a thousand of a normal distribution
        exceeds, or 1.25 times the one that one training image in 200 does, if that is more.
    """
    values = np.array([[row[name] for name in names] for row in rows])
    mean = values.mean(0)
    extra = np.square(allowance) if allowance else 1e-4 * values.var(0)
    inverse = np.linalg.inv(np.cov(values.T) + np.diag(extra))
    away = values - mean
    distances = np.sqrt(np.einsum("ni,ij,nj->n", away, inverse, away))
    normal = float(np.sqrt(stats.chi2.ppf(0.999, len(names))))
    return {
        "features": list(names),
        "mean": [float(f"{v:.6g}") for v in mean],
        "inverse_covariance": [[float(f"{v:.6g}") for v in line] for line in inverse],
        "threshold": round(max(normal, 1.25 * float(np.quantile(distances, 0.995))), 2),
    }


def main() -> None:
    """Draw patients of the training range and write their features."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("what", choices=("radiographs", "abdomens"))
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--patients", type=int, default=150)
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--real", type=Path)
    given = arguments.parse_args()
    known = SEEDS[Split.TRAIN]
    produce: Produce = radiograph if given.what == "radiographs" else abdomen
    seeds = Seeds(known.first, known.first + given.patients - 1, 0.5)
    drawn = Generators(produce, seeds, count=given.processes, on_gpu=False)
    rows: list[Row] = [json.loads(str(sample[0])) for _, sample in drawn]
    if given.real is not None:
        rows += [radiograph_features(image) for image in np.load(given.real)]
    given.out.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
