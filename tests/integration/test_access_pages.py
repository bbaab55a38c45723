"""Signing in, keys, the audit trail and webhooks, driven in a browser as a person would."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.core.states import DeliveryState
from service.records import webhooks
from service.records.database import Records
from service.records.migrations import migrate
from tests.builders import rows
from tests.builders.http import served, site_settings
from tests.peers.browser import SCRIPTS, Browser

KEY = "correct-horse-battery-staple"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    records = Records(f"sqlite:///{tmp_path / 'overread.db'}")
    migrate(records)
    with records.writing() as connection:
        study = rows.add_analysed_study(connection)
        webhooks.schedule(
            connection,
            webhook="chat",
            event="finding.urgent",
            message_id="msg_1",
            study_instance_uid=rows.uid_of(connection, study),
            content={},
            at=rows.NOW,
        )
        connection.exec_driver_sql(
            f"UPDATE webhook_calls SET state = '{DeliveryState.PARKED}', message = 'no such host'"
        )
    hook = {"name": "chat", "url": "https://chat.example/hook", "secret": "hush"}
    settings = site_settings(tmp_path, http={"auth": "api_key", "api_keys": [KEY]}, webhooks=[hook])
    with served(settings, records) as url:
        yield url
    records.close()


@pytest.mark.peers
def test_an_administrator_signs_in_makes_a_key_and_reads_the_trail(
    browser: Browser, address: str, tmp_path: Path
) -> None:
    script = SCRIPTS / "access_pages.mjs"
    found = browser.run(script, url=address, key=KEY, folder=str(tmp_path))
    assert "not known" in found["refused"]
    assert "key 1 of the settings" in found["signedIn"]
    assert found["secret"].startswith("ovr_")
    assert "another key has it" in found["sentTwice"]
    assert not found["shownAgain"]
    assert "<b>PACS</b> router" in found["keys"]
    assert "revoked" in found["keys"]
    assert "WRONG" in found["logins"]
    for operation in ("make_key", "revoke_key", "session"):
        assert operation in found["trail"]
    assert "finding.urgent" in found["webhooks"]
    assert "no such host" in found["webhooks"]
    assert "hush" not in found["webhooks"]
    assert "signed out" in found["out"]
    assert found["after"] == 401
    assert found["errors"] == []
