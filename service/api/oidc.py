"""An OpenID provider: signs people in by authorization code with PKCE, vouches for bearer tokens.

Its addresses come from the settings and its own discovery document, which must lie on the same
host names as the issuer says; nothing is redirected, and no credential goes anywhere else.

References
----------
OpenID Connect Core 1.0, sections 3.1.2 and 3.1.3.7; RFC 7636 (PKCE); RFC 9068 (JWT access tokens).
"""

import base64
import hashlib
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from service.core.access import Means, Principal
from service.core.clock import Clock
from service.core.errors import InvalidRequest, PeerUnavailable
from service.core.settings import OidcSettings

_TIMEOUT: Final = httpx.Timeout(10.0, connect=5.0)
_KEYS_FOR_S: Final = 600.0
# A token with a key that is not known makes us ask again, but not for every such token.
_ASK_AGAIN_S: Final = 10.0
_CLOCKS_DIFFER_S: Final = 30
_ANSWER_LIMIT_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What the discovery document says."""

    issuer: str
    authorization: str
    token: str
    jwks: str
    end_session: str | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A sign-in under way: what must come back, and what proves that it is the same browser."""

    state: str
    nonce: str
    verifier: str


class Provider:
    """The configured provider; discovery and keys are asked for when first needed, and kept."""

    def __init__(self, settings: OidcSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._endpoints: Endpoints | None = None
        self._keys: KeySet | None = None
        self._keys_at = float("-inf")

    def start(self, redirect_uri: str) -> tuple[str, Attempt]:
        """Return where to send the browser, and the attempt to remember.

        Raises
        ------
        PeerUnavailable
            ``OIDC_PROVIDER``.
        """
        attempt = Attempt(*(secrets.token_urlsafe(32) for _ in range(3)))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(attempt.verifier.encode()).digest())
        asked = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self._settings.scopes),
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": challenge.rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        address = self.endpoints().authorization
        joint = "&" if urlsplit(address).query else "?"
        return f"{address}{joint}{urlencode(asked)}", attempt

    def finish(self, code: str, attempt: Attempt, redirect_uri: str) -> Principal:
        """Exchange the code for an ID token and return who signed in.

        Raises
        ------
        InvalidRequest
            ``LOGIN_REFUSED``: the token is not right; ``NO_ROLE``: it gives no role here.
        PeerUnavailable
            ``OIDC_PROVIDER``.
        """
        given = self._token(code, attempt.verifier, redirect_uri)
        claims = self._claims(str(given.get("id_token", "")), self._settings.client_id)
        if claims is None or not secrets.compare_digest(
            str(claims.get("nonce", "")), attempt.nonce
        ):
            raise InvalidRequest("LOGIN_REFUSED", "the provider's token is not right")
        if claims.get("azp", self._settings.client_id) != self._settings.client_id:
            raise InvalidRequest("LOGIN_REFUSED", "the provider's token is for another client")
        principal = self._principal(claims, Means.LOGIN)
        if principal is None:
            raise InvalidRequest("NO_ROLE", "you are known, but have no role here")
        return principal

    def vouched(self, token: str) -> Principal | None:
        """Return who a bearer token speaks for; None when it is not right or gives no role.

        Raises
        ------
        PeerUnavailable
            ``OIDC_PROVIDER`` when its keys cannot be had.
        """
        claims = self._claims(token, self._settings.audience or self._settings.client_id)
        return None if claims is None else self._principal(claims, Means.TOKEN)

    def endpoints(self) -> Endpoints:
        """Return the provider's addresses."""
        with self._lock:
            if self._endpoints is None:
                self._endpoints = self._discovered()
            return self._endpoints

    def _discovered(self) -> Endpoints:
        issuer = str(self._settings.issuer)
        found = _json("GET", issuer.rstrip("/") + "/.well-known/openid-configuration")
        if str(found.get("issuer", "")).rstrip("/") != issuer.rstrip("/"):
            raise PeerUnavailable("OIDC_PROVIDER", "the provider names another issuer")
        end_session = found.get("end_session_endpoint")
        endpoints = Endpoints(
            issuer=str(found["issuer"]),
            authorization=str(found.get("authorization_endpoint", "")),
            token=str(found.get("token_endpoint", "")),
            jwks=str(found.get("jwks_uri", "")),
            end_session=None if end_session is None else str(end_session),
        )
        scheme = urlsplit(issuer).scheme
        for address in (endpoints.authorization, endpoints.token, endpoints.jwks):
            # http only where the issuer itself is http, which the settings allow on loopback.
            if urlsplit(address).scheme not in ("https", scheme):
                raise PeerUnavailable("OIDC_PROVIDER", "the provider names an address without TLS")
        return endpoints

    def _token(self, code: str, verifier: str, redirect_uri: str) -> Mapping[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "client_id": self._settings.client_id,
            "code_verifier": verifier,
        }
        secret = self._settings.client_secret
        basic = None
        if secret is not None:
            basic = httpx.BasicAuth(self._settings.client_id, secret.get_secret_value())
        return _json("POST", self.endpoints().token, data=form, auth=basic)

    def _claims(self, token: str, audience: str) -> Mapping[str, Any] | None:
        """Return the claims of a token that the provider signed for us and that holds now."""
        registry = jwt.JWTClaimsRegistry(
            now=int(self._clock.now().timestamp()),
            leeway=_CLOCKS_DIFFER_S,
            iss={"essential": True, "value": self.endpoints().issuer},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        for fresh in (False, True):
            try:
                decoded = jwt.decode(
                    token, self._key_set(fresh=fresh), algorithms=list(self._settings.algorithms)
                )
                registry.validate(decoded.claims)
            except (JoseError, ValueError, TypeError, KeyError):
                # The provider may have changed its keys since we asked.
                continue
            return decoded.claims
        return None

    def _key_set(self, *, fresh: bool) -> KeySet:
        with self._lock:
            age_s = time.monotonic() - self._keys_at
            if self._keys is not None and age_s < (_ASK_AGAIN_S if fresh else _KEYS_FOR_S):
                return self._keys
        address = self.endpoints().jwks
        keys = KeySet.import_key_set(_json("GET", address))  # type: ignore[arg-type]
        with self._lock:
            self._keys, self._keys_at = keys, time.monotonic()
        return keys

    def _principal(self, claims: Mapping[str, Any], means: Means) -> Principal | None:
        role = self._settings.roles.of(_values(claims, self._settings.roles_claim))
        if role is None:
            return None
        name = claims.get(self._settings.name_claim) or claims["sub"]
        return Principal(str(name)[:128], role, means, "oidc")


def _values(claims: Mapping[str, Any], path: str) -> set[str]:
    """Return the values of a claim; its path may lead through objects."""
    found: Any = claims.get(path)
    if found is None:
        found = claims
        for name in path.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        return set(found.split())
    return {str(value) for value in found} if isinstance(found, list) else set()


def _json(method: str, address: str, **sent: Any) -> Mapping[str, Any]:
    """Ask the provider; its answer must be one JSON object of bounded size."""
    try:
        with (
            httpx.Client(timeout=_TIMEOUT, follow_redirects=False, trust_env=False) as web,
            web.stream(method, address, **sent) as answer,
        ):
            body = b""
            for piece in answer.iter_bytes():
                body += piece
                if len(body) > _ANSWER_LIMIT_BYTES:
                    raise PeerUnavailable("OIDC_PROVIDER", "the provider's answer is too long")
        if answer.status_code == 400:
            raise InvalidRequest("LOGIN_REFUSED", "the provider refuses this sign-in")
        found = httpx.Response(answer.status_code, content=body).json()
    except httpx.HTTPError as error:
        raise PeerUnavailable("OIDC_PROVIDER", f"the provider: {type(error).__name__}") from error
    except ValueError as error:
        raise PeerUnavailable("OIDC_PROVIDER", "the provider's answer is no JSON") from error
    if answer.status_code != 200 or not isinstance(found, dict):
        raise PeerUnavailable("OIDC_PROVIDER", f"the provider answered {answer.status_code}")
    return found
