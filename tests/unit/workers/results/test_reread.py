import io

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from service.core.errors import InvalidResult
from tests.builders.dicom import enhanced_ct, radiograph
from workers.results.encode import tag_of
from workers.results.reread import numbers, reread, text

POSITION = tag_of("ImagePositionPatient")


def saved(dataset: Dataset, syntax: str) -> bytes:
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    buffer = io.BytesIO()
    dataset.save_as(
        buffer,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=True,
        enforce_file_format=True,
    )
    return buffer.getvalue()


def undefined(dataset: Dataset) -> Dataset:
    """The same data set with sequences and items of undefined length."""
    for element in dataset:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
                undefined(item)
    return dataset


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
)
@pytest.mark.parametrize("lengths", ["defined", "undefined"])
def test_every_encoding_gives_the_same_values(syntax: str, lengths: str) -> None:
    (dataset,) = enhanced_ct(slices=4)
    dataset = undefined(dataset) if lengths == "undefined" else dataset

    again = reread(saved(dataset, syntax))

    expected = [
        [float(v) for v in f.PlanePositionSequence[0].ImagePositionPatient]
        for f in dataset.PerFrameFunctionalGroupsSequence
    ]
    positions = [e for e in again.elements if e.tag == POSITION]
    assert [list(numbers(e)) for e in positions] == expected
    assert [e.entry for e in positions] == [0, 1, 2, 3]
    assert {e.root for e in positions} == {tag_of("PerFrameFunctionalGroupsSequence")}
    assert again.items[tag_of("PerFrameFunctionalGroupsSequence")] == 4
    assert again.transfer_syntax_uid == syntax


def test_numbers_and_text_are_taken_as_their_vr_says() -> None:
    dataset = radiograph(PatientName="Müller^Jürgen")[0]
    dataset.GraphicData = [0.5, 1.25]
    dataset.DimensionIndexValues = [3, 70000]

    by_tag = {e.tag: e for e in reread(saved(dataset, ExplicitVRLittleEndian)).elements}

    assert numbers(by_tag[tag_of("GraphicData")]) == (0.5, 1.25)
    assert numbers(by_tag[tag_of("DimensionIndexValues")]) == (3, 70000)
    assert numbers(by_tag[tag_of("Rows")]) == (64,)
    assert text(by_tag[tag_of("PatientName")]) == "Müller^Jürgen"


def test_encapsulated_pixels_are_stepped_over() -> None:
    dataset = radiograph()[0]
    dataset.PixelData = encapsulate([np.zeros(11, np.uint8).tobytes()])
    dataset["PixelData"].is_undefined_length = True
    dataset.DataSetTrailingPadding = b"\0\0"

    again = reread(saved(dataset, RLELossless))

    assert again.elements[-1].tag == tag_of("DataSetTrailingPadding")


def test_big_endian_files_are_named_as_not_read() -> None:
    content = saved(radiograph()[0], ExplicitVRLittleEndian)
    content = content.replace(b"1.2.840.10008.1.2.1\0", str(ExplicitVRBigEndian).encode() + b"\0")

    with pytest.raises(InvalidResult, match="UNREADABLE"):
        reread(content)


def test_sequences_nested_without_end_are_refused() -> None:
    dataset = radiograph()[0]
    inner = Dataset()
    inner.CodeMeaning = "end"
    for _ in range(80):
        outer = Dataset()
        outer.ContentSequence = Sequence([inner])
        inner = outer
    dataset.ContentSequence = Sequence([inner])

    with pytest.raises(InvalidResult, match="UNREADABLE"):
        reread(saved(dataset, ExplicitVRLittleEndian))
