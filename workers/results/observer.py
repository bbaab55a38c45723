"""Who speaks in a document, and in which language (PS3.16 TID 1204, 1001, 1004)."""

from service.core import codes
from workers.results import content
from workers.results.common import device_uid
from workers.results.content import Relation
from workers.results.context import ResultContext
from workers.results.encode import clip


def language_and_observer(context: ResultContext) -> list[bytes]:
    """Return the language and who observed, as content items: the device, and then the reader."""
    equipment, observer = context.equipment, Relation.HAS_OBS_CONTEXT
    reader: list[bytes] = []
    if context.review is not None and context.review.reviewer:
        name = person_name(context.review.reviewer)
        reader = [
            content.code(observer, codes.OBSERVER_TYPE, codes.PERSON),
            content.person(observer, codes.PERSON_OBSERVER_NAME, name),
        ]
    return [
        content.code(Relation.HAS_CONCEPT_MOD, codes.LANGUAGE, codes.ENGLISH),
        content.code(observer, codes.OBSERVER_TYPE, codes.DEVICE),
        content.uid(observer, codes.DEVICE_OBSERVER_UID, device_uid(context)),
        content.text(observer, codes.DEVICE_OBSERVER_NAME, context.model.name),
        content.text(observer, codes.DEVICE_OBSERVER_MANUFACTURER, equipment.manufacturer),
        content.text(observer, codes.DEVICE_OBSERVER_MODEL_NAME, equipment.model_name),
        content.text(observer, codes.DEVICE_OBSERVER_SERIAL_NUMBER, equipment.device_serial_number),
        *reader,
    ]


def person_name(text: str) -> str:
    r"""Return what a reader is called as a DICOM Person Name of at most 64 characters.

    >>> person_name("Curie^Marie"), person_name("reader-7"), person_name("A=B\\C")
    ('Curie^Marie', 'reader-7', 'A B C')
    """
    return clip(text.replace("=", " "), 64)
