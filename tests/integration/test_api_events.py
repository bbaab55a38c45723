"""The event stream and the server's manners, over real sockets."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api import server
from service.core.errors import InvalidSettings
from service.records import events, heartbeats
from service.records.database import Records
from service.records.events import EventKind
from service.records.migrations import migrate
from tests.builders.http import served, site_settings
from tests.builders.rows import NOW
from tests.peers.process import wait_for


@pytest.fixture
def records(database_url: str) -> Iterator[Records]:
    store = Records(database_url)
    migrate(store)
    yield store
    store.close()


@pytest.fixture
def address(records: Records, tmp_path: Path) -> Iterator[str]:
    with served(site_settings(tmp_path), records) as url:
        yield url


def tell(records: Records, state: str) -> None:
    with records.writing() as connection:
        events.append(
            connection, kind=EventKind.JOB, study_instance_uid="1.2.3", state=state, at=NOW
        )


def first_events(address: str, count: int, **given: Any) -> list[dict[str, Any]]:
    """Return the first events of a stream, each with its id and kind."""
    found: list[dict[str, Any]] = []
    with httpx.stream("GET", f"{address}/api/v1/events", timeout=20, **given) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(lines).startswith("retry: ")
        one: dict[str, Any] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            if name == "data":
                one |= json.loads(value)
            elif name in ("id", "event"):
                one[f"line_{name}"] = value
            elif not line and one:
                found.append(one)
                one = {}
            if len(found) == count:
                return found
    raise AssertionError(f"the stream ended after {found}")


def test_a_client_hears_what_happens_after_it_came(records: Records, address: str) -> None:
    tell(records, "BEFORE")
    came = threading.Event()

    def keep_telling() -> None:  # nobody knows when the client is there
        while not came.wait(1):
            tell(records, "SCHEDULED")

    telling = threading.Thread(target=keep_telling)
    telling.start()
    (heard,) = first_events(address, 1)
    came.set()
    telling.join()
    assert (heard["line_event"], heard["state"]) == ("job", "SCHEDULED")
    assert heard["line_id"] == str(heard["id"])
    assert heard["study_instance_uid"] == "1.2.3"


def test_a_client_that_comes_back_misses_nothing(records: Records, address: str) -> None:
    for state in ("SCHEDULED", "IN_PROGRESS", "COMPLETED"):
        tell(records, state)
    first, second, third = first_events(address, 3, params={"after": 0})
    back = {"Last-Event-ID": first["line_id"]}
    # A browser repeats the address it came with; the header says where it was.
    again = first_events(address, 2, params={"after": 0}, headers=back)
    assert again == [second, third]
    assert [one["state"] for one in again] == ["IN_PROGRESS", "COMPLETED"]


@pytest.mark.parametrize("after", ["-1", "x", str(2**40)])
def test_a_wrong_place_is_refused(address: str, after: str) -> None:
    assert httpx.get(f"{address}/api/v1/events", params={"after": after}).status_code == 422


def test_an_open_stream_does_not_hold_the_server_back(records: Records, tmp_path: Path) -> None:
    with (
        served(site_settings(tmp_path), records) as url,
        httpx.stream("GET", f"{url}/api/v1/events", timeout=20) as answer,
    ):
        assert next(answer.iter_lines())
        start = time.monotonic()
    assert time.monotonic() - start < server._STOP_WITHIN_S


def test_a_header_that_never_ends_is_given_up(
    records: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_HEADERS_WITHIN_S", 0.5)
    with served(site_settings(tmp_path), records) as url:
        host, port = url.removeprefix("http://").split(":")
        with (
            socket.create_connection((host, int(port)), timeout=10) as silent,
            socket.create_connection((host, int(port)), timeout=10) as slow,
        ):
            slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
            assert silent.recv(100) == b""
            assert slow.recv(100) == b""
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_small_answers_do_not_wait_for_acknowledgements(tmp_path: Path) -> None:
    opened = server.listener(site_settings(tmp_path, http={"port": 0}).http)
    with opened:
        # What asyncio looks at before it switches Nagle's algorithm off.
        assert opened.proto == socket.IPPROTO_TCP


def test_a_port_that_is_taken_is_a_wrong_setting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        http = site_settings(tmp_path, http={"port": port}).http
        with pytest.raises(InvalidSettings, match=r"http\.port"):
            server.listener(http)


def test_the_role_is_known_to_be_alive_and_stops_when_asked(
    records: Records, database_url: str, tmp_path: Path, new_port: Callable[[], int]
) -> None:
    port = new_port()
    database = {"url": database_url}
    settings = site_settings(tmp_path, database=database, http={"port": port})
    stop = threading.Event()
    running = threading.Thread(target=server.run, args=(settings, stop))
    running.start()
    try:
        wait_for(lambda: alive(records) == ["api"], limit_s=20)
        assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    finally:
        stop.set()
        running.join(20)
    assert not running.is_alive()
    assert alive(records) == []


def alive(records: Records) -> list[str]:
    with records.reading() as connection:
        return [beat.role for beat in heartbeats.seen_since(connection, NOW)]
