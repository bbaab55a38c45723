"""Decodes one compressed frame, by transfer syntax.

One permissively licensed library does it all (imagecodecs, BSD: libjpeg-turbo, CharLS, OpenJPEG,
OpenJPH, libjxl). It releases the interpreter lock, so that threads help, and writes into the
caller's array where the codec allows.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid

from service.core.errors import UnsuitableSeries
from workers.volume.encapsulation import codestream_of

Stored = NDArray[np.signedinteger[Any] | np.unsignedinteger[Any]]
Decoder = Callable[[bytes, Stored], Stored]


def decode_frame(transfer_syntax_uid: str, frame: bytes, target: Stored) -> None:
    """Decode one frame into `target`, shape (rows, columns), as stored bit patterns.

    Raises
    ------
    UnsuitableSeries
        ``PIXEL_DATA`` when the frame is broken, or of another size than the target: its own
        header is compared before anything is decoded.
    """
    stream = codestream_of(frame)
    if stream is not None:
        found = (stream.rows, stream.columns, stream.components)
        if found != (*target.shape, 1) or stream.precision > target.itemsize * 8:
            raise UnsuitableSeries(
                "PIXEL_DATA",
                f"a compressed frame is {stream.rows} x {stream.columns} x {stream.components}"
                f" with {stream.precision} bits, the header says"
                f" {target.shape[0]} x {target.shape[1]}",
            )
    try:
        decoded = DECODERS[transfer_syntax_uid](frame, target)
    except (RuntimeError, ValueError, TypeError, IndexError, zlib.error) as error:
        raise UnsuitableSeries("PIXEL_DATA", "a compressed frame cannot be decoded") from error
    if decoded is not target:
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
    """JPEG baseline, extended and lossless: libjpeg-turbo writes 8 bit as bytes, else 16 bit."""
    stream = codestream_of(frame)
    bits = stream.precision if stream else 0
    if target.itemsize != (1 if bits <= 8 else 2):
        return np.asarray(imagecodecs.jpeg8_decode(frame))
    imagecodecs.jpeg8_decode(frame, out=_unsigned(target))
    return target


def _jpeg_ls(frame: bytes, target: Stored) -> Stored:
    stream = codestream_of(frame)
    bits = stream.precision if stream else 0
    if target.itemsize != (1 if bits <= 8 else 2):
        return np.asarray(imagecodecs.jpegls_decode(frame))
    imagecodecs.jpegls_decode(frame, out=_unsigned(target))
    return target


def _jpeg2000(frame: bytes, target: Stored) -> Stored:
    return np.asarray(imagecodecs.jpeg2k_decode(frame, numthreads=1))


def _htj2k(frame: bytes, target: Stored) -> Stored:
    return np.asarray(imagecodecs.htj2k_decode(frame))


def _jpeg_xl(frame: bytes, target: Stored) -> Stored:
    return np.asarray(imagecodecs.jpegxl_decode(frame, numthreads=1))


def _deflated(frame: bytes, target: Stored) -> Stored:
    pixels = zlib.decompressobj(wbits=-15).decompress(frame, target.nbytes)
    return np.frombuffer(pixels, target.dtype.newbyteorder("<")).reshape(target.shape)


def bytes_of(target: Stored) -> memoryview:
    """Return the memory of a C-contiguous array as writable bytes."""
    return target.view(np.uint8).data.cast("B")


def _unsigned(target: Stored) -> Stored:
    return target.view(f"u{target.itemsize}")


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
    uid.HTJ2KLossless: _htj2k,
    uid.HTJ2KLosslessRPCL: _htj2k,
    uid.HTJ2K: _htj2k,
    "1.2.840.10008.1.2.4.110": _jpeg_xl,  # JPEG XL lossless
    "1.2.840.10008.1.2.4.111": _jpeg_xl,  # JPEG XL, recompressed JPEG
    "1.2.840.10008.1.2.4.112": _jpeg_xl,  # JPEG XL
    "1.2.840.10008.1.2.8.1": _deflated,  # deflated image frame
}
