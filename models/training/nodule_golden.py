"""Write the input of the lung nodule package's golden case: one side of a synthetic chest.

``python -m models.training.nodule_golden models/lung_nodule_detection``

Then ``python -m workers.model_check golden models/lung_nodule_detection chest_slab`` runs the
package on it and prints the section for the manifest.
"""

import sys
from pathlib import Path

import numpy as np

from models.phantoms.acquisition import Protocol
from models.phantoms.chest_ct import chest_ct
from models.phantoms.population import ThoraxOptions
from models.phantoms.seeds import Split, seed_of

NAME = "chest_slab"
_SLICES_EACH_SIDE = 9
_ACROSS_THE_MIDDLE_MM = 35.0
_STEP_HU = 4


def write_input(package: Path) -> Path:
    """Scan a chest with two nodules and keep a slab of the first one's side; half a megabyte."""
    options = ThoraxOptions(nodules=2, nodule_size_mm=(10.0, 18.0))
    # Little noise and steps of 4 HU let the file compress.
    protocol = Protocol(thickness_mm=2.5, increment_mm=2.5, noise_hu=4.0, grain_hu=0.0)
    chest = chest_ct(seed_of(Split.UNIT, 40), options=options, protocol=protocol, columns=224)
    grid, hu = chest.scan.grid, chest.scan.hu
    middle = round((chest.lesions[0].centre_mm[2] - grid.origin_mm[2]) / grid.spacing_mm[2])
    first = max(0, int(middle) - _SLICES_EACH_SIDE)
    slab = hu[first : first + 2 * _SLICES_EACH_SIDE + 1]
    affine = np.diag([*grid.spacing_mm, 1.0])
    affine[:3, 3] = grid.origin_mm
    affine[2, 3] += first * grid.spacing_mm[2]
    # One lung and the mediastinum are enough, and half the work.
    x_mm = grid.axis_mm(0) * np.sign(chest.lesions[0].centre_mm[0])
    kept = np.flatnonzero(x_mm > -_ACROSS_THE_MIDDLE_MM)
    slab = slab[:, :, kept[0] : kept[-1] + 1]
    affine[0, 3] = grid.axis_mm(0)[kept[0]]
    voxels = (np.rint(slab / _STEP_HU) * _STEP_HU).astype(np.int16)
    folder = package / "golden"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{NAME}.npz", voxels=voxels, affine=affine)
    return folder / f"{NAME}.npz"


if __name__ == "__main__":
    written = write_input(Path(sys.argv[1]))
    print(written, written.stat().st_size, "bytes")
