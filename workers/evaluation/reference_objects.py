"""References kept in DICOM objects: segmentations, contours, structured reports.

Segments and contours become masks on the planes of the image they refer to; measurement groups of
a report (PS3.16 TID 1500) become lesions with centre and diameter; coded statements that a
finding is present or absent become labels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from scipy import ndimage

from service.core import codes
from service.core.errors import InvalidRequest
from service.core.findings import Qualifier
from service.core.geometry import Floats, to_patient_mm
from service.core.headers import SourceFrame
from workers.evaluation.references import Classes, Lesion, Point, Truth, sphere_diameter_mm
from workers.volume.series import Volume

Mask = NDArray[np.bool_]

_MEASUREMENT_GROUP = "125007"
_FINDING = "121071"
_TRACKING_UID = "112040"
_LONG_AXIS = frozenset({"103339001", "G-A185"})
_DIAMETER = frozenset({"81827009", "M-02550"})
_VOLUME = frozenset({"118565006", "G-D705"})
_NEAREST_PLANE = 0.6  # of the distance between planes


@dataclass(frozen=True)
class Planes:
    """The planes of an image that a reference is drawn on."""

    frames: tuple[SourceFrame, ...]
    shape: tuple[int, int, int]
    volume: Volume | None

    def index_of(self, sop_instance_uid: str, frame_number: int) -> int | None:
        """Return the place of a frame, or None."""
        for index, frame in enumerate(self.frames):
            if (frame.instance.sop_instance_uid, frame.frame_number) == (
                sop_instance_uid, frame_number,
            ):  # fmt: skip
                return index
        return None

    def index_at(self, point_mm: Floats) -> int | None:
        """Return the plane that a point lies on, within 0.6 of the gap between planes."""
        if self.volume is None:
            return None
        stack = self.volume.stack
        along = float((np.asarray(point_mm) - stack.origins_mm[0]) @ stack.normal)
        away = np.abs(stack.distances_mm - along)
        nearest = int(away.argmin())
        gap = float(np.median(np.diff(stack.distances_mm))) if len(away) > 1 else 1.0
        return nearest if away[nearest] <= _NEAREST_PLANE * gap else None

    def to_mm(self, index: int, column: float, row: float) -> Point | None:
        """Return LPS mm of image coordinates, (0.5, 0.5) being the first pixel's centre."""
        if self.volume is None:
            return None
        affine = self.volume.stack.plane_affine(index)
        x, y, z = to_patient_mm(affine, np.array([column - 0.5, row - 0.5, 0.0]))
        return float(x), float(y), float(z)

    def to_pixels(self, index: int, points_mm: Floats) -> Floats:
        """Return (column, row) indices of points, shape (n, 2); a pixel's centre is whole."""
        assert self.volume is not None
        inverse = np.linalg.inv(self.volume.stack.plane_affine(index))
        return np.asarray((points_mm @ inverse[:3, :3].T + inverse[:3, 3])[:, :2])


def referenced_uids(path: Path) -> frozenset[str]:
    """Return every SOP and Series Instance UID that an object refers to."""
    dataset = pydicom.dcmread(path, stop_before_pixels=True)
    found = {
        str(element.value)
        for element in dataset.iterall()
        if element.keyword in ("ReferencedSOPInstanceUID", "SeriesInstanceUID")
    }
    return frozenset(found - {str(dataset.SeriesInstanceUID)})


def read_object(kind: str, path: Path, planes: Planes, classes: Classes) -> Truth:
    """Return what an object says of an image.

    Raises
    ------
    InvalidRequest
        ``REFERENCE`` when it cannot be read, or is drawn on another grid than the image's.
    """
    readers = {"SEG": _segmentation, "RTSTRUCT": _contours, "SR": _report}
    try:
        return readers[kind](pydicom.dcmread(path), planes, classes)
    except (AttributeError, KeyError, ValueError, IndexError, TypeError) as error:
        raise InvalidRequest("REFERENCE", f"{path.name}: unreadable {kind}: {error}") from error


