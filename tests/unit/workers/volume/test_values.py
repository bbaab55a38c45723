"""Stored bits become values: sign, unused bits, padding, rescale."""

import numpy as np
import pytest
from pydicom.tag import Tag

from service.core.headers import SourceFrame
from tests.builders.dicom import ct_series
from tests.builders.volumes import loaded, sources
from workers.volume.pixels import FrameFormat
from workers.volume.plan import VolumeRules
from workers.volume.values import (
    AIR_HU,
    Meaning,
    normalise_bits,
    scale_into,
    shift_in_place,
    unit_of,
    value_type,
)


def with_stored(values, *, bits=16, signed=False, intercept=0.0, **attributes):
    """A CT series of three slices, the middle one with the given stored patterns in its corner."""
    low = 0 if not signed else -100
    instances = ct_series(
        slices=3, rows=6, columns=8, hounsfield=np.full((3, 6, 8), low + intercept),
        intercept=intercept, signed=signed, bits_stored=bits, **attributes,
    )  # fmt: skip
    pixels = np.frombuffer(instances[1].PixelData, "<u2").copy()
    pixels[: len(values)] = np.array(values, np.int64) & 0xFFFF
    instances[1].PixelData = pixels.tobytes()
    return instances


def corner(volume, count):
    return volume.voxels[1].ravel()[:count].tolist()


def test_padding_written_with_the_other_sign_becomes_air():
    instances = with_stored([-2000, -1999, 40], signed=True, intercept=-24.0)
    for instance in instances:
        instance.add_new(Tag("PixelPaddingValue"), "US", 63536)
    assert corner(loaded(instances), 3) == [AIR_HU, AIR_HU, 16]


def test_padding_range_becomes_air():
    instances = with_stored(
        [5, 6, 7, 8], intercept=-1024.0, PixelPaddingValue=5, PixelPaddingRangeLimit=7
    )
    assert corner(loaded(instances), 4) == [AIR_HU, AIR_HU, AIR_HU, -1016]


def test_padding_outside_the_stored_bits_is_seen_before_they_are_cut():
    instances = with_stored([0xF830, 0x0830], bits=12, PixelPaddingValue=0xF830)
    assert corner(loaded(instances), 2) == [AIR_HU, 0x830]


def test_padding_without_hounsfield_takes_the_least_value_of_the_image():
    instances = with_stored([9000, 50], intercept=0.0, PixelPaddingValue=9000, Modality="MR")
    for instance in instances:
        del instance.RescaleSlope, instance.RescaleIntercept, instance.RescaleType
    volume = loaded(instances, VolumeRules(unit=""))
    assert corner(volume, 3) == [0, 50, 0]
    assert volume.unit == ""


@pytest.mark.parametrize(
    ("bits", "signed", "stored", "meant"),
    [
        (12, False, [0xF123, 0x0FFF], [0x123, 0xFFF]),
        (12, True, [0x0FFF, 0x0C00, 0x07FF], [-1, -1024, 2047]),
        (15, True, [0x7FFD, 0x3FFF], [-3, 16383]),
        (16, True, [0xFFFE, 0x7FFF], [-2, 32767]),
    ],
)
def test_bits_above_the_stored_ones_do_not_count(bits, signed, stored, meant):
    assert corner(loaded(with_stored(stored, bits=bits, signed=signed)), len(meant)) == meant


@pytest.mark.parametrize(
    ("signed", "intercept", "stored", "meant"),
    [
        (False, -1024.0, [65535, 40000, 33791, 33790], [32767, 32767, 32767, 32766]),
        (True, -1024.0, [-32768, -31744, -1, 0, 1], [-1024, -1024, -1024, -1024, -1023]),
        (True, 1000.0, [32767, 31767, 31766], [32767, 32767, 32766]),
    ],
)
def test_hounsfield_beyond_sixteen_bits_are_cut_off_not_wrapped(signed, intercept, stored, meant):
    volume = loaded(with_stored(stored, signed=signed, intercept=intercept))
    assert corner(volume, len(meant)) == meant


