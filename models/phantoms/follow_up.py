"""Synthetic patients followed over time: two scans of one chest, with lesions of known fate.

The earlier scan is the reference. In the later one the patient lies and breathes differently
(`models.phantoms.motion`), another protocol is used, and each lesion has grown, stayed, shrunk,
gone, or come.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import scipy.ndimage

from models.phantoms.acquisition import Protocol, Scan, degrade
from models.phantoms.ct_dicom import Description
from models.phantoms.geometry import Grid, Points
from models.phantoms.motion import Motion
from models.phantoms.nodules import Lesion
from models.phantoms.painting import AIR_HU, Painting, add_table, render_thorax, table_position
from models.phantoms.population import NoduleKind, ThoraxOptions
from models.phantoms.seeds import Domain
from models.phantoms.thorax import Thorax

_SLAB = 16
_MARGIN_MM = 12.0


class Fate(StrEnum):
    """What becomes of a lesion between the two scans."""

    GROWING = "growing"
    STABLE = "stable"
    SHRINKING = "shrinking"
    RESOLVED = "resolved"
    NEW = "new"


@dataclass(frozen=True)
class Course:
    """One lesion in both scans: its centre (LPS mm) in each, and its diameter, None where absent.

    Diameters are those of the sphere of the same volume.
    """

    fate: Fate
    earlier_mm: Points
    later_mm: Points
    earlier_diameter_mm: float | None
    later_diameter_mm: float | None

    @property
    def volume_change_percent(self) -> float | None:
        """Growth of the volume, where the lesion is in both scans."""
        if self.earlier_diameter_mm is None or self.later_diameter_mm is None:
            return None
        return 100 * ((self.later_diameter_mm / self.earlier_diameter_mm) ** 3 - 1)


@dataclass(frozen=True)
class Change:
    """What is to become of a lesion: its size first seen, and by what its diameter changes."""

    fate: Fate
    diameter_mm: float
    factor: float = 1.0


DEFAULT_CHANGES = (
    Change(Fate.GROWING, 9.0, 1.4),
    Change(Fate.STABLE, 11.0),
    Change(Fate.SHRINKING, 14.0, 0.7),
    Change(Fate.RESOLVED, 9.0),
    Change(Fate.NEW, 9.0),
)
COARSE = Protocol(
    thickness_mm=2.5, increment_mm=2.5, pixel_mm=1.4, blur_mm=1.6, noise_hu=15.0, grain_hu=0.0
)
OTHER_SCANNER = Protocol(
    thickness_mm=3.0, increment_mm=2.0, pixel_mm=1.55, blur_mm=1.9, noise_hu=25.0, grain_hu=6.0
)


@dataclass(frozen=True)
class FollowedPatient:
    """Two scans of one patient; ``courses`` are the truth about the lesions."""

    thorax: Thorax
    earlier: Scan
    later: Scan
    motion: Motion
    courses: tuple[Course, ...]


def draw_motion(seed: int, *, shift_mm: float = 30.0, breath_mm: float = 15.0) -> Motion:
    """Draw how a patient lies and breathes in a second scan."""
    rng = np.random.default_rng([seed, 91])
    x, y, z = rng.uniform(-1, 1, 3) * shift_mm
    a, b, c = rng.normal(0, 2.0, 3)
    breath = float(rng.uniform(-1, 1) * breath_mm)
    # Out of the reference position by a few times the table's own accuracy; z by a new scout.
    return Motion((x / 2, y / 2, z), (a, b, c), breath, chest_lift=breath / 1000)


def followed_patient(
    seed: int,
    changes: Sequence[Change] = DEFAULT_CHANGES,
    *,
    motion: Motion | None = None,
    protocols: tuple[Protocol, Protocol] = (COARSE, OTHER_SCANNER),
    options: ThoraxOptions | None = None,
    domain: Domain = Domain.STANDARD,
) -> FollowedPatient:
    """Scan a chest twice.

    `options` draw the patient; the nodules are those of `changes`, solid ones of the lung.
    """
    used = replace(options or ThoraxOptions(), nodules=0)
    thorax = Thorax(seed, domain, used)
    moved = draw_motion(seed) if motion is None else motion
    placed = [
        (change, nodule)
        for change in changes
        if (nodule := thorax.add_nodule(change.diameter_mm, kind=NoduleKind.SOLID)) is not None
    ]
    before = [lesion for change, lesion in placed if change.fate is not Fate.NEW]
    after = [
        resized(lesion, change.factor) for change, lesion in placed if change.fate is not _GONE
    ]
    earlier = _scan(thorax, before, Motion(), protocols[0], np.random.default_rng([seed, 92]))
    later = _scan(thorax, after, moved, protocols[1], np.random.default_rng([seed, 93]))
    courses = tuple(_course(change, lesion, moved, thorax) for change, lesion in placed)
    return FollowedPatient(thorax, earlier, later, moved, courses)


_GONE = Fate.RESOLVED


def resized(lesion: Lesion, factor: float) -> Lesion:
    """Return a lesion of the same shape and centre with its diameter times `factor`."""
    spicules = lesion.spicules.copy()
    for ends in (slice(0, 3), slice(3, 6)):
        spicules[:, ends] = lesion.centre_mm + factor * (spicules[:, ends] - lesion.centre_mm)
    return replace(
        lesion,
        diameter_mm=lesion.diameter_mm * factor,
        spicules=spicules,
        core=lesion.core * factor,
    )


def described(patient: FollowedPatient, *, later: bool) -> Description:
    """Return headers of one of the scans: one patient, two studies, 92 days apart."""
    seed = patient.thorax.seed
    scan = patient.later if later else patient.earlier
    return Description(
        identity=f"follow-up/{seed}/{int(later)}",
        patient_name=f"Phantom^Followed{seed}",
        patient_id=f"PHANTOM-FU-{seed}",
        study_date="20260404" if later else "20260102",
        accession_number=f"SYNFU{seed}{int(later)}",
        kernel=scan.protocol.kernel,
        thickness_mm=scan.protocol.thickness_mm,
    )


def _course(change: Change, lesion: Lesion, motion: Motion, thorax: Thorax) -> Course:
    later_mm = motion.from_reference(lesion.centre_mm, thorax)[0]
    first, last = change.diameter_mm, change.diameter_mm * change.factor
    return Course(
        change.fate,
        lesion.centre_mm,
        later_mm,
        None if change.fate is Fate.NEW else first,
        None if change.fate is _GONE else last,
    )


def _scan(
    thorax: Thorax,
    lesions: list[Lesion],
    motion: Motion,
    protocol: Protocol,
    rng: np.random.Generator,
) -> Scan:
    """Paint the patient as in the reference scan, then read that painting where tissue has gone."""
    thorax.lesions = lesions
    grid = _grid(thorax, motion, protocol)
    source = _reference_grid(thorax, protocol)
    painting = render_thorax(thorax, source, labels=True)
    deep = max(1, round(protocol.thickness_mm / source.spacing_mm[2]))
    blurred = Painting(scipy.ndimage.uniform_filter1d(painting.hu, deep, axis=0), painting.labels)
    hu, labels = _moved(blurred, source, grid, motion, thorax)
    add_table(hu, grid, float(table_position(thorax)[1]))
    return Scan(degrade(hu, rng, protocol), grid, labels, protocol)


def _grid(thorax: Thorax, motion: Motion, protocol: Protocol) -> Grid:
    """Return the scan's grid: the body sideways, the lungs from end to end, wherever they lie."""
    body_low, body_high = thorax.body_box_mm()
    lung_low, lung_high = thorax.lung_box_mm()
    low = np.array([*body_low[:2], lung_low[2] - abs(motion.breath_mm)]) - _MARGIN_MM
    high = np.array([*body_high[:2], lung_high[2]]) + _MARGIN_MM
    centre = (low + high) / 2 + motion.shift_mm
    spacing = (protocol.pixel_mm, protocol.pixel_mm, protocol.increment_mm)
    counts = np.ceil((high - low) / spacing).astype(int) + 1
    first = centre - (counts - 1) / 2 * spacing
    x, y, z = (round(float(value), 3) for value in first)
    return Grid((x, y, z), spacing, (int(counts[2]), int(counts[1]), int(counts[0])))


