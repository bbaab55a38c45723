"""Webhooks: which event makes a call, what it says, how it is signed, and where it may go."""

import base64
import hashlib
import hmac
import json
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service.core.settings import Settings
from service.core.states import DeliveryState, JobState, StudyState
from service.records import events, outbox, reviews, webhooks
from service.records.database import Records
from service.records.events import EventKind
from service.records.migrations import migrate
from service.records.reviews import Review, Verdict
from service.records.topics import Topic
from service.records.webhooks import Call
from service.studies.notices import Notices
from tests.builders import rows
from tests.builders.http import SetClock
from tests.peers.hook import Hook
from workers.delivery.guard import may_call
from workers.webhook_job import CallContext, make_call

SECRET = "whsec_" + base64.b64encode(b"a secret of the site").decode()


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    yield server
    server.end()


class World:
    """Records, a clock, the step that makes calls and the one that makes them."""

    def __init__(self, records: Records, hooks: list[dict[str, Any]]) -> None:
        self.records = records
        self.clock = SetClock(rows.NOW)
        self.settings = Settings(webhooks=hooks)
        self.notices = Notices(self.settings, records, self.clock)
        self.notices.step()  # what was before webhooks were set up is nobody's news

    def happened(self, kind: EventKind, uid: str, state: str, subject: str = "") -> None:
        with self.records.writing() as connection:
            events.append(
                connection,
                kind=kind,
                study_instance_uid=uid,
                subject_id=subject,
                state=state,
                at=self.clock.now(),
            )

    def study(self, **columns: Any) -> tuple[str, str]:
        """Return the UID and the job of a new analysed study."""
        with self.records.writing() as connection:
            study_id = rows.add_analysed_study(connection, **columns)
            job = connection.exec_driver_sql(
                f"SELECT id FROM jobs WHERE study_id = {study_id}"
            ).scalar_one()
            return rows.uid_of(connection, study_id), str(job)

    def calls(self) -> list[Call]:
        while self.notices.step():
            pass
        with self.records.reading() as connection:
            page = webhooks.page(connection, webhook=None, states=(), limit=100, cursor=None)
        return page.items[::-1]

    def call(self, call_id: int) -> Call:
        make_call(CallContext(self.settings, self.records, self.clock), call_id)
        with self.records.reading() as connection:
            return webhooks.call(connection, call_id)

    def content(self, call_id: int) -> dict[str, Any]:
        with self.records.writing() as connection:
            held = webhooks.claim(
                connection, call_id, at=self.clock.now(), lease=timedelta(seconds=9)
            )
        assert held is not None
        return dict(held.content)


@pytest.fixture
def records(database_url: str) -> Iterator[Records]:
    store = Records(database_url)
    migrate(store)
    yield store
    store.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Records]:
    opened = Records(f"sqlite:///{tmp_path / 'overread.db'}")
    migrate(opened)
    yield opened
    opened.close()


def a_hook(url: str = "http://127.0.0.1:1/", **given: Any) -> dict[str, Any]:
    return {"name": "chat", "url": url, "secret": SECRET} | given


def test_an_urgent_finding_makes_one_call_that_names_no_patient(records: Records) -> None:
    world = World(records, [a_hook()])
    uid, job = world.study(patient_name="Geheim^Gerda", patient_id="PID77")
    world.happened(EventKind.JOB, uid, JobState.COMPLETED, job)
    (call,) = world.calls()
    assert (call.event, call.study_instance_uid) == ("finding.urgent", uid)
    with records.reading() as connection:
        (bell,) = outbox.pending(connection)
    assert (bell.topic, bell.subject_id) == (Topic.WEBHOOK, str(call.id))
    content = world.content(call.id)
    assert content["type"] == "finding.urgent"
    assert content["data"]["job"]["task"] == "lung_nodule_detection"
    (finding,) = content["data"]["findings"]
    assert finding["label"]["meaning"] == "Nodule"
    told = json.dumps(content)
    assert not any(part in told for part in ("Geheim", "PID77", "19610430", "A0"))
    assert world.calls() == [world.call(call.id)]


def test_who_is_told_decides_by_events_tasks_rules_and_urgency(store: Records) -> None:
    hooks = [
        a_hook(name="none", events=["job.failed"]),
        a_hook(name="other-task", tasks=["chest_xray"]),
        a_hook(name="only-certain", min_urgency=0.99),
        a_hook(name="mr-only", rules=[{"keyword": "Modality", "value": "MR"}]),
        a_hook(name="by-caller", rules=[{"keyword": "CallingAETitle", "value": "MODALITY"}]),
        a_hook(name="all", events=["finding.urgent", "job.completed"]),
    ]
    world = World(store, hooks)
    uid, job = world.study()
    world.happened(EventKind.JOB, uid, JobState.COMPLETED, job)
    assert [(one.webhook, one.event) for one in world.calls()] == [
        ("by-caller", "finding.urgent"),
        ("all", "finding.urgent"),
        ("all", "job.completed"),
    ]


