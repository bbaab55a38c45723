"""Radiographs come out upright and bone-white, whatever way they were stored."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless

from service.core.errors import ContractViolation, UnsuitableSeries
from tests.builders.dicom import enhanced_ct, radiograph
from tests.builders.volumes import sources
from workers.volume.radiograph import Turn, load_radiograph

UPRIGHT = np.arange(12 * 9).reshape(12, 9) * 37 % 4096


def load(folder, dataset, **options):
    [source] = sources([dataset], folder)
    return load_radiograph(source, **options)


def modality_lut(table, *, first=0):
    item = Dataset()
    item.LUTDescriptor = [len(table), first, 16]
    item.ModalityLUTType = "US"
    item.LUTData = np.asarray(table, "<u2").tobytes()
    item["LUTData"].VR = "OW"
    return [item]


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", JPEGLSLossless])
def test_stored_values_come_through(tmp_path, syntax):
    image = load(tmp_path, radiograph(stored=UPRIGHT, transfer_syntax_uid=syntax)[0])
    assert image.pixels.dtype == np.float32
    assert np.array_equal(image.pixels, UPRIGHT)
    assert image.value_range == (0.0, 4095.0)
    assert image.spacing_mm == (0.3, 0.2)
    assert image.remarks == ()


def test_inverted_image_equals_the_plain_one(tmp_path):
    inverse = radiograph(stored=4095 - UPRIGHT, photometric_interpretation="MONOCHROME1")[0]
    assert np.array_equal(load(tmp_path, inverse).pixels, UPRIGHT)
    kept = load(tmp_path, inverse, invert_monochrome1=False)
    assert np.array_equal(kept.pixels, 4095 - UPRIGHT)


def test_rescale_is_applied_before_the_inversion(tmp_path):
    inverse = radiograph(
        stored=4095 - UPRIGHT,
        photometric_interpretation="MONOCHROME1",
        RescaleSlope="2",
        RescaleIntercept="-100",
    )[0]
    image = load(tmp_path, inverse)
    assert np.array_equal(image.pixels, 2 * UPRIGHT - 100)
    assert image.value_range == (-100.0, 8090.0)


def test_modality_table_is_applied(tmp_path):
    table = 60000 - 2 * np.arange(4096)
    [dataset] = radiograph(stored=UPRIGHT)
    del dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType
    dataset.ModalityLUTSequence = modality_lut(table)
    image = load(tmp_path, dataset)
    assert np.array_equal(image.pixels, table[UPRIGHT])
    assert image.value_range == (float(table.min()), float(table.max()))


def test_broken_modality_table_is_refused(tmp_path):
    [dataset] = radiograph(stored=UPRIGHT)
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 16]
    dataset.ModalityLUTSequence = [item]
    with pytest.raises(UnsuitableSeries) as caught:
        load(tmp_path, dataset)
    assert caught.value.reason == "MODALITY_LUT"


@pytest.mark.parametrize(
    ("stored", "orientation"),
    [
        (UPRIGHT, ["L", "F"]),
        (UPRIGHT[:, ::-1], ["R", "F"]),
        (UPRIGHT[::-1], ["L", "H"]),
        (UPRIGHT[::-1, ::-1], ["R", "H"]),
        (UPRIGHT.T, ["F", "L"]),
        (UPRIGHT.T[:, ::-1], ["H", "L"]),
        (UPRIGHT.T[::-1], ["FL", "RH"]),
    ],
)
def test_image_is_turned_upright_and_its_findings_back(tmp_path, stored, orientation):
    image = load(tmp_path, radiograph(stored=stored, PatientOrientation=orientation)[0])
    assert np.array_equal(image.pixels, UPRIGHT)
    assert np.array_equal(image.map_on_source(image.pixels), stored)
    assert image.spacing_mm == ((0.2, 0.3) if orientation[0][0] in "FH" else (0.3, 0.2))
    for row, column in [(0, 0), (3, 7), (11, 8)]:
        x, y = image.points_on_source([(column + 0.5, row + 0.5)])[0]
        assert stored[int(y), int(x)] == UPRIGHT[row, column]


@given(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 2))
def test_turning_upright_and_back_changes_nothing(transpose, rows, columns, channels):
    image = np.arange(np.prod((*[2] * channels, 5, 3))).reshape(*[2] * channels, 5, 3)
    turn = Turn(transpose, rows, columns)
    assert np.array_equal(turn.stored(turn.upright(image)), image)


@pytest.mark.parametrize("orientation", [None, ["A", "L"], ["L"]])
def test_image_without_orientation_is_taken_as_upright_and_says_so(tmp_path, orientation):
    [dataset] = radiograph(stored=UPRIGHT)
    del dataset.PatientOrientation
    if orientation:
        dataset.PatientOrientation = orientation
    image = load(tmp_path, dataset)
    assert np.array_equal(image.pixels, UPRIGHT)
    assert image.remarks == ("patient orientation is not stated; taken as upright",)


def test_padding_is_black_also_in_an_inverted_image(tmp_path):
    stored = 4095 - UPRIGHT.clip(50, 3000)
    stored[0] = 0
    [dataset] = radiograph(stored=stored, photometric_interpretation="MONOCHROME1")
    dataset.add_new("PixelPaddingValue", "US", 0)
    image = load(tmp_path, dataset)
    assert (image.pixels[0] == image.pixels[1:].min()).all()


def test_pixel_spacing_goes_before_the_detectors(tmp_path):
    calibrated = load(tmp_path, radiograph(stored=UPRIGHT, PixelSpacing=[0.25, 0.15])[0])
    assert calibrated.spacing_mm == (0.25, 0.15)
    unknown = load(tmp_path / "none", radiograph(stored=UPRIGHT, spacing_mm=None)[0])
    assert unknown.spacing_mm is None


def test_raw_and_moving_images_are_refused(tmp_path):
    [raw] = radiograph(PresentationIntentType="FOR PROCESSING")
    with pytest.raises(UnsuitableSeries) as caught:
        load(tmp_path, raw)
    assert caught.value.reason == "FOR_PROCESSING"
    with pytest.raises(UnsuitableSeries) as caught:
        load(tmp_path, enhanced_ct(slices=3)[0])
    assert caught.value.reason == "MULTI_FRAME"


def test_changed_file_is_a_broken_promise(tmp_path):
    [source] = sources(radiograph(), tmp_path)
    source.path.write_bytes(source.path.read_bytes() + b"\0")
    with pytest.raises(ContractViolation):
        load_radiograph(source, verify=True)
