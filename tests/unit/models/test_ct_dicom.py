"""Synthetic CTs as DICOM: read back, every voxel lies where it was."""

from dataclasses import replace

import numpy as np
import pydicom
import pytest

from models.phantoms.ct_dicom import (
    Description,
    Layout,
    PatientPosition,
    ct_instances,
    write_ct,
)
from models.phantoms.ct_dicom_enhanced import write_enhanced_ct
from models.phantoms.geometry import Grid
from tests.peers.tools import Dciodvfy

GRID = Grid((-12.5, 40.25, -90.0), (0.7, 0.8, 2.5), (6, 5, 4))
ABOUT = Description(identity="unit/1", thickness_mm=2.0)


def voxels() -> np.ndarray:
    return np.arange(6 * 5 * 4, dtype=np.int16).reshape(GRID.shape) * 7 - 400


def placed(instances) -> dict[tuple[float, float, float], int]:
    """HU by position in the patient, rounded to a thousandth of a mm."""
    found = {}
    for ds in instances:
        rows, columns = np.mgrid[: ds.Rows, : ds.Columns]
        across, down = np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        at = np.array(ds.ImagePositionPatient, float) + (
            columns[..., None] * float(ds.PixelSpacing[1]) * across
            + rows[..., None] * float(ds.PixelSpacing[0]) * down
        )
        stored = np.frombuffer(ds.PixelData, "<i2").reshape(ds.Rows, ds.Columns)
        for point, value in zip(at.reshape(-1, 3).round(3), stored.ravel(), strict=True):
            found[tuple(point.tolist())] = int(value) + int(ds.RescaleIntercept)
    return found


@pytest.mark.parametrize("position", PatientPosition)
def test_voxels_lie_where_they_were_however_the_patient_lay(position):
    wanted = {}
    x, y, z = (GRID.axis_mm(a) for a in range(3))
    for (k, j, i), value in np.ndenumerate(voxels()):
        wanted[round(x[i], 3), round(y[j], 3), round(z[k], 3)] = int(value)
    found = placed(ct_instances(voxels(), GRID, ABOUT, layout=Layout(position=position)))
    assert found == wanted


def test_same_identity_gives_the_same_instances():
    first, second = (
        [ds.SOPInstanceUID for ds in ct_instances(voxels(), GRID, ABOUT)] for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == 6
    other = replace(ABOUT, identity="unit/2")
    assert {ds.SOPInstanceUID for ds in ct_instances(voxels(), GRID, other)}.isdisjoint(first)


def test_missing_and_duplicated_slices_show_in_positions():
    layout = Layout(missing=frozenset({2}), duplicated=frozenset({4}))
    instances = list(ct_instances(voxels(), GRID, ABOUT, layout=layout))
    heights = [float(ds.ImagePositionPatient[2]) for ds in instances]
    assert heights == [-90.0, -87.5, -82.5, -80.0, -80.0, -77.5]
    assert len({ds.SOPInstanceUID for ds in instances}) == 6
    assert [int(ds.InstanceNumber) for ds in instances] == [1, 2, 3, 4, 5, 6]


def test_gap_moves_every_later_slice():
    instances = ct_instances(voxels(), GRID, ABOUT, layout=Layout(gap=(3, 4.0)))
    heights = np.array([float(ds.ImagePositionPatient[2]) for ds in instances])
    assert np.diff(heights).tolist() == [2.5, 2.5, 2.5, 6.5, 2.5]


def test_tilted_gantry_leans_the_planes_while_the_table_moves_straight():
    instances = list(ct_instances(voxels(), GRID, ABOUT, layout=Layout(gantry_tilt_degrees=12.0)))
    down = np.array(instances[0].ImageOrientationPatient[3:], float)
    assert down == pytest.approx([0, np.cos(np.radians(12)), np.sin(np.radians(12))])
    positions = np.array([ds.ImagePositionPatient for ds in instances], float)
    assert np.ptp(positions[:, :2], axis=0) == pytest.approx([0, 0])
    assert float(instances[0].GantryDetectorTilt) == 12.0


def test_voxels_off_the_grid_are_refused():
    with pytest.raises(ValueError, match="do not lie on a grid"):
        list(ct_instances(voxels()[:3], GRID, ABOUT))


def test_files_read_back_with_what_was_described(tmp_path):
    paths = write_ct(voxels(), GRID, ABOUT, tmp_path / "series")
    read = pydicom.dcmread(paths[2])
    assert read.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert read.StudyInstanceUID == ABOUT.study_instance_uid
    assert (read.BodyPartExamined, read.Modality) == ("CHEST", "CT")
    assert read.SliceThickness == 2.0
    assert np.array_equal(read.pixel_array - 1024, voxels()[2])


def test_enhanced_frames_lie_where_the_single_slices_do(tmp_path):
    layout = Layout(missing=frozenset({1}), gap=(3, 4.0))
    path = write_enhanced_ct(voxels(), GRID, ABOUT, tmp_path / "one.dcm", layout=layout)
    whole = pydicom.dcmread(path)
    single = list(ct_instances(voxels(), GRID, ABOUT, layout=layout))
    assert whole.NumberOfFrames == len(single) == 5
    for frame, groups, image in zip(
        whole.pixel_array, whole.PerFrameFunctionalGroupsSequence, single, strict=True
    ):
        place = groups.PlanePositionSequence[0].ImagePositionPatient
        assert place == image.ImagePositionPatient
        assert frame.tobytes() == image.PixelData


@pytest.mark.peers
def test_validator_finds_nothing_to_say(tmp_path, dciodvfy: Dciodvfy):
    layouts = {
        "plain": Layout(),
        "odd": Layout(PatientPosition.FEET_FIRST_PRONE, gantry_tilt_degrees=9.0),
        "derived": Layout(image_type=("DERIVED", "SECONDARY", "AXIAL")),
    }
    contrast = replace(ABOUT, contrast_agent="SYNTHETIC")
    for name, layout in layouts.items():
        path = write_ct(voxels(), GRID, contrast, tmp_path / name, layout=layout)[0]
        verdict = dciodvfy(path)
        assert not verdict.errors, (name, verdict)
        assert not verdict.warnings, (name, verdict)
    whole = dciodvfy(write_enhanced_ct(voxels(), GRID, ABOUT, tmp_path / "whole.dcm"))
    assert not whole.errors + whole.warnings, whole