def test_each_event_has_its_name(store: Records) -> None:
    names = ["study.completed", "study.failed", "job.failed", "delivery.parked", "finding.reviewed"]
    world = World(store, [a_hook(events=names)])
    uid, job = world.study()
    world.happened(EventKind.STUDY, uid, StudyState.RECEIVING)
    world.happened(EventKind.STUDY, uid, StudyState.NOT_ANALYSED)
    world.happened(EventKind.STUDY, uid, StudyState.FAILED)
    world.happened(EventKind.JOB, uid, JobState.FAILED, job)
    world.happened(EventKind.DELIVERY, uid, DeliveryState.PARKED, "1")
    with store.writing() as connection:
        finding = connection.exec_driver_sql("SELECT id FROM findings LIMIT 1").scalar_one()
        review = Review(str(finding), Verdict.REJECTED, "", "R", {}, rows.NOW)
        reviews.write(connection, review)
    found = world.calls()
    assert [one.event for one in found] == names
    assert world.content(found[3].id)["data"]["delivery"]["destination"] == "pacs"
    assert world.content(found[4].id)["data"]["findings"][0]["verdict"] == "rejected"


def test_shadow_runs_are_nobodys_news(store: Records) -> None:
    world = World(store, [a_hook(events=["job.completed", "finding.urgent"])])
    uid, job = world.study()
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE jobs SET shadow = true")
    world.happened(EventKind.JOB, uid, JobState.COMPLETED, job)
    assert world.calls() == []


def test_a_call_is_signed_as_standard_webhooks_say(store: Records, hook: Hook) -> None:
    identity = a_hook(hook.url, allowed_networks=["127.0.0.0/8", "::1/128"], include_identity=True)
    world = World(store, [identity])
    uid, job = world.study(patient_id="P7")
    world.happened(EventKind.JOB, uid, JobState.COMPLETED, job)
    (call,) = world.calls()
    assert world.call(call.id).state is DeliveryState.DELIVERED
    ((headers, body),) = hook.received
    assert headers[":path"] == "/events?from=overread"
    assert headers["host"].startswith("localhost:")
    assert headers["webhook-id"] == call.message_id
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = hmac.new(b"a secret of the site", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()
    assert json.loads(body)["data"]["patient"]["patient_id"] == "P7"


def test_a_webhook_that_fails_is_called_again_under_the_same_id_and_then_parked(
    store: Records, hook: Hook
) -> None:
    world = World(store, [a_hook(hook.url, allowed_networks=["127.0.0.0/8", "::1/128"])])
    uid, job = world.study()
    world.happened(EventKind.JOB, uid, JobState.COMPLETED, job)
    (call,) = world.calls()
    hook.status = 503
    pauses = []
    for _ in range(3):
        now = world.call(call.id)
        assert (now.state, now.reason) == (DeliveryState.SCHEDULED, "HTTP_503")
        pauses.append(now.due_at - world.clock.time)
        world.clock.time = now.due_at
    assert pauses == sorted(set(pauses))
    world.clock.time = call.give_up_at
    assert world.call(call.id).state is DeliveryState.PARKED
    hook.status = 200
    with store.writing() as connection:
        webhooks.call_again(connection, call.id, at=world.clock.time)
    assert world.call(call.id).state is DeliveryState.DELIVERED
    assert {headers["webhook-id"] for headers, _ in hook.received} == {call.message_id}


@pytest.mark.parametrize(("status", "reason"), [(302, "REDIRECT"), (410, "HTTP_410")])
def test_redirects_are_not_followed_and_what_is_gone_is_left_alone(
    store: Records, hook: Hook, status: int, reason: str
) -> None:
    world = World(store, [a_hook(hook.url, allowed_networks=["127.0.0.0/8", "::1/128"])])
    uid, job = world.study()
    world.happened(EventKind.JOB, uid, JobState.COMPLETED, job)
    hook.status = status
    now = world.call(world.calls()[0].id)
    assert (now.state, now.reason) == (DeliveryState.PARKED, reason)
    assert len(hook.received) == 1


def test_addresses_inside_are_called_only_when_listed(store: Records, hook: Hook) -> None:
    world = World(store, [a_hook(hook.url)])
    uid, job = world.study()
    world.happened(EventKind.JOB, uid, JobState.COMPLETED, job)
    now = world.call(world.calls()[0].id)
    assert (now.state, now.reason) == (DeliveryState.PARKED, "ADDRESS")
    assert hook.received == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "255.255.255.255", "224.0.0.1", "::1", "::", "fe80::1", "fd00::1", "ff02::1",
        "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a00:1::",
    ],
)  # fmt: skip
def test_no_special_address_is_public(address: str) -> None:
    assert not may_call(address, allowed_networks=())
    assert may_call("93.184.216.34", allowed_networks=())


def test_a_name_that_leads_inside_as_well_is_not_called(
    store: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolved(_host: str, port: int, **_more: Any) -> list[Any]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (address, port)) for address in ("93.184.216.34", "10.0.0.7")]

    monkeypatch.setattr("workers.delivery.guard.socket.getaddrinfo", resolved)
    world = World(store, [a_hook("https://hooks.example/x")])
    uid, job = world.study()
    world.happened(EventKind.JOB, uid, JobState.COMPLETED, job)
    assert world.call(world.calls()[0].id).reason == "ADDRESS"


def test_a_secret_file_is_read_each_time(store: Records, hook: Hook, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    given = a_hook(hook.url, allowed_networks=["127.0.0.0/8", "::1/128"], secret_file=file)
    del given["secret"]
    world = World(store, [given])
    uid, job = world.study()
    world.happened(EventKind.JOB, uid, JobState.COMPLETED, job)
    (call,) = world.calls()
    assert world.call(call.id).reason == "SECRET"
    file.write_text("hush\n")
    world.clock.time += timedelta(minutes=5)
    assert world.call(call.id).state is DeliveryState.DELIVERED
