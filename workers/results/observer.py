"""Who speaks in a document, and in which language (PS3.16 TID 1204, 1001, 1004)."""

from service.core import codes
from workers.results import content
from workers.results.common import device_uid
from workers.results.content import Relation
from workers.results.context import ResultContext


def language_and_observer(context: ResultContext) -> list[bytes]:
    """Return the language, and the device that observed, as content items."""
    equipment, observer = context.equipment, Relation.HAS_OBS_CONTEXT
    return [
        content.code(Relation.HAS_CONCEPT_MOD, codes.LANGUAGE, codes.ENGLISH),
        content.code(observer, codes.OBSERVER_TYPE, codes.DEVICE),
        content.uid(observer, codes.DEVICE_OBSERVER_UID, device_uid(context)),
        content.text(observer, codes.DEVICE_OBSERVER_NAME, context.model.name),
        content.text(observer, codes.DEVICE_OBSERVER_MANUFACTURER, equipment.manufacturer),
        content.text(observer, codes.DEVICE_OBSERVER_MODEL_NAME, equipment.model_name),
        content.text(observer, codes.DEVICE_OBSERVER_SERIAL_NUMBER, equipment.device_serial_number),
    ]
