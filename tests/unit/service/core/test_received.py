"""Headers and study attributes from raw bytes: equal to pydicom's reading, and never raising."""

import io

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from service.core.elements import Encoding, walk
from service.core.errors import RefusedInstance
from service.core.part10 import file_meta, header_only, read_file_meta
from service.core.received import read_instance
from service.core.text import decoded, encodings_of
from tests.builders.dicom import ct_series, enhanced_ct, in_syntax, part10, radiograph
from tests.builders.headers import read_header
from tests.builders.outside import shared_data


def received(data: bytes):
    meta = read_file_meta(data)
    encoding = Encoding.of(meta.transfer_syntax_uid)
    elements = walk(data, encoding, start=meta.length)
    return read_instance(data, encoding, elements, transfer_syntax_uid=meta.transfer_syntax_uid)


def by_pydicom(data: bytes, header):
    dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    return read_header(
        dataset,
        transfer_syntax_uid=header.transfer_syntax_uid,
        pixel_data_offset=header.pixel_data_offset,
        pixel_data_length=header.pixel_data_length,
    )


@pytest.mark.parametrize(
    "transfer_syntax_uid",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        JPEG2000Lossless,
        RLELossless,
    ],
)
@pytest.mark.parametrize(
    "dataset",
    [
        ct_series(slices=1, signed=True, PixelPaddingValue=-2000, InstanceNumber="7")[0],
        ct_series(slices=1, WindowCenter=["40", "400"], ConvolutionKernel=["B70f", "2"])[0],
        radiograph(PatientOrientation=["L", "F"], SoftwareVersions=["a", "b"])[0],
        enhanced_ct(slices=3)[0],
    ],
    ids=["ct", "multi-valued", "radiograph", "enhanced"],
)
def test_header_equals_what_pydicom_reads(dataset, transfer_syntax_uid):
    data = part10(in_syntax(dataset, transfer_syntax_uid))
    header, _ = received(data)
    assert header == by_pydicom(data, header)
    assert header.rows == dataset.Rows


@pytest.mark.parametrize(
    "folder",
    ["ct/tilt_ge_head", "torture/pydicom_data", "torture/encapsulation_enhanced_ct", "seg-sr"],
)
def test_header_of_real_instances_equals_what_pydicom_reads(folder):
    compared = 0
    for path in sorted(shared_data(folder).rglob("*.dcm")):
        data = path.read_bytes()
        try:
            header, _ = received(data)
            expected = by_pydicom(data, header)
        except (RefusedInstance, AttributeError, pydicom.errors.InvalidDicomError, UserWarning):
            continue  # refused by us, no DICOM file, or not to pydicom's taste
        assert header == expected, path.name
        compared += 1
    assert compared > 5


def test_pixel_data_is_found_at_its_offset():
    dataset = ct_series(slices=1)[0]
    data = part10(dataset)
    header, _ = received(data)
    end = header.pixel_data_offset + header.pixel_data_length
    assert data[header.pixel_data_offset : end] == dataset.PixelData


@pytest.mark.parametrize(
    ("character_set", "stored", "expected"),
    [
        ("ISO_IR 100", "Müller^Jörg".encode("latin_1"), "Müller^Jörg"),
        ("ISO_IR 192", "Иванов^Пётр".encode(), "Иванов^Пётр"),
        ("ISO_IR 144", "Иванов".encode("iso8859_5"), "Иванов"),
        ("GB18030", "王^小东".encode("gb18030"), "王^小东"),
        (
            "\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
            "Yamada^Tarou=山田^太郎",
        ),
        ("\\ISO 2022 IR 149", b"Hong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce", "Hong=洪^吉"),
        ("ISO_IR 192", b"M\xfcller", "Müller"),  # declared wrongly: kept as Latin-1
        ("ISO_IR 999", b"M\xfcller", "Müller"),
        ("", b"A\0B", "AB"),
    ],
)
def test_names_are_decoded_by_their_character_set(character_set, stored, expected):
    encodings = encodings_of(character_set.encode())
    assert decoded(stored, encodings, person_name=True) == expected