def test_other_units_beyond_sixteen_bits_are_kept():
    instances = with_stored([65535, 1], Modality="MR", RescaleType="US")
    volume = loaded(instances, VolumeRules(unit=""))
    assert volume.voxels.dtype == np.float32
    assert corner(volume, 2) == [65535, 1]


def test_in_place_and_scaled_values_agree():
    rng = np.random.default_rng(5)
    stored = FrameFormat(rows=9, columns=7, bits_allocated=16, bits_stored=16, signed=True)
    meaning = Meaning(1.0, -1024.0, padding=(-2000, -2000))
    raw = rng.integers(-32768, 32767, (9, 7)).astype(np.int16)
    raw[2, 3] = -2000
    expected = np.maximum(raw.astype(int) - 1024, AIR_HU)
    scaled = np.empty((9, 7), np.float32)
    scale_into(scaled, raw.copy(), stored, meaning, unit="HU")
    shift_in_place(raw, stored, meaning, unit="HU")
    assert np.array_equal(raw, expected)
    assert np.array_equal(scaled, expected)


def test_air_that_is_marked_as_nothing_becomes_air():
    volume = loaded(with_stored([-2000, -1024, 0, 24], signed=True, intercept=-1024.0))
    assert corner(volume, 4) == [AIR_HU, AIR_HU, AIR_HU, -1000]


def test_padding_within_the_range_of_tissue_becomes_air():
    instances = with_stored([-5, -4], signed=True, PixelPaddingValue=-5)
    assert corner(loaded(instances), 2) == [AIR_HU, -4]


def test_values_without_hounsfield_may_lie_below_air():
    instances = with_stored([-3000, -2], signed=True, Modality="MR", RescaleType="US")
    assert corner(loaded(instances, VolumeRules(unit="")), 2) == [-3000, -2]


def test_full_bits_are_left_alone():
    raw = np.array([[0xFFFF, 1]], np.uint16)
    normalise_bits(raw, FrameFormat(1, 2, 16, 16, signed=False))
    assert raw.tolist() == [[0xFFFF, 1]]


def test_type_is_sixteen_bits_only_where_that_is_enough():
    narrow = FrameFormat(4, 4, 16, 12, signed=False)
    wide = FrameFormat(4, 4, 16, 16, signed=False)
    deep = FrameFormat(4, 4, 32, 32, signed=True)
    shift, scale = Meaning(1.0, -1024.0), Meaning(0.5, 0.0)
    assert value_type([narrow], [shift], "") is np.int16
    assert value_type([wide], [shift], "HU") is np.int16
    assert value_type([wide], [shift], "") is np.float32
    assert value_type([narrow, narrow], [shift, scale], "HU") is np.float32
    assert value_type([deep], [shift], "HU") is np.float32


def test_thirty_two_bits_are_read_as_floats(tmp_path):
    instances = with_stored([])
    for instance in instances:
        pixels = np.arange(48, dtype="<i4") * 1000
        instance.BitsAllocated = instance.BitsStored = 32
        instance.HighBit, instance.PixelRepresentation = 31, 1
        instance.PixelData = pixels.tobytes()
    assert corner(loaded(instances), 3) == [0, 1000, 2000]


@pytest.mark.parametrize(
    ("modality", "rescale_type", "rescaled", "unit"),
    [
        ("CT", "", True, "HU"),
        ("CT", "HU", True, "HU"),
        ("CT", "HU", False, ""),
        ("CT", "", False, ""),
        ("CT", "OD", True, "OD"),
        ("MR", "", True, ""),
        ("MR", "US", True, ""),
    ],
)
def test_unit_is_what_the_header_states(tmp_path, modality, rescale_type, rescaled, unit):
    [source] = sources(ct_series(slices=1), tmp_path)
    header = source.header.model_copy(
        update={
            "modality": modality,
            "rescale_type": rescale_type,
            "rescale_slope": 1.0 if rescaled else None,
        }
    )
    assert unit_of([SourceFrame(header)]) == unit
