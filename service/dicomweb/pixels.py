"""Frames of archived instances: as they are stored, or decoded to native little endian.

A frame is read from its place in the file, which the row knows; nothing else of the file is read.
"""

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, BinaryIO, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import get_frame

from service.core.codestream import codestream_of
from service.core.elements import PIXEL_DATA, Encoding, walk
from service.core.errors import NotFound, OverreadError, RefusedInstance
from service.core.headers import InstanceHeader
from service.core.part10 import MAX_META_BYTES, read_file_meta
from service.dicomweb.accept import not_acceptable
from service.records.archive import Archive
from service.records.dicomweb import StoredInstance

MAX_FRAME_BYTES: Final = 1 << 29
MAX_INFLATED_BYTES: Final = 1 << 28
_NATIVE: Final = frozenset(
    {uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian}
)
_DEFLATED: Final = str(uid.DeflatedExplicitVRLittleEndian)
_JPEG: Final = frozenset(
    {uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1}
)
_JPEG_LS: Final = frozenset({uid.JPEGLSLossless, uid.JPEGLSNearLossless})
_JPEG_2000: Final = frozenset(
    {uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K}
)
_END_OF_IMAGE: Final = b"\xff\xd9"
_PADDING: Final = 16

# Media types of compressed frames (PS3.18 table 8.7.3-2, 8.7.3-5).
MEDIA_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    dict.fromkeys(_JPEG, "image/jpeg")
    | dict.fromkeys(_JPEG_LS, "image/jls")
    | dict.fromkeys(_JPEG_2000, "image/jp2")
    | dict.fromkeys((uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K), "image/jphc")
    | {str(uid.RLELossless): "image/dicom-rle"}
)

Samples = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class FrameFormat:
    """How the frames of an instance are laid out when native."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    frames: int

    @property
    def bits(self) -> int:
        """Size of one frame in bits; frames of one bit a pixel do not end with a byte."""
        return self.rows * self.columns * self.samples * self.bits_allocated

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of one sample, unsigned and little endian."""
        return np.dtype(f"<u{max(self.bits_allocated, 8) // 8}")


def frame_format(header: InstanceHeader) -> FrameFormat:
    """Return how an instance's frames are laid out.

    Raises
    ------
    NotFound
        ``NO_FRAMES`` when the instance is no image.
    RefusedInstance
        ``PIXEL_DATA`` when its header cannot be true.
    """
    if not (header.rows and header.columns) or not header.bits_allocated:
        raise NotFound("NO_FRAMES", "the instance has no frames")
    found = FrameFormat(
        rows=header.rows,
        columns=header.columns,
        samples=header.samples_per_pixel,
        bits_allocated=header.bits_allocated,
        frames=header.number_of_frames,
    )
    sizes = (1, 8, 16, 32, 64)
    if found.bits_allocated not in sizes or found.samples not in (1, 3, 4) or found.frames < 1:
        raise _broken("bit depth, samples or number of frames cannot be")
    if found.bits > MAX_FRAME_BYTES * 8:
        raise _broken("a frame is larger than this service reads")
    return found


def is_native(instance: StoredInstance) -> bool:
    """Return whether frames are stored uncompressed."""
    return instance.header.transfer_syntax_uid in _NATIVE | {_DEFLATED}


