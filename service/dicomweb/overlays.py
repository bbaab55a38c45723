"""Segmentations as pictures over the frames that they were drawn on.

References
----------
DICOM PS3.3 C.8.20 (Segmentation), C.10.7.1.1 (encoding of CIELab values).
"""

import io
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.core.errors import OverreadError
from service.dicomweb.dicom_json import DataSetJson, of_file
from service.dicomweb.pixels import FrameReader
from service.records.archive import Archive
from service.records.database import Records
from service.records.dicomweb import StoredInstance, header_bytes_of, instances_of

SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.4"
_KEPT: Final = 64  # segmentations
_FILL_ALPHA: Final = 70
_EDGE_ALPHA: Final = 255
_COLOURS: Final = ((255, 176, 59), (86, 204, 242), (111, 207, 151), (235, 87, 87), (187, 107, 217))

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Drawn:
    """A frame of a segmentation and the colour of its segment."""

    frame_number: int
    colour: Colour


# (SOP Instance UID, frame number) of the image to what was drawn on it
Drawing = Mapping[tuple[str, int], Sequence[Drawn]]


class Drawings:
    """What each segmentation of a study draws; read once, kept for the next frame."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, str], Drawing] = OrderedDict()

    def on(
        self, study_instance_uid: str, sop_instance_uid: str, frame_number: int
    ) -> Sequence[tuple[StoredInstance, Sequence[Drawn]]]:
        """Return what is drawn on a frame, by segmentation."""
        with self._records.reading() as connection:
            segmentations = instances_of(
                connection, study_instance_uid=study_instance_uid, sop_class_uid=SEGMENTATION
            )
            known = {one.key: self._known(one) for one in segmentations}
            unread = [one.row_id for one in segmentations if known[one.key] is None]
            headers = header_bytes_of(connection, unread)
        found = []
        for one in segmentations:
            drawing = known[one.key] or self._keep(one, drawing_of(headers[one.row_id]))
            if drawn := drawing.get((sop_instance_uid, frame_number)):
                found.append((one, drawn))
        return found

    def _known(self, one: StoredInstance) -> Drawing | None:
        with self._lock:
            return self._kept.get(one.key)

    def _keep(self, one: StoredInstance, drawing: Drawing) -> Drawing:
        with self._lock:
            self._kept[one.key] = drawing
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return drawing


def drawing_of(header: bytes) -> Drawing:
    """Return what a segmentation draws where, from its header."""
    data_set = of_file(header, str)
    colours = {
        _first(segment, "00620004", 0): _colour(segment, index)
        for index, segment in enumerate(_items(data_set, "00620002"))
    }
    found: defaultdict[tuple[str, int], list[Drawn]] = defaultdict(list)
    for number, frame in enumerate(_items(data_set, "52009230"), start=1):
        for identified in _items(frame, "0062000A"):
            colour = colours.get(_first(identified, "0062000B", 0), _COLOURS[0])
        for derivation in _items(frame, "00089124"):
            for source in _items(derivation, "00082112"):
                key = _first(source, "00081155", ""), _first(source, "00081160", 1)
                found[key].append(Drawn(number, colour))
    return found


def overlay(
    archive: Archive, segmentations: Sequence[tuple[StoredInstance, Sequence[Drawn]]]
) -> bytes:
    """Return a PNG, transparent where nothing is drawn; one pixel where nothing is at all."""
    picture = np.zeros((1, 1, 4), np.uint8)
    for instance, drawn in segmentations:
        try:
            with FrameReader(archive, instance) as reader:
                for one in drawn:
                    mask = reader.samples(one.frame_number) > 0
                    if picture.shape[:2] != mask.shape:
                        picture = np.zeros((*mask.shape, 4), np.uint8)
                    _draw(picture, mask, one.colour)
        except OverreadError:  # one that cannot be read does not hide the others
            continue
    written = io.BytesIO()
    Image.fromarray(picture).save(written, "PNG", compress_level=1)
    return written.getvalue()


def _draw(picture: NDArray[np.uint8], mask: NDArray[np.bool_], colour: Colour) -> None:
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    picture[mask] = (*colour, _FILL_ALPHA)
    picture[mask & ~inside] = (*colour, _EDGE_ALPHA)


def _colour(segment: DataSetJson, index: int) -> Colour:
    encoded = segment.get("0062000D", {}).get("Value", [])
    return _rgb(encoded) if len(encoded) == 3 else _COLOURS[index % len(_COLOURS)]


def _rgb(encoded: Sequence[int]) -> Colour:
    """Return sRGB of a CIELab value as DICOM encodes it, relative to D50.

    >>> _rgb((65535, 32896, 32896))
    (255, 255, 255)
    """
    light, a, b = encoded[0] / 655.35, encoded[1] / 257 - 128, encoded[2] / 257 - 128
    y = (light + 16) / 116
    x, z = y + a / 500, y - b / 200
    xyz = [
        _uncurved(value) * white
        for value, white in zip((x, y, z), (0.9642, 1.0, 0.8251), strict=True)
    ]
    linear = np.array(
        [[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]]
    ) @ np.array(xyz)
    linear = np.clip(linear, 0, 1)
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (round(float(value) * 255) for value in shown)
    return red, green, blue


def _uncurved(value: float) -> float:
    return value**3 if value > 6 / 29 else 3 * (6 / 29) ** 2 * (value - 4 / 29)


def _items(data_set: DataSetJson, tag: str) -> Sequence[DataSetJson]:
    found: list[DataSetJson] = data_set.get(tag, {}).get("Value", [])
    return found


def _first(data_set: DataSetJson, tag: str, default: Any) -> Any:
    values = data_set.get(tag, {}).get("Value", [])
    return values[0] if values else default
