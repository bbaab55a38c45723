"""Keys, roles, sessions and links on every route that there is, read off the application itself."""

import itertools
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from starlette.routing import Mount, Route

from service.api.policy import needed_role
from service.api.throttle import WRONG_LIMIT
from service.core.access import Role
from service.records import keys
from tests.builders import rows
from tests.builders.http import BASE_URL, LATER, Site, site

pytestmark = pytest.mark.faults(number=37)

KEY = "correct-horse-battery-staple"
NUMBERS = itertools.count()
OWN = {"origin": BASE_URL}
NO_DOORS = ("/healthz", "/readyz", "/login", "/shared")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("guarded")
    http = {"auth": "api_key", "api_keys": [KEY]}
    with site(f"sqlite:///{folder / 'overread.db'}", folder, http=http) as opened:
        opened.client.follow_redirects = False
        yield opened


@pytest.fixture(autouse=True)
def _as_nobody(guarded: Site) -> None:
    guarded.client.cookies.clear()
    guarded.clock.time = LATER


def made(here: Site, role: Role, **given: Any) -> str:
    with here.records.writing() as connection:
        values = {"expires_at": None, "by": "test", "at": LATER} | given
        name = f"{role.value} {next(NUMBERS)}"
        return keys.add(connection, name, role, **values).secret


def every_route(here: Site) -> list[tuple[str, str]]:
    """Return method and filled path of every route, described or not."""
    found = []
    for route in walked(here.client.app.routes):
        if isinstance(route, Mount):
            found.append(("GET", f"{route.path}/x"))
        elif isinstance(route, Route):
            path = re.sub(r"{(\w+)(:\w+)?}", lambda match: filled(match[1]), route.path)
            found += [(method, path) for method in route.methods or () if method != "HEAD"]
    return found


def walked(routes: list[Any]) -> Iterator[Any]:
    for route in routes:
        if hasattr(route, "original_router"):
            yield from walked(route.original_router.routes)
        else:
            yield route


def filled(name: str) -> str:
    values = {"job_id": "0" * 32, "finding_id": "0" * 36, "key_id": "0" * 8}
    values |= {"delivery_id": "1", "call_id": "1", "name": "x", "topic": "infer"}
    return values.get(name, "1.2.3")


def statuses(
    here: Site, headers: dict[str, str], leave: tuple[str, ...] = NO_DOORS
) -> dict[tuple[str, str], int]:
    return {
        (method, path): here.client.request(method, path, headers=headers).status_code
        for method, path in every_route(here)
        if not path.startswith(leave)
    }


def test_no_route_answers_without_credentials_or_with_wrong_ones(guarded: Site) -> None:
    expired = made(guarded, Role.ADMINISTRATOR, expires_at=LATER + timedelta(seconds=1))
    revoked = made(guarded, Role.ADMINISTRATOR)
    with guarded.records.writing() as connection:
        keys.revoke(connection, revoked.split("_")[1], at=LATER)
    guarded.clock.time = LATER + timedelta(seconds=2)
    tried: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer wrong"},
        {"X-API-Key": expired},
        {"X-API-Key": revoked},
        {"Cookie": "overread=stolen"},
    ]
    assert len(every_route(guarded)) > 60
    assert len(every_route(guarded)) * 3 < WRONG_LIMIT
    for headers in tried:
        answered = statuses(guarded, headers)
        assert {path: status for path, status in answered.items() if status != 401} == {}


@pytest.mark.parametrize("role", [Role.READER, Role.OPERATOR])
def test_every_route_asks_for_the_role_it_needs(guarded: Site, role: Role) -> None:
    headers = {"X-API-Key": made(guarded, role)}
    without_end = "/api/v1/events"
    answered = statuses(guarded, headers, leave=(*NO_DOORS, without_end))
    for (method, path), status in answered.items():
        allowed = role.covers(needed_role(method, path))
        assert (status == 403) is not allowed, (method, path, status)


def test_keys_the_trail_and_webhooks_are_the_administrators(guarded: Site) -> None:
    pages = ["/keys", "/audit", "/webhooks"]
    paths = [f"/api/v1{path}" for path in ("/keys", "/audit", "/audit/integrity", "/webhook-calls")]
    for path in pages + paths:
        assert needed_role("GET", path) is Role.ADMINISTRATOR, path
        answer = guarded.client.get(path, headers={"X-API-Key": KEY})
        assert answer.status_code == 200, (path, answer.text)


