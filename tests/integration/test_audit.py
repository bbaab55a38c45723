"""The audit trail: what gets into it, that nothing gets out of it, and how it leaves by syslog."""

import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from service.core.clock import SystemClock
from service.core.errors import PeerUnavailable
from service.core.settings import Settings
from service.records import audit
from service.records.audit import AuditEntry, AuditKind
from service.records.audit_trail import AuditTrail
from service.records.database import Records
from service.records.migrations import migrate
from tests.builders import rows
from tests.builders.certificates import Identity, identities
from tests.builders.http import BASE_URL, Site, site
from tests.peers.ports import free_port
from tests.peers.syslog import SyslogServer
from workers.audit_relay import AuditRelay

KEY = "correct-horse-battery-staple"
ADMIN = {"X-API-Key": KEY}


@pytest.fixture
def records(database_url: str) -> Iterator[Records]:
    store = Records(database_url)
    migrate(store)
    yield store
    store.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("guarded")
    http = {"auth": "api_key", "api_keys": [KEY]}
    with site(f"sqlite:///{folder / 'overread.db'}", folder, http=http) as opened:
        opened.client.follow_redirects = False
        yield opened


def an_entry(number: int = 0, **given: Any) -> AuditEntry:
    values: dict[str, Any] = {
        "at": rows.NOW + timedelta(seconds=number),
        "kind": AuditKind.VIEW,
        "operation": "show_study",
        "actor": f"reader {number}",
    } | given
    return AuditEntry(**values)


def entries(here: Site, **asked: str) -> list[dict[str, Any]]:
    here.client.app.state.trail.flush()
    listed: list[dict[str, Any]] = here.get("/audit", params=asked, headers=ADMIN)["items"]
    return listed


def test_entries_cannot_be_changed_or_deleted(records: Records) -> None:
    with records.writing() as connection:
        audit.append(connection, [an_entry(n) for n in range(3)], process="api")
    statements = ["UPDATE audit_events SET actor = 'x'", "DELETE FROM audit_events"]
    statements += [] if records.is_sqlite else ["TRUNCATE audit_events"]
    for statement in statements:
        with pytest.raises(DBAPIError, match="append-only"), records.writing() as connection:
            connection.execute(text(statement))
    with records.reading() as connection:
        found = audit.verify(connection)
    assert (found.entries, found.intact) == (3, True)


def test_a_change_behind_the_product_shows_in_the_chain(records: Records) -> None:
    with records.writing() as connection:
        audit.append(connection, [an_entry(n) for n in range(4)], process="api")
        if records.is_sqlite:
            connection.execute(text("DROP TRIGGER audit_events_no_update"))
            connection.execute(text("DROP TRIGGER audit_events_no_delete"))
        else:
            connection.execute(text("ALTER TABLE audit_events DISABLE TRIGGER ALL"))
    changes = (
        "UPDATE audit_events SET actor = 'x' WHERE id = 3",
        "DELETE FROM audit_events WHERE id = 2",
    )
    for change in changes:
        with records.engine.connect() as connection:
            connection.execute(text(change))
            assert audit.verify(connection).broken_at_id == 3
            connection.rollback()


