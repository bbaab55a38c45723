"""Reports that readers reviewed, and other forms, before independent judges."""

import io
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import highdicom as hd
import pydicom
import pytest
from pydicom.dataset import Dataset

from service.core.findings import Analysis, Qualifier
from service.core.headers import SourceFrame
from service.core.profiles import Profile, SrForm, TextForm
from tests.builders.dicom import ct_series
from tests.builders.results import nodules, result_context, source_frames
from tests.peers.tools import Dciodvfy, Dcmtk, PixelMed
from workers.results.context import InstanceReference, Review
from workers.results.key_objects import Rejection, write_rejection_note
from workers.results.source import read_source
from workers.results.writer import Judged, ResultWriter, checked

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
CHARACTER_SETS = {
    "GB18030": ("GB18030", "Wang^XiaoDong=王^小东"),
    "Japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "Korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "Latin-1": ("ISO_IR 100", "Müller^Jürgen"),
}


def reviewed(frames: Sequence[SourceFrame]) -> tuple[Analysis, Review]:
    """Return two nodules, the second rejected, and what the reader said."""
    analysis = nodules(frames)
    kept, rejected = analysis.findings
    absent = rejected.model_copy(update={"qualifier": Qualifier.ABSENT, "segment_number": None})
    remarks = {kept.id: "Accepted by the reader", rejected.id: "Rejected by the reader. A vessel"}
    review = Review("Curie^Marie", AT, remarks, verified=True, organization="House of Tests")
    return Analysis((kept, absent), masks=analysis.masks), review


def written(
    instances: list[Dataset], *, profile: Profile | None = None, reader: bool = True
) -> tuple[Judged, ...]:
    frames = source_frames(instances)
    analysis, review = reviewed(frames)
    before = InstanceReference(
        str(instances[0].StudyInstanceUID), "2.25.11", SrForm.ENHANCED.sop_class_uid, "2.25.12"
    )
    context = result_context(instances[0], predecessors=(before,))
    context = replace(context, review=review if reader else None).in_form(profile or Profile())
    judged = ResultWriter(context, analysis, frames).write(context)
    assert [one.fault for one in judged] == [None] * len(judged)
    return judged


def without_error(judged: Sequence[Judged], dciodvfy: Dciodvfy, folder: Path) -> None:
    for one in judged:
        path = folder / f"{one.result.role}.dcm"
        path.write_bytes(one.result.content)
        assert dciodvfy(path).errors == (), one.result.role


@pytest.mark.peers
@pytest.mark.parametrize("sr", list(SrForm))
def test_iod_validator_has_no_error_for_a_verified_report(
    sr: SrForm, dciodvfy: Dciodvfy, tmp_path: Path
) -> None:
    without_error(written(ct_series(), profile=Profile(sr=sr)), dciodvfy, tmp_path)


@pytest.mark.peers
@pytest.mark.parametrize("case", CHARACTER_SETS)
def test_judges_read_every_character_set(
    case: str, dciodvfy: Dciodvfy, dcmtk: Dcmtk, tmp_path: Path
) -> None:
    character_set, name = CHARACTER_SETS[case]
    instances = ct_series(SpecificCharacterSet=character_set, PatientName=name)
    judged = written(instances, profile=Profile(text=TextForm.SOURCE))
    without_error(judged, dciodvfy, tmp_path)
    if "ISO 2022" in str(character_set):
        return  # Debian's dcmtk converts by the C library, which knows no such escape sequences.
    dcmtk("dcmconv", "+U8", tmp_path / "sr.dcm", tmp_path / "utf-8.dcm")
    assert str(pydicom.dcmread(tmp_path / "utf-8.dcm").PatientName) == name


@pytest.mark.peers
def test_dcmtk_prints_who_verified_and_what_came_before(dcmtk: Dcmtk, tmp_path: Path) -> None:
    (_, report) = written(ct_series())
    path = tmp_path / "report.dcm"
    path.write_bytes(report.result.content)
    printed = dcmtk("dsrdump", "+Pl", path).stdout
    assert "Curie^Marie, House of Tests" in printed
    assert "Predecessor" in printed
    assert "Rejected by the reader. A vessel" in printed


@pytest.mark.peers
@pytest.mark.slow
def test_template_validator_has_no_error_where_all_was_rejected(
    pixelmed: PixelMed, tmp_path: Path
) -> None:
    instances = ct_series()
    frames = source_frames(instances)
    analysis, review = reviewed(frames)
    context = replace(result_context(instances[0]), review=review)
    (report,) = ResultWriter(context, Analysis(analysis.findings[1:]), frames).write(context)
    path = tmp_path / "report.dcm"
    path.write_bytes(report.result.content)

    verdict = pixelmed(path)

    assert verdict.errors == ()
    assert "Found Root Template TID_1500" in verdict.output


def test_highdicom_reads_a_report_and_regions_in_the_study_s_letters() -> None:
    character_set, name = CHARACTER_SETS["Japanese"]
    instances = ct_series(SpecificCharacterSet=character_set, PatientName=name)
    regions, report = written(instances, profile=Profile(text=TextForm.SOURCE))
    segmentation = hd.seg.segread(io.BytesIO(regions.result.content))
    assert segmentation.number_of_segments == 1
    document = hd.sr.srread(io.BytesIO(report.result.content))
    assert str(document.PatientName) == name


@pytest.mark.peers
def test_a_rejection_note_in_the_study_s_letters_has_no_error(
    dciodvfy: Dciodvfy, tmp_path: Path
) -> None:
    instances = ct_series(SpecificCharacterSet="GB18030", PatientName="Wang^XiaoDong=王^小东")
    profile = Profile(text=TextForm.SOURCE)
    context = result_context(instances[0]).in_form(profile)
    source = read_source(context.source_header)
    gone = InstanceReference(
        source.study_instance_uid, "2.25.11", SrForm.COMPREHENSIVE_3D.sop_class_uid, "2.25.12"
    )
    note = write_rejection_note(context, source, [gone], why=Rejection.QUALITY, words="Superseded.")
    path = tmp_path / "note.dcm"
    path.write_bytes(checked(note, context, source).content)
    assert dciodvfy(path).errors == ()
    assert str(pydicom.dcmread(path).PatientName) == "Wang^XiaoDong=王^小东"


def test_an_empty_study_passes_in_every_form() -> None:
    bare = {
        "StudyInstanceUID": "1." + "2" * 62, "AccessionNumber": "", "StudyID": "",
        "StudyTime": "", "PatientSex": "", "PatientName": "", "ReferringPhysicianName": "",
    }  # fmt: skip
    for text in TextForm:
        judged = written(ct_series(**bare), profile=Profile(text=text), reader=False)
        for one in judged:
            assert pydicom.dcmread(io.BytesIO(one.result.content)).AccessionNumber == ""
