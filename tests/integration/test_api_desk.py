"""The desk: queues that pause, studies closed early, rules tried, models switched."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service.core.settings import Condition, Destination, RoutingRule
from service.core.states import DeliveryState, JobState, StudyState
from service.records import deliveries, jobs
from tests.builders import rows
from tests.builders.dicom import ct_series, part10
from tests.builders.http import LATER, Site, site
from tests.peers.pacs import PlayingPacs

LEASE = timedelta(seconds=15)
RULES = (
    RoutingRule(
        name="stat chest",
        when=(
            Condition(keyword="Modality", value="CT"),
            Condition(keyword="StudyDescription", operator="contains", value="chest"),
        ),
        priority="STAT",
        destinations=("PACS",),
    ),
    RoutingRule(name="the rest"),
)
DESTINATIONS = (
    Destination(name="PACS", ae_title="PACS", host="127.0.0.1", port=1),
    Destination(
        name="ARCHIVE",
        stow_url="http://127.0.0.1:1/studies",
        rules=(Condition(keyword="Modality", value="MR"),),
    ),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("desk")
    url = f"sqlite:///{folder / 'o.db'}"
    with site(url, folder, routing=RULES, destinations=DESTINATIONS) as made:
        yield made


@pytest.fixture
def here(whole: Site) -> Iterator[Site]:
    yield whole
    whole.empty()


def post(here: Site, path: str, *, status: int = 200, **given: Any) -> Any:
    answer = here.client.post(f"/api/v1{path}", **given)
    assert answer.status_code == status, answer.text
    return answer.json()


def waiting_job(here: Site) -> str:
    study_id = here.add(rows.add_study, state=StudyState.QUEUED)
    series_id = here.add(rows.add_series, study_id=study_id)
    made: str = here.add(
        rows.add_job,
        study_id=study_id,
        series_id=series_id,
        state=JobState.SCHEDULED,
        started_at=None,
        ended_at=None,
    )
    return made


def test_a_paused_queue_hands_out_nothing_until_it_is_resumed(here: Site) -> None:
    job_id = waiting_job(here)
    (line, _) = post(here, "/queues/infer/pause")["items"]
    assert (line["depth"], line["pause"]["topic"]) == (1, "infer")
    with here.records.writing() as connection:
        assert jobs.claim(connection, job_id, worker="w", at=LATER, lease=LEASE) is None
        assert jobs.due(connection, at=LATER) == []
    post(here, "/queues/infer/pause")  # pausing twice is pausing
    (line, _) = post(here, "/queues/infer/resume")["items"]
    assert line["pause"] is None
    with here.records.writing() as connection:
        assert jobs.claim(connection, job_id, worker="w", at=LATER, lease=LEASE) is not None


def test_pausing_deliveries_leaves_model_runs_alone(here: Site) -> None:
    study_id = here.add(rows.add_analysed_study)
    job_id = here.get("/jobs")["items"][0]["id"]
    result_id = here.add(rows.add_result, study_id=study_id, job_id=job_id, role="seg")
    delivery_id = here.add(
        rows.add_delivery,
        study_id=study_id,
        result_id=result_id,
        state=DeliveryState.SCHEDULED,
        delivered_at=None,
    )
    waiting = waiting_job(here)
    post(here, "/queues/deliver/pause")
    with here.records.writing() as connection:
        assert deliveries.claim(connection, delivery_id, at=LATER, lease=LEASE) is None
        assert jobs.claim(connection, waiting, worker="w", at=LATER, lease=LEASE) is not None


def test_every_failed_job_goes_back_in_the_queue_and_replaced_ones_do_not(here: Site) -> None:
    study_id = here.add(rows.add_study, state=StudyState.FAILED)
    series_id = here.add(rows.add_series, study_id=study_id)
    for current in (True, True, False):
        here.add(
            rows.add_job,
            study_id=study_id,
            series_id=series_id,
            state=JobState.FAILED,
            current=current,
        )
    assert here.get("/queues")["items"][0]["failed"] == 2
    assert post(here, "/jobs/retry") == {"jobs": 2}
    assert here.get("/queues")["items"][0]["failed"] == 0


def test_a_study_is_taken_for_complete_without_waiting_and_only_once(here: Site) -> None:
    for image in ct_series(slices=3, rows=16, columns=16):
        here.client.post(
            "/api/v1/studies", content=part10(image), headers={"content-type": "application/dicom"}
        )
    (study,) = here.get("/worklist")["items"]
    assert study["state"] == "RECEIVING"
    address = f"/studies/{study['study_instance_uid']}/complete"
    post(here, address, status=202)
    (study,) = here.get("/worklist")["items"]
    assert study["state"] == "NOT_ANALYSED"
    assert post(here, address, status=409)["reason"] == "STUDY_COMPLETE"


def test_a_stored_study_says_which_rule_decides_and_why(here: Site) -> None:
    for image in ct_series(slices=3, rows=16, columns=16):
        image.StudyDescription = "CT Chest w/o"
        here.client.post(
            "/api/v1/studies", content=part10(image), headers={"content-type": "application/dicom"}
        )
    (study,) = here.get("/worklist")["items"]
    tried = post(here, "/routing/try", json={"study_instance_uid": study["study_instance_uid"]})
    assert (tried["rule"], tried["priority"]) == ("stat chest", "STAT")
    assert [rule["decides"] for rule in tried["rules"]] == [True, False]
    assert [one["holds"] for one in tried["rules"][0]["comparisons"]] == [True, True]
    assert tried["rules"][0]["comparisons"][1]["found"] == ["CT Chest w/o"]
    assert [one["gets_results"] for one in tried["destinations"]] == [True, False]
    assert "others" in tried["destinations"][1]["reason"]
    assert here.get("/jobs")["items"] == []


def test_a_dropped_file_is_tried_up_to_its_pixels(here: Site) -> None:
    content = part10(ct_series(slices=1, rows=64, columns=64)[0])
    headers = {"content-type": "application/dicom"}
    tried = post(here, "/routing/try-file", content=content[:-4000], headers=headers)
    assert tried["rule"] == "the rest"
    assert [one["holds"] for one in tried["rules"][0]["comparisons"]] == [True, False]
    for broken in (b"%PDF-1.7", b"", content[:200], b"\x00" * 2000):
        refused = post(here, "/routing/try-file", status=422, content=broken, headers=headers)
        assert refused["reason"] in {"NOT_DICOM", "INVALID_REQUEST"}
    assert here.get("/worklist")["items"] == []


def test_a_destination_that_is_away_says_why_and_an_unknown_one_is_404(here: Site) -> None:
    answer = post(here, "/destinations/PACS/check")
    assert answer["answers"] is False
    assert answer["detail"]
    assert post(here, "/destinations/nobody/check", status=404)["reason"] == "DESTINATION_UNKNOWN"


def test_a_destination_that_is_there_answers_c_echo(tmp_path: Path) -> None:
    with PlayingPacs(tmp_path / "pacs") as pacs:
        there = Destination(name="PACS", ae_title=pacs.ae_title, host="127.0.0.1", port=pacs.port)
        with site(f"sqlite:///{tmp_path / 'o.db'}", tmp_path, destinations=(there,)) as here:
            answer = post(here, "/destinations/PACS/check")
    assert (answer["answers"], answer["detail"]) == (True, "answers C-ECHO")


def test_destinations_show_their_last_error_and_no_secret(tmp_path: Path) -> None:
    there = Destination(
        name="pacs", stow_url="https://pacs.example/dicom-web", username="u", password="hunter2"
    )
    with site(f"sqlite:///{tmp_path / 'o.db'}", tmp_path, destinations=(there,)) as here:
        study_id = here.add(rows.add_analysed_study)
        job_id = here.get("/jobs")["items"][0]["id"]
        result_id = here.add(rows.add_result, study_id=study_id, job_id=job_id, role="seg")
        here.add(
            rows.add_delivery,
            study_id=study_id,
            result_id=result_id,
            state=DeliveryState.PARKED,
            delivered_at=None,
            reason="STATUS_A700",
            message="the PACS is full",
        )
        text = here.client.get("/api/v1/destinations").text
        (item,) = here.get("/destinations")["items"]
    assert "hunter2" not in text
    assert item["traffic"]["last_error"]["message"] == "the PACS is full"
    assert item["traffic"]["deliveries"] == {"DELIVERED": 1, "PARKED": 1}


def test_disk_and_retention_say_what_goes_next(here: Site) -> None:
    kept_until = LATER - timedelta(days=30)
    for days, state in ((1, StudyState.ANALYSED), (2, StudyState.QUEUED), (-0.5, "ANALYSED")):
        at = kept_until - timedelta(days=days)
        here.add(rows.add_study, received_at=at, last_received_at=at, state=state)
    stored = here.get("/storage")
    assert stored["keep_days"] == 30
    assert 0 < stored["free_bytes"] <= stored["total_bytes"]
    kept = stored["kept"]
    assert (kept["studies"], kept["expired"], kept["expiring"], kept["held_back"]) == (3, 2, 1, 1)


def test_labels_are_set_filtered_by_and_told(here: Site) -> None:
    first, second = (here.uid(here.add(rows.add_study)) for _ in range(2))
    address = f"/api/v1/studies/{first}/labels"
    marked = here.client.put(address, json={"labels": ["  teaching ", "二読", "teaching"]}).json()
    assert marked["labels"] == ["teaching", "二読"]
    listed = here.get("/worklist", params={"label": "二読"})["items"]
    assert [item["study_instance_uid"] for item in listed] == [first]
    assert listed[0]["labels"] == ["teaching", "二読"]
    assert here.get("/labels")["items"][0]["studies"] == 1
    assert here.client.put(address, json={"labels": []}).json()["labels"] == []
    assert here.get("/worklist", params={"label": "teaching"})["items"] == []
    assert len(here.get("/worklist")["items"]) == len({first, second})


@pytest.mark.parametrize("label", ["", "   ", "x" * 65, "line\nbreak\x07", "\u202e"])
def test_a_label_that_cannot_be_kept_is_refused_by_name(here: Site, label: str) -> None:
    uid = here.uid(here.add(rows.add_study))
    refused = here.client.put(f"/api/v1/studies/{uid}/labels", json={"labels": [label]})
    assert refused.status_code == 422
    assert "labels" in refused.json()["detail"]


def test_the_worklist_says_who_reads_what(here: Site) -> None:
    uid, other = (here.uid(here.add(rows.add_study)) for _ in range(2))
    body = {"state": "READING", "reader": "Dr. Østergård"}
    assert here.client.put(f"/api/v1/studies/{uid}/reading", json=body).status_code == 200
    taken = here.get("/worklist", params={"reading": "READING"})["items"]
    assert [(one["study_instance_uid"], one["reading"]["reader"]) for one in taken] == [
        (uid, "Dr. Østergård")
    ]
    unread = here.get("/worklist", params={"reading": "UNREAD"})["items"]
    assert [one["study_instance_uid"] for one in unread] == [other]
    here.client.put(f"/api/v1/studies/{uid}/reading", json={"state": "UNREAD"})
    assert len(here.get("/worklist", params={"reading": "UNREAD"})["items"]) == 2
