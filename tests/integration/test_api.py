"""The JSON face over real databases: worklist, studies, findings, jobs, deliveries, figures."""

import contextlib
import shutil
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from service.core.packages import ModelPackage
from service.core.states import DeliveryState, JobState, Priority, StudyState
from service.records.worklist_query import WorklistSort
from tests.builders import onnx, rows
from tests.builders.http import Site, many_studies, site
from tests.builders.packages import manifest, write_package

UNKNOWN = "1.2.840.99999"


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peers)]
)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("api")
    with contextlib.ExitStack() as stack:
        url = f"sqlite:///{folder / 'overread.db'}"
        if request.param == "postgresql":
            url = stack.enter_context(request.getfixturevalue("postgres_server").new_database())
        yield stack.enter_context(site(url, folder))


@pytest.fixture
def here(opened: Site) -> Site:
    opened.empty()
    return opened


def uids(answer: dict[str, Any]) -> list[str]:
    return [item["study_instance_uid"] for item in answer["items"]]


def problem(here: Site, method: str, path: str, **given: Any) -> tuple[int, str]:
    answer = here.client.request(method, f"/api/v1{path}", **given)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status_code
    return answer.status_code, answer.json()["reason"]


def test_an_empty_worklist_is_an_empty_page(here: Site) -> None:
    assert here.get("/worklist") == {"items": [], "next": None}


def test_an_item_says_everything_that_the_worklist_shows(here: Site) -> None:
    study_id = here.add(rows.add_analysed_study, patient_name="Doe^Jane=山田", urgency=0.93)
    (item,) = here.get("/worklist")["items"]
    (task,) = item.pop("tasks")
    assert item["study_instance_uid"] == here.uid(study_id)
    assert item["patient_name"] == "Doe^Jane=山田"
    assert (item["patient_birth_date"], item["study_date"]) == ("1961-04-30", "2026-11-20")
    assert item["received_at"] == "2026-11-20T09:30:00Z"
    assert (item["state"], item["priority"], item["urgency"]) == ("ANALYSED", "ROUTINE", 0.93)
    assert item["modalities"] == ["CT"]
    assert (task["task"], task["version"]) == ("lung_nodule_detection", "1.0.0")
    assert (task["state"], task["findings_count"], task["top_probability"]) == (
        "COMPLETED",
        2,
        0.93,
    )


def test_a_model_that_suits_no_series_says_why(here: Site) -> None:
    study_id = here.add(rows.add_study, state=StudyState.NOT_ANALYSED)
    series_id = here.add(rows.add_series, study_id=study_id)
    here.add(rows.add_assessment, study_id=study_id)
    here.add(rows.add_assessment, study_id=study_id, series_id=series_id, reason="LOCALIZER")
    (task,) = here.get("/worklist")["items"][0]["tasks"]
    assert (task["state"], task["reason"]) == ("NOT_APPLICABLE", "SLICE_GAP")
    assert task["message"] == "a gap of 12.5 mm after slice 84"
    assert (task["job_id"], task["findings_count"]) == (None, 0)


def test_shadow_and_replaced_runs_are_no_part_of_the_worklist(here: Site) -> None:
    study_id = here.add(rows.add_study)
    series_id = here.add(rows.add_series, study_id=study_id)
    here.add(rows.add_job, study_id=study_id, series_id=series_id, current=False)
    here.add(rows.add_job, study_id=study_id, series_id=series_id, shadow=True)
    assert here.get("/worklist")["items"][0]["tasks"] == []


@pytest.mark.parametrize("sort", [sort.value for sort in WorklistSort])
def test_pages_hold_every_study_once_in_the_order_asked(here: Site, sort: str) -> None:
    here.add(many_studies, count=11)
    whole = uids(here.get("/worklist", params={"sort": sort}))
    paged, cursor = [], None
    while True:
        params = {"sort": sort, "limit": 3} | ({"cursor": cursor} if cursor else {})
        page = here.get("/worklist", params=params)
        paged += uids(page)
        if not (cursor := page["next"]):
            break
    assert paged == whole
    assert len(set(whole)) == 11
    opposite = sort.removeprefix("-") if sort.startswith("-") else f"-{sort}"
    assert uids(here.get("/worklist", params={"sort": opposite})) == whole[::-1]


