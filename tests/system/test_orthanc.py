"""Orthanc as the PACS: it routes studies by itself; its archive holds the results afterwards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from tests.builders.outside import shared_data
from tests.builders.studies import SmallStudy, ball_package, chest_study
from tests.peers.orthanc import STABLE_AGE_S, Orthanc
from tests.peers.overread import Overread
from tests.peers.process import wait_for
from tests.peers.tools import Dciodvfy, Dcmtk

pytestmark = [pytest.mark.slow, pytest.mark.peers, pytest.mark.timeout(600)]

SHIPPED_MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(params=["SQLite, embedded Redis", "PostgreSQL, Redis"])
def backend(request: pytest.FixtureRequest) -> dict[str, str]:
    """The settings of an embedded installation, and of a production one."""
    if request.param.startswith("SQLite"):
        return {}
    return {
        "database__url": request.getfixturevalue("postgres_url"),
        "redis__url": request.getfixturevalue("redis_url"),
    }


def installation(tmp_path: Path, orthanc: Orthanc, models: Path, **settings: Any) -> Overread:
    peer = {
        "name": "ORTHANC",
        "ae_title": Orthanc.ae_title,
        "host": "127.0.0.1",
        "port": orthanc.dicom_port,
    }
    return Overread(
        tmp_path / "overread",
        models__dir=models,
        dicom__port=orthanc.overread_port,
        destinations=[peer],
        **settings,
    )


@pytest.fixture
def hospital(tmp_path: Path, orthanc: Orthanc, backend: dict[str, str]) -> Iterator[Overread]:
    ball_package(tmp_path / "models")
    with installation(tmp_path, orthanc, tmp_path / "models", **backend) as overread:
        yield overread


def test_results_come_back_into_orthanc_and_go_round_no_more(
    hospital: Overread,
    orthanc: Orthanc,
    tmp_path: Path,
    dciodvfy: Dciodvfy,
    dcmtk: Dcmtk,
) -> None:
    study = chest_study(tmp_path, BodyPartExamined="CHEST", PatientID="P1", PatientName="A^B")
    for file in study.files:
        orthanc.upload(file)
    report = kept(orthanc, orthanc.wait_for_instances(Modality="SR")[0], tmp_path)
    segmentation = kept(orthanc, orthanc.wait_for_instances(Modality="SEG")[0], tmp_path)
    for result in (report, segmentation):
        assert dciodvfy(result).errors == ()
        dataset = dcmread(result)
        assert (dataset.StudyInstanceUID, dataset.PatientID) == (study.study_instance_uid, "P1")
    assert "Imaging Measurement Report" in dcmtk("dsrdump", report).stdout
    assert_geometry_is_the_sources(dcmread(segmentation), study)
    # Two stable ages later Orthanc has had its chance to send the results round again.
    wait_for(lambda: hospital.state(study.study_instance_uid) == "ANALYSED")
    settled_s = 2 * STABLE_AGE_S + 2
    with pytest.raises(TimeoutError):
        wait_for(lambda: len(hospital.get("/jobs")["items"]) > 1, limit_s=settled_s)
    assert len(orthanc.instances(Modality="SR")) == len(orthanc.instances(Modality="SEG")) == 1


def kept(orthanc: Orthanc, instance: str, folder: Path) -> Path:
    path = folder / f"{instance}.dcm"
    path.write_bytes(orthanc.file(instance))
    return path


def assert_geometry_is_the_sources(segmentation: Any, study: SmallStudy) -> None:
    """Every frame lies exactly on the image that it says it was made from."""
    sources = {str(dataset.SOPInstanceUID): dataset for dataset in study.datasets}
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        derived = frame.DerivationImageSequence[0].SourceImageSequence[0]
        source = sources[derived.ReferencedSOPInstanceUID]
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert list(position) == list(source.ImagePositionPatient)
        orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        assert list(orientation) == list(source.ImageOrientationPatient)
        assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == list(source.PixelSpacing)
    assert (segmentation.Rows, segmentation.Columns) == sources[
        next(iter(sources))
    ].pixel_array.shape
    assert np.count_nonzero(segmentation.pixel_array) > 0


def test_dcmtk_talks_to_the_listener(hospital: Overread, dcmtk: Dcmtk, tmp_path: Path) -> None:
    study = chest_study(tmp_path, BodyPartExamined="CHEST")
    peer = ["127.0.0.1", str(hospital.dicom_port)]
    dcmtk("echoscu", "-aec", "OVERREAD", *peer)
    dcmtk("storescu", "-aec", "OVERREAD", *peer, *study.files)
    assert hospital.wait_finished(study.study_instance_uid) == "ANALYSED"


def test_real_series_are_analysed_or_refused_with_the_reason(
    tmp_path: Path, orthanc: Orthanc, dciodvfy: Dciodvfy
) -> None:
    chest = sorted(shared_data("ct/lidc_partial/LIDC-IDRI-0001").glob("*.dcm"))
    radiograph = shared_data("cxr/nih_dx_1024.dcm")
    with installation(tmp_path, orthanc, SHIPPED_MODELS) as overread:
        for file in (*chest, radiograph):
            orthanc.upload(file)
        report = kept(orthanc, orthanc.wait_for_instances(Modality="SR", limit_s=300)[0], tmp_path)
        orthanc.wait_for_instances(Modality="SEG", limit_s=60)
        assert dciodvfy(report).errors == ()
        chest_uid = str(dcmread(chest[0]).StudyInstanceUID)
        sizes = [size_of(finding) for finding in overread.present(chest_uid)]
        assert max(sizes) > 15  # a spiculated nodule of 23 mm by its four readers
        # Modality DX, but stored as what it is not: a secondary capture.
        radiograph_uid = str(dcmread(radiograph).StudyInstanceUID)
        assert overread.wait_finished(radiograph_uid) == "NOT_ANALYSED"
        tasks = {
            task["model"]: task["reason"]
            for item in overread.get("/worklist")["items"]
            for task in item["tasks"]
            if item["study_instance_uid"] == radiograph_uid
        }
        assert tasks["chest_xray"] == "SECONDARY_CAPTURE"


def size_of(finding: Any) -> float:
    sizes = {item["name"]: item["value"] for item in finding["measurements"]}
    return float(sizes.get("long_axis", 0.0))
