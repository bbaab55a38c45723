"""What a peer is told: DIMSE status codes for every reason (PS3.4 table B.2-1, PS3.7 annex C)."""

from enum import IntEnum
from types import MappingProxyType
from typing import Final

from service.core.errors import OutOfResources, OverreadError, RefusedInstance


class Status(IntEnum):
    """Status codes of storage and storage commitment."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    NO_SUCH_INSTANCE = 0x0112
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    NO_SUCH_ACTION = 0x0123
    UNRECOGNIZED_OPERATION = 0x0211
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_MISMATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


# Each way of not being understood has its own code, so that a PACS's log names it.
_UNDERSTANDING: Final = MappingProxyType(
    {
        "NESTED_TOO_DEEP": 0xC001,
        "TRUNCATED": 0xC002,
        "TOO_MANY_ELEMENTS": 0xC003,
        "STRAY_DELIMITER": 0xC004,
        "GROUP_NOT_ALLOWED": 0xC005,
        "REPEATED_ELEMENT": 0xC006,
        "UNKNOWN_VR": 0xC007,
        "LENGTH_BEYOND_DATA": 0xC008,
        "EMPTY_DATA_SET": 0xC009,
        "NOT_CLOSED": 0xC00A,
        "NOT_AN_ITEM": 0xC00B,
        "NATIVE_PIXEL_DATA": 0xC00C,
        "MISSING_UID": 0xC00D,
        "INVALID_UID": 0xC00E,
        "NOT_DEFLATED": 0xC00F,
        "UNSTORABLE": 0xC010,
        "NOT_A_DICOM_FILE": 0xC011,
    }
)
_MISMATCHES: Final = frozenset({"SOP_CLASS_MISMATCH", "SOP_INSTANCE_MISMATCH", "STUDY_MISMATCH"})
_CLASSES: Final = frozenset({"SOP_CLASS_NOT_SUPPORTED", "TRANSFER_SYNTAX_NOT_SUPPORTED"})


def status_of(error: OverreadError) -> int:
    """Return the status that tells a sender why its instance was not stored."""
    if isinstance(error, OutOfResources) or error.reason == "TOO_LARGE":
        return Status.OUT_OF_RESOURCES
    if error.reason in _MISMATCHES:
        return Status.DATA_SET_MISMATCH
    if error.reason in _CLASSES:
        return Status.SOP_CLASS_NOT_SUPPORTED
    if isinstance(error, RefusedInstance):
        return _UNDERSTANDING.get(error.reason, Status.CANNOT_UNDERSTAND)
    return Status.PROCESSING_FAILURE
