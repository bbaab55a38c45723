"""Annotations on the source images: one Grayscale Softcopy Presentation State (PS3.3 A.33.1).

A layer for each finding, so that it is switched and coloured by itself. A state replaces what an
image says of its own display, so that rescale, window and polarity of the source are repeated.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from service.core.errors import ContractViolation
from service.core.findings import Analysis
from service.core.headers import SourceFrame
from workers.results.common import (
    analysed_instances,
    check_source,
    common_elements,
    reference_of,
    written,
)
from workers.results.context import (
    NOT_REVIEWED,
    RESEARCH_ONLY,
    ResultContext,
    ResultRole,
    WrittenResult,
)
from workers.results.drawings import Drawing, Points, drawings_of
from workers.results.encode import Value, clip, encoded, item, part10
from workers.results.lookup_tables import modality_transformation, presentation_shape, windows
from workers.results.planes import grid_mm
from workers.results.rendering import Display
from workers.results.segments import color_of
from workers.results.source import SourceStudy

GRAYSCALE_PRESENTATION_STATE: Final = "1.2.840.10008.5.1.4.1.1.11.1"
# One element of an explicit VR holds 65534 bytes, a point takes eight.
_POINTS_AT_MOST: Final = 8191
_LETTER: Final = (0.016, 0.03)  # width and height of a letter, in parts of the image's rows
_GAP_PIXELS: Final = 4.0


def write_presentation_state(
    context: ResultContext,
    source: SourceStudy,
    analysis: Analysis,
    *,
    frames: Sequence[SourceFrame],
    display: Display | None = None,
) -> WrittenResult | None:
    """Return the annotations of an analysis, or None where nothing is drawn.

    Frames whose values are rescaled in another way than those of the first finding are left out,
    since a state has one rescale for all its images.

    Parameters
    ----------
    display
        The pixels that were analysed, for a window where the source states none.
    """
    check_source(source, analysed_instances(frames))
    drawings = _of_one_rescale(list(drawings_of(analysis, frames)), frames)
    if not drawings:
        return None
    shown = [frames[index] for index in sorted({d.frame_index for d in drawings})]
    identity = written(context, source, ResultRole.PRESENTATION_STATE, GRAYSCALE_PRESENTATION_STATE)
    common = common_elements(context, source, identity)
    elements: dict[str, Value] = {
        "PresentationCreationDate": common.pop("ContentDate"),
        "PresentationCreationTime": common.pop("ContentTime"),
        **common,
        "Laterality": None,
        "ContentLabel": "AI_FINDINGS",
        "ContentDescription": clip(f"AI {context.model.title}"),
        "ContentCreatorName": clip(context.model.manufacturer.replace("^", " "), 60) + "^AI",
        "ReferencedSeriesSequence": _referenced(shown),
        "DisplayedAreaSelectionSequence": [_displayed_area(shown[0])],
        "GraphicAnnotationSequence": [
            *(_annotation(drawing, frames[drawing.frame_index]) for drawing in drawings),
            *(_disclaimer(context, frame) for frame in shown),
        ],
        "GraphicLayerSequence": _layers(drawings),
        **modality_transformation(source, shown[0]),
        **windows(source, shown, frames, display),
        "PresentationLUTShape": presentation_shape(shown[0]),
    }
    return replace(identity, content=part10(elements))


def _of_one_rescale(drawings: list[Drawing], frames: Sequence[SourceFrame]) -> list[Drawing]:
    wanted = [
        (geometry.rescale_slope, geometry.rescale_intercept)
        for geometry in (frames[drawing.frame_index].geometry for drawing in drawings)
    ]
    return [d for d, rescale in zip(drawings, wanted, strict=True) if rescale == wanted[0]]


def _referenced(frames: Sequence[SourceFrame]) -> list[bytes]:
    """Return the images that the state applies to, by series (PS3.3 C.11.11)."""
    series: dict[str, list[bytes]] = {}
    for instance in analysed_instances(frames):
        reference = reference_of(instance)
        series.setdefault(reference.series_instance_uid, []).append(
            item(
                ReferencedSOPClassUID=reference.sop_class_uid,
                ReferencedSOPInstanceUID=reference.sop_instance_uid,
            )
        )
    return [
        item(SeriesInstanceUID=series_uid, ReferencedImageSequence=images)
        for series_uid, images in series.items()
    ]


def _image(frame: SourceFrame) -> bytes:
    """Return the reference to one frame; the number is said only where there are several."""
    elements: dict[str, Value] = {
        "ReferencedSOPClassUID": frame.instance.sop_class_uid,
        "ReferencedSOPInstanceUID": frame.instance.sop_instance_uid,
    }
    if frame.instance.number_of_frames > 1:
        elements["ReferencedFrameNumber"] = frame.frame_number
    return encoded(elements)


def _displayed_area(frame: SourceFrame) -> bytes:
    """Return the whole image as what is shown, with the proportions of the body."""
    grid = grid_mm(frame)
    elements: dict[str, Value] = {
        "DisplayedAreaTopLeftHandCorner": (1, 1),
        "DisplayedAreaBottomRightHandCorner": (
            frame.instance.columns or 0,
            frame.instance.rows or 0,
        ),
        "PresentationSizeMode": "SCALE TO FIT",
    }
    if grid:
        elements["PresentationPixelSpacing"] = grid
    else:
        elements["PresentationPixelAspectRatio"] = (1, 1)
    return encoded(elements)


def _layer(drawing: Drawing) -> str:
    return f"FINDING_{drawing.number}"


def _annotation(drawing: Drawing, frame: SourceFrame) -> bytes:
    """Return what is drawn and said of one finding on one frame (PS3.3 C.10.5)."""
    elements: dict[str, Value] = {
        "ReferencedImageSequence": [_image(frame)],
        "GraphicLayer": _layer(drawing),
    }
    if drawing.lines:
        elements["GraphicObjectSequence"] = [_graphic(points) for points in drawing.lines]
    if drawing.words:
        elements["TextObjectSequence"] = [_words(drawing, frame)]
    return encoded(elements)


def _graphic(points: Points) -> bytes:
    if len(points) > _POINTS_AT_MOST:
        raise ContractViolation("OUTLINE_TOO_LONG", f"an outline has {len(points)} points")
    flat = [value for point in points for value in point]
    return item(
        GraphicAnnotationUnits="PIXEL",
        GraphicDimensions=2,
        NumberOfGraphicPoints=len(points),
        GraphicData=flat,
        GraphicType="POLYLINE" if len(points) > 1 else "POINT",
        GraphicFilled="N",
    )


def _words(drawing: Drawing, frame: SourceFrame) -> bytes:
    """Return the words of a finding beside its outline, on the side where there is room."""
    rows, columns = frame.instance.rows or 1, frame.instance.columns or 1
    width, height = _extent(drawing.words, rows)
    box = drawing.box
    if box is None:  # about the whole image: one below the other in its corner
        return _text(drawing.words, (_GAP_PIXELS, height * drawing.number, width, height))
    left, top, right, bottom = box
    place = right + _GAP_PIXELS if right + width < columns else left - width - _GAP_PIXELS
    middle = min(max((top + bottom - height) / 2, 0.0), max(rows - height, 0.0))
    anchor = (right, (top + bottom) / 2) if place > right else (left, (top + bottom) / 2)
    return _text(drawing.words, (max(place, 0.0), middle, width, height), anchor)


def _extent(words: str, rows: int) -> tuple[float, float]:
    """Return width and height, in pixels, that words take on an image of this size."""
    return len(words) * _LETTER[0] * rows, _LETTER[1] * rows


def _text(
    words: str,
    place: tuple[float, float, float, float],
    anchor: tuple[float, float] | None = None,
) -> bytes:
    left, top, width, height = place
    elements: dict[str, Value] = {
        "UnformattedTextValue": words,
        "BoundingBoxAnnotationUnits": "PIXEL",
        "BoundingBoxTopLeftHandCorner": (left, top),
        "BoundingBoxBottomRightHandCorner": (left + width, top + height),
        "BoundingBoxTextHorizontalJustification": "LEFT",
    }
    if anchor:
        elements |= {
            "AnchorPointAnnotationUnits": "PIXEL",
            "AnchorPoint": anchor,
            "AnchorPointVisibility": "Y",
        }
    return encoded(elements)


def _disclaimer(context: ResultContext, frame: SourceFrame) -> bytes:
    """Return what every annotated frame says of the annotations as a whole."""
    rows = frame.instance.rows or 1
    words = " ".join([NOT_REVIEWED, *([RESEARCH_ONLY] if context.research_only else [])])
    width, height = _extent(words, rows)
    place = (_GAP_PIXELS, max(rows - height - _GAP_PIXELS, 0.0), width, height)
    return item(
        ReferencedImageSequence=[_image(frame)],
        GraphicLayer="ABOUT",
        TextObjectSequence=[_text(words, place)],
    )


def _layers(drawings: Sequence[Drawing]) -> list[bytes]:
    """Return a layer for each finding, and one for what holds for all (PS3.3 C.10.7)."""
    first = {drawing.number: drawing for drawing in reversed(drawings)}
    layers = [
        item(
            GraphicLayer=_layer(drawing),
            GraphicLayerOrder=order,
            GraphicLayerRecommendedDisplayGrayscaleValue=0xFFFF,
            GraphicLayerRecommendedDisplayCIELabValue=color_of(drawing.finding, drawing.number),
            GraphicLayerDescription=clip(drawing.finding.tracking_id),
        )
        for order, (_, drawing) in enumerate(sorted(first.items()), start=1)
    ]
    about = item(GraphicLayer="ABOUT", GraphicLayerOrder=len(layers) + 1)
    return [*layers, about]