def test_the_most_urgent_comes_first_and_the_newest_among_equals(here: Site) -> None:
    here.add(many_studies, count=9)
    items = here.get("/worklist")["items"]
    keys = [(item["urgency"], item["received_at"]) for item in items]
    assert keys == sorted(keys, reverse=True)


def test_studies_that_come_in_while_paging_shift_nothing(here: Site) -> None:
    here.add(many_studies, count=6)
    first = here.get("/worklist", params={"limit": 3})
    before = uids(here.get("/worklist"))
    here.add(rows.add_study, urgency=1.0)
    second = here.get("/worklist", params={"limit": 3, "cursor": first["next"]})
    assert uids(first) + uids(second) == before


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"patient_id": "P-7"}, ["b"]),
        ({"patient_id": "P-*"}, ["a", "b"]),
        ({"patient_id": "P_7"}, []),
        ({"patient_name": "müller anna"}, ["a"]),
        ({"accession_number": "ACC1"}, ["a"]),
        ({"modality": "DX"}, ["b"]),
        ({"modality": "X"}, []),
        ({"modality": ["CT", "MG"]}, ["a", "c"]),
        ({"state": "FAILED"}, ["b"]),
        ({"state": "FAILED,QUEUED"}, ["b", "c"]),
        ({"priority": "STAT"}, ["c"]),
        ({"task": "chest_xray"}, ["b"]),
        ({"task": "nothing"}, []),
        ({"received_from": "2026-11-20T10:00:00Z"}, ["b", "c"]),
        ({"received_to": "2026-11-20T11:00:00+01:00"}, ["a"]),
        ({"study_date_from": "2026-02-01"}, ["b"]),
        ({"study_date_to": "20260131"}, ["a"]),
        ({"min_urgency": 0.5}, ["a"]),
        ({"q": "ACC"}, ["a", "b"]),
        ({"q": "knee acc2"}, ["b"]),
        ({"q": "100%"}, ["c"]),
        ({"q": "50% off"}, []),
        ({"q": "%"}, ["c"]),
        ({"q": "'; DROP TABLE studies; --"}, []),
    ],
)
def test_each_filter_keeps_what_it_names(
    here: Site, asked: dict[str, Any], names: list[str]
) -> None:
    add_three(here)
    found = here.get("/worklist", params={**asked, "sort": "study_date"})["items"]
    assert sorted(item["accession_number"][-1:] for item in found) == sorted(
        {"a": "1", "b": "2", "c": "3"}[name] for name in names
    )


def add_three(here: Site) -> None:
    here.add(
        rows.add_study,
        patient_id="P-1",
        patient_name="Müller^Anna",
        accession_number="ACC1",
        modalities="CT",
        study_date="20260131",
        urgency=0.8,
    )
    second = here.add(
        rows.add_study,
        patient_id="P-7",
        accession_number="ACC2",
        modalities="DX,OT",
        study_description="Knee",
        state=StudyState.FAILED,
        study_date="20260815",
        received_at=rows.NOW + timedelta(hours=1),
    )
    series_id = here.add(rows.add_series, study_id=second)
    here.add(rows.add_job, study_id=second, series_id=series_id, task="chest_xray")
    here.add(
        rows.add_study,
        patient_id="Q%1",
        accession_number="3",
        modalities="MG",
        study_description="100% quality",
        state=StudyState.QUEUED,
        priority=Priority.STAT,
        study_date="",
        received_at=rows.NOW + timedelta(hours=2),
    )


@pytest.mark.parametrize(
    "asked",
    [
        {"limit": 0},
        {"sort": "colour"},
        {"colour": "red"},
        {"q": "\0"},
        {"state": "DONE"},
        {"min_urgency": "nan"},
        {"study_date_from": "2026-02-30"},
    ],
)
def test_a_wrong_question_names_its_field_and_not_its_value(
    here: Site, asked: dict[str, Any]
) -> None:
    answer = here.client.get("/api/v1/worklist", params=asked)
    body = answer.json()
    assert (answer.status_code, body["reason"]) == (422, "INVALID_REQUEST")
    assert [fault["field"].split(".")[1] for fault in body["errors"]] == list(asked)
    assert set(body["errors"][0]) == {"field", "message"}


