"""One study through a whole installation: RIS, webhook and audit repository hear of it."""

import base64
import json
from pathlib import Path

import pytest

from tests.builders.studies import ball_package, chest_study
from tests.peers.hook import Hook
from tests.peers.mllp import MllpReceiver
from tests.peers.overread import Overread
from tests.peers.process import wait_for
from tests.peers.syslog import SyslogServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
SECRET = "whsec_" + base64.b64encode(b"a secret of the site").decode()


def test_a_finding_reaches_the_ris_the_webhook_and_the_audit_repository(tmp_path: Path) -> None:
    ball_package(tmp_path / "models")
    study = chest_study(tmp_path, BodyPartExamined="CHEST", PatientID="P1")
    hook, syslog = Hook(), SyslogServer()
    local = ["127.0.0.0/8", "::1/128"]
    told = {"name": "chat", "url": hook.url, "secret": SECRET, "allowed_networks": local}
    try:
        with (
            MllpReceiver() as ris,
            Overread(
                tmp_path / "overread",
                models__dir=tmp_path / "models",
                destinations=[{"name": "RIS", "mllp_host": "127.0.0.1", "port": ris.port}],
                webhooks=[told | {"events": ["finding.urgent", "study.completed"]}],
                audit__syslog__host="127.0.0.1",
                audit__syslog__port=syslog.port,
                audit__syslog__transport="tcp",
            ) as overread,
        ):
            assert overread.send(study.files, calling_ae_title="CT1") == []
            assert overread.wait_finished(study.study_instance_uid) == "ANALYSED"
            message = wait_for(lambda: ris.received, limit_s=60)[0]
            calls = wait_for(lambda: hook.received if len(hook.received) > 1 else [], limit_s=60)
            overread.get(f"/studies/{study.study_instance_uid}/findings")
            wanted = (b"list_findings", b"receive", b"deliver")
            wait_for(
                lambda: all(
                    any(base64.b64encode(word) in one for one in syslog.messages) for word in wanted
                ),
                limit_s=60,
            )
            trail = overread.get("/audit", study_instance_uid=study.study_instance_uid)["items"]
            assert overread.get("/audit/integrity")["intact"] is True
            (delivery,) = overread.get("/deliveries")["items"]
    finally:
        hook.end()
        syslog.end()
    assert study.study_instance_uid in str(message)
    assert "27925004^Nodule^SCT" in str(message)
    assert delivery["state"] == "DELIVERED"
    assert [json.loads(body)["type"] for _, body in calls] == ["finding.urgent", "study.completed"]
    assert "P1" not in str(calls)
    assert {(one["kind"], one["actor"]) for one in trail} >= {
        ("import", "CT1"),
        ("export", "RIS"),
        ("view", "local"),
    }
