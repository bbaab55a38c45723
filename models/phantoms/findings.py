"""Findings of the chest radiograph: what is wrong with a patient, and the look-alikes.

A `ChestDisease` is drawn from a seed for a given thorax; `models.phantoms.findings_paint` puts it
into the voxels. Sides are -1 for the patient's right and +1 for the left; lengths in mm.
"""

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from models.phantoms.geometry import Points
from models.phantoms.nodules import Lesion, LesionForm, make_lesion
from models.phantoms.population import NoduleKind, Site, ThoraxOptions
from models.phantoms.seeds import Domain
from models.phantoms.thorax import Thorax


class Finding(StrEnum):
    """What a frontal chest radiograph is read for, in the order of the network's outputs."""

    NODULE_MASS = "nodule_mass"
    CONSOLIDATION = "consolidation"
    PLEURAL_EFFUSION = "pleural_effusion"
    PNEUMOTHORAX = "pneumothorax"
    CARDIOMEGALY = "cardiomegaly"
    ATELECTASIS = "atelectasis"


# How often each finding is drawn for a patient who is not drawn normal.
_SHARES = {
    Finding.NODULE_MASS: 0.26,
    Finding.CONSOLIDATION: 0.26,
    Finding.PLEURAL_EFFUSION: 0.26,
    Finding.PNEUMOTHORAX: 0.20,
    Finding.ATELECTASIS: 0.24,
}
_NORMAL_SHARE = 0.25
_CARDIOMEGALY_SHARE = 0.28
_FISSURE_BOUND_SHARE = 0.3


@dataclass(frozen=True)
class AirspacePatch:
    """A consolidation: a cloud with soft edges, at times cut off by a fissure (-1, 0, +1)."""

    centre_mm: Points
    radius_mm: float
    axes: Points
    edge_mm: float
    density_hu: float
    fissure_side: int


@dataclass(frozen=True)
class Plate:
    """A plate-like atelectasis: a thin disc, mostly lying flat above the diaphragm."""

    centre_mm: Points
    normal: Points
    radius_mm: float
    thickness_mm: float


@dataclass(frozen=True)
class CollapsedLobe:
    """A lobe without air: a wedge at the mediastinum with a sharp outer border."""

    side: int
    upper: bool
    width_mm: float


@dataclass(frozen=True)
class ChestDisease:
    """Everything drawn for one exposure of one patient; empty tuples and dicts mean absent."""

    nodules: tuple[Lesion, ...] = ()
    patches: tuple[AirspacePatch, ...] = ()
    effusions_mm: dict[int, float] = field(default_factory=dict)
    pneumothorax_mm: dict[int, float] = field(default_factory=dict)
    plates: tuple[Plate, ...] = ()
    lobes: tuple[CollapsedLobe, ...] = ()
    supine: bool = False


def draw_chest_options(seed: int, domain: Domain) -> ThoraxOptions:
    """Return how the patient's thorax is to be made: posture and the size of the heart."""
    rng = np.random.default_rng([seed, 201])
    enlarged = rng.random() < _CARDIOMEGALY_SHARE
    heart = rng.uniform(1.17, 1.42) if enlarged else rng.uniform(0.82, 1.03)
    supine = domain is Domain.SHIFTED and rng.random() < 0.3
    return ThoraxOptions(
        nodules=0, heart_scale=float(heart), upright=not supine, arms_down=bool(rng.random() < 0.7)
    )


def is_heart_enlarged(thorax: Thorax) -> bool:
    """Return whether the patient was made with an enlarged heart."""
    return thorax.build.heart_scale > 1.1


def _lung_point(rng: np.random.Generator, thorax: Thorax, depth_mm: float) -> Points:
    """Draw a point at least ``-depth_mm`` under the lung's surface where one is found.

    The patient's own generator stays untouched, so every exposure can be made on its own.
    """
    lung = thorax.anatomy.fields["lung"]
    inside = thorax.lattice.points(lung < min(depth_mm, -3.0))
    if len(inside) == 0:
        inside = thorax.lattice.points(lung < -3.0)
    point: Points = inside[rng.integers(len(inside))] + rng.uniform(-2.5, 2.5, 3)
    return point