def test_a_cursor_of_another_sort_is_refused(here: Site) -> None:
    here.add(many_studies, count=3)
    cursor = here.get("/worklist", params={"limit": 1})["next"]
    assert problem(here, "GET", f"/worklist?sort=patient_id&cursor={cursor}") == (422, "CURSOR")
    assert problem(here, "GET", "/worklist?cursor=made-up") == (422, "CURSOR")


def test_a_study_tells_its_series_and_what_suits_whom(here: Site) -> None:
    study_id = here.add(rows.add_analysed_study)
    here.add(rows.add_assessment, study_id=study_id, model_name="m2", task="other")
    found = here.get(f"/studies/{here.uid(study_id)}")
    (series,) = found["series"]
    (fit,) = series["eligibility"]
    assert (fit["model"], fit["eligible"], fit["chosen"]) == ("lung_nodule_detection", True, True)
    (refusal,) = found["eligibility"]
    assert (refusal["reason"], refusal["message"]) == (
        "SLICE_GAP",
        "a gap of 12.5 mm after slice 84",
    )
    assert found["completed_at"] == "2026-11-20T09:30:24Z"
    assert [job["state"] for job in found["jobs"]] == ["COMPLETED"]
    assert found["tasks"]


@pytest.mark.parametrize("rest", ["", "/findings", "/results"])
def test_an_unknown_study_is_404(here: Site, rest: str) -> None:
    assert problem(here, "GET", f"/studies/{UNKNOWN}{rest}") == (404, "STUDY_UNKNOWN")


@pytest.mark.parametrize("uid", ["1.02", "x", "%00", "..%2f..%2fetc", "1." * 33, "1.2;drop"])
def test_what_is_no_uid_is_refused_by_name(here: Site, uid: str) -> None:
    answer = here.client.get(f"/api/v1/studies/{uid}")
    assert answer.status_code in {404, 422}
    assert answer.headers["content-type"] == "application/problem+json"


def test_findings_carry_place_measurements_and_model(here: Site) -> None:
    study_id = here.add(rows.add_analysed_study)
    found = here.get(f"/studies/{here.uid(study_id)}/findings")["items"]
    assert [item["qualifier"] for item in found] == ["present", "indeterminate", "absent"]
    first = found[0]
    assert first["label"] == {"code": "27925004", "scheme": "SCT", "meaning": "Nodule"}
    assert first["location"]["center_mm"] == [-61.5, 12.0, -140.25]
    assert first["location"]["regions"][0]["points"][0] == [200.0, 220.0]
    assert first["measurements"][0] | {"code": None} == {
        "name": "long_axis",
        "value": 14.2,
        "unit": "mm",
        "code": None,
    }
    assert first["model"] == {
        "name": "lung_nodule_detection",
        "version": "1.0.0",
        "sha256": "a" * 64,
    }
    assert first["tracking_uid"].startswith("2.25.")
    assert first["location"]["segment"] is None
    only = here.get(f"/studies/{here.uid(study_id)}/findings", params={"qualifier": "present"})
    assert [item["id"] for item in only["items"]] == [first["id"]]


def test_a_finding_names_its_segment_once_there_is_one(here: Site) -> None:
    study_id = here.add(rows.add_analysed_study)
    job_id = here.get("/jobs")["items"][0]["id"]
    here.add(
        rows.add_result, study_id=study_id, job_id=job_id, role="seg", sop_instance_uid="1.2.77"
    )
    first = here.get(f"/studies/{here.uid(study_id)}/findings")["items"][0]
    assert first["location"]["segment"] == {"sop_instance_uid": "1.2.77", "segment_number": 1}


