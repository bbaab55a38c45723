"""Whole synthetic chest CTs, ready to be written as DICOM or fed to a network."""

from dataclasses import dataclass

import numpy as np

from models.phantoms.acquisition import Protocol, Scan, acquire, draw_protocol
from models.phantoms.ct_dicom import Description
from models.phantoms.nodules import Lesion
from models.phantoms.population import ThoraxOptions
from models.phantoms.seeds import Domain
from models.phantoms.thorax import Thorax

_FIELD_MM = 380.0


@dataclass(frozen=True)
class ChestCt:
    """A scan and the patient it was taken of; `lesions` is its truth."""

    scan: Scan
    thorax: Thorax

    @property
    def lesions(self) -> list[Lesion]:
        """The nodules; ``scan.labels`` numbers them from 1."""
        return self.thorax.lesions


def chest_ct(
    seed: int,
    *,
    domain: Domain = Domain.STANDARD,
    options: ThoraxOptions | None = None,
    protocol: Protocol | None = None,
    columns: int = 512,
) -> ChestCt:
    """Scan a whole chest with a square field of `columns` pixels that holds the patient.

    Without a `protocol` one is drawn from the seed; its pixel spacing gives way to the field.
    """
    thorax = Thorax(seed, domain, options)
    rng = np.random.default_rng([seed, 81])
    drawn = protocol or draw_protocol(rng, domain)
    low, high = thorax.lung_box_mm()
    body_low, body_high = thorax.body_box_mm()
    field_mm = max(_FIELD_MM, float((body_high - body_low)[:2].max()) + 16)
    middle = (body_low + body_high) / 2
    # The body lies a little above the middle, because the table is in the picture too.
    middle[1] += 12
    pixel = round(field_mm / columns, 4)
    used = Protocol(**{**vars(drawn), "pixel_mm": pixel})
    half = (columns - 1) / 2 * pixel
    corner = np.array([middle[0] - half, middle[1] - half, low[2] - 8])
    end = np.array([middle[0] + half - pixel / 2, middle[1] + half - pixel / 2, high[2] + 8])
    scan = acquire(thorax, rng, used, box_mm=(corner, end), labels=True, table=True)
    return ChestCt(scan, thorax)


def small_chest_ct(seed: int, *, nodules: int = 2) -> ChestCt:
    """Scan a chest coarsely, 256 columns and 4 mm slices, in a second or two: for tests."""
    options = ThoraxOptions(nodules=nodules, nodule_size_mm=(9.0, 24.0))
    protocol = Protocol(
        thickness_mm=4.0, increment_mm=4.0, blur_mm=1.6, noise_hu=15.0, grain_hu=0.0
    )
    return chest_ct(seed, options=options, protocol=protocol, columns=256)


def describe(chest: ChestCt, *, number: int = 0) -> Description:
    """Return headers for a synthetic chest CT; `number` tells patients apart."""
    seed = chest.thorax.seed
    build = chest.thorax.build
    return Description(
        identity=f"chest/{seed}/{number}",
        patient_name=f"Phantom^Chest{seed}",
        patient_id=f"PHANTOM-{seed}",
        patient_sex="F" if build.female else "M",
        accession_number=f"SYN{seed}",
        kernel=chest.scan.protocol.kernel,
        thickness_mm=chest.scan.protocol.thickness_mm,
        contrast_agent="SYNTHETIC" if build.contrast else "",
    )
