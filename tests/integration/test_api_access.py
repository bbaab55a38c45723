"""Keys on every route that there is, read off the description itself; and that description."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders.http import Site, site

pytestmark = pytest.mark.faults(number=37)

KEY = "correct-horse-battery-staple"
OPEN = {"/healthz", "/readyz"}
UNDESCRIBED = ["/", "/studies/1.2.3", "/models", "/models/x", "/static/overread.css"]
UNDESCRIBED += ["/api/v1/docs", "/api/v1/openapi.json", "/nowhere", "/viewer/", "/dicom-web/x"]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("guarded")
    http = {"auth": "api_key", "api_keys": [KEY, "second-key-of-the-site"]}
    with site(f"sqlite:///{folder / 'overread.db'}", folder, http=http) as opened:
        yield opened


@pytest.fixture(scope="module")
def described(guarded: Site) -> dict[str, Any]:
    answer = guarded.client.get("/api/v1/openapi.json", headers={"X-API-Key": KEY})
    assert answer.status_code == 200
    document: dict[str, Any] = answer.json()
    return document


def operations(described: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method.upper(), path, operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]


def filled(path: str) -> str:
    values = {"job_id": "0" * 32, "finding_id": "0" * 36, "delivery_id": "1", "name": "x"}
    return re.sub(r"{(\w+)}", lambda match: values.get(match[1], "1.2.3"), path)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"X-API-Key": "wrong"}])
def test_every_described_route_refuses_no_key_and_a_wrong_one(
    guarded: Site, described: dict[str, Any], headers: dict[str, str]
) -> None:
    statuses = {
        (method, path): guarded.client.request(method, filled(path), headers=headers).status_code
        for method, path, _ in operations(described)
        if path not in OPEN
    }
    assert len(statuses) > 20
    assert set(statuses.values()) == {401}


@pytest.mark.parametrize("path", UNDESCRIBED)
def test_pages_assets_and_unknown_paths_need_a_key_too(guarded: Site, path: str) -> None:
    assert guarded.client.get(path).status_code == 401


@pytest.mark.parametrize("path", sorted(OPEN))
def test_probes_need_none(guarded: Site, path: str) -> None:
    assert guarded.client.get(path).status_code in {200, 503}


@pytest.mark.parametrize("key", [KEY, "second-key-of-the-site"])
def test_each_key_of_the_site_opens(guarded: Site, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    assert guarded.client.get("/api/v1/worklist", headers=headers).status_code == 200
    assert guarded.client.get("/", headers=headers).status_code == 200


def test_the_description_can_be_read_by_a_person(described: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(described)]
    assert len(set(names)) == len(names)
    for method, path, operation in operations(described):
        where = f"{method} {path}"
        assert operation["summary"], where
        assert operation["tags"], where
        assert any(status.startswith("2") for status in operation["responses"]), where
        for parameter in operation.get("parameters", []):
            assert parameter["name"], where
    tags = {tag["name"] for tag in described["tags"]}
    assert {tag for _, _, one in operations(described) for tag in one["tags"]} <= tags
    assert all(tag["description"] for tag in described["tags"])


def test_the_description_says_how_to_authenticate_and_what_a_problem_is(
    described: dict[str, Any],
) -> None:
    assert set(described["components"]["securitySchemes"]) == {"bearer", "apiKey"}
    assert described["paths"]["/readyz"]["get"]["security"] == []
    problem = described["components"]["schemas"]["Problem"]
    assert {"type", "title", "status", "detail", "reason", "errors"} <= set(problem["properties"])


def test_every_reference_of_the_description_leads_somewhere(described: dict[str, Any]) -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for child in node.values():
                yield from references(child)
        elif isinstance(node, list):
            for child in node:
                yield from references(child)

    schemas = {f"#/components/schemas/{name}" for name in described["components"]["schemas"]}
    assert set(references(described)) <= schemas


def test_the_documentation_page_needs_nothing_from_outside(guarded: Site) -> None:
    page = guarded.client.get("/api/v1/docs", headers={"X-API-Key": KEY})
    assert "http://" not in page.text
    assert "https://" not in page.text
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert guarded.client.get(address, headers={"X-API-Key": KEY}).status_code == 200, address


def test_unknown_paths_and_methods_are_problems(tmp_path: Path) -> None:
    with site(f"sqlite:///{tmp_path / 'overread.db'}", tmp_path) as here:
        lost = here.client.get("/api/v1/nowhere")
        assert (lost.status_code, lost.json()["reason"]) == (404, "NOT_FOUND")
        wrong = here.client.post("/api/v1/worklist")
        assert (wrong.status_code, wrong.json()["reason"]) == (405, "METHOD_NOT_ALLOWED")
        assert "GET" in wrong.headers["allow"]
        foreign = here.client.get("/api/v1/worklist", headers={"host": "evil.example"})
        assert (foreign.status_code, foreign.json()["reason"]) == (421, "HOST")