def test_writers_at_the_same_time_make_one_chain(records: Records) -> None:
    def write(name: str) -> None:
        for number in range(10):
            with records.writing() as connection:
                audit.append(connection, [an_entry(number, actor=name)], process=name)

    threads = [threading.Thread(target=write, args=(f"p{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with records.reading() as connection:
        found = audit.verify(connection)
    assert (found.entries, found.intact) == (40, True)


def test_what_is_noted_while_the_database_is_away_is_written_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = Records(f"sqlite:///{tmp_path / 'overread.db'}")
    monkeypatch.setattr("service.records.audit_trail._WAITING_LIMIT", 3)
    away = socket.socket()  # a database that nobody answers for
    away.bind(("127.0.0.1", 0))
    closed = Records(f"postgresql+psycopg://x@127.0.0.1:{away.getsockname()[1]}/x")
    trail = AuditTrail(closed, SystemClock(), "api")
    for number in range(5):
        trail.note(AuditKind.CHANGE, "retry_job", actor=f"operator {number}")
    trail.flush()
    migrate(records)
    monkeypatch.setattr(trail, "_records", records)
    trail.note(AuditKind.CHANGE, "retry_job", actor="operator 9")
    trail.close()
    with records.reading() as connection:
        found = audit.after(connection, 0, limit=50)
    kept = [one.actor for one in found if one.kind is AuditKind.CHANGE]
    assert kept[:3] == ["operator 0", "operator 1", "operator 2"]
    gaps = [one.detail for one in found if one.operation == "audit_overflow"]
    assert gaps
    assert len(kept) + sum(int(gap.split()[0]) for gap in gaps) == 6
    away.close()
    closed.close()
    records.close()


def test_who_saw_and_changed_what_is_written_once(guarded: Site) -> None:
    uid = guarded.uid(guarded.add(rows.add_analysed_study))
    finding = guarded.get(f"/studies/{uid}/findings", headers=ADMIN)["items"][0]["id"]
    for _ in range(3):
        guarded.client.get(f"/studies/{uid}", headers=ADMIN)
        guarded.client.get(f"/dicom-web/studies/{uid}/series", headers=ADMIN)
        guarded.client.get(f"/fhir/Observation?study={uid}", headers=ADMIN)
    body = {"verdict": "accepted", "reviewer": "R"}
    guarded.client.put(f"/api/v1/findings/{finding}/review", json=body, headers=ADMIN)
    found = entries(guarded, study_instance_uid=uid)
    kinds = [(one["kind"], one["operation"]) for one in reversed(found)]
    assert kinds.count(("view", "list_findings")) == 1
    assert [kind for kind, _ in kinds].count("retrieve") == 1
    assert ("view", "fhir_search") in kinds
    assert kinds[-1] == ("change", "review_finding")
    assert found[0]["subject_id"] == f"finding:{finding}"
    assert {one["actor"] for one in found} == {"key 1 of the settings"}
    assert {one["role"] for one in found} == {"administrator"}


def test_sign_ins_failures_and_refusals_are_written(guarded: Site) -> None:
    own = {"origin": BASE_URL}
    guarded.client.post("/login", data={"key": "wrong"}, headers=own)
    guarded.client.post("/login", data={"key": KEY}, headers=own)
    guarded.client.post("/logout", headers=own)
    guarded.client.get("/api/v1/jobs", headers={"X-API-Key": "nothing"})
    made = guarded.client.post("/api/v1/keys", json={"name": "N", "role": "reader"}, headers=ADMIN)
    reader = {"X-API-Key": made.json()["secret"]}
    guarded.client.get("/api/v1/keys", headers=reader)
    found = entries(guarded)
    told = {(one["kind"], one["outcome"], one["detail"].split(" ")[0]) for one in found}
    assert {
        ("login", "failure", "WRONG"),
        ("login", "success", ""),
        ("logout", "success", ""),
        ("refusal", "failure", "UNAUTHORIZED"),
        ("refusal", "failure", "ROLE"),
    } <= told
    (key,) = [one for one in found if one["operation"] == "make_key"]
    assert key["subject_id"] == f"key:{made.json()['key']['id']}"
    assert entries(guarded, kind="refusal", outcome="failure", actor="N")[0]["role"] == "reader"
    assert KEY not in str(found)


def test_the_trail_names_no_patient(guarded: Site) -> None:
    study = guarded.add(rows.add_analysed_study, patient_name="Geheim^Gerda", patient_id="PID-77")
    guarded.client.get(f"/studies/{guarded.uid(study)}", headers=ADMIN)
    guarded.client.get("/api/v1/worklist?q=Geheim", headers=ADMIN)
    told = str(entries(guarded))
    assert guarded.uid(study) in told
    assert not any(part in told for part in ("Geheim", "PID-77", "19610430"))


def test_the_trail_pages_and_says_whether_it_is_whole(guarded: Site) -> None:
    for path in ("/api/v1/keys", "/keys", "/audit"):
        guarded.client.get(path, headers=ADMIN)
    newest = entries(guarded, limit="1")
    assert len(newest) == 1
    page = guarded.get("/audit", params={"limit": 1}, headers=ADMIN)
    following = guarded.get("/audit", params={"cursor": page["next"]}, headers=ADMIN)
    assert following["items"][0]["id"] < page["items"][0]["id"]
    assert guarded.get("/audit/integrity", headers=ADMIN)["intact"] is True
    for wrong in ({"kind": "x"}, {"since": "0001-01-01T00:00:00+14:00"}, {"actor": "a\x00"}):
        answer = guarded.client.get("/api/v1/audit", params=wrong, headers=ADMIN)
        assert answer.status_code == 422, wrong


def relay(records: Records, port: int, **syslog: Any) -> AuditRelay:
    given = {"host": "127.0.0.1", "port": port, "transport": "tcp"} | syslog
    settings = Settings(audit={"syslog": given})
    return AuditRelay(settings, records, SystemClock())


@pytest.fixture
def trail_of_three(tmp_path: Path) -> Iterator[Records]:
    store = Records(f"sqlite:///{tmp_path / 'overread.db'}")
    migrate(store)
    with store.writing() as connection:
        uid = rows.uid_of(connection, rows.add_study(connection, patient_id="PID<7>"))
        told = [
            an_entry(0, study_instance_uid=uid, role="reader", address="10.0.0.7"),
            an_entry(1, kind=AuditKind.REFUSAL, actor="\x01<evil>&", detail="1/1/3"),
            an_entry(2, kind=AuditKind.QUERY, operation="list_worklist"),
        ]
        audit.append(connection, told, process="api@host:1")
    yield store
    store.close()


def documents(server: SyslogServer, count: int) -> list[ElementTree.Element]:
    end = threading.Event()
    for _ in range(100):
        if len(server.messages) >= count:
            break
        end.wait(0.05)
    return [ElementTree.fromstring(one[one.index(b"<?xml") :]) for one in server.messages]


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return identities(tmp_path_factory.mktemp("certificates"), "server")["server"]


def test_the_trail_goes_out_by_tls_as_dicom_audit_messages(
    trail_of_three: Records, identity: Identity
) -> None:
    server = SyslogServer(identity)
    sender = relay(trail_of_three, server.port, transport="tls", ca=identity.authority)
    assert sender.step() == 3
    assert sender.step() == 0
    found = documents(server, 3)
    sender.close()
    server.end()
    assert server.messages[0].startswith(b"<85>1 2026-11-20T09:30:00.000Z ")
    assert b" overread api@host:1 DICOM+RFC3881 - <?xml" in server.messages[0]
    assert server.messages[1].startswith(b"<84>1 ") is False  # noted as done: it succeeded
    codes = [one.find("EventIdentification/EventID").get("csd-code") for one in found]  # type: ignore[union-attr]
    assert codes == ["110103", "110113", "110112"]
    children = [child.tag for child in found[0]]
    assert children == [
        "EventIdentification", "ActiveParticipant", "ActiveParticipant",
        "AuditSourceIdentification", "ParticipantObjectIdentification",
        "ParticipantObjectIdentification",
    ]  # fmt: skip
    study, patient = found[0].findall("ParticipantObjectIdentification")
    assert (study.get("ParticipantObjectTypeCode"), study.get("ParticipantObjectTypeCodeRole")) == (
        "2", "3",
    )  # fmt: skip
    assert patient.get("ParticipantObjectID") == "PID<7>"
    assert found[1].find("ActiveParticipant").get("UserID") == " <evil>&"  # type: ignore[union-attr]


def test_in_clear_text_no_patient_is_named(trail_of_three: Records) -> None:
    server = SyslogServer()
    sender = relay(trail_of_three, server.port)
    sender.step()
    found = documents(server, 3)
    sender.close()
    server.end()
    assert b"PID" not in b"".join(server.messages)
    patient = found[0].findall("ParticipantObjectIdentification")[1]
    assert patient.get("ParticipantObjectID") == "anonymous"


def test_by_udp_each_message_is_a_datagram(trail_of_three: Records) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        sender = relay(trail_of_three, receiver.getsockname()[1], transport="udp")
        assert sender.step() == 3
        datagrams = [receiver.recv(65536) for _ in range(3)]
        sender.close()
    assert all(one.startswith(b"<85>1 ") for one in datagrams)


def test_a_server_that_was_away_gets_everything_afterwards(trail_of_three: Records) -> None:
    port = free_port()
    sender = relay(trail_of_three, port)
    with pytest.raises(PeerUnavailable, match="SYSLOG"):
        sender.step()
    server = SyslogServer(port=port)
    assert sender.step() == 3
    assert len(documents(server, 3)) == 3
    sender.close()
    server.end()


def test_two_senders_do_not_send_twice(trail_of_three: Records, monkeypatch: Any) -> None:
    server = SyslogServer()
    first = relay(trail_of_three, server.port)
    second = relay(trail_of_three, server.port)
    monkeypatch.setattr(second, "_holder", "another")
    assert (first.step(), second.step()) == (3, 0)
    for one in (first, second):
        one.close()
    server.end()
