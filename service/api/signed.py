"""Words that we signed ourselves: links to one study, and sign-ins under way.

HMAC-SHA256 with a key from the database; each purpose is an audience of its own, so that one can
never be used as the other.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from service.core.clock import Clock
from service.records import signing
from service.records.database import Records
from service.records.signing import SigningKey

_ALGORITHM: Final = "HS256"
_TOKEN_CHARACTERS: Final = 4096


class Purpose(StrEnum):
    """What a signed word is for."""

    LINK = "overread:link"
    SIGN_IN = "overread:sign-in"


class Signer:
    """Signs and reads with the key in force; makes the first one itself."""

    def __init__(self, records: Records, clock: Clock) -> None:
        self._records = records
        self._clock = clock

    def sign(self, purpose: Purpose, claims: Mapping[str, Any], *, until: datetime) -> str:
        """Return the claims as a token that holds until a time."""
        key = self._key()
        registered = {"aud": purpose.value, "exp": int(until.timestamp())}
        header = {"alg": _ALGORITHM, "kid": key.id}
        return jwt.encode(header, {**claims, **registered}, _secret(key), [_ALGORITHM])

    def read(self, purpose: Purpose, token: str) -> Mapping[str, Any] | None:
        """Return the claims of a token of ours that still holds; None for any other."""
        if len(token) > _TOKEN_CHARACTERS:
            return None
        registry = jwt.JWTClaimsRegistry(
            now=int(self._clock.now().timestamp()),
            aud={"essential": True, "value": purpose.value},
            exp={"essential": True},
        )
        try:
            decoded = jwt.decode(token, _secret(self._key()), [_ALGORITHM])
            registry.validate(decoded.claims)
        except (JoseError, ValueError, TypeError):
            return None
        return decoded.claims

    def rotate(self) -> None:
        """Put a new key in force: everything signed before is worthless."""
        with self._records.writing() as connection:
            signing.rotate(connection, at=self._clock.now())

    def _key(self) -> SigningKey:
        with self._records.reading() as connection:
            key = signing.current(connection)
        if key is not None:
            return key
        with self._records.writing() as connection:
            return signing.current(connection) or signing.rotate(connection, at=self._clock.now())


def _secret(key: SigningKey) -> OctKey:
    return OctKey.import_key(key.secret)
