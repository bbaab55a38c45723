"""The sections of the settings about who may ask, what is written down of it, and who is told."""

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from service.core.access import Role
from service.core.settings_sections import GIBIBYTE, Condition, Section

WebhookEvent = Literal[
    "finding.urgent",
    "finding.reviewed",
    "study.completed",
    "study.failed",
    "job.completed",
    "job.failed",
    "delivery.parked",
]


class OidcRoles(Section):
    """Which values of the provider's claim give which role."""

    reader: tuple[str, ...] = ("reader",)
    operator: tuple[str, ...] = ("operator",)
    administrator: tuple[str, ...] = ("administrator",)

    def of(self, values: set[str]) -> Role | None:
        """Return the highest role that the values give; None when they give none."""
        for role in reversed(Role):
            if values & set(getattr(self, role.value)):
                return role
        return None


class OidcSettings(Section):
    """The OpenID provider: who signs people in, and whose bearer tokens are believed."""

    issuer: str | None = Field(default=None, pattern=r"^https?://")
    client_id: str = "overread"
    client_secret: SecretStr | None = None
    audience: str | None = None  # of bearer tokens; the client id unless set
    scopes: tuple[str, ...] = ("openid", "profile")
    algorithms: tuple[str, ...] = ("RS256", "ES256", "PS256", "EdDSA")
    name_claim: str = "preferred_username"
    roles_claim: str = "roles"  # a dotted path: realm_access.roles
    roles: OidcRoles = OidcRoles()

    @field_validator("algorithms")
    @classmethod
    def _asymmetric(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = {f"{family}{bits}" for family in ("RS", "ES", "PS") for bits in (256, 384, 512)}
        if not value or not set(value) <= known | {"EdDSA"}:
            raise ValueError("RS256, ES256, PS256 (or 384, 512) or EdDSA; no shared secrets")
        return value

    @field_validator("issuer")
    @classmethod
    def _encrypted(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("http://") and not _is_local(value):
            raise ValueError("https, or http on a loopback address")
        return value


class HttpSettings(Section):
    """REST, DICOMweb, pages and viewer: where they listen and who may ask.

    ``public_url`` is the address that people type when a proxy stands before the service;
    ``trusted_proxies`` are the networks whose ``X-Forwarded-For`` is believed.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    auth: Literal["none", "api_key", "oidc"] = "none"
    api_keys: tuple[SecretStr, ...] = ()
    oidc: OidcSettings = OidcSettings()
    public_url: str | None = Field(default=None, pattern=r"^https?://[^/?#]+$")
    trusted_proxies: tuple[str, ...] = ()
    session_s: float = Field(default=8 * 3600, ge=60, le=7 * 86_400)
    max_upload_bytes: int = Field(default=2 * GIBIBYTE, ge=1 << 20)
    viewer_dir: Path | None = None

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _checked_networks(value)

    @property
    def is_encrypted(self) -> bool:
        """Return whether browsers reach the service by https only."""
        return self.public_url is not None and self.public_url.startswith("https://")


class SyslogSettings(Section):
    """Where audit messages (PS3.15 A.5) go, by syslog (RFC 5424)."""

    host: str | None = None
    port: int = Field(default=6514, ge=1, le=65535)
    transport: Literal["tls", "tcp", "udp"] = "tls"
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    include_patient_id: bool | None = None  # None: where the transport is encrypted

    @property
    def names_patients(self) -> bool:
        """Return whether messages carry the Patient ID."""
        if self.include_patient_id is None:
            return self.transport == "tls"
        return self.include_patient_id


class AuditSettings(Section):
    """The audit trail: who saw and did what to which study."""

    syslog: SyslogSettings = SyslogSettings()
    # Seeing the same study in the same way again within this time makes no new entry.
    same_again_s: float = Field(default=300, ge=0, le=86_400)


class WebhookSettings(Section):
    """An address that is told of events, signed (Standard Webhooks), without patients' names."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")
    url: str = Field(pattern=r"^https?://")
    secret: SecretStr | None = None
    secret_file: Path | None = None
    events: tuple[WebhookEvent, ...] = ("finding.urgent", "study.failed", "job.failed")
    tasks: tuple[str, ...] = ()  # empty: every task
    min_urgency: float = Field(default=0.5, ge=0, le=1)
    rules: tuple[Condition, ...] = ()
    include_identity: bool = False
    allowed_networks: tuple[str, ...] = ()  # private addresses that it may have
    ca: Path | None = None

    @field_validator("allowed_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _checked_networks(value)

    @field_validator("url")
    @classmethod
    def _plain(cls, value: str) -> str:
        parts = urlsplit(value)
        if not parts.hostname or parts.username or parts.password or parts.fragment:
            raise ValueError("an address with a host, without user, password or fragment")
        return value

    @model_validator(mode="after")
    def _secret_once(self) -> Self:
        if (self.secret is None) == (self.secret_file is None):
            raise ValueError("give either secret or secret_file")
        return self


def _checked_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for address in value:
        ip_network(address, strict=False)
    return value


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
