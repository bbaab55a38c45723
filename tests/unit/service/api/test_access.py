"""The gate around the application: who is let in, what is refused, what every answer carries."""

import base64

import pytest
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from service.api.access import JSON_LIMIT_BYTES, Gate
from service.api.throttle import WRONG_LIMIT, Throttle
from service.core.settings import HttpSettings

pytestmark = pytest.mark.faults(number=37)

KEY = "correct-horse-battery-staple"
MARK = "a patient's name"


async def greet(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


async def fail(_request: Request) -> PlainTextResponse:
    raise RuntimeError(MARK)


async def frame(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("", headers={"content-security-policy": "default-src *"})


def client(**http: object) -> TestClient:
    routes = [
        Route("/healthz", greet, methods=["GET", "POST"]),
        Route("/api/v1/jobs", greet, methods=["GET", "POST"]),
        Route("/api/v1/studies", greet, methods=["POST"]),
        Route("/fail", fail),
        Route("/frame", frame),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(Gate, settings=HttpSettings.model_validate(http))
    return TestClient(app, base_url="http://127.0.0.1:8080")


def guarded() -> TestClient:
    return client(auth="api_key", api_keys=[KEY])


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"any:{password}".encode()).decode()}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {KEY}"},
        {"X-API-Key": KEY},
        basic(KEY),
    ],
    ids=["bearer", "small letters", "own header", "basic"],
)
def test_a_known_key_opens_by_each_way_it_may_be_sent(headers: dict[str, str]) -> None:
    assert guarded().get("/api/v1/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Digest {KEY}"},
        {"Authorization": "Basic %%%"},
        {"X-API-Key": ""},
        {"X-API-Key": "wrong", "Authorization": f"Bearer {KEY}"},
        basic("wrong"),
    ],
)
def test_no_key_or_a_wrong_one_is_answered_401_with_a_challenge(headers: dict[str, str]) -> None:
    answer = guarded().get("/api/v1/jobs", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["reason"] == "UNAUTHORIZED"
    assert "Bearer" in answer.headers["www-authenticate"]


def test_a_key_in_the_address_opens_nothing() -> None:
    assert guarded().get(f"/api/v1/jobs?api_key={KEY}").status_code == 401


def test_many_wrong_keys_are_held_off_while_a_program_known_there_goes_on() -> None:
    gate = guarded()
    assert gate.get("/api/v1/jobs", headers={"X-API-Key": KEY}).status_code == 200
    guesses = [f"guess-{number}" for number in range(25)]
    answers = [gate.get("/api/v1/jobs", headers={"X-API-Key": key}) for key in guesses]
    assert [answer.status_code for answer in answers] == [401] * 20 + [429] * 5
    assert int(answers[-1].headers["retry-after"]) > 0
    assert gate.get("/api/v1/jobs", headers={"X-API-Key": KEY}).status_code == 200


def test_a_program_with_an_old_key_is_held_off_later_than_a_guesser() -> None:
    throttle = Throttle()
    held_off = [throttle.note("an old key", "10.0.0.7") for _ in range(WRONG_LIMIT + 1)]
    assert held_off == [False] * WRONG_LIMIT + [True]
    assert not throttle.note("an old key", "10.0.0.8")


def test_a_guesser_does_not_even_learn_of_the_right_key() -> None:
    gate = guarded()
    for number in range(21):
        gate.get("/api/v1/jobs", headers={"X-API-Key": f"guess-{number}"})
    answer = gate.get("/api/v1/jobs", headers={"X-API-Key": KEY})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0


def test_health_needs_no_key() -> None:
    assert guarded().get("/healthz").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "10.0.0.7"])
def test_a_foreign_host_name_is_refused_where_anybody_may_ask(host: str) -> None:
    answer = client().get("/api/v1/jobs", headers={"host": host})
    assert answer.status_code == 421
    assert answer.json()["reason"] == "HOST"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST:1"])
def test_loopback_names_are_served(host: str) -> None:
    assert client().get("/api/v1/jobs", headers={"host": host}).status_code == 200


def test_with_keys_any_host_name_is_served() -> None:
    answer = guarded().get("/api/v1/jobs", headers={"host": "overread.site", "X-API-Key": KEY})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://[::1"},
    ],
)
def test_a_page_of_another_site_cannot_change_anything(headers: dict[str, str]) -> None:
    assert client().post("/api/v1/jobs", headers=headers).status_code == 403
    assert client().get("/api/v1/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"sec-fetch-site": "same-origin"}, {"origin": "http://127.0.0.1:8080"}],
)
def test_our_own_pages_and_programs_may_change_things(headers: dict[str, str]) -> None:
    assert client().post("/api/v1/jobs", headers=headers).status_code == 200


def test_a_body_beyond_the_limit_is_refused_by_its_announced_length() -> None:
    answer = client().post("/api/v1/jobs", content=b"x" * (JSON_LIMIT_BYTES + 1))
    assert answer.status_code == 413
    assert answer.json()["reason"] == "TOO_LARGE"


def test_a_body_beyond_the_limit_is_stopped_when_it_announces_no_length() -> None:
    pieces = (b"x" * 65536 for _ in range(40))
    assert client().post("/api/v1/jobs", content=pieces).status_code == 413


def test_uploads_have_a_limit_of_their_own() -> None:
    body = b"x" * (JSON_LIMIT_BYTES + 1)
    assert client().post("/api/v1/studies", content=body).text == str(len(body))
    small = client(max_upload_bytes=1 << 20)
    assert small.post("/api/v1/studies", content=body).status_code == 413


def test_a_compressed_body_is_refused() -> None:
    answer = client().post("/api/v1/jobs", content=b"x", headers={"content-encoding": "gzip"})
    assert answer.status_code == 415


def test_an_unforeseen_error_is_a_plain_500_that_tells_nothing() -> None:
    answer = client().get("/fail")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["reason"] == "INTERNAL"
    assert MARK not in answer.text


@pytest.mark.parametrize("path", ["/api/v1/jobs", "/fail", "/nowhere"])
def test_every_answer_carries_the_headers_that_protect_it(path: str) -> None:
    headers = client().get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers


def test_a_route_may_set_a_policy_of_its_own() -> None:
    assert client().get("/frame").headers["content-security-policy"] == "default-src *"
