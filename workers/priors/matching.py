"""Which lesion of one analysis is which lesion of another: one to one, by place, size and label."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from service.core.findings import Finding
from service.core.geometry import Floats

Mapping = Callable[[Floats], Floats]

# What two lesions at the same place, of one size and label, are worth; each doubt takes from it.
# Below twice the dearest pair that is allowed, so that one sure pair beats two far-fetched ones.
_WORTH = 2.0
_OTHER_LABEL = 0.5
_PER_SIZE_FACTOR = 0.3
# A lesion eight times as wide at the same place is another one that has come over it.
_LARGEST_SIZE_FACTOR = 8.0


@dataclass(frozen=True)
class Pair:
    """Two findings that are the same lesion; ``distance_mm`` is what the mapping left between."""

    current: Finding
    earlier: Finding
    distance_mm: float


@dataclass(frozen=True)
class Matching:
    """Every finding once: in a pair, or alone among the current or the earlier ones."""

    pairs: tuple[Pair, ...]
    only_current: tuple[Finding, ...]
    only_earlier: tuple[Finding, ...]


def same_place(points_mm: Floats) -> Floats:
    """Map points onto themselves: both analyses are of one scan."""
    return points_mm


def match_lesions(
    current: Sequence[Finding],
    earlier: Sequence[Finding],
    *,
    mapping: Mapping = same_place,
    tolerance_mm: float = 5.0,
) -> Matching:
    """Pair the findings of two analyses so that the pairs together are the likeliest.

    Parameters
    ----------
    mapping
        Takes points of the earlier scan, shape (n, 3), LPS mm, to where they lie in the current.
    tolerance_mm
        How far apart two centres may lie beyond the larger lesion's radius: what the mapping may
        be wrong by. Findings that have no place in the patient, as on a radiograph, pair by label.

    Returns
    -------
    Matching
        In the order of `current` and `earlier`.
    """
    if not current or not earlier:
        return Matching((), tuple(current), tuple(earlier))
    places = _places(current)
    mapped = mapping(_places(earlier))
    distances = np.linalg.norm(places[:, None] - mapped[None], axis=2)
    worth = np.array(
        [
            [
                _worth(one, other, distances[row, column], tolerance_mm)
                for column, other in enumerate(earlier)
            ]
            for row, one in enumerate(current)
        ]
    )
    rows, columns = linear_sum_assignment(worth, maximize=True)
    joined = [
        (row, column) for row, column in zip(rows, columns, strict=True) if worth[row, column] > 0
    ]
    taken, given = {row for row, _ in joined}, {column for _, column in joined}
    return Matching(
        tuple(
            Pair(current[row], earlier[column], float(np.nan_to_num(distances[row, column])))
            for row, column in joined
        ),
        tuple(finding for row, finding in enumerate(current) if row not in taken),
        tuple(finding for column, finding in enumerate(earlier) if column not in given),
    )


def diameter_mm(finding: Finding) -> float | None:
    """Return a finding's size: the mean of its axes as the guidelines take it, else what is known.

    References
    ----------
    Fleischner Society 2017 and Lung-RADS 2022: a nodule's size is the average of its long and
    short axis on one image.
    """
    long, short = finding.measured("long_axis"), finding.measured("short_axis")
    if long is not None:
        return long if short is None else (long + short) / 2
    return finding.measured("diameter")


def _worth(one: Finding, other: Finding, distance_mm: float, tolerance_mm: float) -> float:
    """Return what it is worth to call two findings one lesion; 0 where that cannot be."""
    same_label = one.label.value == other.label.value and one.label.scheme == other.label.scheme
    if np.isnan(distance_mm):  # one of them lies nowhere in particular
        both = one.class_name == other.class_name and _place(one) is _place(other) is None
        return _WORTH if both else 0.0
    sizes = [size for size in (diameter_mm(one), diameter_mm(other)) if size]
    reach_mm = tolerance_mm + max(sizes, default=0.0) / 2
    factor = max(sizes) / min(sizes) if len(sizes) == 2 else 1.0
    if distance_mm > reach_mm or factor > _LARGEST_SIZE_FACTOR:
        return 0.0
    doubt = distance_mm / reach_mm + _PER_SIZE_FACTOR * float(np.log(factor))
    return _WORTH - doubt - (0.0 if same_label else _OTHER_LABEL) + 1e-9


def _places(findings: Sequence[Finding]) -> Floats:
    """Return the centres, shape (findings, 3), NaN where a finding has none."""
    nowhere = (np.nan, np.nan, np.nan)
    return np.array([_place(finding) or nowhere for finding in findings], dtype=np.float64)


def _place(finding: Finding) -> tuple[float, float, float] | None:
    return finding.location.center_mm if finding.location else None
