"""The same regions as probabilities and as a label map."""

import io
from dataclasses import replace
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from service.core.elements import Encoding, walk
from service.core.errors import InvalidResult
from service.core.findings import Analysis, FindingMask
from service.core.part10 import read_file_meta
from service.core.profiles import SegForm
from tests.builders.dicom import OBLIQUE, ct_series, enhanced_ct, radiograph
from tests.builders.results import nodules, radiograph_findings, result_context, source_frames
from workers.results.context import ResultContext, WrittenResult
from workers.results.seg import write_seg
from workers.results.source import read_source
from workers.results.validate import validate_result


def written(
    instances: list[Dataset], analysis: Analysis, **changes: Any
) -> tuple[WrittenResult, ResultContext]:
    """Return a segmentation that passed the gate."""
    frames, context = source_frames(instances), result_context(instances[0], **changes)
    source = read_source(context.source_header)
    result = write_seg(context, source, analysis, frames=frames)
    assert result is not None
    validate_result(result, context, source, analysis=analysis, frames=frames)
    return result, context


def opened(result: WrittenResult) -> Any:
    return pydicom.dcmread(io.BytesIO(result.content))


def on_source(analysis: Analysis, rank: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A finding's mask on the whole grid."""
    mask = analysis.masks[analysis.findings[rank].id]
    grid = np.zeros(shape, bool)
    grid[tuple(slice(o, o + n) for o, n in zip(mask.offset, mask.voxels.shape, strict=True))] = (
        mask.voxels
    )
    return grid


def test_fractions_are_the_probability_of_the_finding_inside_its_mask() -> None:
    instances = ct_series()
    analysis = nodules(source_frames(instances))

    result, _ = written(instances, analysis, seg_form=SegForm.FRACTIONAL)

    dataset = opened(result)
    assert (dataset.SegmentationType, dataset.SegmentationFractionalType) == (
        "FRACTIONAL", "PROBABILITY",
    )  # fmt: skip
    assert dataset.MaximumFractionalValue == 255
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4"
    first = dataset.pixel_array[0]
    assert set(np.unique(first)) == {0, round(255 * 0.93)}
    mask = on_source(analysis, 0, (12, 40, 32))
    assert np.array_equal(first > 0, mask[mask.any(axis=(1, 2))][0])


def test_a_label_map_holds_all_segments_of_a_place_in_one_frame() -> None:
    instances = ct_series(orientation=OBLIQUE)
    analysis = nodules(source_frames(instances))

    result, _ = written(instances, analysis, seg_form=SegForm.LABELMAP)

    dataset = opened(result)
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
    assert dataset.SegmentationType == "LABELMAP"
    assert [segment.SegmentNumber for segment in dataset.SegmentSequence] == [0, 1, 2]
    masks = [on_source(analysis, rank, (12, 40, 32)) for rank in (0, 1)]
    labels = masks[0] * 1 + masks[1] * 2
    assert np.array_equal(dataset.pixel_array, labels[labels.any(axis=(1, 2))])
    per_frame = dataset.PerFrameFunctionalGroupsSequence
    assert "SegmentIdentificationSequence" not in per_frame[0]


@pytest.mark.parametrize("form", [SegForm.FRACTIONAL, SegForm.LABELMAP])
@pytest.mark.parametrize("source", [ct_series, enhanced_ct])
def test_highdicom_reads_every_form_in_the_places_of_the_source(form: SegForm, source: Any) -> None:
    instances = source()
    analysis = nodules(source_frames(instances))
    result, _ = written(instances, analysis, seg_form=form, keep_empty_frames=True)

    segmentation = hd.seg.segread(io.BytesIO(result.content))

    volume = segmentation.get_volume(
        combine_segments=form is SegForm.LABELMAP, rescale_fractional=False
    )
    assert segmentation.segment_numbers == [1, 2]
    for rank, number in enumerate((1, 2)):
        drawn = volume.array == number if form is SegForm.LABELMAP else volume.array[..., rank] > 0
        mask = analysis.masks[analysis.findings[rank].id]
        assert drawn.sum() == mask.voxels.sum()


@pytest.mark.parametrize("form", list(SegForm))
def test_a_radiograph_without_a_space_has_every_form(form: SegForm) -> None:
    instances = radiograph()
    analysis = radiograph_findings(source_frames(instances), with_mask=True)

    result, _ = written(instances, analysis, seg_form=form)

    assert opened(result).NumberOfFrames == 1


def test_regions_that_overlap_are_sent_as_bits_where_a_label_map_is_wanted() -> None:
    instances = ct_series()
    analysis = nodules(source_frames(instances))
    first = analysis.masks[analysis.findings[0].id]
    overlapping = replace(analysis, masks={f.id: first for f in analysis.findings})

    result, _ = written(instances, overlapping, seg_form=SegForm.LABELMAP)

    dataset = opened(result)
    assert (dataset.SegmentationType, dataset.SegmentsOverlap) == ("BINARY", "YES")


@pytest.mark.parametrize("form", [SegForm.FRACTIONAL, SegForm.LABELMAP])
def test_an_altered_voxel_does_not_pass(form: SegForm) -> None:
    instances = ct_series()
    frames = source_frames(instances)
    analysis = nodules(frames)
    result, context = written(instances, analysis, seg_form=form)
    dataset = opened(result)
    pixels = bytearray(dataset.PixelData)
    pixels[pixels.index(max(pixels))] -= 1
    dataset.PixelData = bytes(pixels)
    buffer = io.BytesIO()
    dataset.save_as(buffer)

    with pytest.raises(InvalidResult) as refused:
        validate_result(
            replace(result, content=buffer.getvalue()), context,
            read_source(context.source_header), analysis=analysis, frames=frames,
        )  # fmt: skip

    assert refused.value.reason == "VOXELS_DIFFER"


def test_a_segmentation_of_nine_thousand_frames_is_received_again() -> None:
    instances = ct_series(slices=300, rows=40, columns=40)
    frames = source_frames(instances)
    analysis = nodules(frames, count=30)
    whole = FindingMask((0, 4, 4), np.ones((300, 8, 8), bool))

    result, _ = written(instances, replace(analysis, masks=dict.fromkeys(analysis.masks, whole)))

    meta = read_file_meta(result.content)
    assert meta is not None
    assert opened(result).NumberOfFrames == 9000
    elements = walk(result.content, Encoding.of(meta.transfer_syntax_uid), start=meta.length)
    assert elements[-1].end == len(result.content)
