import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from service.core.errors import InvalidResult
from service.core.findings import Analysis
from tests.builders.dicom import ct_series, enhanced_ct, radiograph
from tests.builders.results import (
    nodules,
    nothing_found,
    radiograph_findings,
    result_context,
    source_frames,
)
from workers.results.context import WrittenResult
from workers.results.presentation_state import write_presentation_state
from workers.results.source import read_source
from workers.results.validate import validate_result


def state(
    instances: list[Dataset], analyse: Callable[..., Analysis] = nodules
) -> WrittenResult | None:
    frames, context = source_frames(instances), result_context(instances[0])
    source = read_source(context.source_header)
    return write_presentation_state(context, source, analyse(frames), frames=frames)


def opened(result: WrittenResult | None) -> Any:
    assert result is not None
    return pydicom.dcmread(io.BytesIO(result.content))


def annotations(dataset: Any, layer: str) -> list[Any]:
    return [a for a in dataset.GraphicAnnotationSequence if a.GraphicLayer == layer]


def test_each_finding_has_a_layer_with_outlines_on_every_frame_of_its_mask() -> None:
    instances = ct_series()
    frames = source_frames(instances)
    analysis = nodules(frames)

    dataset = opened(state(instances))

    for number, finding in enumerate(analysis.findings, start=1):
        mask = analysis.masks[finding.id]
        drawn = annotations(dataset, f"FINDING_{number}")
        assert [a.ReferencedImageSequence[0].ReferencedSOPInstanceUID for a in drawn] == [
            frames[mask.offset[0] + plane].instance.sop_instance_uid
            for plane in range(len(mask.voxels))
            if mask.voxels[plane].any()
        ]
    layers = [layer.GraphicLayer for layer in dataset.GraphicLayerSequence]
    assert layers == ["FINDING_1", "FINDING_2", "ABOUT"]


