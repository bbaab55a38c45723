"""A study's whole life: sent by a PACS, analysed, its results back in the PACS and on the worklist.

The network is a few nodes that find bright balls, so that the whole path runs in seconds; every
other part is the real one, started as an administrator would start it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.core.identifiers import result_uid
from tests.builders.studies import SmallStudy, ball_package, chest_study
from tests.peers.overread import Overread
from tests.peers.pacs import Behaviour, PlayingPacs
from tests.peers.process import wait_for

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def destination(pacs: PlayingPacs) -> list[dict[str, Any]]:
    return [{"name": "PACS", "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port}]


@pytest.fixture
def installed(tmp_path: Path, pacs: PlayingPacs) -> Iterator[Overread]:
    ball_package(tmp_path / "models")
    with Overread(
        tmp_path / "overread",
        models__dir=tmp_path / "models",
        destinations=destination(pacs),
    ) as overread:
        yield overread


@pytest.fixture
def study(tmp_path: Path) -> SmallStudy:
    return chest_study(tmp_path, BodyPartExamined="CHEST", PatientID="P1")


def test_results_stand_beside_the_images_and_on_the_worklist(
    installed: Overread, pacs: PlayingPacs, study: SmallStudy
) -> None:
    assert installed.send(study.files) == []
    assert installed.wait_finished(study.study_instance_uid) == "ANALYSED"
    present = installed.present(study.study_instance_uid)
    assert len(present) == 2
    received = {item.sop_class_uid: item.read() for item in pacs.wait_for_instances(2)}
    assert set(received) == {SEGMENTATION, COMPREHENSIVE_3D_SR}
    sent = {str(dataset.SOPInstanceUID) for dataset in study.datasets}
    for result in received.values():
        assert result.StudyInstanceUID == study.study_instance_uid
        assert result.PatientID == "P1"
    segmentation = received[SEGMENTATION]
    referenced = {
        item.ReferencedSOPInstanceUID
        for item in segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referenced <= sent
    tracked = {item.TrackingUID for item in segmentation.SegmentSequence}
    assert tracked == {finding["tracking_uid"] for finding in present}
    item = installed.get("/worklist")["items"][0]
    assert item["study_instance_uid"] == study.study_instance_uid
    assert item["tasks"][0]["state"] == "COMPLETED"
    assert item["tasks"][0]["findings_count"] == 2
    assert 0.5 < item["urgency"] < max(f["probability"] for f in present)
    assert item["urgency_reason"].startswith("Nodule 1")
    delivered = wait_for(
        lambda: [
            entry["state"]
            for entry in installed.get("/deliveries")["items"]
            if entry["state"] == "DELIVERED"
        ][1:]
    )
    assert delivered == ["DELIVERED"]


def test_own_results_coming_back_start_no_job(
    installed: Overread, pacs: PlayingPacs, study: SmallStudy
) -> None:
    installed.send(study.files)
    installed.wait_finished(study.study_instance_uid)
    back = [item.path for item in pacs.wait_for_instances(2)]
    jobs = installed.get("/jobs")["items"]
    assert installed.send(back, calling_ae_title="PACS") == []
    assert installed.send(study.files) == []  # and the images once more, as some PACS do
    wait_for(lambda: installed.state(study.study_instance_uid) == "ANALYSED")
    assert [job["id"] for job in installed.get("/jobs")["items"]] == [job["id"] for job in jobs]


def test_a_late_slice_opens_a_new_revision_and_a_new_run(
    installed: Overread, pacs: PlayingPacs, study: SmallStudy
) -> None:
    installed.send(study.files[:-1])
    assert installed.wait_finished(study.study_instance_uid) == "ANALYSED"
    first = installed.get("/jobs")["items"]
    # What had not left by then would be canceled, since the later results take its place.
    pacs.wait_for_instances(2)
    installed.send(study.files[-1:])
    wait_for(lambda: len(installed.get("/jobs")["items"]) == 2, limit_s=30)
    assert installed.wait_finished(study.study_instance_uid) == "ANALYSED"
    pacs.wait_for_instances(4)
    second = [job for job in installed.get("/jobs")["items"] if job["id"] != first[0]["id"]]
    found = installed.get(f"/studies/{study.study_instance_uid}/findings")["items"]
    assert {item["job_id"] for item in found} == {second[0]["id"]}


def test_a_series_with_a_gap_is_not_analysed_and_says_where(
    installed: Overread, study: SmallStudy
) -> None:
    files = [file for place, file in enumerate(study.files) if place not in {20, 21}]
    installed.send(files)
    assert installed.wait_finished(study.study_instance_uid) == "NOT_ANALYSED"
    task = installed.get("/worklist")["items"][0]["tasks"][0]
    assert task["reason"] == "SLICE_GAP"
    assert installed.get("/jobs")["items"] == []


def test_a_repeat_of_the_job_gives_the_same_findings(
    installed: Overread, study: SmallStudy
) -> None:
    installed.send(study.files)
    installed.wait_finished(study.study_instance_uid)
    job = installed.get("/jobs")["items"][0]
    done = installed.command("replay", job["id"])
    assert (done.returncode, done.stdout.strip()) == (0, "identical: 2 findings"), done.stderr


@pytest.mark.faults(number=34)
@pytest.mark.faults(number=36)
def test_deliveries_survive_a_pacs_that_is_away_and_loses_answers(
    installed: Overread, pacs: PlayingPacs, study: SmallStudy
) -> None:
    pacs.stop()
    installed.send(study.files)
    installed.wait_finished(study.study_instance_uid)
    wait_for(lambda: any(item["attempts"] for item in installed.get("/deliveries")["items"]))
    pacs.behave(Behaviour.LOSE_ACK, times=2)
    pacs.start()
    wait_for(
        lambda: (
            [item["state"] for item in installed.get("/deliveries")["items"]]
            == ["DELIVERED", "DELIVERED"]
        ),
        limit_s=60,
    )
    job = installed.get("/jobs")["items"][0]["id"]
    assert {item.sop_instance_uid for item in pacs.received} == {
        result_uid(job, "sr"),
        result_uid(job, "seg"),
    }


@pytest.mark.faults(number=35)
def test_what_the_pacs_refuses_for_good_waits_for_a_person(
    installed: Overread, pacs: PlayingPacs, study: SmallStudy
) -> None:
    pacs.behave(Behaviour.CANNOT_UNDERSTAND)
    installed.send(study.files)
    installed.wait_finished(study.study_instance_uid)
    wait_for(
        lambda: {item["state"] for item in installed.get("/deliveries")["items"]} == {"PARKED"}
    )
    parked = installed.get("/deliveries")["items"]
    assert {item["reason"] for item in parked} == {"STATUS_C000"}
    pacs.behave(Behaviour.ACCEPT)
    for item in parked:
        installed.post(f"/deliveries/{item['id']}/retry")
    assert len(pacs.wait_for_instances(2)) == 2


def test_a_destination_that_shows_no_overlays_gets_pictures_annotations_and_a_document(
    tmp_path: Path, pacs: PlayingPacs, study: SmallStudy
) -> None:
    ball_package(tmp_path / "models")
    peer = {**destination(pacs)[0], "objects": ["sc", "gsps", "pdf", "ko", "rtstruct"]}
    with Overread(
        tmp_path / "overread", models__dir=tmp_path / "models", destinations=[peer]
    ) as overread:
        overread.send(study.files)
        kept = [instance.read() for instance in pacs.wait_for_instances(5)]
    by_modality = {dataset.Modality: dataset for dataset in kept}
    assert set(by_modality) == {"OT", "PR", "DOC", "KO", "RTSTRUCT"}
    assert by_modality["DOC"].EncapsulatedDocument.startswith(b"%PDF-")
    dataset = by_modality["OT"]
    assert dataset.SOPClassUID == SECONDARY_CAPTURE
    assert (dataset.PhotometricInterpretation, dataset.BurnedInAnnotation) == ("RGB", "YES")
    colours = dataset.pixel_array.reshape(-1, 3)
    assert (colours.max(axis=1) != colours.min(axis=1)).any(), "no outline in colour"
