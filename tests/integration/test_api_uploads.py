"""Instances over HTTP: kept durably, refused with a reason, never half."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.records.worklist_query import WorklistQuery
from tests.builders.dicom import ct_series, part10
from tests.builders.http import Site, site
from tests.builders.studies import ball_package, chest_study

pytestmark = pytest.mark.faults(number=37)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("uploads")
    http = {"max_upload_bytes": 4 << 20}
    with site(f"sqlite:///{folder / 'overread.db'}", folder, http=http) as here:
        yield here


@pytest.fixture
def here(opened: Site) -> Site:
    opened.empty()
    return opened


def slices(count: int = 3) -> list[bytes]:
    name = uuid.uuid4().hex
    return [part10(one) for one in ct_series(slices=count, name=name, study=name)]


def multipart(parts: list[bytes], kind: str = "related") -> dict[str, Any]:
    boundary = "9f1c"
    body = b"".join(
        b"--9f1c\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts
    )
    kinds = f'multipart/{kind}; type="application/dicom"; boundary={boundary}'
    return {"content": body + b"--9f1c--\r\n", "headers": {"content-type": kinds}}


def one(part: bytes) -> dict[str, Any]:
    return {"content": part, "headers": {"content-type": "application/dicom"}}


def left_over(here: Site) -> list[Path]:
    return list((here.settings.data_dir / "incoming").iterdir())


def test_one_instance_appears_in_the_worklist(here: Site) -> None:
    (part,) = slices(1)
    answer = here.client.post("/api/v1/studies", **one(part))
    assert answer.status_code == 200
    (stored,) = answer.json()["stored"]
    assert stored["outcome"] == "NEW"
    (item,) = here.get("/worklist")["items"]
    assert item["study_instance_uid"] == stored["study_instance_uid"]
    assert (item["state"], item["instances_count"]) == ("RECEIVING", 1)
    assert left_over(here) == []


def test_the_same_instance_again_changes_nothing(here: Site) -> None:
    (part,) = slices(1)
    here.client.post("/api/v1/studies", **one(part))
    again = here.client.post("/api/v1/studies", **one(part))
    assert (again.status_code, again.json()["stored"][0]["outcome"]) == (200, "DUPLICATE")
    assert here.get("/worklist")["items"][0]["instances_count"] == 1


@pytest.mark.parametrize("kind", ["related", "form-data"])
def test_several_instances_come_in_one_request(here: Site, kind: str) -> None:
    answer = here.client.post("/api/v1/studies", **multipart(slices(3), kind))
    assert answer.status_code == 200
    assert len(answer.json()["stored"]) == 3
    assert here.get("/worklist")["items"][0]["instances_count"] == 3


def test_a_bad_instance_among_good_ones_is_named(here: Site) -> None:
    good = slices(2)
    answer = here.client.post("/api/v1/studies", **multipart([good[0], b"no dicom", good[1]]))
    assert answer.status_code == 202
    assert len(answer.json()["stored"]) == 2
    assert [failed["reason"] for failed in answer.json()["failed"]] == ["NOT_A_DICOM_FILE"]


def test_nothing_but_bad_instances_is_a_problem_with_the_reason(here: Site) -> None:
    answer = here.client.post("/api/v1/studies", **one(b"x" * 4000))
    assert (answer.status_code, answer.json()["reason"]) == (409, "NOT_A_DICOM_FILE")
    assert here.get("/worklist")["items"] == []
    assert left_over(here) == []


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"content": b"{}", "headers": {"content-type": "application/json"}}, 415),
        ({"content": b"x"}, 415),
        ({"content": b"x", "headers": {"content-type": "multipart/related"}}, 400),
        (multipart([]), 400),
        ({**multipart(slices(1)), "content": b"--9f1c\r\n\r\nno end"}, 400),
    ],
    ids=["json", "no type", "no boundary", "no parts", "cut off"],
)
def test_a_wrong_body_is_refused_by_its_own_status(
    here: Site, given: dict[str, Any], status: int
) -> None:
    answer = here.client.post("/api/v1/studies", **given)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert left_over(here) == []


def test_an_upload_beyond_the_limit_leaves_nothing(here: Site) -> None:
    (part,) = slices(1)
    body = (piece for piece in (part[:-2], *[b"\0" * 65536] * 80))
    answer = here.client.post(
        "/api/v1/studies", content=body, headers={"content-type": "application/dicom"}
    )
    assert (answer.status_code, answer.json()["reason"]) == (413, "TOO_LARGE")
    assert left_over(here) == []
    with here.records.reading():
        assert here.get("/worklist", params={"limit": WorklistQuery().limit})["items"] == []


def test_stow_answers_in_dicom_json_with_where_to_retrieve(here: Site) -> None:
    parts = slices(2)
    answer = here.client.post("/dicom-web/studies", **multipart(parts))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    (item,) = here.get("/worklist")["items"]
    place = f"/dicom-web/studies/{item['study_instance_uid']}"
    assert answer.json()["00081190"]["Value"][0].endswith(place)
    assert len(answer.json()["00081199"]["Value"]) == 2


def test_stow_to_another_study_is_refused_in_dicom_json(here: Site) -> None:
    answer = here.client.post("/dicom-web/studies/1.2.3", **one(slices(1)[0]))
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/dicom+json"
    assert answer.json()["00081198"]["Value"][0]["00081197"]["Value"]
    assert here.get("/worklist")["items"] == []


def test_a_study_is_run_on_the_model_asked_for_and_again_only_by_force(
    here: Site, tmp_path: Path
) -> None:
    package = ball_package(here.settings.models.dir)
    study = chest_study(tmp_path)
    for file in study.files:
        assert here.client.post("/api/v1/studies", **one(file.read_bytes())).status_code == 200
    path = f"/api/v1/studies/{study.study_instance_uid}/jobs"
    asked = {"task": package.task, "priority": "STAT"}
    answer = here.client.post(path, json=asked)
    assert answer.status_code == 202
    (job_id,) = answer.json()["job_ids"]
    job = here.get(f"/jobs/{job_id}")
    assert (job["state"], job["priority"], job["task"]) == ("SCHEDULED", "STAT", package.task)
    assert job["model"]["sha256"] == package.sha256
    assert here.client.post(path, json=asked).json()["job_ids"] == [job_id]
    (forced,) = here.client.post(path, json={**asked, "force": True}).json()["job_ids"]
    assert forced != job_id
    assert here.get(f"/jobs/{job_id}")["state"] == "CANCELED"