def _segmentation(dataset: Dataset, planes: Planes, classes: Classes) -> Truth:
    pixels = np.asarray(dataset.pixel_array)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.shape[1:] != planes.shape[1:]:
        found, allowed = pixels.shape[1:], planes.shape[1:]
        raise ValueError(f"found {found} pixels a frame, allowed {allowed}")
    if dataset.get("SegmentationType") == "FRACTIONAL":
        pixels = pixels >= 0.5 * int(dataset.MaximumFractionalValue)
    parts: dict[int, Mask] = {}
    shared = dataset.get("SharedFunctionalGroupsSequence", [Dataset()])[0]
    for frame, groups in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        place = _plane_of(groups, shared, planes)
        number = int(
            _group(groups, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber
        )
        if place is not None:
            parts.setdefault(number, np.zeros(planes.shape, np.bool_))[place] |= frame > 0
    truth = Truth()
    for segment in dataset.SegmentSequence:
        code = segment.SegmentedPropertyTypeCodeSequence[0]
        words = f"{code.get('CodeMeaning', '')}"
        name = classes.of_code(
            str(code.get("CodeValue", "")), str(code.get("CodingSchemeDesignator", "")), words
        ) or classes.of_words(str(segment.get("SegmentLabel", "")))
        if name and int(segment.SegmentNumber) in parts:
            _add_mask(truth, name, parts[int(segment.SegmentNumber)], planes)
    return truth


def _group(groups: Dataset, shared: Dataset, name: str) -> Dataset:
    holder = groups if name in groups else shared
    first: Dataset = holder[name].value[0]
    return first


def _plane_of(groups: Dataset, shared: Dataset, planes: Planes) -> int | None:
    for holder in (groups, shared):
        for derivation in holder.get("DerivationImageSequence", []):
            for source in derivation.get("SourceImageSequence", []):
                number = int(source.get("ReferencedFrameNumber", 1) or 1)
                place = planes.index_of(str(source.ReferencedSOPInstanceUID), number)
                if place is not None:
                    return place
    if "PlanePositionSequence" in groups:
        position = groups.PlanePositionSequence[0].ImagePositionPatient
        return planes.index_at(np.array(position, dtype=np.float64))
    return 0 if len(planes.frames) == 1 else None


def _contours(dataset: Dataset, planes: Planes, classes: Classes) -> Truth:
    names = {
        int(roi.ROINumber): classes.of_words(str(roi.get("ROIName", "")))
        for roi in dataset.StructureSetROISequence
    }
    truth = Truth()
    for roi in dataset.get("ROIContourSequence", []):
        name = names.get(int(roi.ReferencedROINumber))
        if name is None:
            continue
        mask = np.zeros(planes.shape, np.bool_)
        for contour in roi.get("ContourSequence", []):
            points = np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3)
            place = planes.index_at(points.mean(axis=0))
            if place is not None and len(points) >= 3:
                # A contour within another one of its region is a hole in it.
                mask[place] ^= _filled(planes.to_pixels(place, points), planes.shape[1:])
        if mask.any():
            _add_mask(truth, name, mask, planes)
    return truth


def _filled(points: Floats, shape: tuple[int, ...]) -> Mask:
    """Return the pixels whose centres lie inside a polygon of (column, row) indices."""
    canvas = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in points], fill=1)
    return np.array(canvas, dtype=np.bool_)


def _add_mask(truth: Truth, name: str, mask: Mask, planes: Planes) -> None:
    """Add a mask to its class, and its connected pieces as lesions."""
    truth.masks[name] = truth.masks[name] | mask if name in truth.masks else mask
    truth.labels[name] = True
    truth.lesions += list(lesions_in(mask, name, planes))


def lesions_in(mask: Mask, name: str, planes: Planes) -> Iterator[Lesion]:
    """Yield the connected pieces of a mask as lesions."""
    if planes.volume is None:
        return
    spacing = planes.volume.spacing_mm
    voxel_mm3 = float(np.prod(spacing))
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    for number in range(1, count + 1):
        at = np.argwhere(parts == number)
        place, row, column = at.mean(axis=0)
        low = int(np.floor(place))
        point = planes.to_mm(low, column + 0.5, row + 0.5)
        assert point is not None
        moved = np.asarray(point) + (place - low) * spacing[0] * planes.volume.stack.normal
        x, y, z = moved
        diameter = sphere_diameter_mm(len(at) * voxel_mm3)
        yield Lesion(name, (float(x), float(y), float(z)), diameter)