def _side(rng: np.random.Generator) -> int:
    return int(rng.choice([-1, 1]))


def _nodules(rng: np.random.Generator, thorax: Thorax) -> tuple[Lesion, ...]:
    count = 1 if rng.random() < 0.7 else int(rng.integers(2, 5))
    made = []
    for _ in range(count):
        diameter = float(np.clip(np.exp(rng.normal(np.log(22), 0.42)), 11, 65))
        calcified = rng.random() < 0.12
        made.append(
            make_lesion(
                rng,
                _lung_point(rng, thorax, -diameter * 0.3),
                diameter,
                kind=NoduleKind.SOLID,
                site=Site.PARENCHYMA,
                hu=float(rng.uniform(150, 400) if calcified else rng.uniform(0, 60)),
                form=LesionForm(float(rng.uniform(0.05, 0.25))),
            )
        )
    return tuple(made)


def _patches(rng: np.random.Generator, thorax: Thorax, domain: Domain) -> tuple[AirspacePatch, ...]:
    paler = 0.8 if domain is Domain.SHIFTED else 1.0
    made = []
    for _ in range(int(rng.integers(1, 4))):
        bound = rng.random() < _FISSURE_BOUND_SHARE
        made.append(
            AirspacePatch(
                centre_mm=_lung_point(rng, thorax, -8),
                radius_mm=float(rng.uniform(20, 52)),
                axes=rng.uniform(0.6, 1.4, 3),
                edge_mm=float(rng.uniform(10, 28)),
                density_hu=float(rng.uniform(420, 850)) * paler,
                fissure_side=_side(rng) if bound else 0,
            )
        )
    return tuple(made)


def _plates(rng: np.random.Generator, thorax: Thorax) -> tuple[Plate, ...]:
    made = []
    for _ in range(int(rng.integers(1, 3))):
        centre = _lung_point(rng, thorax, -6)
        for _ in range(12):  # plates lie low in the lungs; try a few points for one
            if centre[2] < thorax.build.right_dome_z + 75 * thorax.build.size:
                break
            centre = _lung_point(rng, thorax, -6)
        tilt = rng.normal(0, [0.35, 0.25], 2)
        normal = np.array([tilt[0], tilt[1], 1.0])
        made.append(
            Plate(
                centre_mm=centre,
                normal=normal / np.linalg.norm(normal),
                radius_mm=float(rng.uniform(24, 55)),
                thickness_mm=float(rng.uniform(4, 10)),
            )
        )
    return tuple(made)


def _both_or_one(rng: np.random.Generator, both: float) -> tuple[int, ...]:
    return (-1, 1) if rng.random() < both else (_side(rng),)


def draw_chest_disease(thorax: Thorax, variant: int = 0) -> ChestDisease:
    """Return the findings of exposure number `variant` of a patient; the heart is the patient's.

    About a quarter has none of them.
    """
    rng = np.random.default_rng([thorax.seed, 202, variant])
    drawn: set[Finding] = set()
    if rng.random() > _NORMAL_SHARE:
        while not drawn:
            drawn = {f for f, share in _SHARES.items() if rng.random() < share}
    effusions, pneumothorax = {}, {}
    if Finding.PLEURAL_EFFUSION in drawn:
        for side in _both_or_one(rng, 0.3):
            effusions[side] = float(np.exp(rng.uniform(np.log(20), np.log(115))))
    if Finding.PNEUMOTHORAX in drawn:
        pneumothorax = {_side(rng): float(rng.uniform(10, 48))}
    collapsed = Finding.ATELECTASIS in drawn and rng.random() < 0.4
    lobe = CollapsedLobe(_side(rng), bool(rng.random() < 0.4), float(rng.uniform(32, 62)))
    plated = Finding.ATELECTASIS in drawn and not collapsed
    return ChestDisease(
        nodules=_nodules(rng, thorax) if Finding.NODULE_MASS in drawn else (),
        patches=_patches(rng, thorax, thorax.domain) if Finding.CONSOLIDATION in drawn else (),
        effusions_mm=effusions,
        pneumothorax_mm=pneumothorax,
        plates=_plates(rng, thorax) if plated else (),
        lobes=(lobe,) if collapsed else (),
        supine=not thorax.options.upright,
    )