def test_a_key_is_shown_once_listed_without_what_opens_and_ends_when_revoked(
    guarded: Site,
) -> None:
    admin = {"X-API-Key": KEY}
    body = {"name": "PACS", "role": "operator", "expires_in_days": 3}
    answer = guarded.client.post("/api/v1/keys", json=body, headers=admin)
    assert answer.status_code == 201
    secret, key = answer.json()["secret"], answer.json()["key"]
    assert guarded.client.get("/api/v1/jobs", headers={"X-API-Key": secret}).status_code == 200
    listed = guarded.client.get("/api/v1/keys", headers=admin)
    assert secret not in listed.text
    (found,) = [one for one in listed.json()["items"] if one["id"] == key["id"]]
    assert found["last_used_at"] is not None
    with guarded.records.reading() as connection:
        kept = connection.exec_driver_sql("SELECT * FROM api_keys").all()
    assert secret not in str(kept)
    gone = guarded.client.delete(f"/api/v1/keys/{key['id']}", headers=admin)
    assert gone.json()["revoked_at"] is not None
    assert guarded.client.get("/api/v1/jobs", headers={"X-API-Key": secret}).status_code == 401


def test_two_keys_that_open_have_different_names(guarded: Site) -> None:
    admin, body = {"X-API-Key": KEY}, {"name": "twin", "role": "reader"}
    first = guarded.client.post("/api/v1/keys", json=body, headers=admin)
    again = guarded.client.post("/api/v1/keys", json=body, headers=admin)
    assert (first.status_code, again.status_code) == (201, 422)
    guarded.client.delete(f"/api/v1/keys/{first.json()['key']['id']}", headers=admin)
    assert guarded.client.post("/api/v1/keys", json=body, headers=admin).status_code == 201


