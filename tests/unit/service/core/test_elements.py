"""Walking a data set's bytes: what is let through, and what is refused with which reason."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from service.core.elements import (
    FEW_ELEMENTS,
    MAX_DEPTH,
    MAX_ELEMENTS,
    PIXEL_DATA,
    Encoding,
    elements_allowed,
    items,
    walk,
)
from service.core.errors import RefusedInstance
from service.core.part10 import read_file_meta
from tests.builders.dicom import ct_series, enhanced_ct, in_syntax, part10

EXPLICIT = Encoding()
IMPLICIT = Encoding(implicit=True)
ITEM = b"\xfe\xff\x00\xe0"
ITEM_END = b"\xfe\xff\x0d\xe0\0\0\0\0"
SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
UNDEFINED = b"\xff\xff\xff\xff"


def short(tag: int, vr: bytes, value: bytes, *, length: int | None = None) -> bytes:
    stated = len(value) if length is None else length
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, stated) + value


def long(tag: int, vr: bytes, value: bytes, *, length: int | None = None) -> bytes:
    stated = len(value) if length is None else length
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr, 0, stated) + value


def implicit(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


def item(value: bytes, *, closed: bool = False) -> bytes:
    if closed:
        return ITEM + UNDEFINED + value + ITEM_END
    return ITEM + struct.pack("<L", len(value)) + value


def nested(depth: int, *, closed: bool) -> bytes:
    inner = short(0x00080060, b"CS", b"CT")
    for _ in range(depth):
        if closed:
            body = item(inner, closed=True) + SEQUENCE_END
            inner = long(0x00081140, b"SQ", body, length=0xFFFFFFFF)
        else:
            inner = long(0x00081140, b"SQ", item(inner))
    return inner


def reason(data: bytes, encoding: Encoding = EXPLICIT) -> str:
    with pytest.raises(RefusedInstance) as caught:
        walk(data, encoding)
    return caught.value.reason


@pytest.mark.parametrize(
    "transfer_syntax_uid",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        JPEG2000Lossless,
        RLELossless,
    ],
)
def test_every_element_of_a_written_instance_is_found(transfer_syntax_uid):
    dataset = in_syntax(ct_series(slices=1)[0], transfer_syntax_uid)
    data = part10(dataset)
    start = read_file_meta(data).length
    elements = walk(data, Encoding.of(transfer_syntax_uid), start=start)
    assert [element.tag for element in elements] == [int(tag) for tag in sorted(dataset.keys())]
    assert elements[0].start == start
    assert elements[-1].end == len(data)


def test_value_bounds_point_at_the_pixels():
    dataset = ct_series(slices=1)[0]
    data = part10(dataset)
    elements = walk(data, EXPLICIT, start=read_file_meta(data).length)
    pixels = next(element for element in elements if element.tag == PIXEL_DATA)
    assert data[pixels.value_start : pixels.value_end] == dataset.PixelData


def test_items_of_a_sequence_are_given_as_written():
    dataset = enhanced_ct(slices=3)[0]
    data = part10(dataset)
    elements = walk(data, EXPLICIT, start=read_file_meta(data).length)
    per_frame = next(element for element in elements if element.tag == 0x52009230)
    tags = [[element.tag for element in each] for each in items(data, EXPLICIT, per_frame)]
    assert tags == [
        [int(tag) for tag in sorted(each.keys())]
        for each in dataset.PerFrameFunctionalGroupsSequence
    ]


@pytest.mark.parametrize("closed", [True, False])
def test_nesting_is_bounded(closed):
    walk(nested(MAX_DEPTH, closed=closed), EXPLICIT)
    assert reason(nested(MAX_DEPTH + 1, closed=closed)) == "NESTED_TOO_DEEP"


def test_nesting_far_beyond_the_interpreters_recursion_limit_is_refused():
    head = long(0x00081140, b"SQ", ITEM + UNDEFINED, length=0xFFFFFFFF)
    tail = ITEM_END + SEQUENCE_END
    assert reason(head * 30_000 + tail * 30_000) == "NESTED_TOO_DEEP"


def test_nesting_in_implicit_vr_is_bounded_too():
    inner = implicit(0x00080060, b"CT")
    for _ in range(MAX_DEPTH + 1):
        inner = implicit(0x00081140, item(inner))
    assert reason(inner, IMPLICIT) == "NESTED_TOO_DEEP"


def test_items_without_end_are_refused_by_their_number():
    many = long(0x00081140, b"SQ", item(b"") * (FEW_ELEMENTS + 1))
    assert reason(many) == "TOO_MANY_ELEMENTS"


def test_a_longer_data_set_may_have_more_elements_but_not_without_end():
    some = long(0x00081140, b"SQ", item(b"") * (2 * FEW_ELEMENTS))
    pixels = long(PIXEL_DATA, b"OB", bytes(16 * 2 * FEW_ELEMENTS))
    assert reason(some) == "TOO_MANY_ELEMENTS"
    walk(some + pixels, EXPLICIT)
    assert elements_allowed(1 << 40) == MAX_ELEMENTS


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "EMPTY_DATA_SET"),
        (b"\x08\0", "TRUNCATED"),
        (short(0x00080060, b"CS", b"CT")[:9], "LENGTH_BEYOND_DATA"),
        (long(PIXEL_DATA, b"OW", b"12", length=0xFFFFFFFE), "LENGTH_BEYOND_DATA"),
        (short(0x00080060, b"CS", b"CT") * 2, "REPEATED_ELEMENT"),
        (short(0x00080060, b"??", b"CT"), "UNKNOWN_VR"),
        (short(0x00020010, b"UI", b"1.2 "), "GROUP_NOT_ALLOWED"),
        (bytes(128) + b"DICM", "GROUP_NOT_ALLOWED"),
        (SEQUENCE_END, "STRAY_DELIMITER"),
        (short(0x00080060, b"CS", b"CT") + ITEM_END, "STRAY_DELIMITER"),
        (long(0x00081140, b"SQ", short(0x00080060, b"CS", b"CT")), "NOT_AN_ITEM"),
        (long(0x00081140, b"SQ", b"", length=0xFFFFFFFF), "NOT_CLOSED"),
        (long(0x00081140, b"SQ", ITEM + UNDEFINED, length=0xFFFFFFFF), "NOT_CLOSED"),
        (long(0x00081140, b"SQ", ITEM + b"\xff\xff\0\0"), "LENGTH_BEYOND_DATA"),
        (long(PIXEL_DATA, b"OB", item(b"abcd"), length=0xFFFFFFFF), "NOT_CLOSED"),
        (long(PIXEL_DATA, b"OB", ITEM + UNDEFINED, length=0xFFFFFFFF), "LENGTH_BEYOND_DATA"),
        (long(0x00081140, b"UT", b"", length=0xFFFFFFFF), "LENGTH_BEYOND_DATA"),
    ],
)
def test_broken_structure_is_refused_by_name(data, expected):
    assert reason(data) == expected


def test_text_is_no_data_set():
    with pytest.raises(RefusedInstance):
        walk(b"This is a letter, and no data set at all.\n" * 20, EXPLICIT)


def test_native_pixel_data_contradicts_an_encapsulated_syntax():
    data = long(PIXEL_DATA, b"OW", b"1234")
    assert reason(data, Encoding(encapsulated=True)) == "NATIVE_PIXEL_DATA"


def test_unsorted_elements_are_let_through():
    data = short(0x00100020, b"LO", b"ID") + short(0x00080060, b"CS", b"CT")
    assert [element.tag for element in walk(data, EXPLICIT)] == [0x00100020, 0x00080060]


def test_values_of_odd_length_are_let_through():
    assert len(walk(short(0x00080060, b"CS", b"CT1"), EXPLICIT)) == 1


def test_unknown_values_of_undefined_length_are_walked_as_implicit_items():
    inner = item(implicit(0x00080060, b"CT"), closed=True) + SEQUENCE_END
    element = walk(long(0x00091001, b"UN", inner, length=0xFFFFFFFF), EXPLICIT)[0]
    assert element.value_end == element.end - 8


@given(st.binary(max_size=400))
def test_any_bytes_are_walked_to_the_end_or_refused(data):
    for encoding in (EXPLICIT, IMPLICIT, Encoding(big_endian=True)):
        try:
            elements = walk(data, encoding)
        except RefusedInstance:
            continue
        assert elements[-1].end == len(data)


@given(st.integers(min_value=0, max_value=2000), st.binary(min_size=1, max_size=8))
def test_a_damaged_instance_is_read_within_its_bounds_or_refused(position, noise):
    data = bytearray(part10(ct_series(slices=1, rows=4, columns=4)[0]))
    start = read_file_meta(bytes(data)).length
    at = start + position % (len(data) - start)
    data[at : at + len(noise)] = noise
    try:
        elements = walk(bytes(data), EXPLICIT, start=start)
    except RefusedInstance:
        return
    assert all(element.value_end <= len(data) for element in elements)


@given(st.integers(min_value=1))
def test_a_cut_instance_is_always_refused_unless_cut_between_elements(cut):
    data = part10(ct_series(slices=1, rows=4, columns=4)[0])
    start = read_file_meta(data).length
    ends = {element.end for element in walk(data, EXPLICIT, start=start)}
    length = start + cut % (len(data) - start)
    if length in ends or length == start:
        return
    with pytest.raises(RefusedInstance):
        walk(data[:length], EXPLICIT, start=start)
