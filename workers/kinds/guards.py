"""Whether an image is what a package was made for: measured in its pixels, refused with a reason.

The same functions that judge an image at run time give the features of a training set, from which a
package's manifest takes mean and covariance.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from service.core.errors import InvalidModel, UnsuitableSeries
from service.core.manifest_output import Distribution, Guard
from workers.kinds.coarse import SPACING_MM, Anatomy, Coarse, coarsen, find_anatomy

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

OUT_OF_DISTRIBUTION = "out_of_distribution"
_THUMBNAIL = 64


def volume_features(voxels: NDArray[np.generic], affine: Floats) -> dict[str, float]:
    """Return every volume feature of a scan; see ``models/README.md`` for their meaning.

    Parameters
    ----------
    voxels
        Shape (slices, rows, columns), HU for CT.
    affine
        4x4, (column, row, slice) to LPS mm.
    """
    coarse = coarsen(voxels, affine)
    return features_of(coarse, find_anatomy(coarse), voxels)


def features_of(coarse: Coarse, anatomy: Anatomy, voxels: NDArray[np.generic]) -> dict[str, float]:
    """Return the volume features from a coarse scan that is at hand already."""
    inside = coarse.values[anatomy.body]
    lung = coarse.values[anatomy.air]
    body_ml = anatomy.body.sum() * coarse.voxel_ml
    lung_ml = anatomy.air.sum() * coarse.voxel_ml
    features = {
        "body_volume_ml": body_ml,
        "body_fraction": float(anatomy.body.mean()),
        "lung_volume_ml": lung_ml,
        "lung_fraction": lung_ml / body_ml if body_ml else 0.0,
        "lung_mean_hu": float(lung.mean()) if lung.size else 0.0,
        "body_mean_hu": float(inside.mean()) if inside.size else 0.0,
        "bone_fraction": _share(inside, 200, np.inf),
        "fat_fraction": _share(inside, -150, -30),
        "soft_fraction": _share(inside, -20, 120),
        "noise_hu": _noise(voxels),
    }
    features |= _lung_extent(anatomy) | _histogram_shape(coarse.values)
    return {name: float(value) for name, value in features.items()}


def radiograph_features(pixels: NDArray[np.generic]) -> dict[str, float]:
    """Return every radiograph feature of an upright image in which bright means dense.

    Parameters
    ----------
    pixels
        Shape (rows, columns), any scale: the features do not change with brightness or contrast.
    """
    rows, columns = pixels.shape
    small = _thumbnail(pixels)
    half = _THUMBNAIL // 2
    left, right = small[:, :half], small[:, : -half - 1 : -1]
    third = _THUMBNAIL // 3
    lateral = np.concatenate(
        [small[half // 2 : -half // 2, 4:third], small[half // 2 : -half // 2, -third:-4]], 1
    )
    border = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    counts = np.histogram(small, bins=32, range=(-3, 3))[0] + 1e-9
    shares = counts / counts.sum()
    features = {
        "symmetry": _correlation(left, right),
        "mediastinal_contrast": small[half // 2 : -half // 2, third:-third].mean() - lateral.mean(),
        "vertical_contrast": small[half:].mean() - small[:half].mean(),
        "skewness": (small**3).mean(),
        "kurtosis": (small**4).mean(),
        "entropy": -(shares * np.log2(shares)).sum(),
        "sharpness": np.abs(np.diff(small, axis=0)).mean() + np.abs(np.diff(small, axis=1)).mean(),
        "aspect_ratio": columns / rows,
        "border_darkness": -border.mean(),
    }
    return {name: float(value) for name, value in features.items()}


def judge(guard: Guard, features: Mapping[str, float], *, package: str) -> dict[str, float]:
    """Return what was measured, or refuse the image.

    Rules on organs are left to `judge_organs`, for they need the network's answer.

    Raises
    ------
    UnsuitableSeries
        With the reason of the first rule that does not hold, or ``OUT_OF_DISTRIBUTION``.
    InvalidModel
        ``MANIFEST`` when the manifest names a feature that this kind of image does not have.
    """
    for rule in guard.rules:
        if rule.class_name is None:
            value = _feature(features, rule.measure, package)
            _require(rule.range.holds(value), rule.reason, f"{rule.measure} is {value:.3g}")
    scores = dict(features)
    if guard.distribution:
        distance = _distance(guard.distribution, features, package)
        scores[OUT_OF_DISTRIBUTION] = distance
        _require(
            distance <= guard.distribution.threshold,
            "OUT_OF_DISTRIBUTION",
            f"distance {distance:.1f} from the training set, "
            f"allowed {guard.distribution.threshold:g}",
        )
    return scores


def judge_organs(guard: Guard, volumes_ml: Mapping[str, float]) -> None:
    """Refuse an image in which an organ that the package needs was not found whole.

    Raises
    ------
    UnsuitableSeries
        With the reason of the first rule that does not hold.
    """
    for rule in guard.rules:
        if rule.class_name is not None:
            value = volumes_ml.get(rule.class_name, 0.0)
            _require(rule.range.holds(value), rule.reason, f"{rule.class_name}: {value:.0f} ml")


def _require(holds: bool, reason: str, message: str) -> None:
    if not holds:
        raise UnsuitableSeries(reason, message)


def _feature(features: Mapping[str, float], name: str, package: str) -> float:
    if name not in features:
        raise InvalidModel(
            "MANIFEST", f"{package}: guard: found {name}, allowed {', '.join(sorted(features))}"
        )
    return features[name]


def _distance(distribution: Distribution, features: Mapping[str, float], package: str) -> float:
    """Return the Mahalanobis distance of the features from the training set's."""
    values = np.array([_feature(features, name, package) for name in distribution.features])
    away = values - np.asarray(distribution.mean)
    squared = float(away @ np.asarray(distribution.inverse_covariance) @ away)
    return float(np.sqrt(max(squared, 0.0)))


