"""What DICOMweb serves beside single images: heads, pictures and pixels of many, capabilities."""

import io
import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from pydicom.dataset import Dataset

from service.dicomweb.resources import RESOURCES
from tests.builders.dicom import ct_series, part10
from tests.builders.http import site
from tests.peers.catalogue import DCMTK

WADL = "{http://wadl.dev.java.net/2009/02}"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("resources")
    with site(f"sqlite:///{folder / 'o.db'}", folder) as here:
        yield here.client


def stored(client: TestClient, **given: object) -> list[Dataset]:
    name = uuid.uuid4().hex
    images = ct_series(
        **{"slices": 3, "rows": 24, "columns": 32, "name": name, "study": name} | given
    )
    for image in images:
        answer = client.post(
            "/api/v1/studies", content=part10(image), headers={"content-type": "application/dicom"}
        )
        assert answer.status_code == 200, answer.text
    return images


def parts_of(content: bytes, content_type: str) -> list[tuple[bytes, bytes]]:
    boundary = content_type.partition("boundary=")[2].encode()
    pieces = content.split(b"--" + boundary)[1:-1]
    return [(head, body[:-2]) for head, _, body in (p.partition(b"\r\n\r\n") for p in pieces)]


@pytest.mark.parametrize(
    "path",
    ["", "/metadata", "/series", "/thumbnail", "/rendered", "/bulkdata"],
)
def test_a_head_says_what_a_get_would_without_a_body(client: TestClient, path: str) -> None:
    (image, *_) = stored(client)
    address = f"/dicom-web/studies/{image.StudyInstanceUID}{path}"
    whole, head = client.get(address), client.head(address)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    told = head.headers["content-type"].partition(";")[0]
    assert told == whole.headers["content-type"].partition(";")[0]


def test_a_head_of_what_is_not_here_is_not_found(client: TestClient) -> None:
    assert client.head("/dicom-web/studies/1.2.3").status_code == 404


@pytest.mark.parametrize("level", ["study", "series"])
def test_a_study_and_a_series_are_rendered_image_by_image(client: TestClient, level: str) -> None:
    images = stored(client)
    address = f"/dicom-web/studies/{images[0].StudyInstanceUID}"
    if level == "series":
        address += f"/series/{images[0].SeriesInstanceUID}"
    answer = client.get(
        f"{address}/rendered", params={"window": "40,400,linear", "viewport": "16,16"}
    )
    assert answer.status_code == 200
    parts = parts_of(answer.content, answer.headers["content-type"])
    assert [Image.open(io.BytesIO(body)).size for _, body in parts] == [(16, 12)] * 3
    refused = client.get(f"{address}/rendered", headers={"accept": "text/html"})
    assert refused.status_code == 406


def test_the_pixels_of_a_series_come_in_parts_that_say_whose_they_are(client: TestClient) -> None:
    images = stored(client)
    first = images[0]
    answer = client.get(
        f"/dicom-web/studies/{first.StudyInstanceUID}/series/{first.SeriesInstanceUID}/bulkdata",
        headers={"accept": 'multipart/related; type="application/octet-stream"'},
    )
    parts = parts_of(answer.content, answer.headers["content-type"])
    found = {
        head.partition(b"/instances/")[2].partition(b"/")[0].decode(): body for head, body in parts
    }
    assert found == {image.SOPInstanceUID: image.PixelData for image in images}


def test_the_capabilities_name_every_resource_and_what_it_gives(client: TestClient) -> None:
    answer = client.options("/dicom-web/")
    assert answer.headers["content-type"] == "application/vnd.sun.wadl+xml"
    root = ElementTree.fromstring(answer.content)
    (resources,) = root.findall(f"{WADL}resources")
    assert resources.get("base") == "http://127.0.0.1:8080/dicom-web/"
    served = {one.get("path"): one for one in resources}
    wanted = {one.path[1:].replace(":path", "") for one in RESOURCES if one.media_types}
    assert set(served) == wanted
    methods = {one.get("name") for one in served["studies"].findall(f"{WADL}method")}
    assert methods == {"GET", "POST"}
    as_json = client.options("/dicom-web", headers={"accept": "application/json"}).json()
    assert len(as_json["application"]["resources"]["resource"]) == len(wanted)
    assert client.options("/dicom-web", headers={"accept": "image/png"}).status_code == 406


def test_every_resource_is_in_the_description_of_the_api(client: TestClient) -> None:
    paths = client.get("/api/v1/openapi.json").json()["paths"]
    for one in RESOURCES:
        operation = paths[f"/dicom-web{one.path.replace(':path', '')}"]["get"]
        assert operation["operationId"] == one.operation
        assert operation["responses"]["200"]["content"]


@pytest.mark.peers
def test_the_metadata_are_those_that_dcmtk_writes(client: TestClient, tmp_path: Path) -> None:
    program = DCMTK.find()
    tool = None if program is None else program.parent / "dcm2json"
    if tool is None or not tool.exists():
        pytest.skip(f"dcm2json is not here; {DCMTK.how_to_get}")
    (image, *_) = stored(client, PatientName="Yamada^Tarou=山田^太郎", OtherPatientIDs=["A", "B"])
    file = tmp_path / "image.dcm"
    file.write_bytes(part10(image))
    written = subprocess.run([tool, file], capture_output=True, check=True).stdout
    theirs = json.loads(written)
    (ours,) = client.get(
        f"/dicom-web/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}"
        f"/instances/{image.SOPInstanceUID}/metadata"
    ).json()
    # Added by us; the pixels stand inline with dcmtk; the group 2 is no part of the data set.
    ours.pop("00083002")
    ours.pop("7FE00010")
    theirs = {tag: value for tag, value in theirs.items() if tag[:4] not in ("0002", "7FE0")}
    assert _plain(ours) == _plain(theirs)


def _plain(model: object) -> object:
    """Return a DICOM JSON model with numbers by value: 1 and 1.0 are one decimal string."""
    if isinstance(model, dict):
        return {key: _plain(value) for key, value in model.items()}
    if isinstance(model, list):
        return [_plain(value) for value in model]
    return float(model) if isinstance(model, int | float) else model
