"""Who the synthetic chest patients are: build, lungs, nodules, and the findings a caller asks for.

Two populations exist. The standard one is what networks are trained and first tested on; the
shifted one has other builds, sicker lungs, other vessels and other nodules, and measures how far
a network carries beyond its training.
"""

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from models.phantoms.seeds import Domain

Range = tuple[float, float]


class NoduleKind(StrEnum):
    """What a nodule is made of, in the words of the LIDC readers."""

    SOLID = "solid"
    IRREGULAR = "irregular"
    GROUND_GLASS = "ground_glass"
    PART_SOLID = "part_solid"
    CALCIFIED = "calcified"
    SPICULATED = "spiculated"
    CAVITARY = "cavitary"


class Site(StrEnum):
    """What a lesion or look-alike lies against, or what it mimics."""

    PARENCHYMA = "parenchyma"
    PLEURA = "pleura"
    VESSEL = "vessel"
    FISSURE = "fissure"
    MICRONODULE = "micronodule"
    SCAR = "scar"
    PLAQUE = "plaque"
    NODE = "node"
    OSTEOPHYTE = "osteophyte"


@dataclass(frozen=True)
class Population:
    """Ranges from which a patient is drawn."""

    size: Range = (1.0, 0.06)
    fat_mm: Range = (6, 32)
    lung_hu: Range = (-890, -820)
    unevenness_hu: float = 35
    emphysema_share: float = 0.25
    twigs: Range = (480, 1100)
    twig_radius_mm: Range = (0.32, 0.54)
    contrast_share: float = 0.35
    warp_mm: Range = (2.5, 6)
    lobulation: Range = (0.05, 0.2)
    solid_hu: Range = (-20, 80)
    kinds: dict[NoduleKind, float] = field(
        default_factory=lambda: dict(
            zip(NoduleKind, (0.40, 0.20, 0.10, 0.09, 0.10, 0.09, 0.02), strict=True)
        )
    )


POPULATIONS: dict[Domain, Population] = {
    Domain.STANDARD: Population(),
    Domain.SHIFTED: Population(
        size=(1.04, 0.11),
        fat_mm=(3, 60),
        lung_hu=(-915, -770),
        unevenness_hu=60,
        emphysema_share=0.55,
        twigs=(350, 1400),
        twig_radius_mm=(0.26, 0.54),
        contrast_share=0.7,
        warp_mm=(5, 9),
        lobulation=(0.15, 0.3),
        solid_hu=(-60, 100),
        kinds=dict(zip(NoduleKind, (0.28, 0.22, 0.15, 0.12, 0.08, 0.12, 0.03), strict=True)),
    ),
}

SITES: dict[Site, float] = {
    Site.PARENCHYMA: 0.46,
    Site.PLEURA: 0.27,
    Site.VESSEL: 0.20,
    Site.FISSURE: 0.07,
}


@dataclass(frozen=True)
class ThoraxOptions:
    """What a caller fixes about a patient; everything left alone is drawn from the seed.

    Sides are -1 for the patient's right and +1 for the left.

    Attributes
    ----------
    nodules
        How many nodules; None draws LUNA16's 1.34 on average.
    nodule_size_mm
        Smallest and largest nodule diameter.
    larger_share
        Share of nodules drawn evenly over the sizes instead of by LUNA16's law, so that a network
        sees enough of the rare large ones.
    heart_scale
        Heart size; about 0.88 to 1.12 is normal, 1.35 and more is an enlarged heart.
    upright
        The patient stands: gas in the stomach lies above fluid.
    arms_down
        Shoulder blades over the lungs; None draws it.
    consolidation_sides
        One entry for each consolidation.
    effusion_mm, pneumothorax_mm
        Height of fluid above the dome, width of the gap, by side.
    """

    nodules: int | None = None
    nodule_size_mm: Range = (3.2, 32.0)
    larger_share: float = 0.0
    heart_scale: float | None = None
    upright: bool = False
    arms_down: bool | None = None
    consolidation_sides: tuple[int, ...] = ()
    effusion_mm: dict[int, float] = field(default_factory=dict)
    pneumothorax_mm: dict[int, float] = field(default_factory=dict)


def draw_diameter_mm(rng: np.random.Generator, size_mm: Range = (3.2, 32.0)) -> float:
    """Draw a nodule's diameter by the law of LUNA16's 1,186 nodules, within `size_mm`.

    A shifted log-normal whose quantiles at 5, 50, 75 and 95 % are 4.1, 6.4, 9.7 and 19 mm.
    """
    while True:
        diameter = 3.2 + 3.2 * np.exp(0.92 * rng.standard_normal())
        if size_mm[0] <= diameter <= size_mm[1]:
            return float(diameter)
