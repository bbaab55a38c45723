"""What an instance says of itself, read from its bytes once, at receipt.

Straight from the bytes, at a tenth of what parsing a whole data set costs, with the patient's and
study's attributes beside them. The bytes have been walked before (`service.core.elements.walk`), so
every offset is known to be good.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from service.core.elements import PIXEL_DATA, Buffer, Element, Encoding
from service.core.errors import RefusedInstance
from service.core.headers import FrameHeader, InstanceHeader, Sextuple, Triple
from service.core.identifiers import is_uid
from service.core.values import Values

MAX_TEXT: Final = 256  # characters; the longest attribute kept, a person name, has 3 groups of 64

# What results of ours can be; an image by a scanner is none of these.
RESULT_SOP_CLASSES: Final = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{part}"
    for part in (
        "7", "7.1", "7.2", "7.3", "7.4",  # Secondary Capture
        "11.1", "11.2",  # Presentation States
        "30", "66.4", "66.7",  # Parametric Map, Segmentation, Label Map Segmentation
        "88.11", "88.22", "88.33", "88.34", "88.50", "88.59", "88.65",  # Structured Reports
        "104.1",  # Encapsulated PDF
    )
)  # fmt: skip

_SOP_CLASS_UID: Final = 0x00080016
_SOP_INSTANCE_UID: Final = 0x00080018
_STUDY_INSTANCE_UID: Final = 0x0020000D
_SERIES_INSTANCE_UID: Final = 0x0020000E
_IDENTITY: Final = {
    "sop_class_uid": _SOP_CLASS_UID,
    "sop_instance_uid": _SOP_INSTANCE_UID,
    "study_instance_uid": _STUDY_INSTANCE_UID,
    "series_instance_uid": _SERIES_INSTANCE_UID,
}
_TEXTS: Final = {
    "modality": 0x00080060,
    "series_description": 0x0008103E,
    "protocol_name": 0x00181030,
    "body_part_examined": 0x00180015,
    "view_position": 0x00185101,
    "patient_position": 0x00185100,
    "contrast_agent": 0x00180010,
    "manufacturer": 0x00080070,
    "manufacturer_model_name": 0x00081090,
    "burned_in_annotation": 0x00280301,
    "lossy_image_compression": 0x00282110,
    "photometric_interpretation": 0x00280004,
    "presentation_lut_shape": 0x20500020,
    "presentation_intent_type": 0x00080068,
    "rescale_type": 0x00281054,
    "acquisition_date": 0x00080022,
    "acquisition_time": 0x00080032,
    "content_date": 0x00080023,
    "content_time": 0x00080033,
}
_INTEGERS: Final = {
    "instance_number": (0x00200013, "IS"),
    "acquisition_number": (0x00200012, "IS"),
    "series_number": (0x00200011, "IS"),
    "rows": (0x00280010, "US"),
    "columns": (0x00280011, "US"),
    "bits_allocated": (0x00280100, "US"),
    "bits_stored": (0x00280101, "US"),
    "high_bit": (0x00280102, "US"),
    "pixel_representation": (0x00280103, "US"),
}
_NUMBERS: Final = {
    "rescale_slope": 0x00281053,
    "rescale_intercept": 0x00281052,
    "window_center": 0x00281050,
    "window_width": 0x00281051,
    "slice_thickness_mm": 0x00180050,
    "spacing_between_slices_mm": 0x00180088,
    "gantry_tilt_degrees": 0x00181120,
}
_A_YEAR: Final = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
_STUDY_TEXTS: Final = {
    "patient_id": 0x00100020,
    "issuer_of_patient_id": 0x00100021,
    "patient_birth_date": 0x00100030,
    "patient_sex": 0x00100040,
    "accession_number": 0x00080050,
    "study_id": 0x00200010,
    "study_date": 0x00080020,
    "study_time": 0x00080030,
    "study_description": 0x00081030,
}


@dataclass(frozen=True)
class StudyAttributes:
    """Patient and study as one instance states them; empty where it says nothing."""

    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    accession_number: str = ""
    study_id: str = ""
    study_date: str = ""
    study_time: str = ""
    study_description: str = ""
    referring_physician_name: str = ""


def read_instance(
    buffer: Buffer, encoding: Encoding, elements: Sequence[Element], *, transfer_syntax_uid: str
) -> tuple[InstanceHeader, StudyAttributes]:
    """Read the header and the study's attributes from walked bytes.

    The place of Pixel Data counts from the beginning of `buffer`: native frames, or the fragments
    from the offset table to the last byte before the sequence delimiter.

    Raises
    ------
    RefusedInstance
        ``MISSING_UID`` or ``INVALID_UID`` when one of the four identifying UIDs is absent or
        breaks the grammar of PS3.5 section 9. Nothing else in a data set is worth a refusal.
    """
    values = Values(buffer, encoding, elements)
    pixels = next((element for element in elements if element.tag == PIXEL_DATA), None)
    header = InstanceHeader(
        **{name: _uid(values, tag) for name, tag in _IDENTITY.items()},
        transfer_syntax_uid=transfer_syntax_uid,
        **_texts(values),
        **_pixel_module(values),
        **_geometry(values),
        **{name: values.number(tag) for name, tag in _NUMBERS.items()},
        frames=_frames(values),
        pixel_data_offset=pixels.value_start if pixels else None,
        pixel_data_length=pixels.length if pixels else None,
    )
    return header, _study(values)


def _uid(values: Values, tag: int) -> str:
    # Only the padding of PS3.5 section 9.1 is taken off: a space or a second value is a fault.
    uid = values.raw(tag).decode("latin_1").removesuffix("\0")
    if not uid.strip():
        raise RefusedInstance("MISSING_UID", f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is empty")
    uid = uid.rstrip(" ")  # padded with a space by several modalities
    if not is_uid(uid):
        raise RefusedInstance("INVALID_UID", f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is no UID")
    return uid


def _texts(values: Values) -> dict[str, Any]:
    return {
        **{name: values.text(tag)[:MAX_TEXT] for name, tag in _TEXTS.items()},
        "frame_of_reference_uid": values.text(0x00200052)[:64] or None,
        "laterality": values.text(0x00200062)[:16] or values.text(0x00200060)[:16],
        "patient_age_years": _age_years(values.text(0x00101010)),
        "image_type": values.texts(0x00080008),
        "patient_orientation": values.texts(0x00200020),
        "convolution_kernel": values.texts(0x00181210),
        "software_versions": "\\".join(values.texts(0x00181020)),
    }


def _age_years(text: str) -> float | None:
    """Return an age string (AS, PS3.5 table 6.2-1: ``045Y``, ``018M``) in years."""
    number, unit = text[:3], text[3:4]
    if not (number.isascii() and number.isdigit()) or unit not in _A_YEAR:
        return None
    return int(number) / _A_YEAR[unit]


def _pixel_module(values: Values) -> dict[str, Any]:
    signed = values.integer(0x00280103, vr="US") == 1
    padding_vr = "SS" if signed else "US"  # PS3.3 C.7.5.1.1.2
    return {
        **{name: values.integer(tag, vr=vr) for name, (tag, vr) in _INTEGERS.items()},
        "number_of_frames": values.integer(0x00280008) or 1,
        "samples_per_pixel": values.integer(0x00280002, vr="US") or 1,
        "pixel_padding_value": values.integer(0x00280120, vr=padding_vr),
        "pixel_padding_range_limit": values.integer(0x00280121, vr=padding_vr),
        "has_modality_lut": 0x00283000 in values,
    }


def _geometry(values: Values) -> dict[str, Any]:
    row, column = _pair(values, 0x00280030)
    imager_row, imager_column = _pair(values, 0x00181164)
    return {
        "image_position_mm": _triple(values, 0x00200032),
        "image_orientation": _sextuple(values, 0x00200037),
        "row_spacing_mm": row,
        "column_spacing_mm": column,
        "imager_row_spacing_mm": imager_row,
        "imager_column_spacing_mm": imager_column,
    }


def _frames(values: Values) -> tuple[FrameHeader, ...]:
    """Return a header per frame of an enhanced instance, shared values filled in."""
    per_frame = values.items(0x52009230)
    if not per_frame:
        return ()
    shared = values.items(0x52009229)[:1]
    return tuple(_frame([frame, *shared]) for frame in per_frame)


def _frame(holders: Sequence[Values]) -> FrameHeader:
    position = _group(holders, 0x00209113)
    orientation = _group(holders, 0x00209116)
    measures = _group(holders, 0x00289110)
    rescale = _group(holders, 0x00289145)
    row, column = _pair(measures, 0x00280030)
    return FrameHeader(
        image_position_mm=_triple(position, 0x00200032),
        image_orientation=_sextuple(orientation, 0x00200037),
        row_spacing_mm=row,
        column_spacing_mm=column,
        slice_thickness_mm=measures.number(0x00180050) if measures else None,
        rescale_slope=rescale.number(0x00281053) if rescale else None,
        rescale_intercept=rescale.number(0x00281052) if rescale else None,
    )


def _group(holders: Sequence[Values], tag: int) -> Values | None:
    """Return the functional group of a frame, or the one that all frames share."""
    for holder in holders:
        found = holder.items(tag)
        if found:
            return found[0]
    return None


def _study(values: Values) -> StudyAttributes:
    return StudyAttributes(
        **{name: values.text(tag)[:MAX_TEXT] for name, tag in _STUDY_TEXTS.items()},
        patient_name=values.person_name(0x00100010)[:MAX_TEXT],
        referring_physician_name=values.person_name(0x00080090)[:MAX_TEXT],
    )


def _pair(values: Values | None, tag: int) -> tuple[float | None, float | None]:
    found = values.numbers(tag, vr="DS") if values else ()
    return (found[0], found[1]) if len(found) == 2 else (None, None)


def _triple(values: Values | None, tag: int) -> Triple | None:
    found = values.numbers(tag, vr="DS") if values else ()
    return (found[0], found[1], found[2]) if len(found) == 3 else None


def _sextuple(values: Values | None, tag: int) -> Sextuple | None:
    found = values.numbers(tag, vr="DS") if values else ()
    if len(found) != 6:
        return None
    return (found[0], found[1], found[2], found[3], found[4], found[5])