def test_findings_of_a_replaced_run_give_way(here: Site) -> None:
    study_id = here.add(rows.add_analysed_study, probabilities=(0.9,))
    series_id = here.add(rows.add_series, study_id=study_id)
    old = here.add(rows.add_job, study_id=study_id, series_id=series_id, current=False)
    lost = rows.nodule(old, 0, probability=0.7, sop_instance_uid="1.2.3")
    here.add(rows.add_findings, study_id=study_id, job_id=old, found=[lost])
    found = here.get(f"/studies/{here.uid(study_id)}/findings")["items"]
    assert [item["probability"] for item in found] == [0.9]
    assert here.get(f"/findings/{lost.id}")["probability"] == 0.7


def test_an_operating_point_of_a_model_that_is_gone_is_refused(here: Site) -> None:
    study_id = here.add(rows.add_analysed_study)
    path = f"/studies/{here.uid(study_id)}/findings?operating_point=sensitive"
    assert problem(here, "GET", path) == (422, "OPERATING_POINT")


def add_judged(here: Site, package: ModelPackage, *probabilities: float) -> str:
    study_id = here.add(rows.add_study)
    series_id = here.add(rows.add_series, study_id=study_id)
    job_id = here.add(
        rows.add_job,
        study_id=study_id,
        series_id=series_id,
        task=package.task,
        model_name=package.name,
        model_version=package.version,
        model_sha256=package.sha256,
    )
    found = [
        rows.nodule(job_id, rank, probability=probability, sop_instance_uid="1.2.3")
        for rank, probability in enumerate(probabilities)
    ]
    here.add(rows.add_findings, study_id=study_id, job_id=job_id, found=found)
    return here.uid(study_id)


@pytest.fixture
def package(here: Site) -> Iterator[ModelPackage]:
    folder = here.settings.models.dir
    yield write_package(
        folder, manifest(), {"detector": onnx.detector(threshold=0.5, diameter_mm=12.0)}
    )
    shutil.rmtree(folder / "test_package")


def test_another_operating_point_judges_the_stored_candidates_anew(
    here: Site, package: ModelPackage
) -> None:
    uid = add_judged(here, package, 0.8, 0.3, 0.2, 0.05)

    def judged(point: str) -> list[str]:
        path = f"/studies/{uid}/findings"
        items = here.get(path, params={"operating_point": point})["items"]
        assert {item["operating_point"] for item in items} == {point}
        return [item["qualifier"] for item in items]

    assert judged("balanced") == ["present", "indeterminate", "absent", "absent"]
    assert judged("sensitive") == ["present", "present", "indeterminate", "absent"]
    unknown = problem(here, "GET", f"/studies/{uid}/findings?operating_point=bold")
    assert unknown == (422, "OPERATING_POINT")


def test_a_changed_package_no_longer_judges_what_the_old_one_found(
    here: Site, package: ModelPackage
) -> None:
    uid = add_judged(here, package, 0.8)
    write_package(
        here.settings.models.dir,
        manifest(calibration={"method": "temperature", "temperature": 2.0}),
        {"detector": onnx.detector(threshold=0.5, diameter_mm=12.0)},
    )
    path = f"/studies/{uid}/findings?operating_point=sensitive"
    assert problem(here, "GET", path) == (422, "OPERATING_POINT")


def test_a_model_tells_its_digest_points_and_how_readers_took_it(
    here: Site, package: ModelPackage
) -> None:
    uid = add_judged(here, package, 0.8)
    (package.folder / "card.md").write_text("# A card")
    finding = here.get(f"/studies/{uid}/findings")["items"][0]["id"]
    here.client.put(f"/api/v1/findings/{finding}/review", json={"verdict": "accepted"})
    (item,) = here.get("/models")["items"]
    assert (item["name"], item["version"], item["sha256"]) == (
        "test_package",
        "1.2.3",
        package.sha256,
    )
    assert (item["runs"], item["reviewed"], item["accepted"]) == ({"COMPLETED": 1}, 1, 1)
    assert [point["name"] for point in item["operating_points"]] == ["balanced", "sensitive"]
    detail = here.get("/models/test_package")
    assert detail | item == detail
    assert detail["card"] == "# A card"
    assert detail["manifest"]["package"]["title"] == "A package for tests"
    assert problem(here, "GET", "/models/nothing") == (404, "MODEL_UNKNOWN")


