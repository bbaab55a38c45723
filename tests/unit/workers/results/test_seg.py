import io
from dataclasses import replace

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from pydicom.dataset import Dataset

from service.core import codes
from service.core.errors import ContractViolation
from service.core.findings import Analysis, FindingMask
from service.core.headers import SourceFrame
from tests.builders.dicom import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    PRONE,
    SAGITTAL,
    ct_series,
    enhanced_ct,
    radiograph,
)
from tests.builders.results import (
    nodule,
    nodules,
    nothing_found,
    radiograph_findings,
    result_context,
    source_frames,
)
from workers.results.seg import write_seg
from workers.results.source import read_source

GEOMETRIES = {
    "axial": {"orientation": AXIAL},
    "axial feet first": {"orientation": AXIAL, "step_mm": (0.0, 0.0, -2.5)},
    "coronal": {"orientation": CORONAL},
    "sagittal": {"orientation": SAGITTAL},
    "prone": {"orientation": PRONE},
    "oblique": {"orientation": OBLIQUE},
    "gantry tilt": {"orientation": AXIAL, "step_mm": (0.0, 0.655, 2.5)},
    "odd size": {"rows": 37, "columns": 29},
}


def written(instances: list[Dataset], analysis: Analysis, **changes: object) -> bytes:
    context = result_context(instances[0], **changes)
    result = write_seg(
        context, read_source(context.source_header), analysis, frames=source_frames(instances)
    )
    assert result is not None
    return result.content


def opened(content: bytes) -> hd.seg.Segmentation:
    return hd.seg.segread(io.BytesIO(content))


def drawn(analysis: Analysis, frames: list[SourceFrame]) -> np.ndarray:
    """What was found, on the source grid: shape (segments, frames, rows, columns)."""
    instance = frames[0].instance
    size = (instance.rows or 0, instance.columns or 0)
    whole = np.zeros((len(analysis.findings), len(frames), *size), np.bool_)
    for image, finding in zip(whole, analysis.findings, strict=True):
        mask = analysis.masks[finding.id]
        ends = np.add(mask.offset, mask.voxels.shape)
        image[tuple(slice(a, b) for a, b in zip(mask.offset, ends, strict=True))] = mask.voxels
    return whole


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_every_frame_lies_exactly_where_its_source_lies(geometry: str) -> None:
    instances = ct_series(**GEOMETRIES[geometry])  # type: ignore[arg-type]
    analysis = nodules(source_frames(instances))

    seg = opened(written(instances, analysis))

    source = {i.SOPInstanceUID: i for i in instances}
    shared = seg.SharedFunctionalGroupsSequence[0]
    seen = 0
    for frame in seg.PerFrameFunctionalGroupsSequence:
        image = source[
            frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        ]
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert list(map(float, position)) == list(map(float, image.ImagePositionPatient))
        assert list(map(float, shared.PlaneOrientationSequence[0].ImageOrientationPatient)) == list(
            map(float, image.ImageOrientationPatient)
        )
        assert list(map(float, shared.PixelMeasuresSequence[0].PixelSpacing)) == list(
            map(float, image.PixelSpacing)
        )
        seen += 1
    assert seen == sum(int(m.voxels.any(axis=(1, 2)).sum()) for m in analysis.masks.values())
    assert seg.FrameOfReferenceUID == instances[0].FrameOfReferenceUID


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_another_reader_gets_the_very_voxels_that_were_found(geometry: str) -> None:
    instances = ct_series(**GEOMETRIES[geometry])  # type: ignore[arg-type]
    frames = source_frames(instances)
    analysis = nodules(frames)

    seg = opened(written(instances, analysis))

    uids = [i.SOPInstanceUID for i in instances]
    pixels = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    assert np.array_equal(np.moveaxis(pixels, -1, 0).astype(bool), drawn(analysis, frames))


def test_frames_of_an_enhanced_source_are_found_by_number() -> None:
    instances = enhanced_ct(order=[3, 1, 0, 2, 4, 5, 9, 7, 8, 6])
    frames = source_frames(instances)
    analysis = nodules(frames)

    seg = opened(written(instances, analysis))

    pixels = seg.get_pixels_by_source_frame(
        instances[0].SOPInstanceUID, list(range(1, 11)), assert_missing_frames_are_empty=True
    )
    assert np.array_equal(np.moveaxis(pixels, -1, 0).astype(bool), drawn(analysis, frames))