def _reference_grid(thorax: Thorax, protocol: Protocol) -> Grid:
    low, high = thorax.body_box_mm()
    step = min(protocol.pixel_mm, protocol.increment_mm)
    counts = np.ceil((high - low) / step).astype(int) + 1
    x, y, z = (float(value) for value in low)
    return Grid((x, y, z), (step,) * 3, (int(counts[2]), int(counts[1]), int(counts[0])))


def _moved(
    painting: Painting, source: Grid, grid: Grid, motion: Motion, thorax: Thorax
) -> tuple[np.ndarray, np.ndarray]:
    hu = np.empty(grid.shape, np.float32)
    labels = np.empty(grid.shape, np.uint8)
    assert painting.labels is not None
    x, y, z = (grid.axis_mm(axis) for axis in range(3))
    for first in range(0, grid.shape[0], _SLAB):
        slab = slice(first, min(first + _SLAB, grid.shape[0]))
        at = np.meshgrid(z[slab], y, x, indexing="ij")
        points = np.stack([axis.ravel() for axis in at[::-1]], axis=1)
        still = motion.to_reference(points, thorax)
        indices = ((still - source.origin_mm) / source.spacing_mm)[:, ::-1].T
        shape = hu[slab].shape
        hu[slab] = scipy.ndimage.map_coordinates(
            painting.hu, indices, order=1, cval=AIR_HU
        ).reshape(shape)
        labels[slab] = scipy.ndimage.map_coordinates(
            painting.labels, indices, order=0, cval=0
        ).reshape(shape)
    return hu, labels
