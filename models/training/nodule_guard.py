"""Measure what chests look like to the guards, for the nodule package's out-of-distribution score.

``python -m models.training.nodule_guard [--patients 24]`` prints the section
``[guard.distribution]`` of the manifest. Whole scans and slabs of training patients count alike, so
that a scan of part of the lungs is not strange by that alone.
"""

import argparse

import numpy as np

from models.phantoms.acquisition import Protocol, draw_protocol
from models.phantoms.chest_ct import chest_ct
from models.phantoms.seeds import Split, seed_of
from workers.kinds.guards import volume_features

FEATURES = ("lung_mean_hu", "lung_fraction", "bone_fraction", "fat_fraction", "soft_fraction")
# Least spread that is taken for possible, in the order of FEATURES: two dozen phantoms are more
# alike than patients are.
_LEAST_DEVIATION = np.array([40.0, 0.08, 0.02, 0.08, 0.08])
_SLABS = 2


def features_of_patient(index: int) -> list[list[float]]:
    """Return the features of one training patient's scan and of slabs of it."""
    seed = seed_of(Split.TRAIN, 900_000 + index)
    rng = np.random.default_rng(seed)
    drawn = draw_protocol(rng, thickness_mm=4.0)
    protocol = Protocol(**{**vars(drawn), "increment_mm": 4.0})
    chest = chest_ct(seed, protocol=protocol, columns=224)
    hu, grid = chest.scan.hu, chest.scan.grid
    parts = [slice(0, len(hu))]
    for _ in range(_SLABS):
        # Slabs of 32 to 80 mm from the middle half, where there is lung all round.
        count = int(rng.integers(8, 21))
        first = int(rng.integers(len(hu) // 4, 3 * len(hu) // 4 - count))
        parts.append(slice(first, first + count))
    rows = []
    for part in parts:
        affine = np.diag([*grid.spacing_mm, 1.0])
        affine[:3, 3] = grid.origin_mm
        affine[2, 3] += part.start * grid.spacing_mm[2]
        found = volume_features(hu[part], affine)
        rows.append([found[name] for name in FEATURES])
    return rows


def section(rows: np.ndarray) -> str:
    """Return the manifest's section; the threshold is 1.5 times the farthest training scan's."""
    mean = rows.mean(0)
    covariance = np.cov(rows.T)
    covariance += np.diag(np.maximum(_LEAST_DEVIATION**2 - np.diag(covariance), 0))
    inverse = np.linalg.inv(covariance)
    away = rows - mean
    farthest = float(np.sqrt(np.einsum("ij,jk,ik->i", away, inverse, away).max()))
    matrix = ",\n  ".join(str([float(f"{v:.6g}") for v in row]) for row in inverse)
    return (
        f"[guard.distribution]\nfeatures = {list(FEATURES)}\n".replace("'", '"')
        + f"mean = {[float(f'{v:.6g}') for v in mean]}\n"
        f"inverse_covariance = [\n  {matrix},\n]\n"
        f"threshold = {max(5.0, 1.5 * farthest):.3g}\n"
    )


def main() -> None:
    """Print the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=24)
    chosen = parser.parse_args()
    rows = [row for index in range(chosen.patients) for row in features_of_patient(index)]
    print(section(np.array(rows)))


if __name__ == "__main__":
    main()
