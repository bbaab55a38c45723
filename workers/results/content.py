"""Content items of a structured report, as encoded bytes (PS3.3 C.17.3)."""

from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache

from service.core import codes
from service.core.findings import Code, RegionShape
from service.core.headers import SourceFrame
from workers.results.common import code_item, reference_of
from workers.results.context import InstanceReference
from workers.results.encode import Value, encoded, floats, item


class Relation(StrEnum):
    """How a content item relates to its parent (PS3.3 table C.17.3-8)."""

    CONTAINS = "CONTAINS"
    HAS_CONCEPT_MOD = "HAS CONCEPT MOD"
    HAS_OBS_CONTEXT = "HAS OBS CONTEXT"
    HAS_PROPERTIES = "HAS PROPERTIES"
    HAS_ACQ_CONTEXT = "HAS ACQ CONTEXT"
    INFERRED_FROM = "INFERRED FROM"
    SELECTED_FROM = "SELECTED FROM"


@lru_cache(maxsize=512)
def cached_code(code: Code) -> bytes:
    """Return a coded concept; the same few hundred recur in every report."""
    return code_item(code)


def container(name: Code, children: Sequence[bytes], *, template: str = "") -> bytes:
    """Return a CONTAINER contained in its parent; ``template`` is a TID of PS3.16."""
    return _item(Relation.CONTAINS, "CONTAINER", name, children, **container_elements(template))


def container_elements(template: str) -> dict[str, Value]:
    """Return what a container says of itself; the root container is the data set."""
    elements: dict[str, Value] = {"ContinuityOfContent": "SEPARATE"}
    if template:
        elements["ContentTemplateSequence"] = [
            item(MappingResource="DCMR", TemplateIdentifier=template)
        ]
    return elements


def code(relation: Relation, name: Code, value: Code, children: Sequence[bytes] = ()) -> bytes:
    """Return a CODE item."""
    return _item(relation, "CODE", name, children, ConceptCodeSequence=[cached_code(value)])


def text(relation: Relation, name: Code, value: str) -> bytes:
    """Return a TEXT item."""
    return _item(relation, "TEXT", name, TextValue=value)


def person(relation: Relation, name: Code, value: str) -> bytes:
    """Return a PNAME item."""
    return _item(relation, "PNAME", name, PersonName=value)


def uid(relation: Relation, name: Code, value: str) -> bytes:
    """Return a UIDREF item."""
    return _item(relation, "UIDREF", name, UID=value)


def date(relation: Relation, name: Code, value: str) -> bytes:
    """Return a DATE item."""
    return _item(relation, "DATE", name, Date=value)


def number(
    name: Code,
    value: float,
    unit: Code,
    *,
    relation: Relation = Relation.CONTAINS,
    children: Sequence[bytes] = (),
) -> bytes:
    """Return a NUM item, the value to three decimals."""
    measured = item(
        NumericValue=round(float(value), 3), MeasurementUnitsCodeSequence=[cached_code(unit)]
    )
    return _item(relation, "NUM", name, children, MeasuredValueSequence=[measured])


def coordinates(
    relation: Relation,
    name: Code,
    shape: RegionShape,
    *,
    points: Sequence[tuple[float, float]],
    frame: SourceFrame,
) -> bytes:
    """Return a SCOORD item selected from one frame of a source image.

    ``points`` are (column, row) with (0, 0) at the top left corner of the top left pixel
    (PS3.3 C.18.6.1.2).
    """
    return _item(
        relation,
        "SCOORD",
        name,
        [source_image(Relation.SELECTED_FROM, codes.SOURCE, frame)],
        GraphicType=shape.upper(),
        GraphicData=floats(value for point in points for value in point),
    )


def source_image(relation: Relation, name: Code | None, frame: SourceFrame) -> bytes:
    """Return an IMAGE item for one frame; the number is said only where there are several."""
    several = frame.instance.number_of_frames > 1
    return image(
        relation,
        name,
        reference_of(frame.instance),
        frame_number=frame.frame_number if several else None,
    )


def image(
    relation: Relation,
    name: Code | None,
    reference: InstanceReference,
    *,
    frame_number: int | None = None,
    segment_number: int | None = None,
) -> bytes:
    """Return an IMAGE item for an instance, one frame of it, or one of its segments."""
    elements: dict[str, Value] = {
        "ReferencedSOPClassUID": reference.sop_class_uid,
        "ReferencedSOPInstanceUID": reference.sop_instance_uid,
    }
    if frame_number is not None:
        elements["ReferencedFrameNumber"] = frame_number
    if segment_number is not None:
        elements["ReferencedSegmentNumber"] = segment_number
    return _item(relation, "IMAGE", name, ReferencedSOPSequence=[encoded(elements)])


def composite(relation: Relation, name: Code | None, reference: InstanceReference) -> bytes:
    """Return a COMPOSITE item for an instance without pixels."""
    elements: dict[str, Value] = {
        "ReferencedSOPClassUID": reference.sop_class_uid,
        "ReferencedSOPInstanceUID": reference.sop_instance_uid,
    }
    return _item(relation, "COMPOSITE", name, ReferencedSOPSequence=[encoded(elements)])


def _item(
    relation: Relation,
    value_type: str,
    name: Code | None,
    children: Sequence[bytes] = (),
    **elements: Value,
) -> bytes:
    known: dict[str, Value] = {"RelationshipType": relation, "ValueType": value_type, **elements}
    if name is not None:
        known["ConceptNameCodeSequence"] = [cached_code(name)]
    if children:
        known["ContentSequence"] = list(children)
    return encoded(known)
