"""The settings: one frozen object, read once by an entry point from a file and the environment.

``overread.toml`` (``--config``, ``OVERREAD_CONFIG`` or the working directory) gives values by
section; ``OVERREAD_SECTION__KEY`` in the environment overrides them, and
``OVERREAD_SECTION__KEY_FILE`` names a file that holds the value (for secrets). Unknown keys are
errors. Nothing else in the product reads the environment.
"""

import hashlib
import os
import tomllib
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from service.core.errors import InvalidSettings
from service.core.settings_access import (
    AuditSettings,
    HttpSettings,
    OidcSettings,
    SyslogSettings,
    WebhookSettings,
)
from service.core.settings_sections import (
    Caller,
    Condition,
    DatabaseSettings,
    Destination,
    DicomSettings,
    DicomTls,
    JobsSettings,
    LogSettings,
    ModelSettings,
    ModelsSettings,
    ObjectKind,
    PriorsSettings,
    PriorsSource,
    RedisSettings,
    ResultsSettings,
    RetentionSettings,
    RoutingRule,
    Section,
    StudiesSettings,
)

# The sections are part of this module's face; they stand apart for their length.
__all__ = [
    "CONFIG_VARIABLE",
    "PREFIX",
    "AuditSettings",
    "Caller",
    "Condition",
    "DatabaseSettings",
    "Destination",
    "DicomSettings",
    "DicomTls",
    "HttpSettings",
    "JobsSettings",
    "LogSettings",
    "ModelSettings",
    "ModelsSettings",
    "ObjectKind",
    "OidcSettings",
    "PriorsSettings",
    "PriorsSource",
    "RedisSettings",
    "ResultsSettings",
    "RetentionSettings",
    "RoutingRule",
    "Section",
    "Settings",
    "StudiesSettings",
    "SyslogSettings",
    "WebhookSettings",
    "environment_values",
    "is_loopback",
    "load_settings",
    "origins",
    "refuse_open_doors",
]

PREFIX = "OVERREAD_"
CONFIG_VARIABLE = "OVERREAD_CONFIG"
DEFAULT_CONFIG = Path("overread.toml")
# A unix socket's path must fit into sockaddr_un, 104 bytes on some systems.
_LONGEST_SOCKET_PATH = 100


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
    webhooks: tuple[WebhookSettings, ...] = ()
    audit: AuditSettings = AuditSettings()
    priors: PriorsSettings = PriorsSettings()
    retention: RetentionSettings = RetentionSettings()
    models: ModelsSettings = ModelsSettings()
    results: ResultsSettings = ResultsSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = [destination.name for destination in self.destinations]
        if len(set(names)) != len(names):
            raise ValueError(f"destinations: names must differ, found {sorted(names)}")
        hooks = [webhook.name for webhook in self.webhooks]
        if len(set(hooks)) != len(hooks):
            raise ValueError(f"webhooks: names must differ, found {sorted(hooks)}")
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
        # Not TMPDIR: that may be as deep as the data directory.
        return Path("/tmp") / f"overread-{digest}" / "redis.sock"  # noqa: S108  its folder is 0700

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
            "http.auth",
            f"none with http.host {http.host}",
            "api_key or oidc beyond a loopback address",
        )
    if http.auth == "oidc" and http.oidc.issuer is None:
        raise _invalid("http.oidc.issuer", "none", "the provider's address when http.auth is oidc")


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
    return _invalid(key, _shown(key, first["input"]), first["msg"])


def _shown(key: str, value: object) -> str:
    """Return a wrong value as an error may show it: secrets, and what may hold some, never."""
    if any(word in key for word in ("url", "password", "token", "api_keys", "secret")):
        return "***"
    return ", ".join(map(str, value)) if isinstance(value, dict) else repr(value)


def _invalid(key: str, found: str, allowed: str) -> InvalidSettings:
    line = f"{key}: found {found}; allowed: {allowed}".replace("\n", " ")
    return InvalidSettings("SETTINGS", line)


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
