"""Results in the character set of their study: a name has the very bytes it came with."""

import io

import pydicom
import pytest

from tests.builders.dicom import ct_series
from tests.builders.results import header_bytes, nodules, result_context, source_frames
from workers.results.context import Review
from workers.results.writer import ResultWriter

PATIENTS = {
    "GB18030": ("GB18030", "Wang^XiaoDong=王^小东"),
    "GBK with a backslash in a letter": ("GBK", "Chen^Cheng=陳^誠"),
    "Japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "Korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "Latin-1": ("ISO_IR 100", "Müller^Jürgen"),
    "Cyrillic": ("ISO_IR 144", "Люкceмбypг"),
    "UTF-8": ("ISO_IR 192", "Wang^XiaoDong=王^小东"),
}


def name_bytes(content: bytes) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(content))
    raw = dataset.get_item("PatientName").value
    return raw.rstrip(b" ") if isinstance(raw, bytes) else raw.encode()


@pytest.mark.parametrize("case", PATIENTS)
def test_names_keep_their_bytes_in_every_object(case: str) -> None:
    character_set, name = PATIENTS[case]
    instances = ct_series(SpecificCharacterSet=character_set, PatientName=name)
    context = result_context(instances[0], source_text=True)
    frames = source_frames(instances)

    judged = ResultWriter(context, nodules(frames), frames).write(context)

    assert [one.fault for one in judged] == [None, None]
    for one in judged:
        again = pydicom.dcmread(io.BytesIO(one.result.content))
        assert again.SpecificCharacterSet == character_set
        assert str(again.PatientName) == name
        assert name_bytes(one.result.content) == name_bytes(header_bytes(instances[0]))


def test_our_own_words_give_way_where_the_set_lacks_a_letter() -> None:
    instances = ct_series(SpecificCharacterSet="ISO_IR 144", PatientName="Люкceмбypг")
    frames = source_frames(instances)
    plain = result_context(instances[0], source_text=True)
    review = Review(reviewer="Dr^Süß", reviewed_at=plain.created_at)
    context = result_context(instances[0], source_text=True, review=review)

    (report,) = ResultWriter(context, nodules(frames), frames).write(context, ["sr"])

    assert report.fault is None
    again = pydicom.dcmread(io.BytesIO(report.result.content))
    assert again.InstitutionName == "Klinikum Sud"
    assert str(again.PatientName) == "Люкceмбypг"
