"""From stored values to what a network was trained on, as the manifest says."""

import numpy as np
from numpy.typing import NDArray

from service.core.manifest_input import Input, Intensity

Array = NDArray[np.float32]

# Percentiles need no more values than this to be stable, whatever the size of the image.
_SAMPLE = 1_000_000


def mapped(
    values: NDArray[np.generic],
    intensity: Intensity,
    *,
    population: NDArray[np.generic] | None = None,
    value_range: tuple[float, float] | None = None,
) -> Array:
    """Return the values as network input: a new float32 array of the same shape.

    Statistics are those of `population`, such as the whole scan of which `values` is a part;
    without one, of the values themselves. `value_range` is what the stored bits can hold, for mode
    ``format``.
    """
    known = values if population is None else population
    if intensity.mode == "standardise":
        image = _standardised(values, known, intensity)
    else:
        low, high = _interval(known, intensity, value_range)
        bottom, top = intensity.to
        image = np.clip(values, low, high).astype(np.float32)
        scale = (top - bottom) / (high - low) if high > low else 0.0
        image -= np.float32(low)
        image *= np.float32(scale)
        image += np.float32(bottom)
    if intensity.mean or intensity.sd != 1:
        image -= np.float32(intensity.mean)
        image /= np.float32(intensity.sd)
    return image


def padding_of(settings: Input) -> float:
    """Return what stands beyond the edge of the image, in network units."""
    if settings.padding_value is not None:
        return settings.padding_value
    intensity = settings.intensity
    if intensity.mode == "standardise":
        return 0.0
    return (intensity.to[0] - intensity.mean) / intensity.sd


def _interval(
    known: NDArray[np.generic], intensity: Intensity, value_range: tuple[float, float] | None
) -> tuple[float, float]:
    if intensity.mode == "window":
        return intensity.lower, intensity.upper
    if intensity.mode == "format" and value_range is not None:
        return value_range
    sample = _sample(known, intensity.foreground_above)
    if intensity.mode in ("range", "format"):
        return float(sample.min()), float(sample.max())
    low, high = np.percentile(sample, [intensity.lower, intensity.upper])
    return float(low), float(high)


def _standardised(
    values: NDArray[np.generic], known: NDArray[np.generic], intensity: Intensity
) -> Array:
    sample = _sample(known, intensity.foreground_above)
    low, high = np.percentile(sample, [intensity.lower, intensity.upper])
    clipped = np.clip(sample, low, high)
    deviation = float(clipped.std())
    image: Array = np.clip(values, low, high).astype(np.float32)
    image -= np.float32(clipped.mean())
    image /= np.float32(deviation if deviation > 0 else 1.0)
    return image


def _sample(values: NDArray[np.generic], foreground_above: float | None) -> Array:
    """Return the values that statistics are taken of: spread evenly, at most a million."""
    flat = values.reshape(-1)
    # An odd step meets every row and column, whatever power of two they are.
    sample = np.asarray(flat[:: max(1, flat.size // _SAMPLE) | 1], dtype=np.float32)
    if foreground_above is not None:
        bright = sample[sample > foreground_above]
        sample = bright if bright.size else sample
    return sample