def _report(dataset: Dataset, planes: Planes, classes: Classes) -> Truth:
    truth = Truth()
    groups: dict[str, list[Dataset]] = {}
    present = codes.PRESENCE[Qualifier.PRESENT]
    absent = codes.PRESENCE[Qualifier.ABSENT]
    for number, item in enumerate(_items(dataset)):
        if item.get("ValueType") == "CONTAINER" and _concept(item)[0] == _MEASUREMENT_GROUP:
            groups.setdefault(_tracking(item) or f"group {number}", []).append(item)
        elif item.get("ValueType") == "CODE" and "ConceptCodeSequence" in item:
            value = str(item.ConceptCodeSequence[0].get("CodeValue", ""))
            name = classes.of_code(*_concept(item))
            if name and value in (present.value, absent.value):
                truth.labels[name] = value == present.value
    for held in groups.values():
        name = _finding_of(held, classes)
        if name is None:
            continue
        truth.labels[name] = True
        center = next((c for item in held if (c := _center(item, planes)) is not None), None)
        if center is not None:
            truth.lesions.append(Lesion(name, center, _size(held)))
    return truth


def _items(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", []):
        yield child
        yield from _items(child)


def _concept(item: Dataset) -> tuple[str, str, str]:
    code = item.get("ConceptNameCodeSequence", [Dataset()])[0]
    return (
        str(code.get("CodeValue", "")),
        str(code.get("CodingSchemeDesignator", "")),
        str(code.get("CodeMeaning", "")),
    )


def _tracking(group: Dataset) -> str:
    found = (str(i.get("UID", "")) for i in _items(group) if _concept(i)[0] == _TRACKING_UID)
    return next(found, "")


def _finding_of(groups: list[Dataset], classes: Classes) -> str | None:
    for group in groups:
        for item in _items(group):
            if _concept(item)[0] == _FINDING and "ConceptCodeSequence" in item:
                code = item.ConceptCodeSequence[0]
                return classes.of_code(
                    str(code.get("CodeValue", "")),
                    str(code.get("CodingSchemeDesignator", "")),
                    str(code.get("CodeMeaning", "")),
                )
    return classes.of_words("lesion")


def _center(group: Dataset, planes: Planes) -> Point | None:
    """Return the middle of the first region or point of a group, in LPS mm."""
    for item in _items(group):
        kind = item.get("ValueType")
        if kind not in ("SCOORD", "SCOORD3D"):
            continue
        data = np.array(item.GraphicData, dtype=np.float64)
        if kind == "SCOORD3D":
            x, y, z = _middle(data.reshape(-1, 3))
            return float(x), float(y), float(z)
        column, row = _middle(data.reshape(-1, 2))
        for image in _items(item):
            for reference in image.get("ReferencedSOPSequence", []):
                number = int(reference.get("ReferencedFrameNumber", 1) or 1)
                place = planes.index_of(str(reference.ReferencedSOPInstanceUID), number)
                if place is not None:
                    return planes.to_mm(place, float(column), float(row))
    return None


def _middle(points: Floats) -> Floats:
    return np.asarray((points.min(axis=0) + points.max(axis=0)) / 2)


def _size(groups: list[Dataset]) -> float:
    """Return the diameter in mm: as measured, the long axis, or that of the volume's sphere."""
    numbers: dict[str, float] = {}
    for group in groups:
        for item in _items(group):
            if item.get("ValueType") == "NUM" and item.get("MeasuredValueSequence"):
                value: Any = item.MeasuredValueSequence[0].NumericValue
                numbers.setdefault(_concept(item)[0], float(value))
    for wanted in (_DIAMETER, _LONG_AXIS):
        found = next((numbers[code] for code in wanted if code in numbers), None)
        if found is not None:
            return found
    volume = next((numbers[code] for code in _VOLUME if code in numbers), None)
    return sphere_diameter_mm(volume) if volume is not None else 0.0
