"""Frames whose bytes lie about themselves are refused before they cost anything."""

from pathlib import Path

import pytest

from service.core.codestream import codestream_of
from service.core.elements import Encoding, walk
from service.core.errors import NotFound, OverreadError, RefusedInstance
from service.core.part10 import read_file_meta
from service.core.received import read_instance
from service.dicomweb.pixels import FrameReader, frame_format, numbers
from service.records.archive import Archive
from service.records.dicomweb import StoredInstance
from tests.builders.dicom import JPEG2000Lossless, JPEGLSLossless, RLELossless, ct_series, part10


def stored(folder: Path, data: bytes, **header: object) -> tuple[Archive, StoredInstance]:
    """Put a file into an archive; `header` lies about it."""
    meta = read_file_meta(data)
    assert meta is not None
    encoding = Encoding.of(meta.transfer_syntax_uid)
    elements = walk(data, encoding, start=meta.length)
    read, _ = read_instance(data, encoding, elements, transfer_syntax_uid=meta.transfer_syntax_uid)
    archive = Archive(folder)
    archive.prepare()
    (archive.root / "one.dcm").write_bytes(data)
    lying = read.model_copy(update=header)
    return archive, StoredInstance(1, lying, "one.dcm", "0" * 64, len(data))


def test_pixel_data_shorter_than_the_header_says_are_refused(tmp_path: Path) -> None:
    place = stored(tmp_path, part10(ct_series(slices=1)[0]), rows=4000, columns=4000)
    with FrameReader(*place) as reader, pytest.raises(RefusedInstance, match="PIXEL_DATA"):
        reader.stored(1)


def test_more_frames_than_there_are_fragments_are_refused(tmp_path: Path) -> None:
    data = part10(ct_series(slices=1, transfer_syntax_uid=JPEGLSLossless)[0])
    with FrameReader(*stored(tmp_path, data, number_of_frames=900)) as reader:
        with pytest.raises(RefusedInstance):
            reader.stored(900)
        with pytest.raises(NotFound):
            reader.stored(901)


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless])
def test_a_frame_of_another_size_than_its_header_is_refused(tmp_path: Path, syntax: str) -> None:
    data = part10(ct_series(slices=1, transfer_syntax_uid=syntax)[0])
    with FrameReader(*stored(tmp_path, data, rows=41)) as reader, pytest.raises(RefusedInstance):
        reader.native(1)


@pytest.mark.parametrize("cut", [60, 200, 400])
def test_a_frame_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    archive, one = stored(
        tmp_path, part10(ct_series(slices=1, transfer_syntax_uid=JPEG2000Lossless)[0])
    )
    whole = archive.read(one.path)
    (archive.root / one.path).write_bytes(whole[:-cut])
    with FrameReader(archive, one) as reader, pytest.raises(RefusedInstance):
        reader.native(1)


@pytest.mark.parametrize(
    "header", [{"rows": None}, {"bits_allocated": 12}, {"samples_per_pixel": 900}, {"rows": 60_000,
     "columns": 60_000, "samples_per_pixel": 4}]
)  # fmt: skip
def test_headers_that_cannot_be_true_are_refused(tmp_path: Path, header: dict[str, object]) -> None:
    _, one = stored(tmp_path, part10(ct_series(slices=1)[0]), **header)
    with pytest.raises(OverreadError):
        frame_format(one.header)


@pytest.mark.parametrize("text", ["", "1,,2", "a", "-1", "1" * 30, "1,2,3"])
def test_frame_numbers_that_are_none_are_not_found(text: str) -> None:
    with pytest.raises(NotFound):
        numbers(text, 2)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xc0", b"\xff\x4f\xff\x51", b"x" * 99]
)
def test_a_codestream_that_breaks_off_has_no_size(data: bytes) -> None:
    assert codestream_of(data) is None
