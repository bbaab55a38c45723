"""multipart/related: parts survive any slicing, and broken bodies are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.errors import InvalidRequest
from service.core.multipart import (
    MAX_PART_HEADERS_BYTES,
    MultipartReader,
    Part,
    PartBegin,
    PartData,
    PartEnd,
    encode_multipart,
    media_type,
)

BOUNDARY = "overread boundary"


def read(pieces, boundary=BOUNDARY):
    """Return the (headers, body) pairs of a body that comes in these pieces."""
    reader = MultipartReader(boundary)
    parts, ended = [], []
    for piece in pieces:
        for event in reader.feed(piece):
            if isinstance(event, PartBegin):
                parts.append((dict(event.headers), bytearray()))
            elif isinstance(event, PartData):
                parts[-1][1].extend(event.data)
            elif isinstance(event, PartEnd):
                ended.append(len(parts))
    reader.finish()
    assert ended == list(range(1, len(parts) + 1))
    return [(headers, bytes(body)) for headers, body in parts]


def written(parts, boundary=BOUNDARY):
    return b"".join(encode_multipart([Part(head, [body]) for head, body in parts], boundary))


@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=4),
    st.integers(min_value=1, max_value=200),
)
def test_parts_come_back_whatever_the_slicing(bodies, step):
    parts = [({"content-type": "application/dicom"}, body) for body in bodies]
    data = written(parts)
    assert read(data[i : i + step] for i in range(0, len(data), step)) == parts


def test_a_body_full_of_near_delimiters_comes_back():
    body = b"\r\n--overread boundar\r\n--\r\n\r\n--overread" * 20
    data = written([({}, body)])
    assert read([data]) == [({}, body)]
    assert read([bytes([byte]) for byte in data]) == [({}, body)]


def test_preamble_and_epilogue_are_ignored():
    data = b"a letter to old readers\r\n" + written([({"a": "b"}, b"x")]) + b"farewell"
    assert read([data]) == [({"a": "b"}, b"x")]


def test_spaces_after_a_delimiter_are_allowed():
    assert read([b"--b \t\r\nA: 1\r\n\r\nx\r\n--b--"], "b") == [({"a": "1"}, b"x")]


def test_a_part_without_headers_is_read():
    assert read([b"--b\r\n\r\nx\r\n--b--"], "b") == [({}, b"x")]


def test_no_parts_at_all_is_read_as_none():
    assert read([b"--b--"], "b") == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b\r\nA: 1\r\n\r\nx",
        b"--b\r\nA: 1\r\n\r\nx\r\n--b",
        b"--b\r\nno colon\r\n\r\nx\r\n--b--",
        b"--bx\r\n\r\nx\r\n--b--",
        b"--b\r\n" + b"A: " + b"1" * (MAX_PART_HEADERS_BYTES + 1),
    ],
)
def test_a_broken_body_is_refused(body):
    with pytest.raises(InvalidRequest) as caught:
        read([body], "b")
    assert caught.value.reason == "MALFORMED_MULTIPART"


@pytest.mark.parametrize("boundary", ["", "x" * 71, "ends with a space ", "naïve"])
def test_a_boundary_outside_the_grammar_is_refused(boundary):
    with pytest.raises(InvalidRequest):
        MultipartReader(boundary)


def test_memory_holds_no_more_than_one_piece_and_one_delimiter():
    reader = MultipartReader("b")
    list(reader.feed(b"--b\r\n\r\n"))
    for _ in range(50):
        given_out = sum(len(event.data) for event in reader.feed(b"x" * 10_000))
        assert given_out >= 10_000 - 8


@pytest.mark.parametrize(
    ("header", "name", "parameters"),
    [
        ("application/dicom", "application/dicom", {}),
        (' Application/DICOM ; q="1\\"2"', "application/dicom", {"q": '1"2'}),
        (
            'multipart/related;boundary=--x;type="application/dicom"',
            "multipart/related",
            {"boundary": "--x", "type": "application/dicom"},
        ),
        ("", "", {}),
        ("multipart/related; boundary", "multipart/related", {}),
    ],
)
def test_content_types_are_read(header, name, parameters):
    found = media_type(header)
    assert (found.name, found.parameters) == (name, parameters)
