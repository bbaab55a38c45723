"""Signing in at a real OpenID provider, and bearer tokens that it signed."""

import base64
import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.builders.http import BASE_URL, Site, site
from tests.peers.oidc_provider import SECRET, OidcProvider

pytestmark = pytest.mark.faults(number=37)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcProvider]:
    with OidcProvider(tmp_path_factory.mktemp("provider")) as running:
        yield running


@pytest.fixture
def guarded(provider: OidcProvider, tmp_path: Path) -> Iterator[Site]:
    oidc = {"issuer": provider.url, "client_secret": SECRET, "roles_claim": "realm.roles"}
    http = {"auth": "oidc", "oidc": oidc}
    with site(f"sqlite:///{tmp_path / 'overread.db'}", tmp_path, http=http) as opened:
        opened.client.follow_redirects = False
        # The application's clock must agree with the provider's.
        opened.clock.time = datetime.now(UTC)
        yield opened


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def sign_in(here: Site, provider: OidcProvider, user: str, following: str = "/") -> Any:
    """Go the way of a browser; return the answer that ends it."""
    away = here.client.get(f"/login/provider?{urlencode({'next': following})}")
    assert away.status_code == 303
    back = provider.sign_in(away.headers["location"], user)
    assert back.startswith(BASE_URL)
    return here.client.get(back.removeprefix(BASE_URL))


def test_a_person_signs_in_by_code_with_pkce_and_gets_the_role_of_a_claim(
    guarded: Site, provider: OidcProvider
) -> None:
    page = guarded.client.get("/?q=x", headers={"accept": "text/html"})
    assert page.status_code == 401
    assert "/login/provider?next=%2F%3Fq%3Dx" in page.text
    asked = guarded.client.get("/login/provider").headers["location"]
    sent = parse_qs(urlsplit(asked).query)
    assert sent["code_challenge_method"] == ["S256"]
    assert len(sent["nonce"][0]) > 20
    done = sign_in(guarded, provider, "rita", "/models?x=1")
    assert (done.status_code, done.headers["location"]) == (303, "/models?x=1")
    cookie = done.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert guarded.client.get("/").status_code == 200
    assert guarded.client.get("/api/v1/worklist").status_code == 200
    own = {"origin": BASE_URL}
    assert guarded.client.post("/api/v1/jobs/1/retry", headers=own).status_code == 403
    assert "rita.reader" in guarded.client.get("/").text


def test_roles_follow_the_claim(guarded: Site, provider: OidcProvider) -> None:
    statuses = {}
    for user in ("rita", "otto", "ada"):
        guarded.client.cookies.clear()
        sign_in(guarded, provider, user)
        own = {"origin": BASE_URL}
        job = "0" * 32
        statuses[user] = (
            guarded.client.post(f"/api/v1/jobs/{job}/retry", headers=own).status_code,
            guarded.client.get("/api/v1/audit").status_code,
        )
    assert statuses == {"rita": (403, 403), "otto": (404, 403), "ada": (404, 200)}


def test_who_has_no_role_gets_no_session(guarded: Site, provider: OidcProvider) -> None:
    answer = sign_in(guarded, provider, "nemo")
    assert answer.status_code == 403
    assert "no role" in answer.text
    assert guarded.client.get("/api/v1/worklist").status_code == 401


def test_signing_out_ends_the_session_on_the_server(guarded: Site, provider: OidcProvider) -> None:
    sign_in(guarded, provider, "rita")
    cookie = guarded.client.cookies["overread"]
    answer = guarded.client.post("/logout", headers={"origin": BASE_URL})
    assert answer.status_code == 200
    assert f"{provider.url}/oauth2/end_session" in answer.text
    again = guarded.client.get("/api/v1/worklist", headers={"cookie": f"overread={cookie}"})
    assert again.status_code == 401


def test_a_code_is_worth_nothing_without_the_browser_that_asked(
    guarded: Site, provider: OidcProvider
) -> None:
    away = guarded.client.get("/login/provider").headers["location"]
    back = provider.sign_in(away, "ada").removeprefix(BASE_URL)
    stranger = TestClient(guarded.client.app, base_url=BASE_URL, follow_redirects=False)
    assert stranger.get(back).status_code == 400
    stranger.get("/login/provider")  # an attempt of their own, with another state and verifier
    assert stranger.get(back).status_code == 400
    other = parse_qs(urlsplit(stranger.get("/login/provider").headers["location"]).query)
    stolen = parse_qs(urlsplit(back).query)["code"][0]
    injected = urlencode({"code": stolen, "state": other["state"][0]})
    assert stranger.get(f"/login/back?{injected}").status_code == 403
    assert stranger.get("/api/v1/worklist").status_code == 401


