import io

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.errors import ContractViolation
from workers.results.encode import clip, decimal_string, encoded, item, part10

SOP = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7", "SOPInstanceUID": "2.25.1"}
_signs = st.sampled_from(["", "-", "+"])
_digits = st.text("0123456789", min_size=1, max_size=14)


@st.composite
def decimal_strings(draw: st.DrawFn) -> str:
    whole, fraction = draw(_digits), draw(st.one_of(st.just(""), _digits))
    text = draw(_signs) + whole + ("." + fraction if fraction else "")
    exponent = draw(st.one_of(st.just(""), st.integers(-20, 20).map(lambda e: f"e{e}")))
    return (text[: 16 - len(exponent)] + exponent).replace(".e", "e")


@given(decimal_strings())
def test_any_decimal_string_of_a_source_is_written_with_its_exact_value(text: str) -> None:
    again = decimal_string(float(text))

    assert len(again) <= 16
    assert float(again) == float(text)


@given(st.floats(-1e300, 1e300))
def test_any_number_fits_a_decimal_string(value: float) -> None:
    text = decimal_string(value)

    assert len(text) <= 16
    assert float(text) == pytest.approx(value, rel=1e-8)


def test_elements_read_back_as_they_were_given() -> None:
    code = item(CodeValue="27925004", CodingSchemeDesignator="SCT", CodeMeaning="Nodule")
    values = {
        **SOP,
        "SpecificCharacterSet": "ISO_IR 192",
        "PatientName": "Müller^Jürgen",
        "ImageType": ("DERIVED", "PRIMARY"),
        "NumberOfFrames": 3,
        "Rows": 512,
        "ImagePositionPatient": (-12.5, 0.1, -204.0),
        "DimensionIndexPointer": 0x0062000B,
        "GraphicData": (0.5, 1.25),
        "PatientBirthDate": None,
        "ConceptNameCodeSequence": [code],
        "ReferencedPerformedProcedureStepSequence": [],
        "PixelData": b"\x01\x02\x03",
    }

    dataset = pydicom.dcmread(io.BytesIO(part10(values)))

    assert dataset.PatientName == "Müller^Jürgen"
    assert dataset.ImageType == ["DERIVED", "PRIMARY"]
    assert (dataset.NumberOfFrames, dataset.Rows) == (3, 512)
    assert dataset.ImagePositionPatient == [-12.5, 0.1, -204.0]
    assert dataset.DimensionIndexPointer == 0x0062000B
    assert dataset.GraphicData == [0.5, 1.25]
    assert dataset.PatientBirthDate == ""
    assert dataset.ConceptNameCodeSequence[0].CodeMeaning == "Nodule"
    assert len(dataset.ReferencedPerformedProcedureStepSequence) == 0
    assert dataset.PixelData == b"\x01\x02\x03\x00"
    assert dataset.file_meta.MediaStorageSOPInstanceUID == "2.25.1"


def test_elements_stand_in_the_order_of_their_tags_whatever_order_they_came_in() -> None:
    forwards = encoded({"Modality": "SR", "PatientID": "1", "StudyID": "2"})

    assert encoded({"StudyID": "2", "PatientID": "1", "Modality": "SR"}) == forwards
    assert forwards[:4] == b"\x08\x00\x60\x00"


def test_binary_elements_longer_than_64_kilobytes_keep_their_length() -> None:
    content = part10({**SOP, "PixelData": bytes(70_000)})

    assert len(pydicom.dcmread(io.BytesIO(content)).PixelData) == 70_000


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"NoSuchKeyword": "1"}, "INVALID_ELEMENT"),
        ({"PixelData": "text"}, "INVALID_ELEMENT"),
        ({"ContentSequence": "text"}, "INVALID_ELEMENT"),
        ({"ContentSequence": ["text"]}, "INVALID_ELEMENT"),
        ({"GraphicData": (0.0,) * 20_000}, "ELEMENT_TOO_LONG"),
    ],
)
def test_what_cannot_be_encoded_is_refused(values: dict[str, object], reason: str) -> None:
    with pytest.raises(ContractViolation) as refused:
        encoded(values)  # type: ignore[arg-type]

    assert refused.value.reason == reason


def test_a_file_without_a_single_sop_instance_uid_is_refused() -> None:
    with pytest.raises(ContractViolation):
        part10({**SOP, "SOPInstanceUID": ("1.2", "1.3")})


def test_clipped_text_has_no_separator_line_break_or_trailing_space() -> None:
    assert clip("left\\right\n next", 11) == "left right"
    assert clip("x" * 100) == "x" * 64
