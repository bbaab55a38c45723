"""How source values become grey: the rescale, window and polarity that a state repeats.

A state that is applied replaces all three (PS3.3 C.11.1, C.11.8, C.11.6), so that leaving one out
would show the image in another way than the modality meant it.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from service.core.headers import SourceFrame
from workers.results.common import analysed_instances, reference_of, sop_reference
from workers.results.encode import Value, clip, encoded, item
from workers.results.rendering import Display
from workers.results.source import SourceStudy

_WINDOW_PERCENTILES: Final = (1.0, 99.0)


def modality_transformation(source: SourceStudy, frame: SourceFrame) -> dict[str, Value]:
    """Return the modality look-up table or rescale of the source; nothing where it has none."""
    geometry = frame.geometry
    if source.modality_lut and frame.instance.has_modality_lut:
        return {"ModalityLUTSequence": source.modality_lut[:1]}
    if geometry.rescale_slope is None or geometry.rescale_intercept is None:
        return {}
    usual = "HU" if frame.instance.modality == "CT" else "US"
    return {
        "RescaleIntercept": geometry.rescale_intercept,
        "RescaleSlope": geometry.rescale_slope,
        "RescaleType": clip(frame.instance.rescale_type) or usual,
    }


def windows(
    source: SourceStudy,
    shown: Sequence[SourceFrame],
    frames: Sequence[SourceFrame],
    display: Display | None,
) -> dict[str, Value]:
    """Return the source's windows, each with its images where there are several (C.11.8).

    Without one its own table is taken, and else a window is made of the values of a volume.
    """
    images: dict[tuple[float | None, float | None], list[bytes]] = {}
    for instance in analysed_instances(shown):
        window = (instance.window_center, instance.window_width)
        images.setdefault(window, []).append(sop_reference(reference_of(instance)))
    known = [
        _window(center, width, of_window if len(images) > 1 else ())
        for (center, width), of_window in images.items()
        if center is not None and width is not None and width >= 1
    ]
    if len(known) < len(images):
        known = _other_window(source, shown[0], frames, display)
    return {"SoftcopyVOILUTSequence": known} if known else {}


def presentation_shape(frame: SourceFrame) -> str:
    """Return the shape that makes larger values of a MONOCHROME1 source darker (C.11.6)."""
    is_inverse = frame.instance.photometric_interpretation == "MONOCHROME1"
    return "INVERSE" if is_inverse else "IDENTITY"


def _window(center: float, width: float, images: Sequence[bytes]) -> bytes:
    elements: dict[str, Value] = {"WindowCenter": center, "WindowWidth": width}
    if images:
        elements["ReferencedImageSequence"] = list(images)
    return encoded(elements)


def _other_window(
    source: SourceStudy,
    frame: SourceFrame,
    frames: Sequence[SourceFrame],
    display: Display | None,
) -> list[bytes]:
    if source.voi_lut:
        return [item(VOILUTSequence=source.voi_lut[:1])]
    if display is None or len(frames) == 1:  # a radiograph is analysed in values of its own
        return []
    if display.window:
        lower, upper = display.window
    else:
        place = (frame.instance.sop_instance_uid, frame.frame_number)
        index = [(f.instance.sop_instance_uid, f.frame_number) for f in frames].index(place)
        values = np.asarray(display.voxels[index], np.float32)
        lower, upper = (float(value) for value in np.percentile(values, _WINDOW_PERCENTILES))
    return [_window((lower + upper) / 2, max(upper - lower, 1.0), ())]
