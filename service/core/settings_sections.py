"""The sections of the settings: their keys, defaults and limits."""

import os
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from service.core.identifiers import is_ae_title
from service.core.profiles import Profile, SegForm, SrForm, TextForm
from service.core.states import Priority

GIBIBYTE = 1 << 30


class Section(BaseModel):
    """A group of settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatabaseSettings(Section):
    """Where the rows live; without a URL an SQLite file in the data directory."""

    url: SecretStr | None = None
    pool_size: int = Field(default=5, ge=1, le=100)


class RedisSettings(Section):
    """Where the queue lives; without a URL `serve` starts a Redis of its own."""

    url: SecretStr | None = None


class DicomTls(Section):
    """TLS of the DICOM listener, or towards a destination (PS3.15 B.12, BCP 195)."""

    enabled: bool = False
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if self.enabled and (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        return self


class Caller(Section):
    """A calling application entity that may open associations."""

    ae_title: str
    addresses: tuple[str, ...] = ()

    @field_validator("ae_title")
    @classmethod
    def _ae_title(cls, value: str) -> str:
        return _checked_ae_title(value)

    @field_validator("addresses")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            ip_network(address, strict=False)
        return value


class DicomSettings(Section):
    """The C-STORE listener."""

    host: str = "127.0.0.1"
    port: int = Field(default=11112, ge=0, le=65535)
    ae_title: str = "OVERREAD"
    callers: tuple[Caller, ...] = ()
    allow_unknown_callers: bool = False
    tls: DicomTls = DicomTls()
    max_associations: int = Field(default=25, ge=1, le=1000)
    max_connections_per_address: int | None = Field(
        default=None, ge=1, description="20 where it is not set, and no limit on loopback"
    )
    max_associations_per_minute: int | None = Field(
        default=None, ge=1, description="of one address; 6000, and no limit on loopback"
    )
    processes: int = Field(default_factory=lambda: min(4, os.cpu_count() or 1), ge=1, le=64)
    accept_deflated: bool = False
    max_instance_bytes: int = Field(default=8 * GIBIBYTE, ge=1 << 20)

    @field_validator("ae_title")
    @classmethod
    def _ae_title(cls, value: str) -> str:
        return _checked_ae_title(value)

    @field_validator("callers", mode="before")
    @classmethod
    def _bare_titles(cls, value: object) -> object:
        """Take a bare AE title as a caller from any address."""
        if not isinstance(value, list | tuple):
            return value
        return [{"ae_title": item} if isinstance(item, str) else item for item in value]


class StudiesSettings(Section):
    """When a series and a study count as complete."""

    series_quiet_s: float = Field(default=5, ge=0, le=86_400)
    study_quiet_s: float = Field(default=15, ge=0, le=86_400)


class JobsSettings(Section):
    """Leases, limits and repeats of model runs."""

    lease_s: float = Field(default=15, gt=0, le=3600)
    timeout_s: float = Field(default=900, gt=0, le=86_400)
    max_attempts: int = Field(default=3, ge=1, le=100)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda:\d+)$")
    threads: int = Field(default=0, ge=0, le=256, description="0 means one for each core")


ObjectKind = Literal["sr", "seg", "sc", "gsps", "pdf", "ko", "rtstruct", "pmap"]


class Condition(Section):
    """One comparison of a DICOM attribute, or of the calling AE title, with a value."""

    keyword: str = Field(pattern=r"^[A-Z][A-Za-z0-9]*$")
    operator: Literal["equals", "not_equals", "contains", "in", "matches", "exists"] = "equals"
    value: str | tuple[str, ...] = ""


class Destination(Section):
    """Who gets results: a PACS by C-STORE or STOW-RS, or a system that takes HL7 v2 by MLLP."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")
    ae_title: str | None = None
    host: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    tls: DicomTls = DicomTls()
    storage_commitment: bool = False
    stow_url: str | None = Field(default=None, pattern=r"^https?://")
    mllp_host: str | None = None
    receiving_application: str = Field(default="", pattern=r"^[A-Za-z0-9_. -]{0,64}$")
    receiving_facility: str = Field(default="", pattern=r"^[A-Za-z0-9_. -]{0,64}$")
    username: str | None = None
    password: SecretStr | None = None
    bearer_token: SecretStr | None = None
    objects: tuple[ObjectKind, ...] = ("sr", "seg")
    sr_class: SrForm = SrForm.COMPREHENSIVE_3D
    seg_form: SegForm = SegForm.BINARY
    made_up_plane: bool = Field(
        default=False, description="Segmentations of radiographs lie on a plane of their own"
    )
    keep_empty_frames: bool = False
    character_set: TextForm = Field(
        default=TextForm.UTF_8, description="utf-8, or source: that of the study's images"
    )
    only_reviewed: bool = Field(
        default=False, description="Nothing goes out that no reader has reviewed"
    )
    rejection_notes: bool = Field(
        default=False, description="A Key Object note (IHE IOCM) withdraws what was superseded"
    )
    rules: tuple[Condition, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _messages_tell_reports(cls, values: object) -> object:
        """Let a destination of HL7 messages get one for each report, and nothing else."""
        if isinstance(values, dict) and values.get("mllp_host") is not None:
            return {"objects": ("sr",), **values}
        return values

    @field_validator("ae_title")
    @classmethod
    def _ae_title(cls, value: str | None) -> str | None:
        return None if value is None else _checked_ae_title(value)

    @property
    def profile(self) -> Profile:
        """What it gets, as it is set."""
        return Profile(
            objects=self.objects,
            sr=self.sr_class,
            seg=self.seg_form,
            text=self.character_set,
            made_up_plane=self.made_up_plane,
            keep_empty_frames=self.keep_empty_frames,
        )

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        by_dimse = self.ae_title is not None and self.host is not None and self.port is not None
        by_mllp = self.mllp_host is not None and self.port is not None
        if [by_dimse, self.stow_url is not None, by_mllp].count(True) != 1:
            raise ValueError(
                "give either ae_title, host and port, or stow_url, or mllp_host and port"
            )
        if by_mllp and self.objects != ("sr",):
            raise ValueError("a message tells a report: objects = ['sr'] with mllp_host")
        if self.storage_commitment and not by_dimse:
            raise ValueError("storage_commitment = true goes with ae_title, host and port")
        return self


class RoutingRule(Section):
    """Which models run, how soon and for whom, when every condition holds."""

    name: str = "rule"
    when: tuple[Condition, ...] = ()
    models: tuple[str, ...] | None = None
    priority: Priority = Priority.ROUTINE
    destinations: tuple[str, ...] | None = None


class RetentionSettings(Section):
    """How long studies are kept, and when receiving stops for want of space."""

    keep_days: int = Field(default=30, ge=1)
    min_free_bytes: int = Field(default=5 * GIBIBYTE, ge=0)

    @property
    def keep(self) -> timedelta:
        """How long a study is kept after its last instance."""
        return timedelta(days=self.keep_days)


class ModelSettings(Section):
    """A site's choices for one model; what is not set comes from its manifest."""

    operating_point: str | None = None
    enabled: bool = True
    shadow: bool = False


class ModelsSettings(BaseModel):
    """Where model packages lie, and the site's choices by model name."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, ModelSettings] = Field(init=False)

    dir: Path = Path(__file__).resolve().parents[2] / "models"

    def of(self, name: str) -> ModelSettings:
        """Return the site's choices for the named model."""
        return (self.__pydantic_extra__ or {}).get(name, ModelSettings())


class PriorsSource(Section):
    """A PACS that is asked for earlier studies: by C-FIND and C-MOVE, or by QIDO-RS and WADO-RS.

    C-MOVE names our own AE title as the place to send to, which the PACS must know.
    """

    ae_title: str | None = None
    host: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    tls: DicomTls = DicomTls()
    dicomweb_url: str | None = Field(default=None, pattern=r"^https?://")
    username: str | None = None
    password: SecretStr | None = None
    bearer_token: SecretStr | None = None

    @field_validator("ae_title")
    @classmethod
    def _ae_title(cls, value: str | None) -> str | None:
        return None if value is None else _checked_ae_title(value)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        by_dimse = self.ae_title is not None and self.host is not None and self.port is not None
        if by_dimse == (self.dicomweb_url is not None):
            raise ValueError("give either ae_title, host and port, or dicomweb_url")
        return self


class PriorsSettings(Section):
    """Comparing with earlier studies of the patient: which, from where, within what limits."""

    enabled: bool = True
    max_studies: int = Field(default=2, ge=1, le=10, description="looked at for each study")
    max_age_days: int = Field(default=1826, ge=1, le=36_525)
    wait_s: float = Field(
        default=30, ge=0, le=3600, description="longest that a study waits for its prior"
    )
    give_up_s: float = Field(
        default=900, ge=1, le=86_400, description="later priors change no report any more"
    )
    source: PriorsSource | None = None
    timeout_s: float = Field(default=30, gt=0, le=600, description="without an answer")
    max_per_day: int = Field(default=200, ge=0, description="studies asked for in 24 hours")
    max_bytes: int = Field(default=GIBIBYTE, ge=1 << 20, description="of one earlier study")


class ResultsSettings(Section):
    """What results say of themselves."""

    clinical_use: bool = Field(
        default=False, description="true only after the site has validated the models"
    )
    verified_by_readers: bool = Field(
        default=False,
        description="A report that a named reader reviewed counts as verified by that reader",
    )
    organization: str = Field(
        default="", max_length=64, description="Of the readers who verify reports"
    )


class LogSettings(Section):
    """Logs; ``auto`` is console on a terminal and JSON elsewhere."""

    format: Literal["auto", "console", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


def _checked_ae_title(value: str) -> str:
    if not is_ae_title(value):
        raise ValueError("an AE title has 1 to 16 printable characters without backslash")
    return value
