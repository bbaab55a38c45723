"""Searches by QIDO-RS over both databases: what matches, and what comes back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import rows
from tests.builders.http import Site, site


@pytest.fixture
def here(database_url: str, tmp_path: Path) -> Iterator[Site]:
    with site(database_url, tmp_path) as opened:
        opened.add(fill)
        yield opened


def fill(connection: Any) -> None:
    people = (
        ("Müller^Anna", "A1", "20260101", "081500", "CT"),
        ("Mueller^Bernd", "A2", "20260315", "120000.5", "CT"),
        ("Yamada^Tarou=山田^太郎", "A%_3", "20261231", "", "DX"),
    )
    for number, (name, accession, day, time, modality) in enumerate(people):
        study = rows.add_study(
            connection,
            study_instance_uid=f"1.2.{number}",
            patient_name=name,
            accession_number=accession,
            study_date=day,
            study_time=time,
            modalities=modality,
        )
        series = rows.add_series(connection, study, modality=modality, series_number=7)
        rows.add_instance(connection, study, series)
        seg = rows.add_series(connection, study, modality="SEG", instances_count=2)
        for _ in range(2):
            rows.add_instance(connection, study, seg, modality="SEG")


def found(here: Site, path: str = "/studies", **parameters: Any) -> list[dict[str, Any]]:
    answer = here.client.get(f"/dicom-web{path}", params=parameters)
    assert answer.status_code in {200, 204}, answer.text
    return answer.json() if answer.status_code == 200 else []


def accessions(here: Site, **parameters: Any) -> list[str]:
    return sorted(one["00080050"]["Value"][0] for one in found(here, **parameters))


@pytest.mark.parametrize(
    ("parameters", "wanted"),
    [
        ({"PatientName": "mueller*"}, ["A2"]),
        ({"PatientName": "Müller*"}, ["A1"]),
        ({"PatientName": "M?ller^Anna"}, ["A1"]),
        ({"PatientName": "山田^太郎"}, ["A%_3"]),
        ({"PatientName": "bern muel", "fuzzymatching": "true"}, ["A2"]),
        ({"PatientName": "ern", "fuzzymatching": "true"}, []),
        ({"StudyDate": "20260101-20260315"}, ["A1", "A2"]),
        ({"StudyDate": "20260316-"}, ["A%_3"]),
        ({"StudyTime": "08-12"}, ["A1", "A2"]),
        ({"StudyTime": "-1159"}, ["A1"]),
        ({"AccessionNumber": "A%_*"}, ["A%_3"]),
        ({"AccessionNumber": "A?"}, ["A1", "A2"]),
        ({"StudyInstanceUID": "1.2.0,1.2.2"}, ["A%_3", "A1"]),
        ({"ModalitiesInStudy": "DX"}, ["A%_3"]),
        ({"ModalitiesInStudy": "SEG\\DX"}, ["A%_3", "A1", "A2"]),
        ({"00080050": "A1", "PatientSex": "F"}, ["A1"]),
        ({"PatientID": "' OR 1=1 --"}, []),
    ],
)
def test_studies_that_match(here: Site, parameters: dict[str, str], wanted: list[str]) -> None:
    assert accessions(here, **parameters) == wanted


def test_a_study_comes_with_what_the_standard_asks(here: Site) -> None:
    (study,) = found(here, AccessionNumber="A1")
    assert study["00080061"]["Value"] == ["CT", "SEG"]
    assert (study["00201206"]["Value"], study["00201208"]["Value"]) == ([2], [3])
    assert study["00100010"]["Value"] == [{"Alphabetic": "Müller^Anna"}]
    assert study["00081190"]["Value"] == ["http://127.0.0.1:8080/dicom-web/studies/1.2.0"]
    required = "00080020 00080030 00080050 00080056 00080090 00100020 00100030 00100040 0020000D"
    assert set(required.split()) <= set(study)


def test_series_and_instances_of_a_study_and_of_all(here: Site) -> None:
    series = found(here, "/studies/1.2.1/series", Modality="SEG")
    assert [one["00201209"]["Value"] for one in series] == [[2]]
    (uid,) = series[0]["0020000E"]["Value"]
    assert len(found(here, f"/studies/1.2.1/series/{uid}/instances")) == 2
    assert len(found(here, "/studies/1.2.1/instances")) == 3
    assert len(found(here, "/instances", ModalitiesInStudy="DX")) == 3
    assert len(found(here, "/series", PatientName="m*")) == 4
    (first,) = found(here, "/instances", Modality="CT", AccessionNumber="A1")
    assert first["00280010"]["Value"] == [512]
    assert first["00081190"]["Value"][0].endswith(first["00080018"]["Value"][0])


def test_pages_say_how_much_there_is(here: Site) -> None:
    first = here.client.get("/dicom-web/studies", params={"limit": 2})
    assert (first.headers["x-total-count"], len(first.json())) == ("3", 2)
    assert "there are 1 additional results" in first.headers["warning"]
    rest = here.client.get("/dicom-web/studies", params={"limit": 2, "offset": 2})
    uids = [one["0020000D"]["Value"][0] for one in (*first.json(), *rest.json())]
    assert sorted(uids) == ["1.2.0", "1.2.1", "1.2.2"]
    assert "warning" not in rest.headers


def test_nothing_found_is_no_content(here: Site) -> None:
    answer = here.client.get("/dicom-web/studies", params={"PatientID": "nobody"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["x-total-count"] == "0"


def test_keys_that_are_not_matched_are_named(here: Site) -> None:
    answer = here.client.get("/dicom-web/studies", params={"PatientAge": "060Y"})
    assert "PatientAge is not matched here" in answer.headers["warning"]
