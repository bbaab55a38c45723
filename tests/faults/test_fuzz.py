"""No bytes of a stranger raise anything but the product's own errors; what once did is kept.

``corpus/<reader>-<name>.bin`` are inputs that once broke a reader or come close to it; each is read
again in every run. ``python -m tests.faults.fuzz READER`` searches for more.
"""

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.core.errors import OverreadError
from service.core.part10 import read_file_meta
from service.core.settings import Condition
from service.intake.pdus import decode_request
from service.studies.routing import holds
from tests.builders import onnx
from tests.builders.dicom import ct_series, enhanced_ct, part10
from tests.builders.packages import manifest, toml
from tests.faults.readers import READERS
from tests.peers.raw import CT, command, context, request

CORPUS = Path(__file__).parent / "corpus"


def body_of(data: bytes) -> bytes:
    meta = read_file_meta(data)
    assert meta is not None
    return data[meta.length :]


SEEDS = {
    "association_request": request(context(1, CT, "1.2.840.10008.1.2.1"))[6:],
    "command": command(1, data=True, instance="1.2.3", sop_class=CT),
    "commitment": struct.pack("<HHL", 8, 0x1195, 6) + b"1.2.3\0",
    "file_meta": part10(ct_series(slices=1, rows=2, columns=2)[0])[:400],
    "header": body_of(part10(enhanced_ct(slices=2, rows=4, columns=4)[0])),
    "http_headers": b'multipart/related; type="application/dicom"; boundary=x, */*;q=0.5',
    "manifest": toml(manifest("detection")).encode(),
    "multipart": b"--boundary\r\nContent-Type: application/dicom\r\n\r\nabc\r\n--boundary--\r\n",
    "network": onnx.detector(threshold=0.5, diameter_mm=8),
    "qido": b"PatientName=doe*&StudyDate=20260101-&limit=5&includefield=00081030&offset=1",
    "rules": body_of(part10(ct_series(slices=1, rows=2, columns=2)[0])),
    "text": b"ISO 2022 IR 87\x1b$B;3ED",
    "codestream": b"\xff\x4f\xff\x51" + bytes(60),
    "fragments": b"\xfe\xff\x00\xe0\x04\0\0\0\0\0\0\0\xfe\xff\x00\xe0\x02\0\0\0ab",
}


def flipped(seed: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    """Return the seed with some bytes changed, and cut somewhere."""
    data = bytearray(seed)
    for place, value in changes:
        data[place % len(data)] = value
    return bytes(data[: len(data) - cut % len(data)])


def test_every_reader_has_a_seed_that_it_knows():
    assert set(SEEDS) == set(READERS)


@pytest.mark.parametrize("reader", READERS)
def test_no_bytes_raise_anything_but_refusals(reader):
    read = READERS[reader]

    @settings(max_examples=60)
    @given(st.binary(max_size=300))
    def holds_for_any(data: bytes) -> None:
        with contextlib.suppress(OverreadError):
            read(data)

    changes = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=6)

    @settings(max_examples=120)
    @given(changes, st.one_of(st.just(0), st.integers(0, 1 << 16)))
    @example([], 0)
    def holds_for_damaged(found: list[tuple[int, int]], cut: int) -> None:
        with contextlib.suppress(OverreadError):
            read(flipped(SEEDS[reader], found, cut))

    holds_for_any()
    holds_for_damaged()


def corpus() -> list[Path]:
    return sorted(CORPUS.glob("*.bin"))


@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.stem)
def test_what_once_broke_a_reader_is_refused_or_read(path):
    reader = path.stem.partition("-")[0]
    with contextlib.suppress(OverreadError):
        READERS[reader](path.read_bytes())


def test_the_corpus_names_only_readers_that_there_are():
    assert {path.stem.partition("-")[0] for path in corpus()} <= set(READERS)
    assert sum(path.stat().st_size for path in corpus()) < 200_000


uids = st.from_regex(r"[0-2](\.(0|[1-9][0-9]{0,6})){1,6}", fullmatch=True)


@given(
    st.lists(st.tuples(uids, st.lists(uids, min_size=1, max_size=4)), min_size=1, max_size=20),
    st.text("ABCDEFGHIJ_ 0123456789", min_size=1, max_size=16).filter(str.strip),
    st.integers(0, 2**32 - 1),
)
def test_a_request_is_read_as_it_was_written(proposed, calling, max_pdu):
    contexts = [
        context(2 * number + 1, abstract, *transfer)
        for number, (abstract, transfer) in enumerate(proposed)
    ]
    read = decode_request(request(*contexts, calling=calling, max_pdu=max_pdu)[6:])
    assert read.calling_ae_title == calling.strip()
    assert read.max_pdu_bytes == max_pdu
    assert [(each.abstract_syntax, list(each.transfer_syntaxes)) for each in read.contexts] == [
        (abstract, list(transfer)) for abstract, transfer in proposed
    ]


@given(st.text(max_size=40), st.lists(st.text(max_size=40), max_size=4).map(tuple))
def test_conditions_hold_or_not_for_any_text(value, found):
    for operator in ("equals", "not_equals", "contains", "matches", "exists"):
        condition = Condition(keyword="StudyDescription", operator=operator, value=value)
        assert holds(condition, found) in (True, False)
    same = Condition(keyword="StudyDescription", operator="equals", value=value)
    other = Condition(keyword="StudyDescription", operator="not_equals", value=value)
    assert holds(same, found) != holds(other, found)
