"""What becomes of results: superseded, withdrawn, reviewed, made anew, refused by a class.

One installation serves three archives that differ: one takes everything and wants withdrawals told,
one gets only what readers have reviewed, one is old and refuses new classes.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from service.core.profiles import SEGMENTATION_STORAGE, SrForm
from tests.builders.studies import SmallStudy, ball_package, chest_study
from tests.peers.overread import Overread
from tests.peers.pacs import PlayingPacs, Received
from tests.peers.process import wait_for

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"
REPORT = SrForm.COMPREHENSIVE_3D.sop_class_uid
REJECTED_FOR_QUALITY = "113001"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    # The senders are pynetdicom's, which leave sockets of refused connections to the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@dataclass(frozen=True)
class House:
    """The installation and its three archives."""

    overread: Overread
    main: PlayingPacs
    readers: PlayingPacs
    old: PlayingPacs
    new_study: Callable[..., SmallStudy]

    def analysed(self, study: SmallStudy) -> str:
        """Send a study, wait until its results have reached the main archive; return its UID."""
        uid = study.study_instance_uid
        assert self.overread.send(study.files) == []
        assert self.overread.wait_finished(uid, limit_s=120) == "ANALYSED"
        wait_for(lambda: len(of_study(self.main, uid)) >= 2, limit_s=60)
        return uid

    def reported(self, uid: str, **body: Any) -> str:
        """Ask for new results and wait until they are there; return the job."""
        (job_id,) = self.overread.post(f"/studies/{uid}/reports", body)["job_ids"]
        wait_for(lambda: self.overread.get(f"/jobs/{job_id}")["state"] == "COMPLETED", limit_s=60)
        return str(job_id)

    def results(self, uid: str) -> list[Mapping[str, Any]]:
        """Return the study's result objects as REST lists them."""
        found: list[Mapping[str, Any]] = self.overread.get(f"/studies/{uid}/results")["items"]
        return found


def of_study(pacs: PlayingPacs, uid: str, sop_class_uid: str = "") -> list[Dataset]:
    """Return what an archive has of a study, oldest first."""

    def wanted(item: Received) -> bool:
        return sop_class_uid in ("", item.sop_class_uid)

    read = [item.read() for item in pacs.received if wanted(item)]
    return [dataset for dataset in read if uid == dataset.StudyInstanceUID]


def arrived(pacs: PlayingPacs, uid: str, sop_class_uid: str, number: int = 1) -> list[Dataset]:
    """Return what an archive has of a class as soon as there is that much."""
    wait_for(lambda: len(of_study(pacs, uid, sop_class_uid)) >= number, limit_s=60)
    return of_study(pacs, uid, sop_class_uid)


def named(sequence: Any) -> set[tuple[str, str, str]]:
    """Return (study, series, instance) of each reference by study and series."""
    return {
        (study.StudyInstanceUID, series.SeriesInstanceUID, one.ReferencedSOPInstanceUID)
        for study in sequence
        for series in study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }


def identity(dataset: Dataset) -> tuple[str, str, str]:
    return (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)


def name_bytes(path: Path) -> bytes:
    """Return the patient's name as it stands in a file."""
    element = pydicom.dcmread(path).get_item("PatientName")
    assert isinstance(element, RawDataElement)
    assert element.value is not None
    return element.value.rstrip(b" ")


def tracking_uids(segmentation: Dataset) -> set[str]:
    return {segment.TrackingUID for segment in segmentation.SegmentSequence}


