"""FHIR R4: every answer read by an independent model of the resources, and by their meaning."""

from collections.abc import Iterator
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class

from service.core.states import JobState
from tests.builders import rows
from tests.builders.http import Site, site


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("fhir")
    with site(f"sqlite:///{folder / 'overread.db'}", folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def uid(here: Site) -> str:
    study = here.add(rows.add_analysed_study, patient_name="Tester^Ann", accession_number="A7")
    return here.uid(study)


def answered(here: Site, path: str, status: int = 200) -> dict[str, Any]:
    answer = here.client.get(f"/fhir{path}")
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/fhir+json")
    content: dict[str, Any] = answer.json()
    # The base R4 resources used here are the same in R4B, which the library has.
    get_fhir_model_class(content["resourceType"]).model_validate(content)
    return content


def found(here: Site, path: str) -> list[dict[str, Any]]:
    bundle = answered(here, path)
    assert bundle["total"] == len(bundle.get("entry", []))
    return [entry["resource"] for entry in bundle.get("entry", [])]


def test_the_server_says_what_it_can_do(here: Site) -> None:
    statement = answered(here, "/metadata")
    assert statement["fhirVersion"] == "4.0.1"
    kinds = {one["type"] for one in statement["rest"][0]["resource"]}
    assert kinds == {"DiagnosticReport", "Observation", "ImagingStudy", "Device"}


@pytest.mark.parametrize("kind", ["DiagnosticReport", "Observation", "ImagingStudy", "Device"])
def test_what_a_search_finds_can_be_read_by_its_id(here: Site, uid: str, kind: str) -> None:
    resources = found(here, f"/{kind}?study={uid}")
    assert resources
    for resource in resources:
        assert answered(here, f"/{kind}/{resource['id']}") == resource
        assert found(here, f"/{kind}?_id={resource['id']}") == [resource]


def test_a_study_is_found_by_its_uid_in_each_way_of_writing_it(here: Site, uid: str) -> None:
    ways = (f"urn:oid:{uid}", f"urn:dicom:uid|urn:oid:{uid}", uid)
    assert all(len(found(here, f"/ImagingStudy?identifier={way}")) == 1 for way in ways)
    (study,) = found(here, f"/ImagingStudy?identifier=urn:oid:{uid}")
    assert study["started"] == "2026-11-20"
    assert study["subject"]["display"] == "Ann Tester"
    assert {"A7", f"urn:oid:{uid}"} == {one["value"] for one in study["identifier"]}


def test_observations_tell_what_is_stated_with_units(here: Site, uid: str) -> None:
    observations = found(here, f"/Observation?derived-from=ImagingStudy/{uid}")
    assert len(observations) == 2
    first = observations[0]
    assert first["status"] == "preliminary"
    assert first["code"]["coding"][0] == {
        "system": "http://snomed.info/sct",
        "code": "27925004",
        "display": "Nodule",
    }
    values = {one["code"]["coding"][0]["code"]: one["valueQuantity"] for one in first["component"]}
    assert values["111012"] == {
        "value": 93.0, "unit": "%", "system": "http://unitsofmeasure.org", "code": "%",
    }  # fmt: skip
    assert values["103339001"]["code"] == "mm"


def test_a_report_leads_to_its_observations_and_they_to_the_model(here: Site, uid: str) -> None:
    (report,) = found(here, f"/DiagnosticReport?study={uid}")
    assert report["status"] == "preliminary"
    assert "not for clinical use" in report["conclusion"]
    for reference in report["result"]:
        observation = answered(here, f"/{reference['reference']}")
        model = answered(here, f"/{observation['device']['reference']}")
        assert model["deviceName"][0]["name"] == "lung_nodule_detection"


def test_a_review_changes_what_an_observation_is(here: Site) -> None:
    study = here.uid(here.add(rows.add_analysed_study))
    one, other = (item["id"] for item in found(here, f"/Observation?study={study}"))
    for finding, verdict in ((one, "accepted"), (other, "rejected")):
        body = {"verdict": verdict, "reviewer": "R", "comment": "seen"}
        answer = here.client.put(f"/api/v1/findings/{finding}/review", json=body)
        assert answer.status_code == 200, answer.text
    assert answered(here, f"/Observation/{one}")["status"] == "final"
    assert answered(here, f"/Observation/{other}")["status"] == "cancelled"
    assert "seen" in answered(here, f"/Observation/{other}")["note"][0]["text"]


def test_a_study_that_was_not_analysed_has_a_report_that_says_why(here: Site) -> None:
    with here.records.writing() as connection:
        study_id = rows.add_study(connection, patient_name="", study_date="", patient_id="")
        series_id = rows.add_series(connection, study_id, modality="", series_number=-1)
        rows.add_job(
            connection,
            study_id,
            series_id,
            state=JobState.NOT_APPLICABLE,
            message="a gap of 12.5 mm after slice 84",
        )
    uid = here.uid(study_id)
    (report,) = found(here, f"/DiagnosticReport?study={uid}")
    assert report["status"] == "cancelled"
    assert "gap of 12.5 mm" in report["conclusion"]
    assert "started" not in found(here, f"/ImagingStudy?study={uid}")[0]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/ImagingStudy/1.2.3", 404),
        ("/ImagingStudy/not-a-uid", 404),
        ("/Observation/nothing", 404),
        ("/Device/%00", 404),
        ("/DiagnosticReport/" + "a" * 65, 404),
        ("/DiagnosticReport", 400),
        ("/Observation?study=../etc/passwd", 400),
        ("/ImagingStudy?identifier=x|y", 400),
    ],
)
def test_what_is_not_here_or_not_asked_right_is_an_outcome(
    here: Site, path: str, status: int
) -> None:
    assert answered(here, path, status)["resourceType"] == "OperationOutcome"


def test_a_search_for_an_unknown_study_finds_nothing(here: Site) -> None:
    assert found(here, "/Observation?study=1.2.3") == []


def test_nothing_can_be_written(here: Site) -> None:
    assert here.client.post("/fhir/Observation", json={}).status_code == 405