@settings(max_examples=25)
@given(
    voxels=st_numpy.arrays(
        bool,
        st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 7)),
    ),
    offset=st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 4)),
)
def test_any_mask_survives_packing_in_images_of_any_size(
    voxels: np.ndarray, offset: tuple[int, int, int]
) -> None:
    voxels[0, 0, 0] = True
    instances = ct_series(slices=6, rows=13, columns=11)
    frames = source_frames(instances)
    finding, _ = nodule(frames, 0, (0, 0, 0))
    analysis = Analysis((finding,), masks={finding.id: FindingMask(offset, voxels)})

    seg = opened(written(instances, analysis))

    pixels = seg.get_pixels_by_source_instance(
        [i.SOPInstanceUID for i in instances], assert_missing_frames_are_empty=True
    )
    assert np.array_equal(pixels[..., 0].astype(bool), drawn(analysis, frames)[0])


def test_frames_are_sorted_by_segment_and_then_along_the_normal() -> None:
    instances = list(reversed(ct_series(orientation=AXIAL)))
    analysis = nodules(source_frames(instances))

    seg = opened(written(instances, analysis))

    order = [
        (
            f.SegmentIdentificationSequence[0].ReferencedSegmentNumber,
            float(f.PlanePositionSequence[0].ImagePositionPatient[2]),
        )
        for f in seg.PerFrameFunctionalGroupsSequence
    ]
    assert order == sorted(order)
    ranks = [
        f.FrameContentSequence[0].DimensionIndexValues for f in seg.PerFrameFunctionalGroupsSequence
    ]
    assert ranks == sorted(ranks)


def test_empty_frames_are_left_out_unless_a_destination_wants_them() -> None:
    instances = ct_series()
    analysis = nodules(source_frames(instances))

    sparse = opened(written(instances, analysis))
    dense = opened(written(instances, analysis, keep_empty_frames=True))

    assert sparse.NumberOfFrames < dense.NumberOfFrames == 2 * len(instances)


def test_irregular_slices_keep_their_places_and_claim_no_spacing() -> None:
    instances = [i for k, i in enumerate(ct_series(slices=14)) if k not in (4, 5, 9)]

    seg = opened(written(instances, nodules(source_frames(instances))))

    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert "SpacingBetweenSlices" not in measures
    assert measures.SliceThickness == 2.5


def test_segments_say_what_they_are_and_who_drew_them() -> None:
    instances = ct_series()
    frames = source_frames(instances)
    analysis = nodules(frames)
    first = analysis.findings[0].model_copy(update={"color_lab": (100.0, -128.0, 127.0)})
    analysis = replace(analysis, findings=(first, *analysis.findings[1:]))

    segment = opened(written(instances, analysis)).SegmentSequence[0]

    assert segment.TrackingUID == first.tracking_uid
    assert segment.TrackingID == first.tracking_id
    assert segment.SegmentLabel == "Nodule 1"
    assert list(segment.RecommendedDisplayCIELabValue) == [65535, 0, 65535]
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == codes.NODULE.value
    region = segment.AnatomicRegionSequence[0]
    assert region.CodeValue == codes.LUNG.value
    assert region.AnatomicRegionModifierSequence[0].CodeMeaning == "Right"
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("lung_nodule", "1.2.0")
    assert "sha256=" + "ab" * 32 in algorithm.AlgorithmParameters


def test_an_organ_is_an_anatomical_structure() -> None:
    instances = ct_series()
    frames = source_frames(instances)
    organ, mask = nodule(frames, 0, (0, 0, 0), label=codes.LIVER, site=codes.LIVER)

    segment = opened(
        written(instances, Analysis((organ,), masks={organ.id: mask}))
    ).SegmentSequence[0]

    category = segment.SegmentedPropertyCategoryCodeSequence[0]
    assert category.CodeMeaning == "Anatomical Structure"
    assert "AnatomicRegionSequence" not in segment


