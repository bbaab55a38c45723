"""API keys and links over HTTP: making, listing and revoking what lets people and programs in."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Path, Request, Response
from pydantic import Field

from service.api.answers import answer
from service.api.context import Context, asker
from service.api.identity import Identities
from service.api.routes import PREFIX, add
from service.api.schemas import Body, StudyUid
from service.api.signed import Purpose, Signer
from service.core.access import Role
from service.records import keys, study_view
from service.records.keys import ApiKey

_LONGEST_KEY_DAYS: Final = 3650
_LONGEST_LINK_S: Final = 90 * 86_400
KeyId = Annotated[str, Path(pattern=r"^[0-9a-f]{8}$", description="The key's id, no secret")]


class KeyBody(Body):
    """A key to be made."""

    name: Annotated[str, Field(min_length=1, max_length=64, examples=["PACS router"])]
    role: Role = Role.READER
    expires_in_days: Annotated[
        int | None, Field(ge=1, le=_LONGEST_KEY_DAYS, description="Without it: never")
    ] = None


class LinkBody(Body):
    """A link to be made."""

    expires_in_s: Annotated[int, Field(ge=60, le=_LONGEST_LINK_S)] = 7 * 86_400


@dataclass(frozen=True, slots=True)
class KeyList:
    """Keys, the newest first; revoked ones too."""

    items: Sequence[ApiKey]
    next: None = None


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key just made; what opens is in `secret`, and nowhere else."""

    key: ApiKey
    secret: Annotated[str, Field(description="Shown this once")]


@dataclass(frozen=True, slots=True)
class Link:
    """An address that shows one study to whoever has it."""

    url: str
    id: Annotated[str, Field(description="Names its holder in the audit trail")]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Rotated:
    """Since when links are signed anew."""

    rotated_at: datetime


class KeyRoutes:
    """Makes and revokes keys and links."""

    def __init__(self, context: Context, identities: Identities) -> None:
        self._context = context
        self._identities = identities
        self._signer = Signer(context.records, context.clock)

    def list_keys(self) -> Response:
        """List API keys.

        Without what opens: only a digest of it is kept.
        """
        with self._context.records.reading() as connection:
            return answer(KeyList(keys.listed(connection)))

    def make_key(self, body: KeyBody, request: Request) -> Response:
        """Make an API key.

        The answer holds the key itself, this once.
        """
        at = self._context.clock.now()
        ends_at = None if body.expires_in_days is None else at + timedelta(body.expires_in_days)
        with self._context.records.writing() as connection:
            made = keys.add(
                connection, body.name, body.role, expires_at=ends_at, by=asker(request), at=at
            )
        request.scope["audit_subject"] = f"key:{made.key.id}"
        return answer(MadeKey(made.key, made.secret), status=201)

    def revoke_key(self, key_id: KeyId) -> Response:
        """Revoke an API key.

        It opens nothing any more, within seconds in every process; sessions opened with it end.
        """
        with self._context.records.writing() as connection:
            key = keys.revoke(connection, key_id, at=self._context.clock.now())
        self._identities.forget()
        return answer(key)

    def share_study(
        self, study_instance_uid: StudyUid, request: Request, body: LinkBody | None = None
    ) -> Response:
        """Make a link to a study.

        Whoever has it may look at this study, its images and findings, until it expires; nothing
        else, and without changing anything.
        """
        context = self._context
        with context.records.reading() as connection:
            study_view.study_key(connection, study_instance_uid)
        ends_at = context.clock.now() + timedelta(seconds=(body or LinkBody()).expires_in_s)
        link_id = secrets.token_hex(4)
        claims = {"study": study_instance_uid, "jti": link_id, "by": asker(request)}
        token = self._signer.sign(Purpose.LINK, claims, until=ends_at)
        base = context.settings.http.public_url or str(request.base_url).rstrip("/")
        request.scope["audit_subject"] = f"link:{link_id}"
        return answer(Link(f"{base}/shared/{token}", link_id, ends_at), status=201)

    def rotate_link_key(self) -> Response:
        """Make every link worthless.

        Puts a new signing key in force; sessions opened by links end.
        """
        self._signer.rotate()
        self._identities.forget()
        return answer(Rotated(self._context.clock.now()))


def router(context: Context, identities: Identities) -> APIRouter:
    """Return the routes of keys and links."""
    routes = APIRouter(prefix=PREFIX, tags=["access"])
    handlers = KeyRoutes(context, identities)
    add(routes, "GET /keys", handlers.list_keys, gives=KeyList)
    add(routes, "POST /keys", handlers.make_key, gives=MadeKey, problems=(413, 422), status=201)
    add(routes, "DELETE /keys/{key_id}", handlers.revoke_key, gives=ApiKey, problems=(404, 422))
    add(
        routes,
        "POST /studies/{study_instance_uid}/links",
        handlers.share_study,
        gives=Link,
        problems=(404, 413, 422),
        status=201,
    )
    add(routes, "POST /link-keys", handlers.rotate_link_key, gives=Rotated)
    return routes
