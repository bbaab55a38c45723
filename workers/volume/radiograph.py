"""A projection radiograph becomes an upright image in which dense tissue is bright.

Applied, in the order of PS3.4 N.2: the modality transformation (rescale or lookup table), then
the inversion that MONOCHROME1 asks for. Windows and VOI lookup tables are not: they differ with
maker and taste, and a network brings its own normalisation.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pydicom
from numpy.typing import ArrayLike, NDArray
from pydicom.pixels.processing import apply_modality_lut

from service.core.errors import UnsuitableSeries
from service.core.headers import InstanceHeader, SourceFrame
from workers.volume.pixels import FrameFormat, SourceInstance, frame_format, read_frames
from workers.volume.values import (
    Meaning,
    fill_padding,
    meaning_of,
    normalise_bits,
    padding_mask,
    padding_range,
    stored_range,
)


@dataclass(frozen=True)
class Turn:
    """The quarter turns and mirrorings that bring a stored image upright, in this order."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def upright(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Turn an image as stored upright; its last two axes are (rows, columns)."""
        turned = np.swapaxes(stored, -1, -2) if self.transpose else stored
        turned = turned[..., ::-1, :] if self.flip_rows else turned
        return turned[..., ::-1] if self.flip_columns else turned

    def stored(self, upright: NDArray[Any]) -> NDArray[Any]:
        """Turn an upright image back to how it is stored."""
        turned = upright[..., ::-1] if self.flip_columns else upright
        turned = turned[..., ::-1, :] if self.flip_rows else turned
        return np.swapaxes(turned, -1, -2) if self.transpose else turned


@dataclass(frozen=True)
class Radiograph:
    """One projection image, upright, with dense tissue bright.

    ``pixels`` is float32, shape (rows, columns), in stored units after the modality
    transformation; ``value_range`` is what the format can hold, so that images of one detector
    can be scaled alike. ``spacing_mm`` is (between rows, between columns), in the plane of Pixel
    Spacing or, without it, of the detector; None where neither is known.
    """

    pixels: NDArray[np.float32]
    value_range: tuple[float, float]
    frame: SourceFrame
    turn: Turn
    spacing_mm: tuple[float, float] | None
    is_lossy: bool = False
    remarks: tuple[str, ...] = ()

    def points_on_source(self, points: ArrayLike) -> NDArray[np.float64]:
        """Map (column, row) points of the upright image, shape (n, 2), to the stored image.

        Both count from the top left corner of the top left pixel, whose centre is (0.5, 0.5).
        """
        mapped = np.array(points, dtype=np.float64).reshape(-1, 2)
        rows, columns = self.pixels.shape
        if self.turn.flip_columns:
            mapped[:, 0] = columns - mapped[:, 0]
        if self.turn.flip_rows:
            mapped[:, 1] = rows - mapped[:, 1]
        return mapped[:, ::-1] if self.turn.transpose else mapped

    def map_on_source(self, upright: NDArray[Any]) -> NDArray[Any]:
        """Turn a map of the upright image, shape (..., rows, columns), to the stored image."""
        return np.ascontiguousarray(self.turn.stored(upright))


def load_radiograph(
    instance: SourceInstance, *, invert_monochrome1: bool = True, verify: bool = False
) -> Radiograph:
    """Read a single-frame radiograph.

    Raises
    ------
    UnsuitableSeries
        ``FOR_PROCESSING`` for raw detector images, ``MULTI_FRAME`` for more than one frame, or a
        reason of `workers.volume.pixels`.
    ContractViolation
        ``DIGEST`` when the file is gone or, with `verify`, changed.
    """
    header = instance.header
    if header.presentation_intent_type == "FOR PROCESSING":
        raise UnsuitableSeries("FOR_PROCESSING", "a raw detector image, not for presentation")
    if header.number_of_frames != 1:
        raise UnsuitableSeries("MULTI_FRAME", f"{header.number_of_frames} frames, not one")
    stored = frame_format(header)
    raw = np.empty((stored.rows, stored.columns), stored.dtype)
    read_frames(instance, [(1, raw)], verify=verify)
    padded = padding_mask(raw, Meaning(1.0, 0.0, padding_range(header)))
    normalise_bits(raw, stored)
    pixels, value_range = _modality_values(instance, raw, stored)
    if header.photometric_interpretation == "MONOCHROME1" and invert_monochrome1:
        np.subtract(np.float32(sum(value_range)), pixels, out=pixels)
    fill_padding(pixels, padded, "")
    turn, remarks = _turn_of(header)
    return Radiograph(
        pixels=np.ascontiguousarray(turn.upright(pixels)),
        value_range=value_range,
        frame=SourceFrame(header),
        turn=turn,
        spacing_mm=_spacing_mm(header, turn),
        is_lossy=header.lossy_image_compression == "01",
        remarks=remarks,
    )


def _modality_values(
    instance: SourceInstance, raw: NDArray[Any], stored: FrameFormat
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Return values after the modality transformation, and the range they can have."""
    header = instance.header
    if header.has_modality_lut:
        dataset = pydicom.dcmread(instance.path, stop_before_pixels=True)
        try:
            mapped = apply_modality_lut(raw, dataset)
            table = np.asarray(apply_modality_lut(np.arange(*_span(stored)), dataset))
        except (ValueError, KeyError, AttributeError, IndexError, NotImplementedError) as error:
            raise UnsuitableSeries("MODALITY_LUT", "the modality lookup table is broken") from error
        return mapped.astype(np.float32), (float(table.min()), float(table.max()))
    meaning = meaning_of(SourceFrame(header))
    ends = [end * meaning.slope + meaning.intercept for end in stored_range(stored)]
    values = raw.astype(np.float32) * np.float32(meaning.slope) + np.float32(meaning.intercept)
    return values, (min(ends), max(ends))


def _span(stored: FrameFormat) -> tuple[int, int]:
    low, high = stored_range(stored)
    return low, high + 1


def _turn_of(header: InstanceHeader) -> tuple[Turn, tuple[str, ...]]:
    """Read from Patient Orientation (0020,0020) how the image must be turned.

    Its first value says where rows run to, its second where columns do; upright means that
    columns run to the feet and, in a frontal image, rows to the patient's left.
    """
    letters = [value[:1] for value in header.patient_orientation]
    if len(letters) != 2 or not set(letters) & {"H", "F"}:
        return Turn(), ("patient orientation is not stated; taken as upright",)
    turn = Turn()
    if letters[0] in ("H", "F"):
        turn, letters = replace(turn, transpose=True), letters[::-1]
    turn = replace(turn, flip_rows=letters[1] == "H", flip_columns=letters[0] == "R")
    return turn, () if turn == Turn() else ("turned upright by its patient orientation",)


def _spacing_mm(header: InstanceHeader, turn: Turn) -> tuple[float, float] | None:
    pairs = [
        (header.row_spacing_mm, header.column_spacing_mm),
        (header.imager_row_spacing_mm, header.imager_column_spacing_mm),
    ]
    for row_mm, column_mm in pairs:
        if row_mm and column_mm and row_mm > 0 and column_mm > 0:
            return (column_mm, row_mm) if turn.transpose else (row_mm, column_mm)
    return None