@pytest.mark.parametrize(("shift", "expected"), [(0, "YES"), (7, "NO")])
def test_overlap_is_said_when_there_is_any(shift: int, expected: str) -> None:
    instances = ct_series()
    frames = source_frames(instances)
    one, mask = nodule(frames, 0, (2, 5, 5))
    other, second = nodule(frames, 1, (2, 5, 5 + shift))

    analysis = Analysis((one, other), masks={one.id: mask, other.id: second})

    assert opened(written(instances, analysis)).SegmentsOverlap == expected


def test_a_radiograph_without_frame_of_reference_gets_no_plane() -> None:
    instances = radiograph()
    analysis = radiograph_findings(source_frames(instances), with_mask=True)

    seg = pydicom.dcmread(io.BytesIO(written(instances, analysis)))

    assert "FrameOfReferenceUID" not in seg
    assert "PlanePositionSequence" not in seg.PerFrameFunctionalGroupsSequence[0]
    assert seg.PatientOrientation == ["L", "F"]
    # The size of its pixels is all that is known; OHIF cannot do without it.
    assert seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing == [0.3, 0.2]


def test_a_made_up_plane_has_the_spacing_of_the_detector() -> None:
    instances = radiograph()
    analysis = radiograph_findings(source_frames(instances), with_mask=True)

    seg = opened(written(instances, analysis, made_up_plane=True))

    shared = seg.SharedFunctionalGroupsSequence[0]
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.3, 0.2]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    assert seg.FrameOfReferenceUID.startswith("2.25.")


def test_a_radiograph_of_unknown_size_gets_no_made_up_plane_either() -> None:
    instances = radiograph(spacing_mm=None)
    analysis = radiograph_findings(source_frames(instances), with_mask=True)

    seg = pydicom.dcmread(io.BytesIO(written(instances, analysis, made_up_plane=True)))

    assert "FrameOfReferenceUID" not in seg
    assert "PixelMeasuresSequence" not in seg.SharedFunctionalGroupsSequence[0]


def test_lossy_sources_make_a_lossy_segmentation() -> None:
    instances = ct_series(
        LossyImageCompression="01",
        LossyImageCompressionRatio="12.5",
        LossyImageCompressionMethod="ISO_15444_1",
    )

    seg = opened(written(instances, nodules(source_frames(instances))))

    assert seg.LossyImageCompression == "01"
    assert seg.LossyImageCompressionMethod == "ISO_15444_1"


def test_nothing_drawn_makes_no_segmentation() -> None:
    instances = ct_series()
    context = result_context(instances[0])

    result = write_seg(
        context,
        read_source(context.source_header),
        nothing_found(),
        frames=source_frames(instances),
    )

    assert result is None


def broken(analysis: Analysis, how: str) -> Analysis:
    first, second = analysis.findings
    mask = analysis.masks[first.id]
    if how == "number skipped":
        second = second.model_copy(update={"segment_number": 3})
        return replace(analysis, findings=(first, second))
    if how == "mask missing":
        return replace(analysis, masks={first.id: mask})
    if how == "mask empty":
        empty = FindingMask(mask.offset, np.zeros_like(mask.voxels))
    else:
        empty = FindingMask((0, 0, 31), mask.voxels)
    return replace(analysis, masks={**analysis.masks, first.id: empty})


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("number skipped", "SEGMENT_NUMBERS"),
        ("mask missing", "SEGMENT_NUMBERS"),
        ("mask empty", "EMPTY_SEGMENT"),
        ("mask off the grid", "MASK_OFF_SOURCE"),
    ],
)
def test_an_analysis_that_contradicts_itself_is_refused(how: str, reason: str) -> None:
    instances = ct_series()

    with pytest.raises(ContractViolation) as refused:
        written(instances, broken(nodules(source_frames(instances)), how))

    assert refused.value.reason == reason


def test_images_of_another_study_are_refused() -> None:
    context = result_context(ct_series(study="one")[0])
    frames = source_frames(ct_series(study="two"))

    with pytest.raises(ContractViolation) as refused:
        write_seg(context, read_source(context.source_header), nodules(frames), frames=frames)

    assert refused.value.reason == "SOURCE_STUDY_DIFFERS"
