"""DICOM JSON from bytes: the same as a parsed data set gives, for every kind of value."""

import io
import json
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from service.dicomweb.dicom_json import element, of_file
from tests.builders.dicom import ct_series, enhanced_ct, part10
from tests.builders.results import header_bytes

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)


def by_pydicom(header: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pydicom.dcmread(io.BytesIO(header)).to_json())
    return found


def written(**attributes: Any) -> bytes:
    """Return a file with these attributes alone."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return part10(dataset)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_image_reads_as_pydicom_reads_it(syntax: str) -> None:
    header = header_bytes(ct_series(slices=1, transfer_syntax_uid=syntax)[0])
    assert of_file(header, str) == by_pydicom(header)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_nested_sequences_read_as_pydicom_reads_them(syntax: str) -> None:
    header = header_bytes(enhanced_ct(slices=3, transfer_syntax_uid=syntax)[0])
    assert of_file(header, str) == by_pydicom(header)


TEXT = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\\="), max_size=20
)


@example_settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    words=st.lists(TEXT.map(str.strip).filter(bool), min_size=1, max_size=3),
    decimals=st.lists(st.integers(-9999, 9999).map(lambda n: f"{n / 8:g}"), max_size=4),
    floats=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    numbers=st.lists(st.integers(0, 65535), max_size=3),
)
def test_any_values_come_out_as_they_went_in(
    words: list[str], decimals: list[str], floats: list[float], numbers: list[int]
) -> None:
    header = written(
        ImageComments=" ".join(words),
        OtherPatientIDs=words,
        PixelSpacing=decimals,
        DoubleFloatRealWorldValueLastValueMapped=floats[:1],
        DimensionIndexValues=numbers,
        BurnedInAnnotation="NO",
    )
    found = of_file(header, str)
    assert found["00204000"]["Value"] == [" ".join(words)]
    assert found["00101000"]["Value"] == words
    assert found["00280030"].get("Value", []) == [float(text) for text in decimals]
    assert found["00209157"].get("Value", []) == numbers
    assert found["00409213"].get("Value", []) == floats[:1]


def test_a_person_name_has_its_groups() -> None:
    header = written(PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう")
    assert of_file(header, str)["00100010"]["Value"] == [
        {"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎", "Phonetic": "やまだ^たろう"}
    ]


def test_binary_values_are_inline_until_they_are_big() -> None:
    header = written(ICCProfile=bytes(16), RedPaletteColorLookupTableData=bytes(8192))
    found = of_file(header, lambda path: f"at/{path}")
    assert found["00282000"] == {"vr": "OB", "InlineBinary": "AAAAAAAAAAAAAAAAAAAAAA=="}
    assert found["00281201"] == {"vr": "OW", "BulkDataURI": "at/00281201"}


def test_numbers_that_are_none_stay_text() -> None:
    header = written(SliceThickness="2.50").replace(b"2.50", b"2,50")
    assert of_file(header, str)["00180050"]["Value"] == ["2,50"]


def test_infinities_are_written_as_text() -> None:
    header = written(RealWorldValueSlope=float("inf"))
    assert of_file(header, str)["00409225"]["Value"] == ["Infinity"]


def test_padding_is_signed_where_pixels_are() -> None:
    for signed, value in ((1, -2000), (0, 63536)):
        (image, *_) = ct_series(slices=1, signed=True, transfer_syntax_uid=ImplicitVRLittleEndian)
        image.PixelRepresentation = signed
        image.PixelPaddingValue = value
        found = of_file(header_bytes(image), str)
        assert found["00280120"]["Value"] == [value]


def test_an_empty_attribute_has_no_value() -> None:
    assert element("LO", "") == {"vr": "LO"}
    assert element("IS", 0) == {"vr": "IS", "Value": [0]}
