"""The builders of synthetic series keep their own promises."""

import io

import numpy as np
import pydicom
import pytest

from tests.builders.dicom import (
    OBLIQUE,
    ct_series,
    enhanced_ct,
    header_of,
    part10,
    radiograph,
    write_series,
)


@pytest.mark.parametrize("build", [ct_series, enhanced_ct, radiograph])
def test_keyword_that_dicom_does_not_know_is_refused(build):
    with pytest.raises(TypeError, match="SliceThicknes is neither"):
        build(SliceThicknes=1)


def test_defaults_are_oblique_and_unequally_spaced():
    [first, second] = ct_series(slices=2)
    spacing = [*map(float, first.PixelSpacing), float(first.SliceThickness)]
    assert len(set(spacing)) == 3
    assert np.allclose(np.array(first.ImageOrientationPatient, float), OBLIQUE)
    step = np.array(second.ImagePositionPatient, float) - np.array(
        first.ImagePositionPatient, float
    )
    assert np.linalg.norm(step) == pytest.approx(2.5)


def test_same_names_make_the_same_instances():
    assert part10(ct_series(slices=1)[0]) == part10(ct_series(slices=1)[0])
    [other] = ct_series(slices=1, name="other")
    assert other.SOPInstanceUID != ct_series(slices=1)[0].SOPInstanceUID


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit 8 bits"):
        ct_series(slices=1, bits_stored=8)


def test_bytes_are_a_dicom_file_and_its_pixels_are_found(tmp_path):
    [instance] = ct_series(slices=1)
    assert pydicom.dcmread(io.BytesIO(part10(instance))).Rows == 40
    [path] = write_series([instance], tmp_path)
    header = header_of(path)
    data = path.read_bytes()
    assert data[header.pixel_data_offset :] == instance.PixelData
    assert header.pixel_data_length == len(instance.PixelData)