def test_study_attributes_are_read():
    data = part10(
        ct_series(
            slices=1,
            PatientID="P-1",
            PatientName="Tester^Ada",
            AccessionNumber="A7",
            StudyDate="20260102",
            StudyDescription="Thorax",
            SpecificCharacterSet="ISO_IR 192",
        )[0]
    )
    _, study = received(data)
    assert (study.patient_id, study.patient_name) == ("P-1", "Tester^Ada")
    assert (study.accession_number, study.study_date) == ("A7", "20260102")
    assert study.study_description == "Thorax"


def test_garbled_numbers_become_none():
    dataset = ct_series(slices=1)[0]
    data = bytearray(part10(dataset))
    text = str(dataset["RescaleIntercept"].value).encode()
    at = data.index(b"DS", data.index(b"\x28\x00\x52\x10")) + 4
    data[at : at + len(text)] = b"?" * len(text)
    header, _ = received(bytes(data))
    assert header.rescale_intercept is None
    assert header.rescale_slope is not None


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "MISSING_UID"),
        ("../../../etc/passwd", "INVALID_UID"),
        ("1.02.3", "INVALID_UID"),
        ("1.2." + "3" * 62, "INVALID_UID"),
        ("1.2.3\n4", "INVALID_UID"),
        ("1.2.3\\1.2.4", "INVALID_UID"),
    ],
)
def test_an_instance_without_good_uids_is_refused(keyword, value, reason):
    data = part10(ct_series(slices=1)[0])
    tag = pydicom.datadict.tag_for_keyword(keyword)
    element = next(
        e for e in walk(data, Encoding(), start=read_file_meta(data).length) if e.tag == tag
    )
    stored = value.encode() + b"\0" * (len(value) % 2)
    head = data[element.start : element.start + 6] + len(stored).to_bytes(2, "little")
    with pytest.raises(RefusedInstance) as caught:
        received(data[: element.start] + head + stored + data[element.end :])
    assert caught.value.reason == reason


def test_the_header_alone_reads_as_a_data_set_without_pixels():
    dataset = enhanced_ct(slices=2)[0]
    dataset.add_new(0x00091010, "OB", bytes(1 << 17))
    data = part10(dataset)
    meta = read_file_meta(data)
    elements = walk(data, Encoding(), start=meta.length)
    header = file_meta(
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
    )
    small = pydicom.dcmread(io.BytesIO(header_only(data, elements, meta=header)))
    assert small.SOPInstanceUID == dataset.SOPInstanceUID
    assert small.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert len(small.PerFrameFunctionalGroupsSequence) == 2
    assert "PixelData" not in small
    assert 0x00091010 not in small


def test_a_received_preamble_never_comes_back():
    header = file_meta(
        sop_class_uid="1.2", sop_instance_uid="1.2.3", transfer_syntax_uid=ExplicitVRLittleEndian
    )
    assert header[:132] == bytes(128) + b"DICM"
    found = read_file_meta(header)
    assert (found.sop_class_uid, found.sop_instance_uid) == ("1.2", "1.2.3")
    assert found.length == len(header)


@pytest.mark.parametrize(
    "head",
    [b"%PDF-1.7" + bytes(200), bytes(128) + b"DICM" + bytes(20), bytes(128) + b"DICX" + bytes(99)],
)
def test_what_is_no_dicom_file_is_refused(head):
    with pytest.raises(RefusedInstance) as caught:
        read_file_meta(head)
    assert caught.value.reason == "NOT_A_DICOM_FILE"


def test_a_file_header_that_has_not_come_in_full_is_awaited():
    header = file_meta(sop_class_uid="1.2", sop_instance_uid="1.2.3", transfer_syntax_uid="1.2.4")
    assert all(read_file_meta(header[:length]) is None for length in range(len(header)))


def test_pixel_values_survive_reading_by_offset():
    values = np.arange(40 * 32, dtype=np.int16).reshape(1, 40, 32)
    data = part10(ct_series(hounsfield=values - 1024)[0])
    header, _ = received(data)
    pixels = np.frombuffer(
        data, "<u2", count=header.pixel_data_length // 2, offset=header.pixel_data_offset
    )
    assert np.array_equal(pixels.reshape(40, 32), values[0])