def test_a_study_that_suits_no_model_gets_no_job(here: Site, package: ModelPackage) -> None:
    study_id = here.add(rows.add_study)
    series_id = here.add(rows.add_series, study_id=study_id)
    here.add(rows.add_instance, study_id=study_id, series_id=series_id, modality="CT")
    answer = here.client.post(f"/api/v1/studies/{here.uid(study_id)}/jobs")
    assert (answer.status_code, answer.json()) == (202, {"job_ids": []})


def test_the_newest_review_counts_and_all_are_kept(here: Site) -> None:
    study_id = here.add(rows.add_analysed_study)
    path = f"/studies/{here.uid(study_id)}/findings"
    finding = here.get(path)["items"][0]["id"]
    for verdict, comment in (("accepted", ""), ("rejected", "vessel\nnot a nodule")):
        body = {"verdict": verdict, "comment": comment, "reviewer": "reader-7"}
        answer = here.client.put(f"/api/v1/findings/{finding}/review", json=body)
        assert answer.status_code == 200
        assert answer.json()["review"]["verdict"] == verdict
    assert here.get(path)["items"][0]["review"]["comment"] == "vessel\nnot a nodule"
    kept = here.get(f"/findings/{finding}/reviews")["items"]
    assert [review["verdict"] for review in kept] == ["accepted", "rejected"]


def test_an_edit_says_what_was_changed(here: Site) -> None:
    here.add(rows.add_analysed_study)
    uid = here.get("/worklist")["items"][0]["study_instance_uid"]
    finding = here.get(f"/studies/{uid}/findings")["items"][0]["id"]
    changes = {"long_axis_mm": 12.5, "center_mm": [1.0, 2.0, 3.0]}
    body = {"verdict": "edited", "changes": changes}
    answer = here.client.put(f"/api/v1/findings/{finding}/review", json=body)
    assert answer.json()["review"]["changes"] == changes


@pytest.mark.faults(number=37)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"verdict": NaN}',
        b'{"verdict": "maybe"}',
        b'{"verdict": "accepted", "comment": "\\ud800"}',
        b'{"verdict": "accepted", "comment": "\\u0000"}',
        b'{"verdict": "accepted", "comment": 7}',
        b'{"verdict": "accepted", "comment": "' + b"x" * 4001 + b'"}',
        b'{"verdict": "accepted", "reviewer": "two\\nlines"}',
        b'{"verdict": "accepted", "changes": {"long_axis_mm": 3}}',
        b'{"verdict": "edited", "changes": {"long_axis_mm": 1e99999}}',
        b'{"verdict": "edited", "changes": {"long_axis_mm": -Infinity}}',
        b'{"verdict": "edited", "changes": {"center_mm": [1, 2, NaN]}}',
        b'{"verdict": "edited", "changes": {"center_mm": [1, 2]}}',
        b'{"verdict": "edited", "changes": {"colour": "red"}}',
        b'{"verdict": "accepted", "colour\\n": 1}',
        b'{"verdict": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_wrong_review_is_refused_without_an_echo(here: Site, body: bytes) -> None:
    finding = "0" * 8 + "-0000-0000-0000-" + "0" * 12
    answer = here.client.put(
        f"/api/v1/findings/{finding}/review",
        content=body,
        headers={"content-type": "application/json"},
    )
    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["reason"] in {"INVALID_REQUEST", "BAD_REQUEST"}
    assert "maybe" not in answer.text
    assert "xxxx" not in answer.text


def test_a_review_of_an_unknown_finding_is_404(here: Site) -> None:
    path = f"/findings/{'0' * 8}-0000-0000-0000-{'0' * 12}"
    accepted = {"verdict": "accepted"}
    assert problem(here, "PUT", f"{path}/review", json=accepted) == (404, "FINDING_UNKNOWN")
    assert problem(here, "GET", path) == (404, "FINDING_UNKNOWN")
    assert problem(here, "GET", f"{path}/reviews") == (404, "FINDING_UNKNOWN")


