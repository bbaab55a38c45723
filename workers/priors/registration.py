"""Two scans of one patient laid over each other: the whole first, then round each lesion.

The whole is fitted on the lungs where both scans show them, else on the body: rigid, then with
stretch, because a deeper breath makes the lungs longer. What is left of breathing is local; it is
taken out by a shift of the neighbourhood of each place asked for, the lesion itself left out of
the comparison since it may have grown or gone.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.core.errors import UnsuitableSeries
from service.core.geometry import Floats
from workers.kinds.coarse import SPACING_MM, Anatomy, Coarse, coarsen, find_anatomy, widened
from workers.priors.alignment import AFFINE, RIGID, SHIFT, Fit, Image, fit, judged, moved
from workers.volume.grid import Grid
from workers.volume.resample import to_grid
from workers.volume.series import Volume

_POINTS: Final = 20_000
_LUNG_HU: Final = (-1000.0, 150.0)
_BODY_HU: Final = (-200.0, 250.0)
_LEAST_LUNG_ML: Final = 300.0
_MARGIN_MM: Final = 10.0
_SEARCH_MM: Final = (-90.0, -60.0, -30.0, 0.0, 30.0, 60.0, 90.0)

# The neighbourhood of a place: a cube of this half side at this spacing, which may move so far.
_LOCAL_SPACING_MM: Final = 2.0
_NEAR_MM: Final = 32.0
_REACH_MM: Final = 16.0
# Each step looks at what lies less far beyond the lesion's edge, and sharper, all in mm: near the
# wall, where the lung slides, only the closest neighbourhood has moved as the lesion has.
_STEPS_MM: Final = ((25.0, 3.0), (18.0, 1.5), (10.0, 1.5))
_OWN_EDGE_MM: Final = 3.0


class Landmark(StrEnum):
    """What two scans were laid over each other by."""

    LUNGS = "lungs"
    BODY = "body"


# Two scans of one synthetic patient reach 0.96 and more however they were taken; chests of two
# patients, stretched onto each other as well as they will, stay below 0.86.
LEAST_CORRELATION: Final = 0.9
LEAST_COVERED: Final = 0.3


@dataclass(frozen=True)
class Prepared:
    """A scan made ready to be laid over another."""

    volume: Volume
    image: Image
    anatomy: Anatomy
    lungs_ml: float


@dataclass(frozen=True)
class Place:
    """Where a place of one scan lies in the other, LPS mm, and how alike its surroundings are.

    ``is_seen`` is False where the other scan does not reach.
    """

    point_mm: Floats
    correlation: float
    is_seen: bool


@dataclass(frozen=True)
class Registration:
    """How places of the earlier scan and of the current one belong together.

    ``whole`` maps the earlier scan to the current; ``correlation`` and ``covered`` say how well.
    """

    earlier: Prepared
    current: Prepared
    landmark: Landmark
    whole: Fit

    def in_current(self, point_mm: Floats, *, radius_mm: float) -> Place:
        """Return where a place of the earlier scan lies in the current one."""
        point = np.asarray(point_mm, dtype=np.float64)
        local = self._local(point, radius_mm)
        place = moved(local.matrix, point[None])[0]
        return Place(place, local.correlation, _shows(self.current.volume, place))

    def roughly_in_current(self, point_mm: Floats) -> Place:
        """Return where a place of the earlier scan lies by the fit of the whole alone."""
        place = moved(self.whole.matrix, np.asarray(point_mm, dtype=np.float64)[None])[0]
        return Place(place, self.whole.correlation, _shows(self.current.volume, place))

    def in_earlier(self, point_mm: Floats, *, radius_mm: float) -> Place:
        """Return where a place of the current scan lay in the earlier one."""
        point = np.asarray(point_mm, dtype=np.float64)
        before = moved(_inverse(self.whole.matrix), point[None])[0]
        # Twice: the first shift is of the neighbourhood that the whole fit pointed to.
        for _ in range(2):
            local = self._local(before, radius_mm)
            before = moved(_inverse(local.matrix), point[None])[0]
        return Place(before, local.correlation, _shows(self.earlier.volume, before))

    def _local(self, point: Floats, radius_mm: float) -> Fit:
        """Fit the neighbourhood of a place of the earlier scan by a shift, closer each time."""
        values = self._clip(_patch(self.earlier.volume, point, _NEAR_MM))
        middle = moved(self.whole.matrix, point[None])[0]
        target = self._clip(_patch(self.current.volume, middle, _NEAR_MM + _REACH_MM))
        points = values.points(np.argwhere(np.isfinite(values.values)).astype(np.float64))
        away = np.linalg.norm(points - point, axis=1) - radius_mm
        matrix = self.whole.matrix
        for near_mm, blur_mm in _STEPS_MM:
            used = points[(away > _OWN_EDGE_MM) & (away <= near_mm)]
            carried = values.smoothed(blur_mm).at(used)
            sharp = target.smoothed(blur_mm)
            before = judged(used, carried, sharp, matrix)
            found = fit(used, carried, sharp, start=matrix, freedom=SHIFT, steps=15)
            shift_mm = np.linalg.norm(found.matrix[:3, 3] - self.whole.matrix[:3, 3])
            if found.correlation < before.correlation or shift_mm > _REACH_MM:
                found = before
            matrix = found.matrix
        return found

    def _clip(self, image: Image) -> Image:
        low, high = _LUNG_HU if self.landmark is Landmark.LUNGS else _BODY_HU
        return replace(image, values=np.clip(image.values, low, high))


def prepare(volume: Volume) -> Prepared:
    """Bring a scan to a grid of 4 mm and find its body and lungs."""
    coarse = coarsen(volume.voxels, volume.affine)
    anatomy = find_anatomy(coarse)
    lungs_ml = float(anatomy.air.sum()) * coarse.voxel_ml
    return Prepared(volume, _image(coarse), anatomy, lungs_ml)


def register(earlier: Prepared, current: Prepared) -> Registration:
    """Lay an earlier scan over the current one.

    Raises
    ------
    UnsuitableSeries
        ``PRIOR_NOT_ALIGNED`` when the scans do not agree however they are laid, or show too
        little of the same part of the body.
    """
    lungs = min(earlier.lungs_ml, current.lungs_ml) >= _LEAST_LUNG_ML
    landmark = Landmark.LUNGS if lungs else Landmark.BODY
    whole = _fit_whole(earlier, current, landmark)
    if whole.covered < LEAST_COVERED:
        raise UnsuitableSeries(
            "PRIOR_NOT_ALIGNED", "the earlier scan shows too little of what the current one shows"
        )
    if whole.correlation < LEAST_CORRELATION:
        raise UnsuitableSeries(
            "PRIOR_NOT_ALIGNED",
            f"the {landmark} of the two scans agree only to {whole.correlation:.2f}",
        )
    return Registration(earlier, current, landmark, whole)


def _fit_whole(earlier: Prepared, current: Prepared, landmark: Landmark) -> Fit:
    lungs = landmark is Landmark.LUNGS
    low, high = _LUNG_HU if lungs else _BODY_HU
    source, target = (
        replace(one.image, values=np.clip(one.image.values, low, high))
        for one in (earlier, current)
    )
    mask = _mask(earlier, landmark)
    points = _sample(source, widened(mask, _MARGIN_MM if lungs else 0.0))
    starts = _starts(source, mask, target, _mask(current, landmark))
    blurred, wide = source.smoothed(8.0).at(points), target.smoothed(8.0)
    tried = sorted(
        (judged(points, blurred, wide, start) for start in starts),
        key=lambda one: -one.correlation * min(1.0, 0.3 + one.covered),
    )
    rough = [
        fit(points, blurred, wide, start=one.matrix, freedom=RIGID, steps=15) for one in tried[:3]
    ]
    best = max(rough, key=lambda one: one.correlation * min(1.0, 0.3 + one.covered))
    fine, sharp = source.smoothed(4.0).at(points), target.smoothed(4.0)
    rigid = fit(points, fine, sharp, start=best.matrix, freedom=RIGID)
    return fit(points, fine, sharp, start=rigid.matrix, freedom=AFFINE)


def _inverse(matrix: Floats) -> Floats:
    inverse: Floats = np.asarray(np.linalg.inv(matrix), dtype=np.float64)
    return inverse


def _starts(
    source: Image, mask: NDArray[np.bool_], target: Image, other: NDArray[np.bool_]
) -> list[Floats]:
    """Return shifts that lay the middles of two masks together, and others along the body."""
    shift = target.points(_middle(other)) - source.points(_middle(mask))
    return [_shifted(shift[0] + np.array([0.0, 0.0, along])) for along in _SEARCH_MM]


def _middle(mask: NDArray[np.bool_]) -> Floats:
    where = np.argwhere(mask)
    return where.mean(axis=0)[None] if len(where) else (np.array([mask.shape]) - 1) / 2


def _shifted(shift_mm: Floats) -> Floats:
    matrix = np.eye(4)
    matrix[:3, 3] = shift_mm
    return matrix


def _mask(scan: Prepared, landmark: Landmark) -> NDArray[np.bool_]:
    return scan.anatomy.lungs if landmark is Landmark.LUNGS else scan.anatomy.body


def _sample(image: Image, mask: NDArray[np.bool_]) -> Floats:
    """Return points of a mask, spread evenly and always the same ones."""
    where = np.argwhere(mask)
    chosen = np.random.default_rng(0).permutation(len(where))[:_POINTS]
    return image.points(where[np.sort(chosen)].astype(np.float64))


def _image(coarse: Coarse) -> Image:
    return Image(coarse.values, coarse.origin_mm, SPACING_MM)


def _patch(volume: Volume, center_mm: Floats, half_mm: float) -> Image:
    """Return the neighbourhood of a place on a fine grid along the patient's axes."""
    size = 2 * int(np.ceil(half_mm / _LOCAL_SPACING_MM)) + 1
    grid = _upright(center_mm, size)
    return Image(to_grid(volume, grid), grid.affine[:3, 3].copy(), _LOCAL_SPACING_MM)


def _upright(center_mm: Floats, size: int) -> Grid:
    affine = np.diag([_LOCAL_SPACING_MM] * 3 + [1.0])
    affine[:3, 3] = center_mm - _LOCAL_SPACING_MM * (size - 1) / 2
    return Grid((size, size, size), affine)


def _shows(volume: Volume, point_mm: Floats) -> bool:
    """Return whether a place lies within a volume."""
    index = np.linalg.inv(volume.affine) @ [*point_mm, 1.0]
    size = np.array(volume.voxels.shape)[::-1]
    return bool(np.all((index[:3] >= -0.5) & (index[:3] <= size - 0.5)))
