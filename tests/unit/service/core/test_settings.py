"""Settings from file and environment: what wins, what is refused, in which words."""

from pathlib import Path

import pytest

from service.core.errors import InvalidSettings
from service.core.settings import load_settings, origins


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(text)
    return path


def test_without_anything_said_everything_stays_on_this_machine(tmp_path: Path) -> None:
    settings = load_settings()
    assert (settings.dicom.host, settings.dicom.port) == ("127.0.0.1", 11112)
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 8080)
    assert settings.database_url == f"sqlite:///{tmp_path / 'overread-data' / 'overread.sqlite'}"
    assert settings.redis_url.startswith("unix://")
    assert settings.destinations == ()


def test_the_environment_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = written(tmp_path, "[dicom]\nport = 104\nae_title = 'SITE'\n")
    monkeypatch.setenv("OVERREAD_DICOM__PORT", "4242")
    settings = load_settings(config)
    assert (settings.dicom.port, settings.dicom.ae_title) == (4242, "SITE")
    told = {key: source for key, _value, source in origins(settings, config)}
    assert told["dicom.port"] == "environment"
    assert told["dicom.ae_title"] == str(config)
    assert told["dicom.host"] == "default"


def test_a_secret_comes_from_a_file_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql+psycopg://u:hidden@db/overread\n")
    monkeypatch.setenv("OVERREAD_DATABASE__URL_FILE", str(secret))
    settings = load_settings()
    assert settings.database_url == "postgresql+psycopg://u:hidden@db/overread"
    assert "hidden" not in repr(settings)
    assert all("hidden" not in value for _key, value, _source in origins(settings))


def test_a_model_is_configured_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERREAD_MODELS__CHEST_XRAY__ENABLED", "false")
    settings = load_settings()
    assert not settings.models.of("chest_xray").enabled
    assert settings.models.of("another").enabled


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OVERREAD_DICOM__PORT", "70000", "dicom.port: found '70000'"),
        ("OVERREAD_DICOM__PRT", "104", "dicom.prt: found an unknown setting"),
        ("OVERREAD_DICMO", "1", "OVERREAD_DICMO: found an unknown setting"),
        ("OVERREAD_DICOM__AE_TITLE", "MUCH TOO LONG A TITLE", "1 to 16"),
        ("OVERREAD_DICOM__HOST", "0.0.0.0", "allowed: a loopback address, or dicom.callers"),
        ("OVERREAD_HTTP__HOST", "0.0.0.0", "http.auth: found none"),
        ("OVERREAD_HTTP__AUTH", "oidc", "http.oidc.issuer: found none"),
        ("OVERREAD_HTTP__OIDC__ISSUER", "http://idp.example", "https, or http on a loopback"),
        ("OVERREAD_HTTP__OIDC__ALGORITHMS", '["HS256"]', "no shared secrets"),
        ("OVERREAD_WEBHOOKS", '[{"name": "a", "url": "ftp://x"}]', "webhooks.0.url: found ***"),
        ("OVERREAD_WEBHOOKS", '[{"name": "a", "url": "http://u:p@x", "secret": "s"}]', "without"),
        ("OVERREAD_JOBS__DEVICE", "gpu", "jobs.device: found 'gpu'"),
        ("OVERREAD_DESTINATIONS", '[{"name": "a"}]', "ae_title, host and port, or stow_url"),
        ("OVERREAD_DESTINATIONS", "[{", "destinations"),
        ("OVERREAD_DATABASE__URL_FILE", "/nowhere/at/all", "a readable file"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(
    variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSettings) as raised:
        load_settings()
    assert said in raised.value.message
    assert "\n" not in raised.value.message


def test_a_secret_in_a_wrong_section_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    both = '[{"name": "a", "url": "http://x", "secret": "hush", "secret_file": "/hush"}]'
    monkeypatch.setenv("OVERREAD_WEBHOOKS", both)
    with pytest.raises(InvalidSettings, match="either secret or secret_file") as raised:
        load_settings()
    assert "hush" not in raised.value.message


def test_a_destination_of_messages_takes_reports_only(tmp_path: Path) -> None:
    place = "[[destinations]]\nname = 'ris'\nmllp_host = '127.0.0.1'\nport = 2575\n"
    assert load_settings(written(tmp_path, place)).destinations[0].objects == ("sr",)
    with pytest.raises(InvalidSettings, match="a message tells a report"):
        load_settings(written(tmp_path, place + "objects = ['seg']\n"))


def test_callers_open_the_listener(tmp_path: Path) -> None:
    config = written(
        tmp_path,
        "[dicom]\nhost = '0.0.0.0'\n"
        "callers = ['CT1', { ae_title = 'CT2', addresses = ['10.0.0.0/8'] }]",
    )
    callers = load_settings(config).dicom.callers
    assert [caller.ae_title for caller in callers] == ["CT1", "CT2"]


def test_a_rule_that_names_an_unknown_destination_is_refused(tmp_path: Path) -> None:
    config = written(tmp_path, "[[routing]]\ndestinations = ['nobody']\n")
    with pytest.raises(InvalidSettings, match="unknown destination 'nobody'"):
        load_settings(config)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="allowed: a TOML file"):
        load_settings(written(tmp_path, "dicom = ["))


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="an existing file"):
        load_settings(tmp_path / "none.toml")


def test_a_deep_data_dir_still_gives_a_socket_path_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERREAD_DATA_DIR", str(tmp_path / ("d" * 90)))
    for variable in ("TMPDIR", "TEMP"):
        monkeypatch.setenv(variable, str(tmp_path / ("t" * 90)))
    assert len(str(load_settings().embedded_redis_socket)) < 100
