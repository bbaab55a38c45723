"""Frames are read bit for bit from every transfer syntax, and lies about them are refused."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from service.core.errors import ContractViolation, UnsuitableSeries
from service.core.headers import FrameHeader
from tests.builders.dicom import ct_series, enhanced_ct, in_syntax, radiograph
from tests.builders.volumes import sources
from workers.volume.decoders import decode_frame
from workers.volume.pixels import frame_format, read_frames

NATIVE = [
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
]
LOSSLESS = [
    RLELossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
]
CODESTREAMS = [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless]


def stored_values(dataset):
    kind = "i" if dataset.PixelRepresentation else "u"
    size = int(dataset.get("NumberOfFrames", 1)) * dataset.Rows * dataset.Columns
    values = np.frombuffer(dataset.PixelData, f"<{kind}{dataset.BitsAllocated // 8}", count=size)
    return values.reshape(-1, dataset.Rows, dataset.Columns)


def read(source, *, verify=False):
    stored = frame_format(source.header)
    count = source.header.number_of_frames
    frames = np.full((count, stored.rows, stored.columns), 77, stored.dtype)
    read_frames(source, [(i + 1, frames[i]) for i in range(count)], verify=verify)
    return frames


def refusal(source, reason):
    with pytest.raises(UnsuitableSeries) as caught:
        read(source)
    assert caught.value.reason == reason
    return caught.value.message


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("syntax", NATIVE + LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_stored_values_survive_every_lossless_syntax(tmp_path, syntax, verify):
    for name, options in {
        "unsigned 12 of 16": {"bits_stored": 12},
        "signed 16 of 16": {"signed": True, "intercept": 0.0},
    }.items():
        native = ct_series(slices=1, rows=41, columns=30, name=name, **options)[0]
        [source] = sources([in_syntax(native, syntax)], tmp_path / name)
        assert np.array_equal(read(source, verify=verify), stored_values(native))


@pytest.mark.parametrize("syntax", NATIVE + LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_eight_bit_images_survive_too(tmp_path, syntax):
    native = radiograph(rows=20, columns=14, bits_stored=8)[0]
    [source] = sources([in_syntax(native, syntax)], tmp_path)
    assert np.array_equal(read(source), stored_values(native))


@pytest.mark.parametrize("syntax", NATIVE + LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_each_frame_of_many_is_read_from_its_place(tmp_path, syntax):
    native = enhanced_ct(slices=4, rows=10, columns=9)[0]
    [source] = sources([in_syntax(native, syntax)], tmp_path)
    third = np.empty((1, 10, 9), np.uint16)
    read_frames(source, [(3, third[0])])
    assert np.array_equal(read(source), stored_values(native))
    assert np.array_equal(third[0], stored_values(native)[2])


@pytest.mark.parametrize(
    ("syntax", "bits", "error"),
    [(JPEGLSNearLossless, 12, 2), (JPEGExtended12Bit, 12, 40), (JPEG2000, 16, 0)],
)
def test_lossy_syntaxes_come_close(tmp_path, syntax, bits, error):
    native = ct_series(slices=1, bits_stored=bits)[0]
    [source] = sources([in_syntax(native, syntax)], tmp_path)
    assert np.abs(read(source).astype(int) - stored_values(native)).max() <= error


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_fragments_are_found_without_their_place_in_the_header(tmp_path, syntax):
    native = ct_series(slices=1)[0]
    [source] = sources([in_syntax(native, syntax)], tmp_path)
    blind = {"pixel_data_offset": None, "pixel_data_length": None}
    source = type(source)(source.header.model_copy(update=blind), source.path, source.sha256)
    assert np.array_equal(read(source), stored_values(native))


def test_frame_in_several_fragments_is_joined(tmp_path):
    native = ct_series(slices=1)[0]
    split = in_syntax(native, JPEG2000Lossless)
    frame = next(generate_frames(split.PixelData, number_of_frames=1))
    split.PixelData = encapsulate([frame], fragments_per_frame=3, has_bot=False)
    [source] = sources([split], tmp_path)
    assert np.array_equal(read(source), stored_values(native))


@pytest.mark.faults(number=23)
@pytest.mark.parametrize("change", [b"", b"more"])
def test_changed_file_is_a_broken_promise(tmp_path, change):
    [source] = sources(ct_series(slices=1), tmp_path)
    data = bytearray(source.path.read_bytes())
    data[-7] ^= 1
    source.path.write_bytes(data + change)
    with pytest.raises(ContractViolation) as caught:
        read(source, verify=True)
    assert caught.value.reason == "DIGEST"


@pytest.mark.faults(number=23)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_deleted_file_is_a_broken_promise(tmp_path, syntax):
    [source] = sources(ct_series(slices=1, transfer_syntax_uid=syntax), tmp_path)
    source.path.unlink()
    with pytest.raises(ContractViolation) as caught:
        read(source)
    assert caught.value.reason == "DIGEST"


@pytest.mark.parametrize("syntax", NATIVE + LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_file_cut_short_within_its_pixels_is_refused(tmp_path, syntax):
    [source] = sources(ct_series(slices=1, transfer_syntax_uid=syntax), tmp_path)
    data = source.path.read_bytes()
    source.path.write_bytes(data[: len(data) - len(data) // 4])
    refusal(source, "PIXEL_DATA")


@pytest.mark.faults(number=16)
def test_sizes_beyond_the_pixel_data_are_refused_before_allocation(tmp_path):
    [source] = sources(ct_series(slices=1), tmp_path)
    huge = source.header.model_copy(update={"rows": 65535, "columns": 65535})
    with pytest.raises(UnsuitableSeries, match="need 8589672450 bytes, there are 2560") as caught:
        frame_format(huge)
    assert caught.value.reason == "PIXEL_DATA"


@pytest.mark.faults(number=16)
def test_compressed_frames_larger_than_any_detector_are_refused_unread(tmp_path):
    [source] = sources(ct_series(slices=1), tmp_path)
    claim = {"rows": 65535, "columns": 65535, "transfer_syntax_uid": str(JPEG2000Lossless)}
    with pytest.raises(UnsuitableSeries) as caught:
        frame_format(source.header.model_copy(update=claim))
    assert caught.value.reason == "TOO_LARGE"


def test_rows_left_unsaid_are_refused_but_a_row_of_padding_is_not(tmp_path):
    [source] = sources(ct_series(slices=1, rows=40), tmp_path)
    assert frame_format(source.header.model_copy(update={"rows": 39})).rows == 39
    with pytest.raises(UnsuitableSeries):
        frame_format(source.header.model_copy(update={"rows": 38}))


@pytest.mark.faults(number=16)
@pytest.mark.parametrize("syntax", CODESTREAMS, ids=lambda syntax: syntax.keyword)
def test_codestream_of_another_size_is_refused(tmp_path, syntax):
    [source] = sources(ct_series(slices=1, transfer_syntax_uid=syntax), tmp_path)
    lying = source.header.model_copy(update={"rows": 512, "columns": 512})
    source = type(source)(lying, source.path, source.sha256)
    message = refusal(source, "PIXEL_DATA")
    assert message == "a compressed frame is 40 x 32 x 1, the header says 512 x 512"


@pytest.mark.faults(number=16)
def test_deflated_data_set_may_not_inflate_without_bound(tmp_path):
    bomb = ct_series(slices=1, transfer_syntax_uid=DeflatedExplicitVRLittleEndian)[0]
    bomb.add_new(0x00091010, "OB", bytes(20 << 20))
    bomb.add_new(0x00090010, "LO", "OVERREAD TEST")
    [source] = sources([bomb], tmp_path)
    assert source.path.stat().st_size < 100_000
    assert "far larger" in refusal(source, "PIXEL_DATA")


@pytest.mark.faults(number=16)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rows": None}, "NO_PIXELS"),
        ({"columns": 0}, "NO_PIXELS"),
        ({"samples_per_pixel": 3, "photometric_interpretation": "RGB"}, "COLOR_IMAGE"),
        ({"photometric_interpretation": "PALETTE COLOR"}, "COLOR_IMAGE"),
        ({"bits_stored": 12, "high_bit": 15}, "PIXEL_DATA"),
        ({"bits_stored": 17, "high_bit": 16}, "PIXEL_DATA"),
        ({"bits_allocated": 1, "bits_stored": 1, "high_bit": 0}, "PIXEL_DATA"),
        ({"bits_allocated": None, "bits_stored": None, "high_bit": None}, "PIXEL_DATA"),
        ({"number_of_frames": 2}, "PIXEL_DATA"),
        ({"number_of_frames": -3}, "PIXEL_DATA"),
        ({"number_of_frames": 2, "frames": (FrameHeader(),)}, "PIXEL_DATA"),
        ({"pixel_data_length": None}, "PIXEL_DATA"),
        ({"transfer_syntax_uid": "1.2.840.10008.1.2.4.102"}, "TRANSFER_SYNTAX"),
    ],
)
def test_header_that_cannot_be_true_is_refused(tmp_path, change, reason):
    [source] = sources(ct_series(slices=1), tmp_path)
    with pytest.raises(UnsuitableSeries) as caught:
        frame_format(source.header.model_copy(update=change))
    assert caught.value.reason == reason


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.99])
@pytest.mark.parametrize(
    "syntax", [*LOSSLESS, JPEGExtended12Bit], ids=lambda syntax: syntax.keyword
)
def test_frame_cut_short_within_whole_fragments_is_refused(tmp_path, syntax, kept):
    dataset = ct_series(slices=1, bits_stored=12, transfer_syntax_uid=syntax)[0]
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([frame[: int(kept * len(frame))]])
    [source] = sources([dataset], tmp_path)
    refusal(source, "PIXEL_DATA")


@settings(max_examples=60)
@given(
    syntax=st.sampled_from([*LOSSLESS, JPEGExtended12Bit]),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_damaged_frame_is_decoded_or_refused_and_touches_nothing_else(syntax, places, kept):
    [dataset] = ct_series(slices=1, rows=24, columns=20, bits_stored=12, transfer_syntax_uid=syntax)
    frame = bytearray(next(generate_frames(dataset.PixelData, number_of_frames=1)))
    for place, value in places:
        frame[int(place * (len(frame) - 1))] = value
    memory = np.full((26, 20), 777, np.uint16)
    with contextlib.suppress(UnsuitableSeries):
        decode_frame(syntax, bytes(frame[: int(kept * len(frame))]), memory[1:25])
    assert (memory[[0, 25]] == 777).all()
