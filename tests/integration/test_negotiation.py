"""What the listener negotiates over a real connection equals the conformance statement."""

import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import AllTransferSyntaxes, DeflatedExplicitVRLittleEndian
from pynetdicom.presentation import (
    QueryRetrievePresentationContexts,
    StoragePresentationContexts,
    VerificationPresentationContexts,
)

from tests.peers.receiver import Receiver

STATEMENT = Path(__file__).parents[2] / "service" / "docs" / "conformance.md"
UNCOMPRESSED = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}
WITHOUT_PIXELS = {"1.2.840.10008.1.1", "1.2.840.10008.1.20.1"}


def stated(table: str) -> set[str]:
    """Return the UIDs of one of the statement's tables."""
    text = STATEMENT.read_text()
    body = re.search(rf"<!-- table: {table} -->\n(.*?)<!-- end -->", text, re.DOTALL)
    assert body is not None
    return set(re.findall(r"\| ([0-9.]+) \|$", body[1], re.MULTILINE))


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def answers(port: int, proposed: list[tuple[str, str]]) -> list[int]:
    """Propose contexts of one transfer syntax each; return the result of each."""
    contexts = b"".join(
        item(
            0x20,
            bytes([2 * index + 1, 0, 0, 0])
            + item(0x30, abstract.encode())
            + item(0x40, transfer.encode()),
        )
        for index, (abstract, transfer) in enumerate(proposed)
    )
    user = item(0x50, item(0x51, struct.pack(">L", 16384)) + item(0x52, b"1.2.3"))
    titles = b"OVERREAD        MODALITY        "
    body = struct.pack(">HH", 1, 0) + titles + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + user
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(struct.pack(">BBL", 1, 0, len(body)) + body)
        stream = connection.makefile("rb")
        kind, _, length = struct.unpack(">BBL", stream.read(6))
        assert kind == 2
        answer = stream.read(length)
        stream.close()
        connection.sendall(struct.pack(">BBLL", 5, 0, 4, 0))
    results, position = {}, 68
    while position < len(answer):
        sort, _, size = struct.unpack_from(">BBH", answer, position)
        if sort == 0x21:
            results[answer[position + 4]] = answer[position + 6]
        position += 4 + size
    return [results[2 * index + 1] for index in range(len(proposed))]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path, f"sqlite:///{tmp_path / 'overread.db'}") as running:
        yield running


def test_what_is_stated_is_negotiated_and_nothing_else(receiver):
    classes = stated("sop classes received")
    syntaxes = stated("transfer syntaxes received")
    others = {str(c.abstract_syntax) for c in QueryRetrievePresentationContexts}
    proposed = [
        (abstract, transfer)
        for abstract in sorted(classes | others | {"1.2.3.4.5"})
        for transfer in sorted({str(uid) for uid in AllTransferSyntaxes} | {"1.2.3.4"})
    ]
    results: list[int] = []
    for i in range(0, len(proposed), 128):
        results += answers(receiver.port, proposed[i : i + 128])
    accepted = {pair for pair, result in zip(proposed, results, strict=True) if result == 0}
    assert accepted == {
        (abstract, transfer)
        for abstract in classes
        for transfer in (UNCOMPRESSED if abstract in WITHOUT_PIXELS else syntaxes)
    }
    refused = dict(zip(proposed, results, strict=True))
    assert refused["1.2.3.4.5", "1.2.840.10008.1.2"] == 3
    assert refused["1.2.840.10008.5.1.4.1.1.2", "1.2.3.4"] == 4


def test_the_statement_names_all_that_is_promised():
    classes = stated("sop classes received")
    assert {str(c.abstract_syntax) for c in StoragePresentationContexts} <= classes
    assert {str(c.abstract_syntax) for c in VerificationPresentationContexts} <= classes
    expected = {str(uid) for uid in AllTransferSyntaxes} - {str(DeflatedExplicitVRLittleEndian)}
    assert stated("transfer syntaxes received") == expected
