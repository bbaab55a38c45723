"""What readers made of findings leaves as COCO, without anything that names a patient."""

from collections.abc import Iterator

import pytest

from tests.builders import rows
from tests.builders.http import LATER, Site, site


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("exports")
    with site(f"sqlite:///{folder / 'o.db'}", folder) as made:
        yield made


@pytest.fixture
def here(whole: Site) -> Iterator[Site]:
    yield whole
    whole.empty()


def test_reviewed_findings_leave_with_boxes_verdicts_and_changes(here: Site) -> None:
    study_id = here.add(rows.add_analysed_study, patient_name="Secret^Name", patient_id="HUSH")
    first, second, _ = here.get(f"/studies/{here.uid(study_id)}/findings")["items"]
    changes = {"label": {"value": "45647009", "scheme": "SCT", "meaning": "Granuloma"}}
    for finding, body in (
        (first, {"verdict": "rejected"}),
        (second, {"verdict": "accepted"}),
        (second, {"verdict": "edited", "changes": changes}),
    ):
        answer = here.client.put(f"/api/v1/findings/{finding['id']}/review", json=body)
        assert answer.status_code == 200, answer.text
    text = here.client.get("/api/v1/exports/coco").text
    assert "Secret" not in text
    assert "HUSH" not in text
    coco = here.get("/exports/coco")
    (image,) = coco["images"]
    assert (image["file_name"], image["width"]) == (first["location"]["sop_instance_uid"], 512)
    by_finding = {one["attributes"]["finding_id"]: one for one in coco["annotations"]}
    assert by_finding[first["id"]]["bbox"] == [200.0, 220.0, 24.0, 26.0]
    assert by_finding[first["id"]]["attributes"]["verdict"] == "rejected"
    assert by_finding[second["id"]]["attributes"]["changes"] == changes
    names = {one["id"]: one["name"] for one in coco["categories"]}
    assert names[by_finding[second["id"]]["category_id"]] == "Granuloma"
    assert {one["image_id"] for one in coco["annotations"]} == {image["id"]}


def test_only_the_time_asked_for_is_given(here: Site) -> None:
    study_id = here.add(rows.add_analysed_study)
    finding = here.get(f"/studies/{here.uid(study_id)}/findings")["items"][0]
    here.client.put(f"/api/v1/findings/{finding['id']}/review", json={"verdict": "accepted"})
    earlier = {"reviewed_from": "2026-01-01T00:00:00Z", "reviewed_to": LATER.isoformat()}
    assert here.get("/exports/coco", params=earlier)["annotations"] == []
    turned = {"reviewed_from": earlier["reviewed_to"], "reviewed_to": earlier["reviewed_from"]}
    refused = here.client.get("/api/v1/exports/coco", params=turned)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "reviewed_from")