def test_a_refusal_at_the_provider_is_told(guarded: Site) -> None:
    away = guarded.client.get("/login/provider").headers["location"]
    state = parse_qs(urlsplit(away).query)["state"][0]
    answer = guarded.client.get(f"/login/back?error=access_denied&state={state}")
    assert answer.status_code == 401
    assert "not finished" in answer.text


@pytest.mark.parametrize("following", ["//evil.example", "https://evil.example", "/\\evil", "/a b"])
def test_nobody_is_led_elsewhere_after_signing_in(
    guarded: Site, provider: OidcProvider, following: str
) -> None:
    assert sign_in(guarded, provider, "rita", following).headers["location"] == "/"


def test_a_bearer_token_of_the_provider_opens_rest_and_dicomweb(
    guarded: Site, provider: OidcProvider
) -> None:
    headers = bearer(provider.token("otto"))
    assert guarded.client.get("/api/v1/worklist", headers=headers).status_code == 200
    assert guarded.client.get("/dicom-web/studies", headers=headers).status_code in {200, 204}
    assert guarded.client.get("/api/v1/audit", headers=headers).status_code == 403
    entries = guarded.get("/audit", headers=bearer(provider.token("ada")))["items"]
    assert {"otto.operator"} <= {one["actor"] for one in entries}


def test_tokens_that_are_not_right_open_nothing(guarded: Site, provider: OidcProvider) -> None:
    good = provider.token("ada")
    head, body, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    own_key = RSAKey.generate_key(2048)
    public = guarded_public_key(provider)
    wrong = {
        "for another client": provider.token("ada", client="elsewhere"),
        "cut": good[:-8],
        "with other claims": f"{head}.{coded({**claims, 'sub': 'x'})}.{signature}",
        "without signature": f"{coded({'alg': 'none'})}.{body}.",
        "signed by somebody": jwt.encode({"alg": "RS256"}, claims, own_key),
        "signed with the public key as a secret": with_hmac(claims, public),
        "of nobody with a role": provider.token("nemo"),
    }
    statuses = {
        name: guarded.client.get("/api/v1/worklist", headers=bearer(token)).status_code
        for name, token in wrong.items()
    }
    assert statuses == dict.fromkeys(wrong, 401)
    assert guarded.client.get("/api/v1/worklist", headers=bearer(good)).status_code == 200


def test_a_token_that_is_over_opens_nothing(guarded: Site, provider: OidcProvider) -> None:
    token = provider.token("ada")
    guarded.clock.time = guarded.clock.time.replace(year=guarded.clock.time.year + 1)
    assert guarded.client.get("/api/v1/worklist", headers=bearer(token)).status_code == 401


def test_a_session_ends_by_itself(guarded: Site, provider: OidcProvider) -> None:
    sign_in(guarded, provider, "rita")
    guarded.clock.time = guarded.clock.time.replace(year=guarded.clock.time.year + 1)
    assert guarded.client.get("/api/v1/worklist").status_code == 401


def test_a_provider_that_is_away_lets_nobody_in_and_says_so(tmp_path: Path) -> None:
    http = {"auth": "oidc", "oidc": {"issuer": "http://127.0.0.1:1"}}
    with site(f"sqlite:///{tmp_path / 'overread.db'}", tmp_path, http=http) as here:
        here.client.follow_redirects = False
        answer = here.client.get("/api/v1/worklist", headers=bearer("a.b.c"))
        assert answer.status_code == 503
        page = here.client.get("/login/provider")
        assert (page.status_code, "does not answer" in page.text) == (503, True)


def coded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def with_hmac(claims: object, secret: bytes) -> str:
    signed = f"{coded({'alg': 'HS256'})}.{coded(claims)}"
    mac = hmac.new(secret, signed.encode(), "sha256").digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def guarded_public_key(provider: OidcProvider) -> bytes:
    """Return the provider's public key as a file would hold it."""
    (key,) = httpx.get(f"{provider.url}/jwks", trust_env=False).json()["keys"]
    return RSAKey.import_key(key).as_pem(private=False)
