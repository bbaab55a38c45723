"""A patient followed over time: the earlier study from the own archive, or from a real Orthanc."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders.chests import Ball
from tests.builders.dicom import write_series
from tests.builders.studies import SmallStudy, ball_package, chest_study
from tests.peers import catalogue
from tests.peers.catalogue import RealPeer
from tests.peers.orthanc import Orthanc
from tests.peers.overread import Overread
from tests.peers.pacs import PlayingPacs
from tests.peers.ports import free_port
from tests.peers.process import wait_for

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
GROWING, GONE, NEW = (-38.0, 5.0, 10.0), (38.0, -8.0, -12.0), (44.0, 6.0, 18.0)
TABLE_MM = np.array([4.0, -6.0, 23.0])

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def ball(center_mm: tuple[float, float, float], diameter_mm: float) -> Ball:
    return Ball(center_mm=center_mm, diameter_mm=diameter_mm)


@pytest.fixture
def earlier(tmp_path: Path) -> SmallStudy:
    return study(tmp_path, "earlier", [ball(GROWING, 16), ball(GONE, 16)], "20260102")


@pytest.fixture
def current(tmp_path: Path) -> SmallStudy:
    """The patient 92 days later, elsewhere on the table: a ball grown, one gone, one new."""
    made = study(tmp_path, "current", [ball(GROWING, 19), ball(NEW, 16)], "20260404")
    for dataset in made.datasets:
        place = np.array([float(value) for value in dataset.ImagePositionPatient]) + TABLE_MM
        dataset.ImagePositionPatient = [f"{value:.3f}" for value in place]
    write_series(list(made.datasets), made.files[0].parent)
    return made


def study(folder: Path, name: str, balls: Sequence[Ball], date: str) -> SmallStudy:
    return chest_study(
        folder,
        name=name,
        balls=balls,
        StudyDate=date,
        PatientID="FOLLOWED-7",
        BodyPartExamined="CHEST",
        spacing_mm=(2.0, 1.2, 1.2),
        shape=(55, 116, 150),
    )


def installation(folder: Path, pacs: PlayingPacs | None = None, **settings: Any) -> Overread:
    ball_package(folder / "models")
    peers = (
        [{"name": "PACS", "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port}]
        if pacs
        else []
    )
    return Overread(
        folder / "overread", models__dir=folder / "models", destinations=peers, **settings
    )


def by_change(overread: Overread, study_instance_uid: str) -> dict[str, Mapping[str, Any]]:
    found = overread.get(f"/studies/{study_instance_uid}/findings")["items"]
    return {item["prior"]["change"]: item for item in found if item["prior"]}


def test_a_prior_in_the_own_archive_tells_what_has_grown_gone_and_come(
    tmp_path: Path, pacs: PlayingPacs, earlier: SmallStudy, current: SmallStudy
) -> None:
    with installation(tmp_path, pacs) as overread:
        overread.send(earlier.files)
        overread.wait_finished(earlier.study_instance_uid)
        before = {
            tuple(np.sign(f["location"]["center_mm"])[:1]): f
            for f in overread.present(earlier.study_instance_uid)
        }
        pacs.wait_for_instances(2)
        overread.send(current.files)
        overread.wait_finished(current.study_instance_uid)
        said = by_change(overread, current.study_instance_uid)
        assert set(said) == {"growing", "resolved", "new"}
        grown = said["growing"]
        assert grown["prior"]["interval_days"] == 92
        assert grown["prior"]["growth_percent"] == pytest.approx(100 * ((19 / 16) ** 3 - 1), abs=25)
        assert 90 < grown["prior"]["doubling_time_days"] < 190
        assert grown["tracking_uid"] == before[(-1.0,)]["tracking_uid"]
        assert grown["prior"]["finding_id"] == before[(-1.0,)]["id"]
        assert said["resolved"]["tracking_uid"] == before[(1.0,)]["tracking_uid"]
        assert said["resolved"]["qualifier"] == "absent"
        assert np.allclose(said["resolved"]["location"]["center_mm"], GONE + TABLE_MM, atol=2.5)
        assert_urgent(overread, current)
        report = next(
            item.read()
            for item in pacs.wait_for_instances(4)
            if item.sop_class_uid == COMPREHENSIVE_3D_SR
            and item.read().StudyInstanceUID == current.study_instance_uid
        )
        assert grown["tracking_uid"] in str(report)
        job = overread.get(f"/studies/{current.study_instance_uid}")["jobs"][0]
        replayed = overread.command("replay", job["id"])
        assert replayed.stdout.strip() == "identical: 3 findings", replayed.stderr


def assert_urgent(overread: Overread, current: SmallStudy) -> None:
    worklist = overread.get("/worklist")["items"]
    assert worklist[0]["study_instance_uid"] == current.study_instance_uid
    assert "in 92 days" in worklist[0]["urgency_reason"]


@pytest.fixture(params=["C-FIND and C-MOVE", "QIDO-RS and WADO-RS"])
def hospital(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    need_peer: Callable[[RealPeer], Path],
    earlier: SmallStudy,
) -> Iterator[tuple[Overread, Orthanc]]:
    """An Orthanc that holds the earlier study, and an installation that asks it."""
    port = free_port()
    with Orthanc(
        need_peer(catalogue.ORTHANC),
        need_peer(catalogue.ORTHANC_DICOMWEB),
        folder=tmp_path / "orthanc",
        overread_port=port,
        settings={"LuaScripts": []},  # it sends nothing by itself
    ) as orthanc:
        for file in earlier.files:
            orthanc.upload(file)
        source = (
            {"ae_title": orthanc.ae_title, "host": "127.0.0.1", "port": orthanc.dicom_port}
            if request.param.startswith("C-FIND")
            else {"dicomweb_url": orthanc.dicomweb_url}
        )
        with installation(tmp_path, dicom__port=port, priors__source=source) as overread:
            yield overread, orthanc


@pytest.mark.peers
def test_a_prior_is_fetched_from_the_pacs_and_compared_with(
    hospital: tuple[Overread, Orthanc], earlier: SmallStudy, current: SmallStudy
) -> None:
    overread, _ = hospital
    overread.send(current.files)
    wait_for(
        lambda: "growing" in by_change_or_none(overread, current.study_instance_uid), limit_s=90
    )
    assert set(by_change(overread, current.study_instance_uid)) == {"growing", "resolved", "new"}
    fetched = overread.get(f"/studies/{earlier.study_instance_uid}")
    assert (fetched["state"], fetched["urgency"]) == ("ANALYSED", 0)
    jobs = overread.get("/jobs")["items"]
    assert len(jobs) == 2  # one run of each study: the current one had waited
    assert_urgent(overread, current)


def by_change_or_none(overread: Overread, study_instance_uid: str) -> dict[str, Any]:
    known = overread.state(study_instance_uid) == "ANALYSED"
    return by_change(overread, study_instance_uid) if known else {}


def test_a_pacs_that_is_away_holds_nothing_up(tmp_path: Path, current: SmallStudy) -> None:
    source = {"ae_title": "AWAY", "host": "127.0.0.1", "port": free_port()}
    with installation(
        tmp_path, priors__source=source, priors__wait_s=2, priors__give_up_s=20
    ) as overread:
        overread.send(current.files)
        assert overread.wait_finished(current.study_instance_uid) == "ANALYSED"
        assert len(overread.present(current.study_instance_uid)) == 2


@pytest.mark.peers
def test_a_prior_that_comes_late_has_the_report_made_again(
    tmp_path: Path, pacs: PlayingPacs, earlier: SmallStudy, current: SmallStudy
) -> None:
    with installation(tmp_path, pacs, priors__wait_s=0) as overread:
        # The current study is complete first; the earlier one is still coming in.
        overread.send([*current.files, *earlier.files[:1]])
        overread.wait_finished(current.study_instance_uid)
        overread.send(earlier.files[1:])
        wait_for(
            lambda: "growing" in by_change_or_none(overread, current.study_instance_uid),
            limit_s=90,
        )
        runs = overread.get(f"/studies/{current.study_instance_uid}")["jobs"]
        assert [run["current"] for run in runs].count(True) == 1
        assert len(runs) == 2
        reports = [
            item.read()
            for item in pacs.wait_for_instances(6)
            if item.sop_class_uid == COMPREHENSIVE_3D_SR
        ]
        mine = [one for one in reports if one.StudyInstanceUID == current.study_instance_uid]
        assert len(mine) == 2
        assert any("PredecessorDocumentsSequence" in one for one in mine)