def _share(values: Array, low: float, high: float) -> float:
    return float(((values >= low) & (values < high)).mean()) if values.size else 0.0


def _lung_extent(anatomy: Anatomy) -> dict[str, float]:
    areas = anatomy.air.sum(axis=(1, 2))
    present = np.flatnonzero(areas)
    if not present.size:
        return {"lung_height_mm": 0.0, "lung_cut_fraction": 0.0}
    ends = max(areas[0], areas[-1])
    return {
        "lung_height_mm": float(present[-1] - present[0] + 1) * SPACING_MM,
        "lung_cut_fraction": float(ends / areas.max()),
    }


def _noise(voxels: NDArray[np.generic]) -> float:
    """Return the noise in soft tissue from differences of neighbouring pixels in a few slices."""
    step = max(1, len(voxels) // 5)
    slices = np.asarray(voxels[step // 2 :: step][:5], dtype=np.float32)
    soft = (slices > -20) & (slices < 120)
    pairs = soft[..., 1:] & soft[..., :-1]
    if pairs.sum() < 100:
        return 0.0
    differences = (slices[..., 1:] - slices[..., :-1])[pairs]
    # 1.4826 makes the median absolute deviation a standard deviation; two pixels differ by twice
    # the variance of one.
    return float(np.median(np.abs(differences)) * 1.4826 / np.sqrt(2))


def _histogram_shape(values: Array) -> dict[str, float]:
    threshold = _otsu(values)
    bright = values[values > threshold]
    if bright.size < 10 or bright.std() == 0:
        return {"foreground_fraction": 0.0, "skewness": 0.0, "kurtosis": 0.0}
    scaled = (bright - bright.mean()) / bright.std()
    return {
        "foreground_fraction": bright.size / values.size,
        "skewness": float((scaled**3).mean()),
        "kurtosis": float((scaled**4).mean()),
    }


def _otsu(values: Array) -> float:
    """Return the threshold between dark and bright that separates them best."""
    low, high = np.percentile(values, [0.5, 99.5])
    counts, edges = np.histogram(values, bins=128, range=(low, max(high, low + 1e-3)))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    mean_below = np.cumsum(counts * middles) / np.maximum(below, 1)
    mean_above = ((counts * middles).sum() - np.cumsum(counts * middles)) / np.maximum(above, 1)
    between = below.astype(np.float64) * above * (mean_below - mean_above) ** 2
    return float(edges[int(between.argmax()) + 1])


def _correlation(first: Array, second: Array) -> float:
    """Return Pearson's correlation, 0 where one of the images is flat."""
    a, b = first - first.mean(), second - second.mean()
    spread = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / spread if spread > 0 else 0.0


def _thumbnail(pixels: NDArray[np.generic]) -> Array:
    """Return a 64 by 64 image of means, clipped and standardised."""
    columns = _block_means(np.asarray(pixels, dtype=np.float32), axis=1)
    small = _block_means(columns, axis=0)
    low, high = np.percentile(small, [1, 99])
    clipped = np.clip(small, low, high)
    deviation = float(clipped.std())
    standard = (clipped - clipped.mean()) / (deviation if deviation > 0 else 1.0)
    return np.asarray(standard, dtype=np.float32)


def _block_means(image: Array, *, axis: int) -> Array:
    """Return means of `_THUMBNAIL` near-equal parts along one axis of an image."""
    edges = np.linspace(0, image.shape[axis], _THUMBNAIL + 1).astype(int)
    starts = np.minimum(edges[:-1], image.shape[axis] - 1)
    lengths = np.maximum(np.diff(edges), 1)
    sums = np.add.reduceat(image, starts, axis=axis)
    return np.asarray(sums / lengths.reshape((-1, 1) if axis == 0 else (1, -1)), dtype=np.float32)