def test_a_person_signs_in_with_a_key_and_out_again(guarded: Site) -> None:
    secret = made(guarded, Role.OPERATOR)
    page = guarded.client.get("/queue", headers={"accept": "text/html"})
    assert page.status_code == 401
    assert 'name="next" value="/queue"' in page.text
    form = {"key": secret, "next": "/queue"}
    answer = guarded.client.post("/login", data=form, headers=OWN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/queue")
    assert guarded.client.get("/queue").status_code == 200
    cookie = guarded.client.cookies["overread"]
    with guarded.records.reading() as connection:
        assert cookie not in str(connection.exec_driver_sql("SELECT * FROM sessions").all())
    guarded.client.post("/logout", headers=OWN)
    again = guarded.client.get("/queue", headers={"cookie": f"overread={cookie}"})
    assert again.status_code == 401


def test_a_session_ends_with_its_key_and_with_its_time(guarded: Site) -> None:
    secret = made(guarded, Role.READER)
    guarded.client.post("/login", data={"key": secret}, headers=OWN)
    assert guarded.client.get("/").status_code == 200
    admin = {"X-API-Key": KEY}
    guarded.client.delete(f"/api/v1/keys/{secret.split('_')[1]}", headers=admin)
    assert guarded.client.get("/").status_code == 401
    guarded.client.post("/login", data={"key": KEY}, headers=OWN)
    assert guarded.client.get("/").status_code == 200
    guarded.clock.time = LATER + timedelta(hours=9)
    guarded.client.app.state.access.identities.forget()
    assert guarded.client.get("/").status_code == 401


def test_a_cookie_changes_nothing_unless_our_own_page_asks(guarded: Site) -> None:
    guarded.client.post("/login", data={"key": KEY}, headers=OWN)
    path = f"/api/v1/jobs/{'0' * 32}/retry"
    foreign: list[dict[str, str]] = [
        {},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": BASE_URL},
    ]
    assert [guarded.client.post(path, headers=one).status_code for one in foreign] == [403] * 5
    assert guarded.client.post(path, headers=OWN).status_code == 404
    by_key = {"X-API-Key": KEY}
    guarded.client.cookies.clear()
    assert guarded.client.post(path, headers=by_key).status_code == 404


def test_guessing_at_the_login_page_is_held_off(guarded: Site) -> None:
    answers = [
        guarded.client.post("/login", data={"key": f"guess {number}"}, headers=OWN).status_code
        for number in range(23)
    ]
    assert answers[0] == 401
    assert answers[-1] == 429
    right = guarded.client.post("/login", data={"key": KEY}, headers=OWN)
    assert right.status_code == 429  # a guesser does not learn that it was right
    made_key = {"key": made(guarded, Role.READER)}
    assert guarded.client.post("/login", data=made_key, headers=OWN).status_code == 303
    guarded.client.app.state.access.throttle.forget()


def test_a_link_shows_one_study_and_nothing_else(guarded: Site) -> None:
    shown = guarded.uid(guarded.add(rows.add_analysed_study))
    other = guarded.uid(guarded.add(rows.add_analysed_study))
    operator = {"X-API-Key": made(guarded, Role.OPERATOR)}
    answer = guarded.client.post(f"/api/v1/studies/{shown}/links", headers=operator)
    assert answer.status_code == 201
    address = answer.json()["url"].removeprefix(BASE_URL)
    entered = guarded.client.get(address)
    assert (entered.status_code, entered.headers["location"]) == (303, f"/studies/{shown}")
    allowed = [
        f"/studies/{shown}",
        f"/api/v1/studies/{shown}/findings",
        f"/dicom-web/studies/{shown}/series",
        f"/dicom-web/studies?StudyInstanceUID={shown}",
        f"/viewer/viewer?StudyInstanceUIDs={shown}",
        "/static/overread.css",
    ]
    for path in allowed:
        assert guarded.client.get(path).status_code in {200, 204}, path
    refused = [
        "/",
        "/api/v1/worklist",
        f"/studies/{other}",
        f"/api/v1/studies/{other}/findings",
        f"/dicom-web/studies/{other}/series",
        "/dicom-web/studies",
        "/dicom-web/instances",
        f"/dicom-web/studies?StudyInstanceUID={other}",
        f"/dicom-web/studies?StudyInstanceUID={shown}&0020000D={other}",
        f"/dicom-web/studies?StudyInstanceUID={shown}&StudyInstanceUID={other}",
        f"/dicom-web/studies?StudyInstanceUID={shown},{other}",
        f"/viewer/viewer?StudyInstanceUIDs={other}",
        f"/viewer/viewer?StudyInstanceUIDs={shown},{other}",
        f"/viewer/viewer?StudyInstanceUIDs={shown}&StudyInstanceUIDs={other}",
        f"/fhir/Observation?study={shown}",
        "/api/v1/audit",
        "/api/v1/events",
        "/queue",
    ]
    for path in refused:
        assert guarded.client.get(path).status_code == 403, path
    for path in (f"/api/v1/studies/{shown}/jobs", f"/api/v1/studies/{shown}/links"):
        assert guarded.client.post(path, headers=OWN).status_code == 403


def test_a_link_ends_with_its_time_when_cut_and_when_the_key_is_changed(guarded: Site) -> None:
    uid = guarded.uid(guarded.add(rows.add_analysed_study))
    admin = {"X-API-Key": KEY}
    body = {"expires_in_s": 600}
    answer = guarded.client.post(f"/api/v1/studies/{uid}/links", json=body, headers=admin)
    address = answer.json()["url"].removeprefix(BASE_URL)
    assert guarded.client.get(address[:-4]).status_code == 401
    head, claims, signature = address.removeprefix("/shared/").split(".")
    assert guarded.client.get(f"/shared/{head}.{claims[:-3]}AAA.{signature}").status_code == 401
    guarded.clock.time = LATER + timedelta(seconds=601)
    assert guarded.client.get(address).status_code == 401
    guarded.clock.time = LATER
    assert guarded.client.get(address).status_code == 303
    assert guarded.client.get(f"/studies/{uid}").status_code == 200
    guarded.client.post("/api/v1/link-keys", headers=admin)
    assert guarded.client.get(f"/studies/{uid}").status_code == 401
    assert guarded.client.get(address).status_code == 401


def test_every_answer_is_dressed_and_none_names_the_server(guarded: Site) -> None:
    for path in ("/", "/login", "/api/v1/worklist", "/healthz", "/nowhere"):
        headers = guarded.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy, path
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers


@pytest.mark.parametrize(("path", "size"), [("/login", 17 << 10), ("/api/v1/keys", (1 << 20) + 1)])
def test_each_route_bounds_what_it_takes(guarded: Site, path: str, size: int) -> None:
    answer = guarded.client.post(path, content=b"x" * size, headers={"X-API-Key": KEY, **OWN})
    assert answer.status_code == 413


def test_behind_tls_cookies_are_bound_to_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tls")
    http = {"auth": "api_key", "api_keys": [KEY], "public_url": "https://overread.example"}
    with site(f"sqlite:///{folder / 'overread.db'}", folder, http=http) as here:
        here.client.follow_redirects = False
        own = {"origin": "https://overread.example"}
        answer = here.client.post("/login", data={"key": KEY}, headers=own)
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-overread=")
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
        assert "max-age" in answer.headers["strict-transport-security"]
        uid = here.uid(here.add(rows.add_analysed_study))
        link = here.client.post(f"/api/v1/studies/{uid}/links", headers={"X-API-Key": KEY})
        assert link.json()["url"].startswith("https://overread.example/shared/")