def texts(dataset: Dataset) -> list[str]:
    """Return every text value of a report's content."""
    return [str(item.value) for item in dataset.iterall() if item.keyword == "TextValue"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    package = ball_package(folder / "models")
    manifest = package.folder / "manifest.toml"
    strict = '{ "name" = "strict", "present" = 0.99999, "indeterminate" = 0.99999 }'
    lines = manifest.read_text().splitlines()
    changed = [
        f"{line[:-1]}, {strict}]" if line.startswith("operating_points") else line for line in lines
    ]
    manifest.write_text("\n".join(changed))
    numbers = itertools.count(1)
    with ExitStack() as stack:
        main, readers, old = (
            stack.enter_context(PlayingPacs(folder / name, ae_title=name, refuses=refuses))
            for name, refuses in (
                ("MAIN", ()),
                ("READERS", ()),
                ("OLD", (REPORT, SEGMENTATION_STORAGE)),
            )
        )
        overread = stack.enter_context(
            Overread(
                folder / "overread",
                models__dir=folder / "models",
                results__verified_by_readers=True,
                results__organization="House of Tests",
                destinations=[
                    {**peer(main), "rejection_notes": True},
                    {**peer(readers), "only_reviewed": True, "sr_class": "comprehensive"},
                    {**peer(old), "character_set": "source"},
                ],
            )
        )

        def new_study(**attributes: Any) -> SmallStudy:
            name = f"study {next(numbers)}"
            return chest_study(folder, name=name, BodyPartExamined="CHEST", **attributes)

        yield House(overread, main, readers, old, new_study)


def peer(pacs: PlayingPacs) -> dict[str, Any]:
    return {
        "name": pacs.ae_title, "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port
    }  # fmt: skip


def test_an_old_archive_gets_what_it_takes_with_the_patients_own_letters(house: House) -> None:
    name = "Wang^XiaoDong=王^誠"
    study = house.new_study(SpecificCharacterSet="GB18030", PatientName=name)
    uid = house.analysed(study)

    (report,) = arrived(house.old, uid, SrForm.ENHANCED.sop_class_uid)
    arrived(house.old, uid, SECONDARY_CAPTURE)
    assert report.SpecificCharacterSet == "GB18030"
    assert str(report.PatientName) == name
    received = next(
        one for one in house.old.received if one.sop_instance_uid == report.SOPInstanceUID
    )
    assert name_bytes(received.path) == name_bytes(study.files[0])
    (usual,) = of_study(house.main, uid, REPORT)
    assert usual.SpecificCharacterSet == "ISO_IR 192"
    assert usual.SOPInstanceUID != report.SOPInstanceUID

    sent = house.overread.get("/deliveries", destination="OLD", study_instance_uid=uid)["items"]
    refused = [one for one in sent if one["reason"] == "CLASS_REFUSED"]
    assert {one["state"] for one in refused} == {"CANCELED"}
    assert any("sr enhanced instead of sr comprehensive_3d" in one["message"] for one in refused)

    # What was learned once holds for the next study: nothing is refused again.
    second = house.analysed(house.new_study())
    arrived(house.old, second, SrForm.ENHANCED.sop_class_uid)
    arrived(house.old, second, SECONDARY_CAPTURE)
    sent = house.overread.get("/deliveries", destination="OLD", study_instance_uid=second)["items"]
    assert {one["state"] for one in sent} <= {"DELIVERED", "IN_PROGRESS"}


def test_late_images_supersede_under_the_same_names(house: House) -> None:
    study = house.new_study()
    uid = study.study_instance_uid
    assert house.overread.send(study.files[:-1]) == []
    assert house.overread.wait_finished(uid, limit_s=120) == "ANALYSED"
    (first,) = arrived(house.main, uid, REPORT)
    (first_regions,) = arrived(house.main, uid, SEGMENTATION_STORAGE)
    house.overread.send(study.files[-1:])

    second = arrived(house.main, uid, REPORT, 2)[-1]
    second_regions = arrived(house.main, uid, SEGMENTATION_STORAGE, 2)[-1]
    assert named(second.PredecessorDocumentsSequence) == {identity(first)}
    assert tracking_uids(second_regions) == tracking_uids(first_regions)
    (note,) = arrived(house.main, uid, KEY_OBJECTS)
    assert note.ConceptNameCodeSequence[0].CodeValue == REJECTED_FOR_QUALITY
    withdrawn = named(note.CurrentRequestedProcedureEvidenceSequence)
    assert withdrawn == {identity(first), identity(first_regions)}

    states = {one["sop_instance_uid"]: one for one in house.results(uid)}
    assert states[first.SOPInstanceUID]["state"] == "SUPERSEDED"
    assert states[first.SOPInstanceUID]["current"] is False
    assert states[second.SOPInstanceUID]["state"] == "VALID"
    assert states[second.SOPInstanceUID]["current"] is True
    assert states[first.SOPInstanceUID]["superseded_by"] == states[second.SOPInstanceUID]["job_id"]

    web = f"{house.overread.url}/dicom-web/studies/{uid}"
    accept = {"Accept": "application/dicom+json"}
    listed = httpx.get(f"{web}/series", headers=accept, trust_env=False).json()
    series = {item["0020000E"]["Value"][0] for item in listed}
    assert second.SeriesInstanceUID in series
    assert not {first.SeriesInstanceUID, first_regions.SeriesInstanceUID} & series
    address = f"{web}/series/{first.SeriesInstanceUID}/metadata"
    assert httpx.get(address, headers=accept, trust_env=False).status_code == 200
    page = httpx.get(f"{house.overread.url}/studies/{uid}", trust_env=False)
    assert page.status_code == 200
    sent = states[first.SOPInstanceUID]["deliveries"]
    number = next(one["id"] for one in sent if one["destination"] == "MAIN")
    again = f"{house.overread.url}/api/v1/deliveries/{number}/retry"
    assert httpx.post(again, trust_env=False).json()["reason"] == "DELIVERY_STATE"


def test_a_review_goes_back_as_a_report_of_its_own(house: House) -> None:
    uid = house.analysed(house.new_study())
    (first,) = of_study(house.main, uid, REPORT)
    kept, rejected = house.overread.present(uid)
    review(house, kept, verdict="accepted")
    review(house, rejected, verdict="rejected", comment="a vessel")
    assert of_study(house.readers, uid) == []

    house.reported(uid)

    report = arrived(house.main, uid, REPORT, 2)[-1]
    assert named(report.PredecessorDocumentsSequence) == {identity(first)}
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("VERIFIED", "FINAL")
    verifier = report.VerifyingObserverSequence[0]
    assert str(verifier.VerifyingObserverName) == "Curie^Marie"
    assert verifier.VerifyingOrganization == "House of Tests"
    said = texts(report)
    assert any("Rejected by the reader Curie^Marie. a vessel" in text for text in said)
    assert any("Accepted by the reader Curie^Marie" in text for text in said)
    regions = arrived(house.main, uid, SEGMENTATION_STORAGE, 2)[-1]
    assert tracking_uids(regions) == {kept["tracking_uid"]}

    (for_readers,) = arrived(house.readers, uid, SrForm.COMPREHENSIVE.sop_class_uid)
    assert for_readers.VerificationFlag == "VERIFIED"
    (same_regions,) = arrived(house.readers, uid, SEGMENTATION_STORAGE)
    assert same_regions.SOPInstanceUID == regions.SOPInstanceUID
    current = {one["role"] for one in house.results(uid) if one["current"] and not one["form"]}
    assert {"sr", "seg"} <= current
    assert all(one["reviewed"] for one in house.results(uid) if one["current"])


def test_the_same_wish_twice_makes_one_report(house: House) -> None:
    uid = house.analysed(house.new_study())
    first = house.reported(uid, reviewed=True, reviewer="Curie^Marie")
    assert house.reported(uid, reviewed=True, reviewer="Curie^Marie") == first
    arrived(house.readers, uid, SrForm.COMPREHENSIVE.sop_class_uid)
    valid = [one for one in house.results(uid) if one["state"] == "VALID"]
    assert len({(one["role"], one["form"]) for one in valid}) == len(valid)


def test_another_operating_point_makes_results_without_the_network(house: House) -> None:
    uid = house.analysed(house.new_study())
    (first,) = of_study(house.main, uid, REPORT)
    job_id = house.reported(uid, operating_point="strict")

    report = arrived(house.main, uid, REPORT, 2)[-1]
    assert named(report.PredecessorDocumentsSequence) == {identity(first)}
    assert "operating_point=strict" in texts(report)
    # Nothing is certain enough any more: no segment, and the old ones are withdrawn.
    current = {one["role"] for one in house.results(uid) if one["current"] and not one["form"]}
    assert current == {"sr", "rejection"}
    withdrawn = named(
        arrived(house.main, uid, KEY_OBJECTS)[0].CurrentRequestedProcedureEvidenceSequence
    )
    assert len(withdrawn) == 2
    job = house.overread.get(f"/jobs/{job_id}")
    assert job["report_of"] is not None
    assert "analysis" not in job["timings_s"]
    # The findings and the run stay the study's own.
    assert len(house.overread.present(uid)) == 2
    back = house.reported(uid, operating_point="balanced")
    assert len(arrived(house.main, uid, SEGMENTATION_STORAGE, 2)) == 2
    assert back != job_id


def test_a_wish_that_cannot_be_met_says_why(house: House) -> None:
    uid = house.analysed(house.new_study())
    address = f"{house.overread.url}/api/v1/studies/{uid}/reports"
    wrong = httpx.post(address, json={"operating_point": "bold"}, trust_env=False)
    assert (wrong.status_code, wrong.json()["reason"]) == (422, "OPERATING_POINT")
    assert "strict" in wrong.json()["detail"]
    nobody = httpx.post(address, json={"task": "hands"}, trust_env=False)
    assert (nobody.status_code, nobody.json()["reason"]) == (422, "NOTHING_TO_REPORT")


def test_a_series_that_suits_no_more_has_its_results_withdrawn(house: House) -> None:
    # The first part of a study that turns out to have a gap.
    study = house.new_study()
    uid = study.study_instance_uid
    assert house.overread.send(study.files[:30]) == []
    assert house.overread.wait_finished(uid, limit_s=120) == "ANALYSED"
    (first,) = arrived(house.main, uid, REPORT)
    house.overread.send(study.files[33:])
    note = arrived(house.main, uid, KEY_OBJECTS)[0]
    assert identity(first) in named(note.CurrentRequestedProcedureEvidenceSequence)
    gone = {one["sop_instance_uid"]: one for one in house.results(uid)}
    assert gone[first.SOPInstanceUID]["state"] == "SUPERSEDED"
    assert gone[first.SOPInstanceUID]["superseded_by"] is None


@pytest.mark.parametrize("victim", ["worker", "everything"])
def test_killed_while_results_are_made_anew_one_copy_is_seen(house: House, victim: str) -> None:
    uid = house.analysed(house.new_study())
    for pause_s in (0.0, 0.05, 0.15):
        house.overread.post(
            f"/studies/{uid}/reports", {"reviewed": True, "reviewer": f"R{pause_s}"}
        )
        time.sleep(pause_s)
        if victim == "everything":
            house.overread.kill_everything()
            house.overread.start()
        else:
            house.overread.kill(victim)
    jobs = wait_for(lambda: over(house, uid), limit_s=120)
    assert [job["reason"] for job in jobs if job["state"] != "COMPLETED"] in (
        [],
        ["SUPERSEDED"] * 2,
        ["SUPERSEDED"],
    )
    seen = [one for one in house.results(uid) if one["state"] == "VALID" and one["role"] == "sr"]
    assert len({one["form"] for one in seen}) == len(seen)
    wait_for(lambda: all_settled(house, uid), limit_s=60)
    contents: dict[str, set[bytes]] = {}
    for item in house.main.received:
        contents.setdefault(item.sop_instance_uid, set()).add(item.path.read_bytes())
    assert all(len(versions) == 1 for versions in contents.values()), "one UID, two contents"


def over(house: House, uid: str) -> list[Mapping[str, Any]]:
    try:
        jobs = house.overread.get("/jobs", study_instance_uid=uid)["items"]
    except (httpx.TransportError, httpx.HTTPStatusError):
        return []
    waiting = [job for job in jobs if job["state"] in ("SCHEDULED", "IN_PROGRESS")]
    return [] if waiting else jobs


def all_settled(house: House, uid: str) -> bool:
    sent = house.overread.get("/deliveries", study_instance_uid=uid)["items"]
    return all(one["state"] in ("DELIVERED", "CANCELED", "PARKED") for one in sent)


def review(house: House, finding: Mapping[str, Any], **body: Any) -> None:
    """Give a verdict on a finding."""
    address = f"{house.overread.url}/api/v1/findings/{finding['id']}/review"
    answer = httpx.put(address, json={"reviewer": "Curie^Marie", **body}, trust_env=False)
    assert answer.status_code == 200, answer.text