def test_an_outline_encloses_the_very_pixels_of_the_mask() -> None:
    instances = ct_series()
    analysis = nodules(source_frames(instances), count=1)
    mask = analysis.masks[analysis.findings[0].id]

    first = annotations(opened(state(instances, lambda _: analysis)), "FINDING_1")[0]

    (graphic,) = first.GraphicObjectSequence
    x, y = np.array(graphic.GraphicData).reshape(-1, 2).T
    area = abs((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) / 2
    planes = mask.voxels[mask.voxels.any(axis=(1, 2))]
    assert area == planes[0].sum()
    assert (x.min(), y.min()) >= (mask.offset[2], mask.offset[1])
    assert (x[0], y[0]) == (x[-1], y[-1])


def test_words_and_axes_stand_on_the_frame_that_shows_a_finding_best() -> None:
    instances = ct_series()
    analysis = nodules(source_frames(instances), count=1)
    place = analysis.findings[0].location
    assert place is not None

    drawn = annotations(opened(state(instances, lambda _: analysis)), "FINDING_1")

    (worded,) = (a for a in drawn if "TextObjectSequence" in a)
    image = worded.ReferencedImageSequence[0].ReferencedSOPInstanceUID
    assert image == place.sop_instance_uid
    assert worded.TextObjectSequence[0].UnformattedTextValue.startswith("Nodule 93 %  7.7 x 5.6 mm")
    lines = [tuple(g.GraphicData) for g in worded.GraphicObjectSequence]
    for region in place.regions:
        flat = [value for point in region.points for value in point]
        assert any(np.allclose(flat, line) for line in lines if len(line) == len(flat))


def test_every_annotated_image_says_that_nobody_has_reviewed_it() -> None:
    dataset = opened(state(ct_series()))

    annotated = {
        a.ReferencedImageSequence[0].ReferencedSOPInstanceUID
        for a in dataset.GraphicAnnotationSequence
    }
    about = annotations(dataset, "ABOUT")
    assert {a.ReferencedImageSequence[0].ReferencedSOPInstanceUID for a in about} == annotated
    assert "not reviewed" in about[0].TextObjectSequence[0].UnformattedTextValue


def test_rescale_window_and_area_are_those_of_the_source() -> None:
    instances = ct_series(
        RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=-600, WindowWidth=1500
    )

    dataset = opened(state(instances))

    assert (dataset.RescaleSlope, dataset.RescaleIntercept) == (2, -1000)
    (window,) = dataset.SoftcopyVOILUTSequence
    assert (window.WindowCenter, window.WindowWidth) == (-600, 1500)
    (area,) = dataset.DisplayedAreaSelectionSequence
    assert list(area.DisplayedAreaBottomRightHandCorner) == [
        instances[0].Columns, instances[0].Rows,
    ]  # fmt: skip
    assert list(area.PresentationPixelSpacing) == list(instances[0].PixelSpacing)
    assert dataset.PresentationLUTShape == "IDENTITY"


def test_a_bright_bones_are_dark_radiograph_stays_so() -> None:
    dataset = opened(
        state(radiograph(PhotometricInterpretation="MONOCHROME1"), radiograph_findings)
    )

    assert dataset.PresentationLUTShape == "INVERSE"


def test_a_finding_without_a_place_is_words_in_the_corner() -> None:
    dataset = opened(state(radiograph(), radiograph_findings))

    (box,) = annotations(dataset, "FINDING_1")
    (bare,) = annotations(dataset, "FINDING_2")
    assert box.GraphicObjectSequence[0].NumberOfGraphicPoints == 5
    assert "GraphicObjectSequence" not in bare
    assert bare.TextObjectSequence[0].UnformattedTextValue.startswith("Pleural effusion 47 %")


def test_frames_of_an_enhanced_instance_are_named() -> None:
    instances = enhanced_ct()
    analysis = nodules(source_frames(instances), count=1)

    drawn = annotations(opened(state(instances, lambda _: analysis)), "FINDING_1")

    mask = analysis.masks[analysis.findings[0].id]
    planes = np.flatnonzero(mask.voxels.any(axis=(1, 2))) + mask.offset[0]
    numbers = [int(a.ReferencedImageSequence[0].ReferencedFrameNumber) for a in drawn]
    assert numbers == [plane + 1 for plane in planes]


def test_nothing_found_has_no_annotations() -> None:
    assert state(ct_series(), lambda _: nothing_found()) is None


def off_the_image(dataset: Any) -> None:
    annotations(dataset, "FINDING_1")[0].GraphicObjectSequence[0].GraphicData[0] = 999.0


def another_layer(dataset: Any) -> None:
    annotations(dataset, "FINDING_1")[0].GraphicLayer = "ELSEWHERE"


def another_image(dataset: Any) -> None:
    for entry in (
        annotations(dataset, "FINDING_1")[0].ReferencedImageSequence[0],
        dataset.ReferencedSeriesSequence[0].ReferencedImageSequence[0],
    ):
        entry.ReferencedSOPInstanceUID = "1.2.3"


def another_rescale(dataset: Any) -> None:
    dataset.RescaleIntercept = 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (off_the_image, "REGION_OUTSIDE"),
        (another_layer, "LAYER_MISSING"),
        (another_image, "EVIDENCE_INCOMPLETE"),
        (another_rescale, "RESCALE_DIFFERS"),
    ],
)
def test_altered_annotations_do_not_pass(change: Callable[[Any], None], reason: str) -> None:
    instances = ct_series()
    frames, context = source_frames(instances), result_context(instances[0])
    source, analysis = read_source(context.source_header), nodules(frames)
    result = write_presentation_state(context, source, analysis, frames=frames)
    assert result is not None
    dataset = opened(result)
    change(dataset)
    buffer = io.BytesIO()
    dataset.save_as(buffer)

    with pytest.raises(InvalidResult) as refused:
        validate_result(
            replace(result, content=buffer.getvalue()), context, source,
            analysis=analysis, frames=frames,
        )  # fmt: skip

    assert refused.value.reason == reason
