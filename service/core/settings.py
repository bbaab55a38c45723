"""The settings: one frozen object, read once by an entry point from a file and the environment.

``overread.toml`` (``--config``, ``OVERREAD_CONFIG`` or the working directory) gives values by
section; ``OVERREAD_SECTION__KEY`` in the environment overrides them, and
``OVERREAD_SECTION__KEY_FILE`` names a file that holds the value (for secrets). Unknown keys are
errors. Nothing else in the product reads the environment.
"""

import hashlib
import os
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from service.core.errors import InvalidSettings
from service.core.identifiers import is_ae_title
from service.core.states import Priority

PREFIX = "OVERREAD_"
CONFIG_VARIABLE = "OVERREAD_CONFIG"
DEFAULT_CONFIG = Path("overread.toml")
GIBIBYTE = 1 << 30
# A unix socket's path must fit into sockaddr_un, 104 bytes on some systems.
_LONGEST_SOCKET_PATH = 100


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


class HttpSettings(Section):
    """REST, DICOMweb, worklist page and viewer."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    auth: Literal["none", "api_key", "oidc"] = "none"
    api_keys: tuple[SecretStr, ...] = ()
    max_upload_bytes: int = Field(default=2 * GIBIBYTE, ge=1 << 20)
    viewer_dir: Path | None = None


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


ObjectKind = Literal["sr", "seg", "sc", "gsps", "pdf"]


class Condition(Section):
    """One comparison of a DICOM attribute, or of the calling AE title, with a value."""

    keyword: str = Field(pattern=r"^[A-Z][A-Za-z0-9]*$")
    operator: Literal["equals", "not_equals", "contains", "in", "matches", "exists"] = "equals"
    value: str | tuple[str, ...] = ""


class Destination(Section):
    """A PACS that gets results, by C-STORE or by STOW-RS."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")
    ae_title: str | None = None
    host: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    tls: DicomTls = DicomTls()
    storage_commitment: bool = False
    stow_url: str | None = Field(default=None, pattern=r"^https?://")
    username: str | None = None
    password: SecretStr | None = None
    bearer_token: SecretStr | None = None
    objects: tuple[ObjectKind, ...] = ("sr", "seg")
    rules: tuple[Condition, ...] = ()

    @field_validator("ae_title")
    @classmethod
    def _ae_title(cls, value: str | None) -> str | None:
        return None if value is None else _checked_ae_title(value)

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        by_dimse = self.ae_title is not None and self.host is not None and self.port is not None
        if by_dimse == (self.stow_url is not None):
            raise ValueError("give either ae_title, host and port, or stow_url")
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


class ResultsSettings(Section):
    """What results say of themselves."""

    clinical_use: bool = Field(
        default=False, description="true only after the site has validated the models"
    )


