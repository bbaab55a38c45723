"""RT Structure Sets and Parametric Maps."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from service.core.errors import InvalidResult
from service.core.findings import FindingMask
from tests.builders.dicom import OBLIQUE, ct_series, enhanced_ct, radiograph
from tests.builders.results import (
    nodules,
    nothing_found,
    radiograph_findings,
    result_context,
    source_frames,
)
from workers.results.contours import loops_of
from workers.results.parametric_map import write_parametric_map
from workers.results.rings import area, joined
from workers.results.source import read_source
from workers.results.structure_set import write_structure_set
from workers.results.validate import validate_result


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_rings_enclose_as_many_pixels_as_the_mask_has(plane: NDArray[np.bool_]) -> None:
    rings = joined(loops_of(plane))

    assert sum(area(ring) for ring in rings) == pytest.approx(plane.sum())


def test_an_island_in_a_hole_is_a_ring_of_its_own() -> None:
    plane = np.ones((7, 7), bool)
    plane[1:6, 1:6] = False
    plane[3, 3] = True

    areas = sorted(area(ring) for ring in joined(loops_of(plane)))

    assert areas == [1.0, 24.0]


def contours_of(instances: list[Dataset]) -> tuple[Any, Callable[[Any], None]]:
    """Return the structure set as read back, and how to judge it when it was altered."""
    frames, context = source_frames(instances), result_context(instances[0])
    source, analysis = read_source(context.source_header), nodules(frames)
    result = write_structure_set(context, source, analysis, frames=frames)
    assert result is not None

    def judge(dataset: Any) -> None:
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        validate_result(
            replace(result, content=buffer.getvalue()), context, source,
            analysis=analysis, frames=frames,
        )  # fmt: skip

    return pydicom.dcmread(io.BytesIO(result.content)), judge


@pytest.mark.parametrize("source", [ct_series, enhanced_ct, lambda: ct_series(orientation=OBLIQUE)])
def test_contours_pass_for_any_source(source: Callable[[], list[Dataset]]) -> None:
    dataset, judge = contours_of(source())

    judge(dataset)
    names = [roi.ROIName for roi in dataset.StructureSetROISequence]
    assert names == ["AI Nodule 1", "AI Nodule 2"]
    assert dataset.ApprovalStatus == "UNAPPROVED"


def test_a_contour_lies_at_the_depth_of_its_image_around_the_voxels() -> None:
    instances = ct_series(orientation=OBLIQUE)
    dataset, _ = contours_of(instances)
    mask = nodules(source_frames(instances)).masks
    first = next(iter(mask.values()))

    contour = dataset.ROIContourSequence[0].ContourSequence[0]

    uid = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
    image = next(i for i in instances if i.SOPInstanceUID == uid)
    points = np.array(contour.ContourData, float).reshape(-1, 3)
    row, column = np.split(np.array(image.ImageOrientationPatient, float), 2)
    offset = points - np.array(image.ImagePositionPatient, float)
    assert np.allclose(offset @ np.cross(row, column), 0, atol=2e-3)
    # The leftmost corner is half a pixel left of the centre of the mask's first column.
    left = (offset @ row / float(image.PixelSpacing[1])).min()
    plane = first.voxels[first.voxels.any(axis=(1, 2))][0]
    column_index = first.offset[2] + int(np.flatnonzero(plane.any(axis=0))[0])
    assert left == pytest.approx(column_index - 0.5, abs=0.01)


def shifted(dataset: Any) -> None:
    data = np.array(dataset.ROIContourSequence[0].ContourSequence[0].ContourData, float)
    moved = (data.reshape(-1, 3) + np.array([0, 0, 1.0])).reshape(-1)
    dataset.ROIContourSequence[0].ContourSequence[0].ContourData = list(np.round(moved, 3))


def lost(dataset: Any) -> None:
    del dataset.ROIContourSequence[0].ContourSequence[0]


def elsewhere(dataset: Any) -> None:
    image = dataset.ROIContourSequence[0].ContourSequence[0].ContourImageSequence[0]
    image.ReferencedSOPInstanceUID = "1.2.3"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (shifted, "GEOMETRY_DIFFERS"),
        (lost, "VOXELS_DIFFER"),
        (elsewhere, "EVIDENCE_INCOMPLETE"),
    ],
)
def test_altered_contours_do_not_pass(change: Callable[[Any], None], reason: str) -> None:
    dataset, judge = contours_of(ct_series())
    change(dataset)

    with pytest.raises(InvalidResult) as refused:
        judge(dataset)

    assert refused.value.reason == reason


def test_a_very_long_outline_stays_within_one_element() -> None:
    instances = ct_series(slices=3, rows=256, columns=256)
    frames, context = source_frames(instances), result_context(instances[0])
    comb = np.zeros((1, 250, 250), bool)
    comb[0, ::4] = comb[0, 1::4, ::2] = comb[0, :, 0] = True
    assert max(len(loop) for loop in loops_of(comb[0])) > 10_000
    analysis = nodules(frames, count=1)
    analysis = replace(analysis, masks={analysis.findings[0].id: FindingMask((1, 2, 2), comb)})
    source = read_source(context.source_header)

    result = write_structure_set(context, source, analysis, frames=frames)

    assert result is not None
    validate_result(result, context, source, analysis=analysis, frames=frames)


def test_a_radiograph_and_a_negative_study_have_no_contours() -> None:
    for instances, analysis in (
        (radiograph(), radiograph_findings(source_frames(radiograph()), with_mask=True)),
        (ct_series(), nothing_found()),
    ):
        frames, context = source_frames(instances), result_context(instances[0])
        source = read_source(context.source_header)
        assert write_structure_set(context, source, analysis, frames=frames) is None


def test_a_map_holds_the_evidence_in_16_bits_and_says_what_it_is() -> None:
    instances = radiograph()
    frames, context = source_frames(instances), result_context(instances[0])
    source, analysis = read_source(context.source_header), radiograph_findings(frames)

    result = write_parametric_map(context, source, analysis, frames=frames)

    assert result is not None
    validate_result(result, context, source, analysis=analysis, frames=frames)
    dataset = pydicom.dcmread(io.BytesIO(result.content))
    (group,) = dataset.PerFrameFunctionalGroupsSequence
    mapping = group.RealWorldValueMappingSequence[0]
    heat = next(iter(analysis.maps.values()))
    real = dataset.pixel_array * mapping.RealWorldValueSlope + mapping.RealWorldValueIntercept
    assert np.allclose(real, heat, atol=1e-4)
    assert mapping.LUTLabel == "consolidation"
    assert dataset["PixelData"].VR == "OW"
    assert dataset.ContentQualification == "RESEARCH"


def test_an_altered_map_does_not_pass() -> None:
    instances = radiograph()
    frames, context = source_frames(instances), result_context(instances[0])
    source, analysis = read_source(context.source_header), radiograph_findings(frames)
    result = write_parametric_map(context, source, analysis, frames=frames)
    assert result is not None
    content = bytearray(result.content)
    content[-1] ^= 1

    with pytest.raises(InvalidResult) as refused:
        validate_result(
            replace(result, content=bytes(content)), context, source,
            analysis=analysis, frames=frames,
        )  # fmt: skip

    assert refused.value.reason == "VOXELS_DIFFER"


def test_findings_without_maps_have_no_map() -> None:
    instances = ct_series()
    frames, context = source_frames(instances), result_context(instances[0])
    source = read_source(context.source_header)

    assert write_parametric_map(context, source, nodules(frames), frames=frames) is None
