"""Reads the stored values of frames from archived files, straight into arrays given by the caller.

Native pixel data are read from their place in the file, which the header knows; nothing else of
the file is parsed again. Sizes are checked against the header before anything is allocated.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import uid

from service.core.errors import ContractViolation, UnsuitableSeries
from service.core.headers import InstanceHeader
from service.core.part10 import read_file_meta
from workers.volume.decoders import DECODERS, Stored, bytes_of, decode_frame
from workers.volume.encapsulation import fragments_in, inflated_pixels, split_frames

_NATIVE = frozenset(
    [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian]
)
_IN_OUR_ORDER = _NATIVE - {uid.ExplicitVRBigEndian} if sys.byteorder == "little" else frozenset()
_CHUNK_BYTES = 1 << 20
# Twice what the largest detectors give: a compressed frame of a few bytes can claim any size.
_FRAME_PIXELS_LIMIT = 1 << 27
# What a deflated data set may hold besides its pixels.
_HEADER_BYTES_LIMIT = 16 << 20


@dataclass(frozen=True)
class SourceInstance:
    """An archived instance: its header as read at receipt, its file, and the file's digest."""

    header: InstanceHeader
    path: Path
    sha256: str


@dataclass(frozen=True)
class FrameFormat:
    """How one frame of an instance is stored."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored type in the machine's byte order."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}")

    @property
    def frame_bytes(self) -> int:
        """Size of one native frame."""
        return self.rows * self.columns * self.bits_allocated // 8


def frame_format(header: InstanceHeader) -> FrameFormat:
    """Return how the frames of an instance are stored, after checking that its header can be true.

    Raises
    ------
    UnsuitableSeries
        ``NO_PIXELS`` when it is no image; ``COLOR_IMAGE`` for more than one sample a pixel;
        ``TRANSFER_SYNTAX`` when nothing here decodes it; ``TOO_LARGE`` for a compressed frame
        beyond any detector; ``PIXEL_DATA`` when bit depths contradict each other or native
        pixel data have another size than the header says.

    References
    ----------
    DICOM PS3.3 C.7.6.3, Image Pixel Module; PS3.5 section 8.
    """
    if not (header.rows and header.columns):
        raise UnsuitableSeries("NO_PIXELS", "an instance has no rows or columns")
    if header.samples_per_pixel != 1 or "MONOCHROME" not in header.photometric_interpretation:
        raise UnsuitableSeries(
            "COLOR_IMAGE",
            f"an instance has {header.samples_per_pixel} samples a pixel,"
            f" photometric interpretation {header.photometric_interpretation or 'missing'}",
        )
    _require_frames(header)
    described = FrameFormat(
        rows=header.rows,
        columns=header.columns,
        bits_allocated=header.bits_allocated or 0,
        bits_stored=header.bits_stored or header.bits_allocated or 0,
        signed=header.pixel_representation == 1,
    )
    _require_depths(described, header.high_bit)
    syntax = header.transfer_syntax_uid
    if syntax in _NATIVE:
        _require_length(described, header)
    elif syntax not in DECODERS and syntax != uid.DeflatedExplicitVRLittleEndian:
        name = uid.UID(syntax).name
        raise UnsuitableSeries("TRANSFER_SYNTAX", f"frames in {name} cannot be decoded")
    elif header.rows * header.columns > _FRAME_PIXELS_LIMIT:
        raise UnsuitableSeries(
            "TOO_LARGE", f"frames of {header.rows} x {header.columns} pixels are more than any"
        )
    return described


def read_frames(
    source: SourceInstance, targets: Sequence[tuple[int, Stored]], *, verify: bool = False
) -> None:
    """Fill each target with the stored values of a frame, numbered from 1.

    Targets are C-contiguous, shape (rows, columns), of the type that `frame_format` names or its
    unsigned or signed twin; bits above the stored ones are as they stand in the file.

    Raises
    ------
    UnsuitableSeries
        ``PIXEL_DATA`` when the pixel data are cut short, broken or of another size.
    ContractViolation
        ``DIGEST`` when `verify` is set and the file is not the one that was received, or gone.
    """
    native = source.header.transfer_syntax_uid in _NATIVE
    try:
        if (
            verify
            and source.header.transfer_syntax_uid in _IN_OUR_ORDER
            and _is_whole(source.header, targets)
        ):
            _read_verified(source, targets[0][1])
        elif verify:
            data = _verified(source)
            _fill(source.header, data, targets)
        elif native:
            _read_native(source, targets)
        else:
            _fill(source.header, source.path.read_bytes(), targets)
    except FileNotFoundError as error:
        raise ContractViolation("DIGEST", f"the file of {_named(source)} is gone") from error


def _verified(source: SourceInstance) -> bytes:
    """Return the bytes of the file, whose data set is the one that was received.

    The digest leaves out preamble and file meta, which the archive writes by itself.
    """
    data = source.path.read_bytes()
    meta = read_file_meta(data)
    if meta is None or hashlib.sha256(memoryview(data)[meta.length :]).hexdigest() != source.sha256:
        raise ContractViolation("DIGEST", f"the file of {_named(source)} has changed")
    return data


def _is_whole(header: InstanceHeader, targets: Sequence[tuple[int, Stored]]) -> bool:
    """Return whether the one target takes all frames that there are."""
    return header.number_of_frames == len(targets) == 1 and header.pixel_data_offset is not None


def _read_verified(source: SourceInstance, target: Stored) -> None:
    """Read a single native frame into its place, and digest the file on the way."""
    at = source.header.pixel_data_offset or 0
    view = bytes_of(target)
    with source.path.open("rb", buffering=0) as file:
        head = file.read(at)
        meta = read_file_meta(head)
        digest = hashlib.sha256(memoryview(head)[meta.length if meta else at :])
        filled = 0
        while filled < len(view) and (count := file.readinto(view[filled:])):
            filled += count
        digest.update(view)
        for rest in iter(lambda: file.read(_CHUNK_BYTES), b""):
            digest.update(rest)
    if digest.hexdigest() != source.sha256:
        raise ContractViolation("DIGEST", f"the file of {_named(source)} has changed")


def _fill(header: InstanceHeader, data: bytes, targets: Sequence[tuple[int, Stored]]) -> None:
    """Fill the targets from the bytes of the whole file."""
    syntax = header.transfer_syntax_uid
    at, length = header.pixel_data_offset, header.pixel_data_length or 0
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        limit = frame_format(header).frame_bytes * header.number_of_frames + _HEADER_BYTES_LIMIT
        _copy_native(inflated_pixels(data, limit_bytes=limit), targets, swapped=False)
    elif syntax in _NATIVE:
        _copy_native(data[at:], targets, swapped=syntax == uid.ExplicitVRBigEndian)
    else:
        if at is not None and at + length > len(data):
            raise UnsuitableSeries("PIXEL_DATA", "the file ends within the pixel data")
        fragments = fragments_in(data) if at is None else data[at : at + length]
        frames = split_frames(fragments, header.number_of_frames)
        for number, target in targets:
            decode_frame(syntax, frames[number - 1], target)


def _named(source: SourceInstance) -> str:
    return f"instance {source.header.sop_instance_uid}"


def _require_frames(header: InstanceHeader) -> None:
    described = len(header.frames) or header.number_of_frames
    if header.number_of_frames < 1 or described != header.number_of_frames:
        raise UnsuitableSeries(
            "PIXEL_DATA",
            f"the header says {header.number_of_frames} frames and describes {described}",
        )


def _require_depths(stored: FrameFormat, high_bit: int | None) -> None:
    if stored.bits_allocated not in (8, 16, 32):
        raise UnsuitableSeries("PIXEL_DATA", f"{stored.bits_allocated} bits allocated a pixel")
    if not 1 <= stored.bits_stored <= stored.bits_allocated:
        raise UnsuitableSeries(
            "PIXEL_DATA", f"{stored.bits_stored} of {stored.bits_allocated} bits stored"
        )
    if high_bit is not None and high_bit != stored.bits_stored - 1:
        raise UnsuitableSeries(
            "PIXEL_DATA", f"{stored.bits_stored} bits stored contradict high bit {high_bit}"
        )


def _require_length(stored: FrameFormat, header: InstanceHeader) -> None:
    """Compare the length of native pixel data with what the header's sizes need.

    Up to a row too much is padding, which some senders write; more means that rows or columns
    are wrong.
    """
    if header.pixel_data_offset is None or header.pixel_data_length is None:
        raise UnsuitableSeries("PIXEL_DATA", "the file holds no pixel data")
    needed = stored.frame_bytes * header.number_of_frames
    row_bytes = stored.frame_bytes // stored.rows
    if not needed <= header.pixel_data_length <= needed + row_bytes:
        raise UnsuitableSeries(
            "PIXEL_DATA",
            f"{header.number_of_frames} frames of {stored.rows} x {stored.columns} pixels need"
            f" {needed} bytes, there are {header.pixel_data_length}",
        )


def _read_native(source: SourceInstance, targets: Sequence[tuple[int, Stored]]) -> None:
    offset = source.header.pixel_data_offset or 0
    swapped = source.header.transfer_syntax_uid == uid.ExplicitVRBigEndian
    descriptor = os.open(source.path, os.O_RDONLY)
    try:
        for number, target in targets:
            view = bytes_of(target)
            at = offset + (number - 1) * target.nbytes
            while len(view):
                count = os.preadv(descriptor, [view], at)
                if count == 0:
                    raise UnsuitableSeries("PIXEL_DATA", "the file ends within the pixel data")
                view, at = view[count:], at + count
            if swapped:
                target.byteswap(inplace=True)
    finally:
        os.close(descriptor)


def _copy_native(pixels: bytes, targets: Sequence[tuple[int, Stored]], *, swapped: bool) -> None:
    for number, target in targets:
        frame = memoryview(pixels)[(number - 1) * target.nbytes : number * target.nbytes]
        if len(frame) < target.nbytes:
            raise UnsuitableSeries("PIXEL_DATA", "the file ends within the pixel data")
        bytes_of(target)[:] = frame
        if swapped:
            target.byteswap(inplace=True)
