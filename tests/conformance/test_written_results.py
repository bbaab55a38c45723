"""Written results before independent judges: dicom3tools, dcmtk, PixelMed, highdicom."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from service.core.findings import Analysis
from service.core.headers import SourceFrame
from tests.builders.dicom import OBLIQUE, ct_series, enhanced_ct, part10, radiograph
from tests.builders.results import (
    nodules,
    nothing_found,
    radiograph_findings,
    result_context,
    source_frames,
)
from tests.builders.sources import SERIES as SOURCES
from tests.peers.tools import Dciodvfy, Dcmtk, PixelMed
from workers.results.context import SrClass, WrittenResult
from workers.results.rendering import Display
from workers.results.writer import write_refusal, write_results

Analyse = Callable[[Sequence[SourceFrame]], Analysis]


def results_of(
    instances: list[Dataset], analyse: Analyse, *, pixels: bool = True, **changes: Any
) -> tuple[WrittenResult, ...]:
    frames = source_frames(instances)
    shape = (len(frames), instances[0].Rows, instances[0].Columns)
    display = Display(np.zeros(shape, np.float32), (0, 1)) if pixels else None
    context = result_context(instances[0], **changes)
    return write_results(context, analyse(frames), frames, display=display)


def with_region(frames: Sequence[SourceFrame]) -> Analysis:
    return radiograph_findings(frames, with_mask=True)


def judged(results: Sequence[WrittenResult], dciodvfy: Dciodvfy, folder: Path) -> None:
    for result in results:
        path = folder / f"{result.role}.dcm"
        path.write_bytes(result.content)
        verdict = dciodvfy(path)
        assert verdict.errors == (), f"{result.role}: {verdict.errors}"


@pytest.mark.peers
@pytest.mark.parametrize("name", SOURCES)
def test_iod_validator_has_no_error_for_any_source(
    name: str, dciodvfy: Dciodvfy, tmp_path: Path
) -> None:
    results = results_of(SOURCES[name](), nodules)

    assert [r.role for r in results] == ["seg", "sr", "sc"]
    judged(results, dciodvfy, tmp_path)


@pytest.mark.peers
@pytest.mark.parametrize("made_up_plane", [False, True])
def test_iod_validator_has_no_error_for_a_radiograph(
    made_up_plane: bool, dciodvfy: Dciodvfy, tmp_path: Path
) -> None:
    results = results_of(radiograph(), with_region, made_up_plane=made_up_plane)

    judged(results, dciodvfy, tmp_path)


@pytest.mark.peers
@pytest.mark.parametrize("sr_class", list(SrClass))
def test_iod_validator_has_no_error_for_any_document_class(
    sr_class: SrClass, dciodvfy: Dciodvfy, tmp_path: Path
) -> None:
    judged(results_of(ct_series(), nodules, sr_class=sr_class), dciodvfy, tmp_path)


@pytest.mark.peers
def test_iod_validator_has_no_error_when_nothing_was_found_or_analysed(
    dciodvfy: Dciodvfy, tmp_path: Path
) -> None:
    instances = ct_series()
    context = result_context(instances[0])
    headers = [frame.instance for frame in source_frames(instances)]
    refusal = write_refusal(context, headers, reason="IRREGULAR_GAP", message="7.5 mm")

    negative = results_of(instances, lambda _: nothing_found())

    judged([*negative, refusal], dciodvfy, tmp_path)


@pytest.mark.peers
@pytest.mark.parametrize("kept", [False, True])
def test_iod_validator_accepts_overlapping_segments_and_kept_empty_frames(
    kept: bool, dciodvfy: Dciodvfy, tmp_path: Path
) -> None:
    results = results_of(
        ct_series(slices=30), lambda frames: nodules(frames, count=12), keep_empty_frames=kept
    )

    seg = pydicom.dcmread(io.BytesIO(results[0].content))
    assert (seg.NumberOfFrames == 12 * 30) is kept
    judged(results, dciodvfy, tmp_path)


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["lesions", "radiograph", "nothing"])
def test_dcmtk_reads_and_prints_every_report(kind: str, dcmtk: Dcmtk, tmp_path: Path) -> None:
    results = {
        "lesions": lambda: results_of(ct_series(), nodules),
        "radiograph": lambda: results_of(radiograph(), with_region),
        "nothing": lambda: results_of(ct_series(), lambda _: nothing_found()),
    }[kind]()
    (report,) = (r for r in results if r.role == "sr")
    path = tmp_path / "report.dcm"
    path.write_bytes(report.content)

    printed = dcmtk("dsrdump", path).stdout

    complaints = [
        line
        for line in printed.splitlines()
        # dcmtk 3.6.7 checks no values written in UTF-8 and says so.
        if line.startswith(("W:", "E:", "F:")) and "VR checker does not support" not in line
    ]
    assert complaints == []
    assert "Imaging Measurement Report" in printed
    assert "Certainty of Finding" in printed or kind == "nothing"


@pytest.mark.peers
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["absent", "refused"])
def test_template_validator_has_no_error(kind: str, pixelmed: PixelMed, tmp_path: Path) -> None:
    instances = ct_series()
    context = result_context(instances[0])
    frames = source_frames(instances)
    if kind == "refused":
        headers = [frame.instance for frame in frames]
        report = write_refusal(context, headers, reason="IRREGULAR_GAP", message="7.5 mm")
    else:
        absent = radiograph_findings(frames).findings[2]
        report = write_results(context, Analysis((absent,)), frames)[-1]
    path = tmp_path / "report.dcm"
    path.write_bytes(report.content)

    verdict = pixelmed(path)

    assert verdict.errors == ()
    assert "Found Root Template TID_1500" in verdict.output


@pytest.mark.peers
@pytest.mark.slow
def test_template_validator_only_lacks_regions_where_groups_are_of_two_templates(
    pixelmed: PixelMed, tmp_path: Path
) -> None:
    """PixelMed 2022 takes every group for a TID 1411 as soon as one points at a segment."""
    results = results_of(ct_series(), nodules)
    path = tmp_path / "report.dcm"
    path.write_bytes(results[1].content)

    verdict = pixelmed(path)

    assert all(
        "Template 1411" in error and "Missing conditional content item" in error
        for error in verdict.errors
    )
    # Two lesions have a TID 1501 group each, and TID 1411 asks for one of three kinds of region.
    assert len(verdict.errors) == 2 * 3


@pytest.mark.parametrize("name", SOURCES)
def test_highdicom_reads_segmentation_and_report(name: str) -> None:
    seg, report, picture = results_of(SOURCES[name](), nodules)

    segmentation = hd.seg.segread(io.BytesIO(seg.content))
    document: Any = hd.sr.srread(io.BytesIO(report.content))

    assert segmentation.number_of_segments == 2
    assert len(document.content.get_volumetric_roi_measurement_groups()) == 2
    assert pydicom.dcmread(io.BytesIO(picture.content)).pixel_array.ndim == 3


def test_segmentation_has_the_volume_geometry_of_its_source() -> None:
    """The affine that another reader builds equals the one from the source's own numbers."""
    instances = ct_series(orientation=OBLIQUE)
    results = results_of(instances, nodules, keep_empty_frames=True)

    volume = hd.seg.segread(io.BytesIO(results[0].content)).get_volume(combine_segments=False)
    source = hd.get_volume_from_series(instances)

    assert np.allclose(volume.affine, source.affine, atol=1e-9)
    assert volume.spatial_shape == source.spatial_shape


@pytest.mark.peers
@pytest.mark.parametrize("source", [radiograph, enhanced_ct])
def test_dcmtk_shows_the_source_as_its_presentation_state_says(
    source: Callable[[], list[Dataset]], dcmtk: Dcmtk, tmp_path: Path
) -> None:
    instances = source()
    frames = source_frames(instances)
    analysis = radiograph_findings(frames) if source is radiograph else nodules(frames)
    results = write_results(result_context(instances[0]), analysis, frames, also=("gsps",))
    state, image, picture = (tmp_path / name for name in ("state.dcm", "image.dcm", "image.pgm"))
    state.write_bytes(next(one.content for one in results if one.role == "gsps"))
    image.write_bytes(part10(instances[0]))

    printed = dcmtk("dcmp2pgm", "-p", state, image, picture).stdout

    assert picture.read_bytes().startswith(b"P5")
    assert not [line for line in printed.splitlines() if line.startswith(("E:", "F:"))]