class FrameReader:
    """Reads frames of one instance; a context manager over its open file."""

    def __init__(self, archive: Archive, instance: StoredInstance) -> None:
        self.instance = instance
        self.format = frame_format(instance.header)
        self._file: BinaryIO = archive.open(instance.path)
        try:
            self._offset, self._length = self._place()
        except OverreadError:
            self._file.close()
            raise

    def __enter__(self) -> "FrameReader":
        """Return the reader."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    def stored(self, number: int) -> bytes:
        """Return the bytes of a frame, counted from 1, as they are stored.

        Raises
        ------
        NotFound
            ``NO_SUCH_FRAME`` when there are fewer.
        RefusedInstance
            ``PIXEL_DATA`` when the pixel data break off or fragments are broken.
        """
        if not 1 <= number <= self.format.frames:
            raise NotFound("NO_SUCH_FRAME", f"frames are numbered from 1 to {self.format.frames}")
        if is_native(self.instance):
            return self._native(number)
        self._file.seek(self._offset)
        bounded = io.BytesIO(self._file.read(self._length)) if self._is_small else self._file
        try:
            return get_frame(bounded, number - 1, number_of_frames=self.format.frames)
        except (ValueError, struct.error, IndexError, EOFError) as error:
            raise _broken("fragments of the pixel data are broken") from error

    def native(self, number: int) -> bytes:
        """Return a frame in Explicit VR Little Endian, samples of a pixel side by side if decoded.

        Raises
        ------
        NotFound, RefusedInstance
            As `stored`; InvalidRequest ``NOT_ACCEPTABLE`` where no codec here decodes it.
        """
        stored = self.stored(number)
        if not is_native(self.instance):
            return decode(stored, self.instance.header, self.format).tobytes()
        if self.instance.header.transfer_syntax_uid != uid.ExplicitVRBigEndian:
            return stored
        return np.frombuffer(stored, self.format.dtype.newbyteorder(">")).byteswap().tobytes()

    def samples(self, number: int) -> Samples:
        """Return a frame's stored values, unsigned; shape (rows, columns[, samples])."""
        described = self.format
        shape: tuple[int, ...] = (described.rows, described.columns)
        if described.bits_allocated == 1:
            bits = np.frombuffer(self.stored(number), np.uint8)
            found: Samples = np.unpackbits(bits, bitorder="little")[: shape[0] * shape[1]]
            return found.reshape(shape)
        values: Samples = np.frombuffer(self.native(number), described.dtype)
        values = values[: described.bits // described.bits_allocated]
        if described.samples == 1:
            return values.reshape(shape)
        if is_native(self.instance) and self._is_planar():
            return values.reshape(described.samples, *shape).transpose(1, 2, 0)
        return values.reshape(*shape, described.samples)

    @property
    def _is_small(self) -> bool:
        # A single frame is all there is; reading it at once also ends before the trailing bytes.
        return self.format.frames == 1 and self._length <= MAX_FRAME_BYTES

    def _is_planar(self) -> bool:
        """Return Planar Configuration (0028,0006), which the row does not have."""
        self._file.seek(0)
        head = self._file.read(min(self._offset, 1 << 20))
        at = head.find(b"\x28\x00\x06\x00US\x02\x00")
        return at >= 0 and head[at + 8] == 1

    def _place(self) -> tuple[int, int]:
        header = self.instance.header
        if header.transfer_syntax_uid == _DEFLATED:
            return self._inflate()
        if header.pixel_data_offset is None or header.pixel_data_length is None:
            raise NotFound("NO_FRAMES", "the instance has no frames")
        return header.pixel_data_offset, header.pixel_data_length

    def _inflate(self) -> tuple[int, int]:
        """Put the inflated data set in the place of the file, within a limit."""
        with self._file as file:
            data = file.read()
        meta = read_file_meta(data[:MAX_META_BYTES])
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            inflated = inflater.decompress(data[meta.length if meta else 0 :], MAX_INFLATED_BYTES)
        except zlib.error as error:
            raise _broken("the deflated data set is broken") from error
        self._file = io.BytesIO(inflated)
        for element in walk(inflated, Encoding()):
            if element.tag == PIXEL_DATA:
                return element.value_start, element.length
        raise NotFound("NO_FRAMES", "the instance has no frames")

    def _native(self, number: int) -> bytes:
        bits = self.format.bits
        first = (number - 1) * bits
        end = (first + bits + 7) // 8
        if end > self._length:
            raise _broken("the pixel data break off")
        self._file.seek(self._offset + first // 8)
        found = self._file.read(end - first // 8)
        return found if bits % 8 == 0 else _shifted(found, first % 8, bits)


def decode(frame: bytes, header: InstanceHeader, described: FrameFormat) -> Samples:
    """Decode a compressed frame; colour comes out as RGB.

    Raises
    ------
    InvalidRequest
        ``NOT_ACCEPTABLE`` where no codec here decodes the transfer syntax.
    RefusedInstance
        ``PIXEL_DATA`` when the frame is broken or of another size than the header says.
    """
    syntax = header.transfer_syntax_uid
    if syntax not in MEDIA_TYPES:
        raise not_acceptable(f"available: transfer-syntax={syntax}")
    if syntax != uid.RLELossless:
        _require_whole(frame, described)
    try:
        decoded = _decoded(frame, syntax, described)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise _broken("a compressed frame cannot be decoded") from error
    shape = (described.rows, described.columns)
    if decoded.shape[:2] != shape or decoded.size != shape[0] * shape[1] * described.samples:
        raise _broken("a compressed frame has another size than its header")
    if decoded.dtype.kind == "i":
        decoded = decoded.view(decoded.dtype.str.replace("i", "u"))
    if syntax == uid.RLELossless and header.photometric_interpretation == "YBR_FULL":
        decoded = ybr_to_rgb(decoded)
    return np.ascontiguousarray(decoded.astype(described.dtype, copy=False))


def _require_whole(frame: bytes, described: FrameFormat) -> None:
    """Refuse what would make a codec invent pixels, search for seconds, or fill the memory."""
    if _END_OF_IMAGE not in frame[-_PADDING:]:
        raise _broken("a compressed frame breaks off")
    found = codestream_of(frame)
    told = None if found is None else (found.rows, found.columns, found.components)
    if told != (described.rows, described.columns, described.samples):
        raise _broken("a compressed frame has another size than its header")


def _decoded(frame: bytes, syntax: str, described: FrameFormat) -> NDArray[Any]:
    if syntax in _JPEG:
        return np.asarray(imagecodecs.jpeg8_decode(frame))
    if syntax in _JPEG_LS:
        return np.asarray(imagecodecs.jpegls_decode(frame))
    if syntax in _JPEG_2000:
        return np.asarray(imagecodecs.jpeg2k_decode(frame, numthreads=1))
    # RLE keeps the samples of a pixel in planes.
    values = np.frombuffer(imagecodecs.dicomrle_decode(frame, described.dtype), described.dtype)
    planes = values.reshape(described.samples, described.rows, described.columns)
    return planes[0] if described.samples == 1 else planes.transpose(1, 2, 0)


def ybr_to_rgb(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return 8-bit full-range YBR as RGB (PS3.3 C.7.6.3.1.2)."""
    luma, blue, red = (values[..., index].astype(np.float32) for index in range(3))
    blue, red = blue - 128, red - 128
    rgb = np.stack(
        (luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue), -1
    )
    return np.clip(np.round(rgb), 0, 255).astype(np.uint8)


def numbers(text: str, most: int) -> Sequence[int]:
    """Return the frame numbers of a path, such as ``1,3``.

    Raises
    ------
    NotFound
        ``NO_SUCH_FRAME`` when one is no number, or more are asked than `most`.
    """
    parts = text.split(",")
    if len(parts) > most or not all(p.isascii() and p.isdigit() and len(p) < 9 for p in parts):
        raise NotFound("NO_SUCH_FRAME", f"frames are up to {most} numbers with commas between")
    return [int(part) for part in parts]


def _shifted(stored: bytes, skip: int, bits: int) -> bytes:
    """Return a frame of one bit a pixel from its first bit, padded to whole bytes."""
    found = np.unpackbits(np.frombuffer(stored, np.uint8), bitorder="little")[skip : skip + bits]
    return np.packbits(found, bitorder="little").tobytes()


def _broken(message: str) -> RefusedInstance:
    return RefusedInstance("PIXEL_DATA", message)
