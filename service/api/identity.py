"""Who is behind a request: a key, a token of the provider, or a page's session.

What the database or the provider said is believed for a few seconds, so that loading a study
frame by frame does not ask once for each; a key that is revoked opens that much longer.
"""

import base64
import binascii
import hashlib
import hmac
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from http.cookies import CookieError, SimpleCookie
from typing import Final

from service.api.oidc import Provider
from service.core.access import LOCAL, Means, Principal, Role
from service.core.clock import Clock, SystemClock
from service.core.errors import OutOfResources
from service.core.settings import HttpSettings
from service.records import keys, sessions
from service.records.database import Records

_BELIEVED_FOR_S: Final = 5.0
_BELIEVED_LIMIT: Final = 10_000
_KEY_CHARACTERS: Final = 8192  # a provider's token with many groups


@dataclass(frozen=True, slots=True)
class Offered:
    """What a request brought along to show who asks."""

    value: str
    is_cookie: bool = False


class Identities:
    """Knows keys, sessions and, where one is set, the provider."""

    def __init__(
        self,
        http: HttpSettings,
        records: Records | None = None,
        *,
        clock: Clock | None = None,
        provider: Provider | None = None,
    ) -> None:
        self._auth = http.auth
        self._records = records
        self._clock = clock or SystemClock()
        self._provider = provider
        self.cookie = cookie_name(http)
        self._own = {
            _digest(key.get_secret_value()): Principal(
                f"key {place} of the settings",
                Role.ADMINISTRATOR,
                Means.KEY,
                f"settings:{_digest(key.get_secret_value()).hex()[:16]}",
            )
            for place, key in enumerate(http.api_keys, start=1)
        }
        self._believed: dict[str, tuple[Principal, float]] = {}
        self._lock = threading.Lock()

    @property
    def asks(self) -> bool:
        """Return whether anybody is asked who they are."""
        return self._auth != "none"

    def offered(self, headers: Mapping[str, str]) -> Offered | None:
        """Return what a request shows: a key or token before a cookie."""
        key = _offered_key(headers)
        if key is not None:
            return Offered(key)
        cookie = cookie_value(headers.get("cookie", ""), self.cookie)
        return None if cookie is None else Offered(cookie, is_cookie=True)

    def remembered(self, offered: Offered) -> Principal | None:
        """Return who is known without asking database or provider."""
        if not self.asks:
            return LOCAL
        if not offered.is_cookie and (own := self._own_key(offered.value)) is not None:
            return own
        with self._lock:
            principal, until = self._believed.get(_place(offered), (None, 0.0))
        return principal if until > time.monotonic() else None

    def found(self, offered: Offered) -> Principal | None:
        """Return who it is, None when it is nobody; may ask the database or the provider.

        Raises
        ------
        OutOfResources, PeerUnavailable
            When they cannot be asked.
        """
        if len(offered.value) > _KEY_CHARACTERS:
            return None
        if (known := self.remembered(offered)) is not None:
            return known
        principal = self._of_cookie(offered.value) if offered.is_cookie else self._of_key(offered)
        if principal is not None:
            self._believe(offered, principal)
        return principal

    def forget(self) -> None:
        """Ask again about everybody: a key or session has just ended."""
        with self._lock:
            self._believed.clear()

    def is_guessable(self, offered: Offered) -> bool:
        """Return whether this may be a key that a person made up, and not one of 256 bits."""
        return not offered.is_cookie and not (
            offered.value.startswith(keys.PREFIX) or self._is_token(offered.value)
        )

    def _is_token(self, value: str) -> bool:
        return self._provider is not None and value.count(".") == 2

    def _own_key(self, value: str) -> Principal | None:
        digest = _digest(value)
        # Every key is compared, in a time that does not tell how close one was.
        matches = [one for known, one in self._own.items() if hmac.compare_digest(known, digest)]
        return matches[0] if matches else None

    def _of_key(self, offered: Offered) -> Principal | None:
        if offered.value.startswith(keys.PREFIX):
            return self._of_made_key(offered.value)
        if self._provider is not None and self._is_token(offered.value):
            return self._provider.vouched(offered.value)
        return None

    def _of_made_key(self, value: str) -> Principal | None:
        if self._records is None:
            return None
        now = self._clock.now()
        with self._records.reading() as connection:
            key = keys.valid(connection, keys.digest(value), at=now)
        if key is None:
            return None
        if keys.is_due(key, at=now):
            try:
                with self._records.writing() as connection:
                    keys.used(connection, key.id, at=now)
            except OutOfResources:
                pass  # the key is good whether or not its use can be written down
        return Principal(key.name, key.role, Means.KEY, key.id)

    def _of_cookie(self, value: str) -> Principal | None:
        if self._records is None:
            return None
        now = self._clock.now()
        with self._records.reading() as connection:
            found = sessions.owner(connection, keys.digest(value), at=now)
        if found is None:
            return None
        principal, ends_at = found
        if ends_at - now < timedelta(seconds=_BELIEVED_FOR_S):
            return None
        # The session of a key that was taken out of the settings is over, whatever its end.
        if principal.source.startswith("settings:") and principal.source not in {
            one.source for one in self._own.values()
        }:
            return None
        return None if principal.source == "oidc" and self._auth != "oidc" else principal

    def _believe(self, offered: Offered, principal: Principal) -> None:
        with self._lock:
            if len(self._believed) >= _BELIEVED_LIMIT:
                self._believed.clear()
            self._believed[_place(offered)] = (principal, time.monotonic() + _BELIEVED_FOR_S)


def cookie_name(http: HttpSettings) -> str:
    """Return the cookie's name; the prefix lets browsers insist on TLS and on this host."""
    return "__Host-overread" if http.is_encrypted else "overread"


def cookie_value(header: str, name: str) -> str | None:
    """Return a cookie of a Cookie header."""
    try:
        morsel = SimpleCookie(header).get(name)
    except CookieError:
        return None
    return None if morsel is None else morsel.value


def _place(offered: Offered) -> str:
    return ("c" if offered.is_cookie else "k") + keys.digest(offered.value)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _offered_key(headers: Mapping[str, str]) -> str | None:
    """Return the key of a request: a header of its own, a bearer token, or Basic's password."""
    if "x-api-key" in headers:
        return headers["x-api-key"]
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
