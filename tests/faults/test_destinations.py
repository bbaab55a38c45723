"""Destinations that are away, refuse, hang, lose answers or do not keep what they were given."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from service.core.part10 import read_file_meta
from service.records import commitments, deliveries
from tests.builders.outgoing import Outgoing
from tests.peers.orthanc import Orthanc
from tests.peers.pacs import Behaviour, Commits, PlayingPacs
from tests.peers.ports import free_port
from tests.peers.process import wait_for
from tests.peers.receiver import Receiver
from tests.peers.stow import Answer, StowServer
from workers.delivery import dimse

pytestmark = pytest.mark.filterwarnings(
    # The sender is pynetdicom's, which leaves the sockets of refused connections to the collector.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

A_DAY_S = 86_400


def pacs_named(name: str, pacs: Any, **more: Any) -> dict[str, Any]:
    port = pacs.port if isinstance(pacs, PlayingPacs) else pacs.dicom_port
    return {"name": name, "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": port, **more}


@pytest.fixture
def office(tmp_path: Path, database_url: str) -> Iterator[Callable[..., Outgoing]]:
    """A function that makes the way out to the destinations it is given."""
    made: list[Outgoing] = []

    def make(*destinations: dict[str, Any]) -> Outgoing:
        made.append(Outgoing(tmp_path / "office", database_url, destinations))
        return made[-1]

    yield make
    for each in made:
        each.close()


def contents(pacs: PlayingPacs) -> dict[str, set[str]]:
    """Return the digests of the data sets that arrived under each UID."""
    found: dict[str, set[str]] = {}
    for item in pacs.received:
        content = item.path.read_bytes()
        meta = read_file_meta(content)
        assert meta is not None
        digest = hashlib.sha256(content[meta.length :]).hexdigest()
        found.setdefault(item.sop_instance_uid, set()).add(digest)
    return found


@pytest.mark.faults(number=34)
def test_a_pacs_that_is_away_for_an_hour_gets_everything_in_order_after(
    office, pacs, tmp_path, seen
):
    with PlayingPacs(tmp_path / "other") as other:
        out = office(pacs_named("away", pacs), pacs_named("other", other))
        pacs.stop()
        made = [out.add_result(name=f"result {number}") for number in range(3)]
        out.step()
        assert len(other.received) == 3
        first = made[0][0]
        assert (out.row(first).state, out.row(first).reason) == ("SCHEDULED", "CONNECT")
        pauses = [out.pass_until_due(first)]
        while sum(pauses) < 3600:
            out.step()
            pauses.append(out.pass_until_due(first))
        assert pauses[:5] == [2, 4, 8, 16, 32]
        assert max(pauses) == 300
        pacs.start()
        for _ in range(4):
            out.step()
            out.clock.pass_(300)
        assert [out.row(delivery).state for delivery, _ in made] == ["DELIVERED"] * 3
        assert {len(kept) for kept in contents(pacs).values()} == {1}
        assert len(contents(pacs)) == 3
        assert len(other.received) == 3
        seen(f"{len(pauses)} attempts in the hour, then all delivered")


@pytest.mark.faults(number=34)
@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Behaviour.REFUSE_ASSOCIATION, "ASSOCIATION_REJECTED"),
        (Behaviour.ABORT, "NO_ANSWER"),
        (Behaviour.OUT_OF_RESOURCES, "PEER_BUSY"),
        (Behaviour.SLOW, "NO_ANSWER"),
    ],
)
def test_a_pacs_in_trouble_is_tried_again(office, pacs, behaviour, reason, monkeypatch):
    monkeypatch.setattr(dimse, "_ANSWER_TIMEOUT_S", 0.5)
    out = office(pacs_named("pacs", pacs))
    pacs.behave(behaviour, times=1, delay_s=2.0)
    (delivery,) = out.add_result()
    out.step()
    assert (out.row(delivery).state, out.row(delivery).reason) == ("SCHEDULED", reason)
    out.pass_until_due(delivery)
    out.step()
    assert out.row(delivery).state == "DELIVERED"
    assert {len(kept) for kept in contents(pacs).values()} == {1}


@pytest.mark.faults(number=34)
def test_a_slow_pacs_holds_up_no_other(office, pacs, tmp_path, seen):
    with PlayingPacs(tmp_path / "other") as other:
        out = office(pacs_named("slow", pacs), pacs_named("other", other))
        pacs.behave(Behaviour.SLOW, delay_s=1.0)
        out.add_result("slow", name="one")
        out.add_result("other", name="two")
        with out.context.busy["slow"]:  # another thread is sending there
            out.step()
            assert len(other.received) == 1
        out.step()
        assert len(pacs.received) == 1


@pytest.mark.faults(number=35)
@pytest.mark.parametrize("status", [0xA900, 0xC000, 0x0122, 0x0124])
def test_what_is_refused_for_good_is_parked_with_the_status(office, pacs, status):
    out = office(pacs_named("pacs", pacs))
    pacs.behave(Behaviour.ANSWER_STATUS, status=status)
    (delivery,) = out.add_result()
    out.step()
    row = out.row(delivery)
    assert (row.state, row.reason) == ("PARKED", f"STATUS_{status:04X}")
    out.clock.pass_(A_DAY_S)
    assert out.step() == 0
    pacs.behave(Behaviour.ACCEPT)
    with out.records.writing() as connection:
        deliveries.send_again(connection, delivery, at=out.clock.now())
    out.step()
    assert out.row(delivery).state == "DELIVERED"


@pytest.mark.faults(number=35)
def test_a_pacs_that_takes_no_such_class_is_parked(office):
    entity = AE("ECHOES")
    entity.add_supported_context(Verification)
    port = free_port()
    server = entity.start_server(("127.0.0.1", port), block=False)
    try:
        peer = {"name": "echoes", "ae_title": "ECHOES", "host": "127.0.0.1", "port": port}
        out = office(peer)
        (delivery,) = out.add_result()
        out.step()
        assert (out.row(delivery).state, out.row(delivery).reason) == ("PARKED", "NO_CONTEXT")
    finally:
        server.shutdown()


@pytest.mark.faults(number=36)
def test_a_lost_answer_leads_to_the_same_bytes_again(office, pacs, seen):
    out = office(pacs_named("pacs", pacs))
    pacs.behave(Behaviour.LOSE_ACK, times=2)
    (delivery,) = out.add_result()
    for _ in range(3):
        out.step()
        out.pass_until_due(delivery)
    assert out.row(delivery).state == "DELIVERED"
    assert len(pacs.received) == 3
    assert [len(kept) for kept in contents(pacs).values()] == [1]
    seen("arrived three times, one UID, the same bytes")


@pytest.mark.faults(number=36)
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer.UNAVAILABLE, "HTTP_503"),
        (Answer.PARTIAL, "PEER_BUSY"),
        (Answer.CONFLICT, "PEER_BUSY"),
        (Answer.NOT_DICOM_JSON, "NO_DICOM_JSON"),
        (Answer.HANG_UP, "CONNECT"),
    ],
)
def test_each_answer_of_stow_is_judged_by_the_instance(
    office, stow: StowServer, answer: Answer, reason: str
):
    out = office({"name": "web", "stow_url": stow.url})
    stow.behave(answer, times=1)
    (delivery,) = out.add_result()
    out.step()
    assert (out.row(delivery).state, out.row(delivery).reason) == ("SCHEDULED", reason)
    out.pass_until_due(delivery)
    out.step()
    assert out.row(delivery).state == "DELIVERED"
    assert len({item.content for item in stow.received}) == 1


@pytest.mark.faults(number=35)
def test_stow_that_knows_us_not_is_parked(office, stow: StowServer):
    out = office({"name": "web", "stow_url": stow.url})
    stow.behave(Answer.UNAUTHORIZED)
    (delivery,) = out.add_result()
    out.step()
    assert (out.row(delivery).state, out.row(delivery).reason) == ("PARKED", "HTTP_401")


@pytest.fixture
def listener(tmp_path: Path, database_url: str) -> Iterator[Receiver]:
    with Receiver(tmp_path / "listener", database_url) as running:
        yield running


def test_a_pacs_that_commits_on_its_own_association_is_believed(office, pacs, listener):
    pacs.reports_to = ("OVERREAD", listener.port)
    out = office(pacs_named("pacs", pacs, storage_commitment=True))
    (delivery,) = out.add_result()
    out.step()
    assert (out.row(delivery).state, out.row(delivery).commitment) in [
        ("DELIVERED", "REQUESTED"),
        ("DELIVERED", "COMMITTED"),
    ]
    wait_for(lambda: out.row(delivery).commitment == "COMMITTED")
    assert out.row(delivery).committed_at is not None
    out.clock.pass_(A_DAY_S / 2)
    assert out.step() == 0
    assert len(pacs.received) == 1


@pytest.mark.faults(number=36)
def test_what_a_pacs_does_not_keep_is_sent_again(office, pacs, listener, seen):
    pacs.reports_to = ("OVERREAD", listener.port)
    pacs.commits = Commits.LOST
    out = office(pacs_named("pacs", pacs, storage_commitment=True))
    (delivery,) = out.add_result()
    out.step()
    wait_for(lambda: out.row(delivery).commitment == "REFUSED")
    assert (out.row(delivery).state, out.row(delivery).reason) == ("SCHEDULED", "NOT_COMMITTED")
    pacs.commits = Commits.KEPT
    out.clock.pass_(A_DAY_S / 2)  # the listener's clock is the real one
    out.step()
    wait_for(lambda: out.row(delivery).commitment == "COMMITTED")
    assert len(pacs.received) == 2
    assert [len(kept) for kept in contents(pacs).values()] == [1]
    seen("not committed: sent again, then committed")


def test_a_pacs_that_never_reports_is_asked_again_with_a_new_transaction(office, pacs):
    pacs.commits = Commits.SILENT
    out = office(pacs_named("pacs", pacs, storage_commitment=True))
    (delivery,) = out.add_result()
    out.step()
    assert out.row(delivery).commitment == "REQUESTED"
    assert out.step() == 0
    out.clock.pass_(600)
    assert out.step() == 1
    assert len(set(pacs.questions)) == 2
    assert len(pacs.received) == 1


def test_a_destination_without_commitment_is_left_alone_after_saying_so(office):
    entity = AE("PLAIN")
    entity.add_supported_context("1.2.840.10008.5.1.4.1.1.2")
    port = free_port()
    kept: list[str] = []

    def keep(event):
        kept.append(event.request.AffectedSOPInstanceUID)
        return 0

    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)]
    )
    try:
        peer = {"name": "plain", "ae_title": "PLAIN", "host": "127.0.0.1", "port": port}
        out = office({**peer, "storage_commitment": True})
        (delivery,) = out.add_result()
        out.step()
        row = out.row(delivery)
        assert (row.state, row.commitment, row.reason) == ("DELIVERED", "FAILED", "NO_CONTEXT")
        out.clock.pass_(A_DAY_S)
        assert out.step() == 0
        assert len(kept) == 1
    finally:
        server.shutdown()


def test_another_installation_commits_on_the_association_that_asked(office, listener):
    peer = {"name": "ours", "ae_title": "OVERREAD", "host": "127.0.0.1", "port": listener.port}
    out = office({**peer, "storage_commitment": True})
    (delivery,) = out.add_result()
    out.step()
    assert (out.row(delivery).state, out.row(delivery).commitment) == ("DELIVERED", "COMMITTED")


@pytest.mark.peers
@pytest.mark.faults(number=36)
def test_orthanc_commits_to_what_it_stored_and_denies_what_it_lost(
    office, orthanc: Orthanc, tmp_path, database_url, seen
):
    with Receiver(tmp_path / "own", database_url) as listener:
        orthanc.add_modality("overread", "OVERREAD", listener.port)
        out = office(pacs_named("orthanc", orthanc, storage_commitment=True))
        (delivery,) = out.add_result()
        out.step()
        wait_for(lambda: out.row(delivery).commitment == "COMMITTED", limit_s=60)
        (instance,) = orthanc.instances()
        orthanc.delete(instance)
        with out.records.writing() as connection:  # asked about what it has lost since
            commitments.want(connection, delivery, at=out.clock.now())
        out.step()
        wait_for(lambda: out.row(delivery).commitment == "REFUSED", limit_s=60)
        out.clock.pass_(A_DAY_S / 2)
        out.step()
        wait_for(lambda: out.row(delivery).commitment == "COMMITTED", limit_s=60)
        assert len(orthanc.instances()) == 1
        seen("Orthanc committed, denied what it had lost, got it again")


@pytest.mark.faults(number=23)
def test_a_result_whose_file_was_changed_is_not_sent(office, pacs):
    out = office(pacs_named("pacs", pacs))
    (delivery,) = out.add_result()
    (file,) = out.archive.root.rglob("*.dcm")
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(bytes(content))
    out.step()
    assert (out.row(delivery).state, out.row(delivery).reason) == ("PARKED", "DIGEST")
    assert pacs.received == ()
