"""Pages used as people use them, in a real browser, and looked over by axe."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.core.findings import Location, PlanarRegion, RegionRole, RegionShape
from service.core.settings import Condition, Destination, RoutingRule
from service.core.states import JobState, StudyState
from tests.builders import onnx, rows
from tests.builders.dicom import AXIAL, ct_series, part10
from tests.builders.http import Site, served, site
from tests.builders.packages import manifest, write_package
from tests.peers.browser import SCRIPTS, Browser
from tests.peers.catalogue import AXE, RealPeer

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(300)]

RULE = RoutingRule(name="chest", when=(Condition(keyword="Modality", value="CT"),), priority="HIGH")
AWAY = Destination(name="PACS", ae_title="PACS", host="127.0.0.1", port=1)
DICOM = {"content-type": "application/dicom"}


@dataclass
class Served:
    """A site in use: a study with findings on real images, a failed run, and a file at hand."""

    url: str
    here: Site
    uid: str
    finding_id: str
    file: Path


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("by-hand")
    url = f"sqlite:///{folder / 'o.db'}"
    with site(url, folder, routing=(RULE,), destinations=(AWAY,)) as here:
        uid, finding_id = add_analysed(here)
        failed = here.add(rows.add_study, state=StudyState.FAILED, patient_name="山田^太郎")
        series_id = here.add(rows.add_series, study_id=failed)
        here.add(
            rows.add_job,
            study_id=failed,
            series_id=series_id,
            state=JobState.FAILED,
            message="<b>the worker stopped</b>",
        )
        file = folder / "dropped.dcm"
        file.write_bytes(part10(ct_series(slices=1, name="dropped", study="dropped")[0]))
        with served(here.settings, here.records) as address:
            yield Served(address, here, uid, finding_id, file)


def add_analysed(here: Site) -> tuple[str, str]:
    """Store a series, and write what a model found on it."""
    package = write_package(
        here.settings.models.dir,
        manifest(),
        {"detector": onnx.detector(threshold=0.5, diameter_mm=12.0)},
    )
    images = ct_series(slices=6, rows=128, columns=128, orientation=AXIAL, study="opened")
    for image in images:
        image.PatientName = "Tester^<i>Markup</i>"
        stored = here.client.post("/api/v1/studies", content=part10(image), headers=DICOM)
        assert stored.status_code == 200, stored.text
    uid, middle = str(images[0].StudyInstanceUID), str(images[3].SOPInstanceUID)
    here.client.post(f"/api/v1/studies/{uid}/complete")
    study = here.get(f"/studies/{uid}")
    with here.records.writing() as connection:
        job_id = study["jobs"][0]["id"] if study["jobs"] else ""
        connection.exec_driver_sql("UPDATE jobs SET state = 'COMPLETED'")
        (row,) = connection.exec_driver_sql("SELECT id FROM studies").fetchall()
        box = ((50.0, 50.0), (70.0, 50.0), (70.0, 66.0), (50.0, 66.0), (50.0, 50.0))
        region = PlanarRegion(
            role=RegionRole.BOX, shape=RegionShape.POLYLINE, sop_instance_uid=middle, points=box
        )
        location = Location(sop_instance_uid=middle, center_mm=(0, 0, 0), regions=(region,))
        found = [
            rows.nodule(job_id, rank, probability=value, sop_instance_uid=middle, location=location)
            for rank, value in enumerate((0.93, 0.4, 0.05))
        ]
        rows.add_findings(connection, row[0], job_id, found)
    assert study["jobs"][0]["model"]["sha256"] == package.sha256
    return uid, found[0].id


def test_reader_and_administrator_find_their_way(used: Served, browser: Browser) -> None:
    found = browser.run(
        SCRIPTS / "by_hand.mjs",
        url=used.url,
        uid=used.uid,
        file=str(used.file),
        pictures=os.environ.get("PICTURES", ""),
        limit_s=240,
    )
    assert "From" in found["columns"]
    assert "Accession" not in found["columns"]
    assert found["upload"] == "1 of 1 files sent"
    assert found["paused"] == "false"
    assert found["label"] == "second <b>opinion</b>"
    assert (found["present"], found["sensitive"]) == (1, 2)
    assert "edited by Dr. Østergård" in found["review"]
    assert "/shared/" in found["link"]
    assert found["queues"][:2] == [True, False]
    assert "PACS" in found["destination"]
    assert found["trial"] == "Rule: chest. Priority: HIGH."
    assert (found["switched"], found["taken_back"]) == ("off", "on")
    assert found["bars"] > 0
    assert found["errors"] == found["refused"] == []
    review = used.here.get(f"/findings/{used.finding_id}")["review"]
    assert review["comment"] == "a vessel beside it\nלא"
    assert review["changes"]["long_axis_mm"] == 12.5
    # The middle of 128 pixels, in the patient's own millimetres.
    assert review["changes"]["place"]["column"] == pytest.approx(64, abs=1)
    assert len(review["changes"]["center_mm"]) == 3


def test_no_page_keeps_anybody_from_using_it(
    used: Served, browser: Browser, need_peer: Callable[[RealPeer], Path]
) -> None:
    study = f"/studies/{used.uid}"
    seen = browser.run(
        SCRIPTS / "accessibility.mjs",
        url=used.url,
        axe=str(need_peer(AXE)),
        addresses=[
            "/",
            "/?q=nobody-of-this-name",
            study,
            f"{study}/findings/{used.finding_id}",
            f"/viewer/viewer?StudyInstanceUIDs={used.uid}",
            "/queue",
            "/destinations",
            "/rules",
            "/models",
            "/models/test_package",
            "/statistics",
            "/storage",
            "/audit",
            "/keys",
            "/webhooks",
            "/api/v1/docs",
            "/studies/1.2.3",
        ],
        limit_s=240,
    )
    assert {address: faults for address, faults in seen["found"].items() if faults} == {}
    assert seen["errors"] == []
