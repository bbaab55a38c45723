"""An OpenID provider as a process: `oidc-provider-mock`, which here insists on PKCE too.

The provider knows users with a role each; whoever opens its page signs in as any of them.
"""

import base64
import hashlib
import io
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import httpx

from tests.peers.ports import free_port
from tests.peers.process import Process, dying_with_parent

SECRET = "any secret does"
USERS: dict[str, dict[str, object]] = {
    "rita": {"preferred_username": "rita.reader", "realm": {"roles": ["reader"]}},
    "otto": {"preferred_username": "otto.operator", "realm": {"roles": ["operator", "x"]}},
    "ada": {"preferred_username": "ada.admin", "realm": {"roles": ["administrator", "reader"]}},
    "nemo": {"preferred_username": "nemo", "realm": {"roles": ["visitor"]}},
}


class OidcProvider:
    """The running provider."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "tests.peers.oidc_provider", str(self.port)]
        root = Path(__file__).parents[2]
        self.process = Process(
            "OpenID provider", dying_with_parent(command), log=folder / "oidc.log", cwd=root
        )
        self.process.wait_until(self._answers)

    def __enter__(self) -> Self:
        """Return the running provider."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.process.stop()

    def sign_in(self, address: str, user: str) -> str:
        """Sign in on the page at an address and return where the browser is sent back to."""
        answer = httpx.post(address, data={"sub": user}, trust_env=False)
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]

    def token(self, user: str, client: str = "overread") -> str:
        """Return an ID token for a client, as a program gets it."""
        back, verifier = "http://127.0.0.1/back", "v" * 43
        asked = {
            "response_type": "code", "client_id": client, "redirect_uri": back, "nonce": user * 3,
            "scope": "openid profile", "code_challenge": _challenge(verifier),
            "code_challenge_method": "S256", "state": "s",
        }  # fmt: skip
        page = httpx.Request("GET", f"{self.url}/oauth2/authorize", params=asked).url
        code = parse_qs(urlsplit(self.sign_in(str(page), user)).query)["code"][0]
        form = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": back,
            "client_id": client, "code_verifier": verifier,
        }  # fmt: skip
        answer = httpx.post(
            f"{self.url}/oauth2/token", data=form, auth=(client, SECRET), trust_env=False
        )
        return str(answer.raise_for_status().json()["id_token"])

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/jwks", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False


def _challenge(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def insisting_on_pkce(app: Wsgi) -> Wsgi:
    """Return a provider that gives a token only to whoever began the sign-in."""
    challenges: dict[str, str] = {}

    def authorize(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        asked = parse_qs(environ["QUERY_STRING"])
        if asked.get("code_challenge_method") != ["S256"]:
            start("400 Bad Request", [])
            return [b"no code challenge"]

        def noted(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            query = urlsplit(dict(headers).get("Location", "")).query
            for code in parse_qs(query).get("code", []):
                challenges[code] = asked["code_challenge"][0]
            return start(status, headers, *more)

        return app(environ, noted)

    def exchange(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        form = parse_qs(body.decode())
        verifier = form.get("code_verifier", [""])[0]
        if challenges.pop(form["code"][0], None) != _challenge(verifier):
            start("400 Bad Request", [("Content-Type", "application/json")])
            return [b'{"error": "invalid_grant"}']
        environ["wsgi.input"] = io.BytesIO(body)
        return app(environ, start)

    def served(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/oauth2/authorize":
            return authorize(environ, start)
        return exchange(environ, start) if path == "/oauth2/token" else app(environ, start)

    return served


def main() -> None:
    """Serve on the port that the command line gives."""
    warnings.simplefilter("ignore")
    import oidc_provider_mock  # noqa: PLC0415
    from werkzeug.serving import run_simple  # noqa: PLC0415

    users = [oidc_provider_mock.User(sub=sub, claims=claims) for sub, claims in USERS.items()]
    app = oidc_provider_mock.app(user_claims=users)
    run_simple("127.0.0.1", int(sys.argv[1]), insisting_on_pkce(app), threaded=True)


if __name__ == "__main__":
    main()
