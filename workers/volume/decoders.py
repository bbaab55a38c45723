"""Decodes one compressed frame, by transfer syntax.

One permissively licensed library does it all (imagecodecs, BSD: libjpeg-turbo, CharLS, OpenJPEG,
libjxl). It releases the interpreter lock, so that threads help, and writes into the
caller's array where the codec allows.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid

from service.core.codestream import Codestream, codestream_of
from service.core.errors import UnsuitableSeries

Stored = NDArray[np.signedinteger[Any] | np.unsignedinteger[Any]]
Decoder = Callable[[bytes, Stored], Stored]

# The last marker of JPEG, JPEG-LS and JPEG 2000 alike.
_END_OF_IMAGE = b"\xff\xd9"
# How far from the end of a frame's last fragment its end marker may lie.
_PADDING = 16


def decode_frame(transfer_syntax_uid: str, frame: bytes, target: Stored) -> None:
    """Decode one frame into `target`, shape (rows, columns), as stored bit patterns.

    Raises
    ------
    UnsuitableSeries
        ``PIXEL_DATA`` when the frame is broken, or of another size than the target: its own
        header is compared before anything is decoded.
    """
    try:
        decoded = DECODERS[transfer_syntax_uid](frame, target)
    except (RuntimeError, ValueError, TypeError, IndexError, zlib.error) as error:
        raise UnsuitableSeries("PIXEL_DATA", "a compressed frame cannot be decoded") from error
    if not np.may_share_memory(decoded, target):
        _take(decoded, target)


def _take(decoded: Stored, target: Stored) -> None:
    if decoded.shape != target.shape or decoded.itemsize > target.itemsize:
        raise UnsuitableSeries("PIXEL_DATA", "a compressed frame has another size than its header")
    np.copyto(target, decoded, casting="unsafe")


def _rle(frame: bytes, target: Stored) -> Stored:
    view = bytes_of(target)
    count = imagecodecs.dicomrle_decode(frame, target.dtype.newbyteorder("<"), out=view)
    if len(count) != len(view):
        raise ValueError("segments hold fewer values than the frame")
    return target


def _jpeg(frame: bytes, target: Stored) -> Stored:
    """JPEG baseline, extended, progressive and lossless."""
    buffer = _buffer(_agreeing(frame, target), target)
    imagecodecs.jpeg8_decode(frame, out=buffer)
    return buffer


def _jpeg_ls(frame: bytes, target: Stored) -> Stored:
    buffer = _buffer(_agreeing(frame, target), target)
    imagecodecs.jpegls_decode(frame, out=buffer)
    return buffer


def _jpeg2000(frame: bytes, target: Stored) -> Stored:
    # High-throughput frames too: OpenJPH is a quarter faster on them, but a damaged header makes
    # it (0.26, 2026) divide by zero, which ends the process.
    buffer = _buffer(_agreeing(frame, target), target)
    imagecodecs.jpeg2k_decode(frame, numthreads=1, out=buffer)
    return buffer


def _agreeing(frame: bytes, target: Stored) -> Codestream:
    """Return what the frame says of itself, if it is whole and of the target's size.

    A frame cut short has to be caught here: libjpeg-turbo makes up what is missing without a
    word, and CharLS 2.4 searches for it for some ten seconds.
    """
    stream = codestream_of(frame)
    if stream is None or _END_OF_IMAGE not in frame[-_PADDING:]:
        raise ValueError("the codestream is not whole")
    if (stream.rows, stream.columns) != target.shape or stream.components != 1:
        raise UnsuitableSeries(
            "PIXEL_DATA",
            f"a compressed frame is {stream.rows} x {stream.columns} x {stream.components},"
            f" the header says {target.shape[0]} x {target.shape[1]}",
        )
    return stream


def _buffer(stream: Codestream, target: Stored) -> Stored:
    """Return an array of the type that the codec writes: the target's own memory if it fits."""
    kind = f"{'i' if stream.signed else 'u'}{1 if stream.precision <= 8 else 2}"
    dtype = np.dtype(kind)
    if dtype.itemsize == target.itemsize and stream.precision <= 16:
        return target.view(dtype)
    return np.empty(target.shape, dtype)


def _jpeg_xl(frame: bytes, target: Stored) -> Stored:
    # Into an array of the right size: a frame of another one is refused before it is decoded,
    # where 40 KB may stand for 400 million pixels.
    for kind in (f"u{target.itemsize}", "u1"):
        buffer = np.empty(target.shape, kind)
        try:
            imagecodecs.jpegxl_decode(frame, numthreads=1, out=buffer)
        except ValueError as error:
            if "dtype" not in str(error):
                raise
        else:
            return buffer
    raise ValueError("a frame of another type than its header")


def _deflated(frame: bytes, target: Stored) -> Stored:
    pixels = zlib.decompressobj(wbits=-15).decompress(frame, target.nbytes)
    return np.frombuffer(pixels, target.dtype.newbyteorder("<")).reshape(target.shape)


def bytes_of(target: Stored) -> memoryview:
    """Return the memory of a C-contiguous array as writable bytes."""
    return target.view(np.uint8).data.cast("B")


DECODERS: Mapping[str, Decoder] = {
    uid.RLELossless: _rle,
    uid.JPEGBaseline8Bit: _jpeg,
    uid.JPEGExtended12Bit: _jpeg,
    "1.2.840.10008.1.2.4.53": _jpeg,  # spectral selection (processes 6 and 8), retired
    "1.2.840.10008.1.2.4.55": _jpeg,  # full progression (processes 10 and 12), retired
    uid.JPEGLossless: _jpeg,
    uid.JPEGLosslessSV1: _jpeg,
    uid.JPEGLSLossless: _jpeg_ls,
    uid.JPEGLSNearLossless: _jpeg_ls,
    uid.JPEG2000Lossless: _jpeg2000,
    uid.JPEG2000: _jpeg2000,
    uid.HTJ2KLossless: _jpeg2000,
    uid.HTJ2KLosslessRPCL: _jpeg2000,
    uid.HTJ2K: _jpeg2000,
    "1.2.840.10008.1.2.4.110": _jpeg_xl,  # JPEG XL lossless
    "1.2.840.10008.1.2.4.111": _jpeg_xl,  # JPEG XL, recompressed JPEG
    "1.2.840.10008.1.2.4.112": _jpeg_xl,  # JPEG XL
    "1.2.840.10008.1.2.8.1": _deflated,  # deflated image frame
}
