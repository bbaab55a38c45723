import io
from dataclasses import replace
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from service.core.findings import Analysis
from tests.builders.dicom import ct_series, pattern_hu, radiograph
from tests.builders.results import (
    nodules,
    nothing_found,
    radiograph_findings,
    result_context,
    source_frames,
)
from workers.results.rendering import Display, summary_image
from workers.results.secondary_capture import write_secondary_capture
from workers.results.source import read_source

WINDOW = (-1000.0, 400.0)


def captured(
    instances: list[Dataset], analysis: Analysis, display: Display, **changes: Any
) -> Dataset:
    context = result_context(instances[0], **changes)
    result = write_secondary_capture(
        context,
        read_source(context.source_header),
        analysis,
        frames=source_frames(instances),
        display=display,
    )
    return pydicom.dcmread(io.BytesIO(result.content))


def coloured(picture: np.ndarray) -> int:
    """Pixels that are not grey."""
    return int((np.ptp(picture.astype(int), axis=-1) > 40).sum())


def test_the_picture_declares_its_burned_in_marks_and_its_sources() -> None:
    instances = ct_series()
    frames = source_frames(instances)

    capture = captured(instances, nodules(frames), Display(pattern_hu(12, 40, 32), WINDOW))

    assert capture.BurnedInAnnotation == "YES"
    assert capture.ImageType == ["DERIVED", "SECONDARY"]
    assert capture.ConversionType == "WSD"
    assert capture.pixel_array.shape == (capture.Rows, capture.Columns, 3)
    shown = {f.location.sop_instance_uid for f in nodules(frames).findings if f.location}
    assert {s.ReferencedSOPInstanceUID for s in capture.SourceImageSequence} == shown


def test_outlines_are_drawn_only_where_something_was_found() -> None:
    instances = ct_series()
    frames = source_frames(instances)
    display = Display(pattern_hu(12, 40, 32), WINDOW)

    found = summary_image(nodules(frames), frames, display, [])
    nothing = summary_image(nothing_found(), frames, display, [])

    assert coloured(found) > 200
    assert coloured(nothing) == 0


def test_a_heat_map_colours_the_radiograph_where_its_evidence_lies() -> None:
    frames = source_frames(radiograph())
    analysis = radiograph_findings(frames)
    display = Display(np.full((1, 64, 48), 100.0, np.float32), (0.0, 200.0))

    with_map = summary_image(analysis, frames, display, [])
    without = summary_image(replace(analysis, maps={}), frames, display, [])

    difference = np.abs(with_map.astype(int) - without).sum(axis=-1)
    rows, columns = np.nonzero(difference > 60)
    scale = 1024 / (64 * 1.0)
    assert abs(rows.mean() / scale - 32) < 3
    assert abs((columns.mean() - 8) / scale - 20) < 3


def test_inverted_values_show_bright_as_dark() -> None:
    frames = source_frames(radiograph())
    ramp = np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(1, 64, 48)

    plain = summary_image(nothing_found(), frames, Display(ramp, (0, 1)), [])
    inverted = summary_image(nothing_found(), frames, Display(ramp, (0, 1), inverted=True), [])

    first, last = (slice(20, 60), slice(20, 400)), (slice(960, 1000), slice(20, 400))
    assert plain[first].mean() < plain[last].mean()
    assert inverted[first].mean() > inverted[last].mean()


def test_a_picture_has_the_proportions_of_the_body() -> None:
    instances = ct_series(spacing_mm=(2.5, 2.0, 0.5), rows=40, columns=40)
    frames = source_frames(instances)
    display = Display(np.full((12, 40, 40), 400.0), WINDOW)

    picture = summary_image(nothing_found(), frames, display, [])

    bright = picture.min(axis=-1) > 250
    tall, wide = bright.any(axis=1).sum(), bright.any(axis=0).sum()
    assert tall / wide == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("window", [None, WINDOW])
def test_without_a_window_the_instance_or_the_frame_decides(
    window: tuple[float, float] | None,
) -> None:
    frames = source_frames(ct_series(WindowCenter="-300", WindowWidth="1400"))
    display = Display(pattern_hu(12, 40, 32), window)

    own = summary_image(nothing_found(), frames, display, [])
    percentiles = summary_image(
        nothing_found(), source_frames(ct_series()), replace(display, window=None), []
    )

    given = summary_image(nothing_found(), frames, replace(display, window=(-1000.0, 400.0)), [])
    assert np.array_equal(own, given)
    assert not np.array_equal(percentiles, given)


def test_the_patient_is_never_drawn() -> None:
    display = Display(pattern_hu(12, 40, 32), WINDOW)

    one = captured(ct_series(PatientName="Doe^Jane", PatientID="1"), nothing_found(), display)
    other = captured(ct_series(PatientName="Roe^John", PatientID="2"), nothing_found(), display)

    assert one.PixelData == other.PixelData
    assert one.PatientName != other.PatientName


def test_lossy_sources_are_declared() -> None:
    display = Display(pattern_hu(12, 40, 32), WINDOW)

    capture = captured(ct_series(LossyImageCompression="01"), nothing_found(), display)

    assert capture.LossyImageCompression == "01"


def test_only_so_many_frames_are_shown_and_the_rest_is_listed() -> None:
    instances = ct_series(slices=40)
    frames = source_frames(instances)
    display = Display(pattern_hu(40, 40, 32), WINDOW)

    six = summary_image(nodules(frames, count=6), frames, display, [])
    nine = summary_image(nodules(frames, count=9), frames, display, [])

    assert six.shape[1] == nine.shape[1]
    assert nine.shape[0] == six.shape[0] + 3 * 18
