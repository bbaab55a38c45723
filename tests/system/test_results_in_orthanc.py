"""A result's life as Orthanc sees it: the report, a reader's correction of it, the withdrawal."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread

from tests.builders.studies import ball_package, chest_study
from tests.peers.orthanc import Orthanc
from tests.peers.overread import Overread
from tests.peers.tools import Dciodvfy

pytestmark = [pytest.mark.slow, pytest.mark.peers, pytest.mark.timeout(400)]

PATIENT = "Wang^XiaoDong=王^小东"


@pytest.fixture
def overread(tmp_path: Path, orthanc: Orthanc) -> Iterator[Overread]:
    ball_package(tmp_path / "models")
    by_dimse = {
        "name": "ORTHANC", "ae_title": Orthanc.ae_title, "host": "127.0.0.1",
        "port": orthanc.dicom_port, "character_set": "source", "rejection_notes": True,
    }  # fmt: skip
    by_web = {
        "name": "WEB", "stow_url": orthanc.dicomweb_url, "only_reviewed": True,
        "sr_class": "enhanced",
    }  # fmt: skip
    with Overread(
        tmp_path / "overread",
        models__dir=tmp_path / "models",
        dicom__port=orthanc.overread_port,
        destinations=[by_dimse, by_web],
    ) as running:
        yield running


def test_a_correction_stands_beside_what_it_replaces(
    overread: Overread, orthanc: Orthanc, tmp_path: Path, dciodvfy: Dciodvfy
) -> None:
    study = chest_study(
        tmp_path, BodyPartExamined="CHEST", SpecificCharacterSet="GB18030", PatientName=PATIENT
    )
    for file in study.files:
        orthanc.upload(file)
    (first,) = orthanc.wait_for_instances(Modality="SR")
    orthanc.wait_for_instances(Modality="SEG")
    assert orthanc.get(f"/instances/{first}/simplified-tags")["PatientName"] == PATIENT

    _, rejected = overread.present(study.study_instance_uid)
    address = f"{overread.url}/api/v1/findings/{rejected['id']}/review"
    verdict = {"verdict": "rejected", "comment": "a vessel", "reviewer": "Curie^Marie"}
    assert httpx.put(address, json=verdict, trust_env=False).status_code == 200
    overread.post(f"/studies/{study.study_instance_uid}/reports")

    # The report for each of the two destinations, its regions once for both, and the note.
    reports = orthanc.wait_for_instances(3, Modality="SR")
    regions = orthanc.wait_for_instances(3, Modality="SEG")
    (note,) = orthanc.wait_for_instances(Modality="KO")
    for number, instance in enumerate([*reports, *regions, note]):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(orthanc.file(instance))
        assert dciodvfy(path).errors == (), dcmread(path).Modality
    replaced = orthanc.read(first)
    for instance in reports:
        again = orthanc.read(instance)
        if again.SOPInstanceUID == replaced.SOPInstanceUID:
            continue
        (series,) = again.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
        assert series.SeriesInstanceUID == replaced.SeriesInstanceUID
        assert orthanc.get(f"/instances/{instance}/simplified-tags")["PatientName"] == PATIENT
    withdrawn = orthanc.read(note).CurrentRequestedProcedureEvidenceSequence[0]
    listed = {
        one.ReferencedSOPInstanceUID
        for series in withdrawn.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    assert replaced.SOPInstanceUID in listed
    segments = [len(orthanc.read(instance).SegmentSequence) for instance in regions]
    assert sorted(segments) == [1, 1, 2]