class LogSettings(Section):
    """Logs; ``auto`` is console on a terminal and JSON elsewhere."""

    format: Literal["auto", "console", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(BaseSettings):
    """Every setting of the product."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__"
    )

    data_dir: Path = Path("overread-data")
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    dicom: DicomSettings = DicomSettings()
    http: HttpSettings = HttpSettings()
    studies: StudiesSettings = StudiesSettings()
    jobs: JobsSettings = JobsSettings()
    destinations: tuple[Destination, ...] = ()
    routing: tuple[RoutingRule, ...] = ()
    retention: RetentionSettings = RetentionSettings()
    models: ModelsSettings = ModelsSettings()
    results: ResultsSettings = ResultsSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = [destination.name for destination in self.destinations]
        if len(set(names)) != len(names):
            raise ValueError(f"destinations: names must differ, found {sorted(names)}")
        for rule in self.routing:
            for name in rule.destinations or ():
                if name not in names:
                    raise ValueError(f"routing: unknown destination {name!r}; known: {names}")
        return self

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL of the database."""
        if self.database.url is not None:
            return self.database.url.get_secret_value()
        return f"sqlite:///{self.data_dir.absolute() / 'overread.sqlite'}"

    @property
    def embedded_redis_socket(self) -> Path:
        """The unix socket of the Redis that `serve` starts."""
        path = self.data_dir.absolute() / "redis" / "redis.sock"
        if len(str(path)) < _LONGEST_SOCKET_PATH:
            return path
        digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"overread-{digest}" / "redis.sock"

    @property
    def redis_url(self) -> str:
        """The URL of Redis, embedded or not."""
        if self.redis.url is not None:
            return self.redis.url.get_secret_value()
        return f"unix://{self.embedded_redis_socket}?db=0"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment before the file; there is no .env."""
        file = _FileSource(settings_cls, toml_file=cls.model_config.get("toml_file"))
        return (init_settings, _EnvironmentSource(settings_cls), file)


class _FileSource(TomlConfigSettingsSource):
    """The settings file."""


class _EnvironmentSource(EnvSettingsSource):
    """The environment, where ``NAME_FILE`` stands for the content of a file."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in environment_values(os.environ).items()}


def environment_values(environ: Mapping[str, str]) -> dict[str, str]:
    """Return our variables with ``_FILE`` ones replaced by what their files hold."""
    values = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name == CONFIG_VARIABLE:
            continue
        if name.endswith("_FILE"):
            try:
                values[name.removesuffix("_FILE")] = Path(value).read_text().strip()
            except OSError as error:
                raise _invalid(name, value, "a readable file") from error
        else:
            values[name] = value
    return values


def load_settings(config: Path | None = None) -> Settings:
    """Read the settings from the file and the environment.

    Parameters
    ----------
    config
        The file; when None, the one that OVERREAD_CONFIG names or ``./overread.toml`` if present.

    Raises
    ------
    InvalidSettings
        ``SETTINGS``: which setting, what was found, what is allowed, in one line.
    """
    path = _config_path(config)
    _refuse_unknown_variables(environment_values(os.environ))

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    try:
        loaded = FromFile()
    except ValidationError as error:
        raise _from_validation(error) from error
    except SettingsError as error:
        cause = str(error.__cause__ or error)
        raise InvalidSettings("SETTINGS", f"{error}: {cause}".replace("\n", " ")) from error
    except tomllib.TOMLDecodeError as error:
        raise _invalid(str(path), str(error), "a TOML file") from error
    refuse_open_doors(loaded)
    return loaded


def refuse_open_doors(settings: Settings) -> None:
    """Refuse to listen beyond loopback without saying who may call.

    Raises
    ------
    InvalidSettings
        ``SETTINGS`` when a listener would be open to anybody on the network.
    """
    dicom, http = settings.dicom, settings.http
    guarded = dicom.callers or dicom.allow_unknown_callers or dicom.tls.enabled
    if not is_loopback(dicom.host) and not guarded:
        raise _invalid(
            "dicom.host",
            f"{dicom.host} with no dicom.callers",
            "a loopback address, or dicom.callers, or dicom.tls, "
            "or dicom.allow_unknown_callers = true",
        )
    if not is_loopback(http.host) and http.auth == "none":
        raise _invalid(
            "http.auth", f"none with http.host {http.host}", "api_key beyond a loopback address"
        )
    if http.auth == "oidc":
        raise _invalid("http.auth", "oidc", "none or api_key in this version")
    if http.auth == "api_key" and not http.api_keys:
        raise _invalid("http.api_keys", "none", "at least one key when http.auth is api_key")


def is_loopback(host: str) -> bool:
    """Return whether a bind address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def origins(settings: Settings, config: Path | None = None) -> Iterator[tuple[str, str, str]]:
    """Yield every setting in force as (key, value, where it came from), secrets masked."""
    path = _config_path(config)
    in_file = tomllib.loads(path.read_text()) if path else {}
    in_environment = {name.lower() for name in environment_values(os.environ)}
    for key, value in _leaves(settings.model_dump(mode="json"), ()):
        variable = (PREFIX + "__".join(key)).lower()
        source = "default"
        if _holds(in_file, key):
            source = str(path)
        if any(variable == name or variable.startswith(name + "__") for name in in_environment):
            source = "environment"
        yield ".".join(key), str(value), source


def _config_path(config: Path | None) -> Path | None:
    named = config or (Path(os.environ[CONFIG_VARIABLE]) if CONFIG_VARIABLE in os.environ else None)
    if named is not None:
        if not named.is_file():
            raise _invalid(CONFIG_VARIABLE, str(named), "an existing file")
        return named
    return DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None


def _refuse_unknown_variables(values: Mapping[str, str]) -> None:
    known = sorted(Settings.model_fields)
    for name in values:
        section = name.removeprefix(PREFIX).split("__")[0].lower()
        if section not in known:
            allowed = ", ".join(f"{PREFIX}{key.upper()}" for key in known)
            raise _invalid(name, "an unknown setting", f"{allowed} (levels joined by __)")


def _from_validation(error: ValidationError) -> InvalidSettings:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "settings"
    if first["type"] == "extra_forbidden":
        return _invalid(key, "an unknown setting", "the keys that README.md lists")
    secret = any(word in key for word in ("url", "password", "token", "api_keys"))
    found = "***" if secret else repr(first["input"])
    return _invalid(key, found, first["msg"])


def _invalid(key: str, found: str, allowed: str) -> InvalidSettings:
    line = f"{key}: found {found}; allowed: {allowed}".replace("\n", " ")
    return InvalidSettings("SETTINGS", line)


def _checked_ae_title(value: str) -> str:
    if not is_ae_title(value):
        raise ValueError("an AE title has 1 to 16 printable characters without backslash")
    return value


def _leaves(node: Any, key: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(node, dict) and node:
        for name, child in node.items():
            yield from _leaves(child, (*key, name))
    else:
        yield key, node


def _holds(tree: Any, key: tuple[str, ...]) -> bool:
    for name in key:
        if not isinstance(tree, dict) or name not in tree:
            return False
        tree = tree[name]
    return True
