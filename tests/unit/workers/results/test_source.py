from datetime import timedelta
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from service.core.errors import ContractViolation
from tests.builders.dicom import ct_series
from tests.builders.results import header_bytes
from workers.results.source import read_source


def raw_header(charset: str, name: bytes, **attributes: Any) -> bytes:
    """A header whose patient name is exactly these bytes."""
    dataset = ct_series(slices=1, **attributes)[0]
    dataset.SpecificCharacterSet = charset.split("\\")
    dataset.PatientName = "0" * len(name)
    return header_bytes(dataset).replace(b"0" * len(name), name)


@pytest.mark.parametrize(
    ("charset", "name", "decoded"),
    [
        ("ISO_IR 192", "Müller^Jürgen".encode(), "Müller^Jürgen"),
        ("ISO_IR 100", "Müller^Jürgen ".encode("latin-1"), "Müller^Jürgen"),
        ("GB18030", "Wang^XiaoDong=王^小东= ".encode("gb18030"), "Wang^XiaoDong=王^小东"),
        (
            "\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        (
            "\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=",
            "Hong^Gildong=洪^吉洞",
        ),
    ],
)
def test_names_of_any_character_set_are_decoded(charset: str, name: bytes, decoded: str) -> None:
    padded = name + b" " * (len(name) % 2)

    source = read_source(raw_header(charset, padded))

    assert source.elements["PatientName"] == decoded


def test_unknown_character_sets_do_not_stop_a_result() -> None:
    header = raw_header("ISO_IR 100", b"Doe^Jane").replace(b"ISO_IR 100", b"ISO_IR 999")

    source = read_source(header)

    assert source.elements["PatientName"] == "Doe^Jane"


def test_unknown_identity_is_carried_over_as_empty_values() -> None:
    dataset = ct_series(slices=1, AccessionNumber="", PatientSex="", StudyID="")[0]
    del dataset.PatientBirthDate

    elements = read_source(header_bytes(dataset)).elements

    assert [elements[k] for k in ("AccessionNumber", "PatientSex", "StudyID")] == [None] * 3
    assert "PatientBirthDate" in elements
    assert elements["PatientBirthDate"] is None


def test_a_study_without_accession_number_has_no_request() -> None:
    assert read_source(header_bytes(ct_series(slices=1, AccessionNumber="")[0])).requests == ()
    assert len(read_source(header_bytes(ct_series(slices=1)[0])).requests) == 1


def test_values_that_break_their_grammar_are_left_out() -> None:
    with pydicom.config.disable_value_validation():
        dataset = ct_series(
            slices=1,
            PatientBirthDate="unknown1",
            StudyTime="quarter past ten",
            PatientAge="sixty",
            PatientSex="W",
            PatientWeight="61.25",
        )[0]
        header = header_bytes(dataset).replace(b"61.25", b"heavy")

    elements = read_source(header).elements

    assert elements["PatientBirthDate"] is None
    assert elements["StudyTime"] is None
    assert elements["PatientSex"] is None
    assert not {"PatientAge", "PatientWeight"} & set(elements)


def test_sequences_of_the_patient_are_carried_over_whole() -> None:
    other, issuer = Dataset(), Dataset()
    issuer.UniversalEntityID, issuer.UniversalEntityIDType = "1.2.3", "ISO"
    other.PatientID, other.TypeOfPatientID = "OTHER-1", "TEXT"
    other.IssuerOfPatientIDQualifiersSequence = Sequence([issuer])
    dataset = ct_series(slices=1, OtherPatientIDsSequence=Sequence([other]))[0]

    entries: Any = read_source(header_bytes(dataset)).elements["OtherPatientIDsSequence"]

    (entry,) = entries
    assert b"OTHER-1" in entry
    assert b"1.2.3" in entry


@pytest.mark.parametrize("method", [{}, {"DeidentificationMethod": "defaced"}])
def test_removed_identity_is_said_only_with_its_method(method: dict[str, str]) -> None:
    dataset = ct_series(slices=1, PatientIdentityRemoved="YES", **method)[0]

    elements = read_source(header_bytes(dataset)).elements

    assert ("PatientIdentityRemoved" in elements) is bool(method)


def test_the_zone_of_the_source_is_read() -> None:
    source = read_source(header_bytes(ct_series(slices=1, TimezoneOffsetFromUTC="-0530")[0]))

    assert source.zone is not None
    assert source.zone.utcoffset(None) == -timedelta(hours=5, minutes=30)
    assert read_source(header_bytes(ct_series(slices=1)[0])).zone is None


def test_the_procedure_of_the_study_is_read_where_it_is_coded() -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "CTTHX", "99HOSP", "CT Thorax"
    coded = ct_series(slices=1, ProcedureCodeSequence=Sequence([code]))[0]

    procedure = read_source(header_bytes(coded)).procedure

    assert procedure is not None
    assert procedure.value == "CTTHX"
    assert read_source(header_bytes(ct_series(slices=1)[0])).procedure is None


@pytest.mark.parametrize("header", [b"", b"no DICOM at all", bytes(200)])
def test_bytes_that_are_no_dicom_are_refused(header: bytes) -> None:
    with pytest.raises(ContractViolation) as refused:
        read_source(header)

    assert refused.value.reason == "SOURCE_HEADER_UNREADABLE"


def test_a_header_without_study_is_refused() -> None:
    dataset = ct_series(slices=1)[0]
    del dataset.StudyInstanceUID

    with pytest.raises(ContractViolation):
        read_source(header_bytes(dataset))