def test_jobs_are_listed_newest_first_and_filtered(here: Site) -> None:
    study_id = here.add(rows.add_study)
    series_id = here.add(rows.add_series, study_id=study_id)
    made = [
        here.add(
            rows.add_job,
            study_id=study_id,
            series_id=series_id,
            state=JobState.FAILED if number % 2 else JobState.COMPLETED,
            task=f"task_{number}",
            created_at=rows.NOW + timedelta(seconds=number // 2),
        )
        for number in range(5)
    ]
    ids, cursor = [], None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = here.get("/jobs", params=params)
        ids += [job["id"] for job in page["items"]]
        if not (cursor := page["next"]):
            break
    assert sorted(ids) == sorted(made)
    assert set(ids[:1]) == {made[4]}
    failed = here.get("/jobs", params={"state": "FAILED"})["items"]
    assert {job["id"] for job in failed} == {made[1], made[3]}
    (one,) = here.get("/jobs", params={"task": "task_2"})["items"]
    assert one["timings_s"] == {"volume": 1.2, "network": 18.4, "results": 0.6}
    assert here.get("/jobs", params={"study_instance_uid": UNKNOWN})["items"] == []
    assert here.get(f"/jobs/{made[2]}") == one


def test_a_failed_job_is_tried_again_and_then_canceled(here: Site) -> None:
    study_id = here.add(rows.add_study, state=StudyState.FAILED)
    series_id = here.add(rows.add_series, study_id=study_id)
    job_id = here.add(
        rows.add_job, study_id=study_id, series_id=series_id, state=JobState.FAILED, attempts=3
    )
    retried = here.client.post(f"/api/v1/jobs/{job_id}/retry")
    assert (retried.status_code, retried.json()["state"]) == (200, "SCHEDULED")
    assert retried.json()["attempts"] == 0
    assert here.get("/worklist")["items"][0]["state"] == "QUEUED"
    canceled = here.client.post(f"/api/v1/jobs/{job_id}/cancel")
    assert canceled.json()["state"] == "CANCELED"
    assert problem(here, "POST", f"/jobs/{job_id}/cancel") == (409, "JOB_STATE")


def test_an_unknown_or_finished_job_cannot_be_moved(here: Site) -> None:
    here.add(rows.add_analysed_study)
    done = here.get("/jobs")["items"][0]["id"]
    assert problem(here, "POST", f"/jobs/{done}/retry") == (409, "JOB_STATE")
    assert problem(here, "POST", f"/jobs/{'0' * 32}/retry") == (404, "JOB_UNKNOWN")
    assert problem(here, "GET", f"/jobs/{'0' * 32}") == (404, "JOB_UNKNOWN")
    assert problem(here, "GET", "/jobs/x") == (422, "INVALID_REQUEST")


def test_results_show_where_they_went(here: Site) -> None:
    study_id = here.add(rows.add_analysed_study)
    (result,) = here.get(f"/studies/{here.uid(study_id)}/results")["items"]
    assert (result["role"], result["state"]) == ("sr", "VALID")
    (delivery,) = result["deliveries"]
    assert (delivery["destination"], delivery["state"]) == ("pacs", "DELIVERED")
    assert delivery["delivered_at"] == "2026-11-20T09:30:48Z"


def test_deliveries_are_listed_filtered_and_sent_again(here: Site) -> None:
    for destination, state in (("pacs", DeliveryState.PARKED), ("vna", DeliveryState.SCHEDULED)):
        study_id = here.add(rows.add_study)
        series_id = here.add(rows.add_series, study_id=study_id)
        job_id = here.add(rows.add_job, study_id=study_id, series_id=series_id)
        result_id = here.add(rows.add_result, study_id=study_id, job_id=job_id)
        here.add(
            rows.add_delivery,
            study_id=study_id,
            result_id=result_id,
            destination=destination,
            state=state,
            delivered_at=None,
        )
    first = here.get("/deliveries", params={"limit": 1})
    second = here.get("/deliveries", params={"limit": 1, "cursor": first["next"]})
    assert [page["items"][0]["destination"] for page in (first, second)] == ["vna", "pacs"]
    assert second["next"] is None
    (parked,) = here.get("/deliveries", params={"state": "PARKED"})["items"]
    assert here.get("/deliveries", params={"destination": "pacs"})["items"] == [parked]
    again = here.client.post(f"/api/v1/deliveries/{parked['id']}/retry")
    assert (again.status_code, again.json()["state"]) == (200, "SCHEDULED")
    on_its_way = first["items"][0]["id"]
    assert problem(here, "POST", f"/deliveries/{on_its_way}/retry") == (409, "DELIVERY_STATE")
    assert problem(here, "POST", "/deliveries/4711/retry") == (404, "DELIVERY_UNKNOWN")
    assert problem(here, "GET", f"/deliveries/{2**31}") == (422, "INVALID_REQUEST")


def test_running_again_needs_a_study_and_a_model(here: Site) -> None:
    study_id = here.add(rows.add_analysed_study)
    path = f"/studies/{here.uid(study_id)}/jobs"
    assert problem(here, "POST", path, json={"task": "none"}) == (422, "MODEL_UNKNOWN")
    assert problem(here, "POST", path, json={"tasks": ["x"]}) == (422, "INVALID_REQUEST")
    assert problem(here, "POST", f"/studies/{UNKNOWN}/jobs")[0] in {404, 422}


def test_figures_count_runs_reviews_and_scores(here: Site) -> None:
    study_id = here.add(rows.add_analysed_study, probabilities=(0.93, 0.31, 1.0))
    finding = here.get(f"/studies/{here.uid(study_id)}/findings")["items"][0]["id"]
    here.client.put(f"/api/v1/findings/{finding}/review", json={"verdict": "rejected"})
    here.client.put(f"/api/v1/findings/{finding}/review", json={"verdict": "accepted"})
    figures = here.get("/statistics")
    assert figures["volumes"] == [{"day": "2026-11-20", "studies": 1, "instances": 1}]
    (model,) = figures["models"]
    assert (model["runs"], model["reviews"]) == ({"COMPLETED": 1}, {"accepted": 1})
    (scores,) = figures["scores"]
    assert (scores["manufacturer"], scores["scanner"]) == ("ACME", "Scan 3000")
    assert scores["counts"] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 2]
    assert scores["reviews"] == {"accepted": 1}
    stages = {stage["stage"]: stage["median_s"] for stage in figures["latencies"]}
    assert stages == {"queued": 2.0, "run": 21.0, "sent": 1.0, "total": 39.0}
    empty = here.get("/statistics", params={"received_to": "2026-01-01T00:00:00Z"})
    assert (empty["volumes"], empty["models"], empty["scores"]) == ([], [], [])
    later = "/statistics?received_from=2026-11-21T00:00:00Z&received_to=2026-11-20T00:00:00Z"
    assert problem(here, "GET", later) == (422, "INVALID_REQUEST")


def test_metrics_count_what_stands_where_and_name_nobody(here: Site) -> None:
    here.add(rows.add_analysed_study, patient_name="Secret^Person", patient_id="HIDDEN-1")
    uid = here.get("/worklist")["items"][0]["study_instance_uid"]
    here.get(f"/studies/{uid}")
    text = here.client.get("/metrics").text
    assert 'overread_studies{state="ANALYSED"} 1.0' in text
    assert 'overread_deliveries{destination="pacs",state="DELIVERED"} 1.0' in text
    assert 'overread_results{role="sr",state="VALID"} 1.0' in text
    assert 'route="/api/v1/studies/{study_instance_uid}"' in text
    assert "overread_database_up 1.0" in text
    for secret in ("Secret", "HIDDEN-1", uid):
        assert secret not in text


def test_readiness_names_what_is_missing(here: Site) -> None:
    answer = here.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["missing"] == ["redis", "worker"]
    assert answer.json()["checks"]["database"] == {"ok": True, "detail": "answers"}
    assert here.client.get("/healthz").json() == {"status": "ok"}
