"""The gate for what some destinations get beside SR and SEG: lists, annotations, documents."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from pydicom.dataset import Dataset

from service.core.errors import InvalidResult
from service.core.headers import SourceFrame
from workers.results.encode import tag_of
from workers.results.reread import Reread, numbers, text

_CONTENT: Final = tag_of("ContentSequence")
_EVIDENCE: Final = tag_of("CurrentRequestedProcedureEvidenceSequence")
_ANNOTATIONS: Final = tag_of("GraphicAnnotationSequence")
_LAYERS: Final = tag_of("GraphicLayerSequence")
_LAYER: Final = tag_of("GraphicLayer")
_GRAPHIC_DATA: Final = tag_of("GraphicData")
_GRAPHIC_POINTS: Final = tag_of("NumberOfGraphicPoints")
_REFERENCED_INSTANCE: Final = tag_of("ReferencedSOPInstanceUID")
_REFERENCED_FRAME: Final = tag_of("ReferencedFrameNumber")
_ROUNDING_PIXELS: Final = 0.01


def check_listed(again: Reread) -> None:
    """Refuse a list of key objects that differs from its evidence."""
    pointed = {
        root: {e.value for e in again.elements if e.root == root and e.tag == _REFERENCED_INSTANCE}
        for root in (_CONTENT, _EVIDENCE)
    }
    if not pointed[_CONTENT] or pointed[_CONTENT] != pointed[_EVIDENCE]:
        raise InvalidResult("EVIDENCE_INCOMPLETE", "the list and its evidence differ")


def check_annotations(dataset: Dataset, again: Reread, frames: Sequence[SourceFrame]) -> None:
    """Refuse annotations off their image, on no image of this job, or on a layer that is not there.

    Rescale is compared too: a state with another one would show other values under the same window.
    """
    by_place = {(f.instance.sop_instance_uid, f.frame_number): f for f in frames}
    layers = {text(e) for e in again.elements if e.root == _LAYERS and e.tag == _LAYER}
    for annotation in _entries(again, _ANNOTATIONS):
        frame = by_place.get((annotation.instance_uid, annotation.frame_number))
        if frame is None:
            raise InvalidResult("EVIDENCE_INCOMPLETE", "an annotation is on no frame of this job")
        if annotation.layer not in layers:
            raise InvalidResult("LAYER_MISSING", f"there is no layer {annotation.layer}")
        _check_points(annotation, frame)
        _check_rescale(dataset, frame)


class _Annotation:
    """What one annotation names and draws."""

    def __init__(self) -> None:
        self.instance_uid, self.frame_number, self.layer = "", 1, ""
        self.points: list[tuple[float, ...]] = []
        self.counts: list[int] = []


def _entries(again: Reread, root: int) -> list[_Annotation]:
    found = [_Annotation() for _ in range(again.items.get(root, 0))]
    for element in again.elements:
        if element.root != root:
            continue
        one = found[element.entry]
        if element.tag == _REFERENCED_INSTANCE:
            one.instance_uid = text(element)
        elif element.tag == _REFERENCED_FRAME:
            one.frame_number = int(text(element))
        elif element.tag == _LAYER:
            one.layer = text(element)
        elif element.tag == _GRAPHIC_DATA:
            one.points.append(numbers(element))
        elif element.tag == _GRAPHIC_POINTS:
            one.counts.append(int(numbers(element)[0]))
    return found


def _check_points(annotation: _Annotation, frame: SourceFrame) -> None:
    if [len(points) for points in annotation.points] != [2 * count for count in annotation.counts]:
        raise InvalidResult("INVALID_VALUE", "a graphic has another number of points than it says")
    far_corner = (frame.instance.columns or 0, frame.instance.rows or 0)
    for values in annotation.points:
        points = np.array(values).reshape(-1, 2)
        if np.any(np.maximum(-points, points - far_corner) > _ROUNDING_PIXELS):
            raise InvalidResult("REGION_OUTSIDE", "an annotation leaves its image")


def _check_rescale(dataset: Dataset, frame: SourceFrame) -> None:
    slope = frame.geometry.rescale_slope
    if slope is None or frame.instance.has_modality_lut:
        return
    said = (dataset.get("RescaleSlope"), dataset.get("RescaleIntercept"))
    if said != (slope, frame.geometry.rescale_intercept):
        raise InvalidResult("RESCALE_DIFFERS", "the state shows other values than the source")


def check_document(dataset: Dataset) -> None:
    """Refuse a document that is cut off, or whose length is not what is said of it."""
    length, pdf = int(dataset.EncapsulatedDocumentLength), bytes(dataset.EncapsulatedDocument)
    whole = pdf.startswith(b"%PDF-") and pdf[:length].rstrip().endswith(b"%%EOF")
    if len(pdf) - length not in (0, 1) or not whole:
        raise InvalidResult("DOCUMENT_BROKEN", "the PDF does not begin or end as one")
    if dataset.MIMETypeOfEncapsulatedDocument != "application/pdf":
        raise InvalidResult("DOCUMENT_BROKEN", "the document is not said to be a PDF")
