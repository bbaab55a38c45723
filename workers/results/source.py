"""The patient and study of a source instance, carried over into its results.

Source headers come in any character set and with any slip of their makers. Text is decoded and
written again as UTF-8; a value that breaks the grammar of its VR is left out rather than copied,
since a result has to be valid whatever its source was.
"""

import io
import re
import struct
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta, timezone
from typing import Final

import pydicom
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue

from service.core import codes
from service.core.errors import ContractViolation
from service.core.findings import Code
from workers.results.encode import Value, clip, encoded, item, tag_of

# Type 2 attributes of the Patient and General Study modules: present even when unknown.
_EXPECTED: Final = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
_WHERE_KNOWN: Final = (
    "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "OtherPatientIDsSequence",
    "PatientBirthTime", "EthnicGroup", "PatientComments", "PatientIdentityRemoved",
    "DeidentificationMethod", "DeidentificationMethodCodeSequence", "StudyDescription",
    "ProcedureCodeSequence",
    "IssuerOfAccessionNumberSequence", "PatientAge", "PatientSize", "PatientWeight",
    "TimezoneOffsetFromUTC",
)  # fmt: skip
_GRAMMAR: Final[Mapping[str, re.Pattern[str]]] = {
    "AS": re.compile(r"\d{3}[DWMY]"),
    "CS": re.compile(r"[A-Z0-9_ ]{1,16}"),
    "DA": re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"),
    "DS": re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
    "IS": re.compile(r"[+-]?\d{1,11}"),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?"),
    "UI": re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+"),
}
_LINES: Final = frozenset({"LT", "ST", "UT"})
_TEXT: Final = frozenset({"LO", "PN", "SH", "UC", "AE"})
_REQUEST: Final = (
    "RequestedProcedureID", "RequestedProcedureDescription", "RequestedProcedureCodeSequence",
    "PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest",
)  # fmt: skip


@dataclass(frozen=True)
class SourceStudy:
    """Patient and study attributes ready to be written, by keyword.

    ``acquisition_equipment``, ``requests`` and the look-up tables are encoded items; ``procedure``
    is the study's own coded procedure, where it has one.
    """

    study_instance_uid: str
    elements: Mapping[str, Value]
    zone: timezone | None = None
    procedure: Code | None = None
    study_date: str = ""
    position_reference_indicator: str = ""
    patient_orientation: tuple[str, ...] = ()
    lossy_compression: Mapping[str, Value] = field(default_factory=dict)
    acquisition_equipment: tuple[bytes, ...] = ()
    modality_lut: tuple[bytes, ...] = ()
    voi_lut: tuple[bytes, ...] = ()
    requests: tuple[bytes, ...] = field(default=(), repr=False)
    character_set: str = ""
    received_text: Mapping[int, tuple[bytes, bytes]] = field(default_factory=dict, repr=False)

    def verbatim(self, tag: int, value: bytes) -> bytes | None:
        """Return the bytes that the study has for a value in UTF-8, when it is the study's."""
        received, as_utf_8 = self.received_text.get(tag, (b"", b""))
        return received if as_utf_8 and as_utf_8 == value.rstrip(b" ") else None

    @property
    def without_bytes(self) -> "SourceStudy":
        """The same study, whose texts have to be encoded anew."""
        return replace(self, received_text={})


def read_source(header: bytes) -> SourceStudy:
    """Read patient and study from a source instance's header.

    Parameters
    ----------
    header
        The instance as Part 10 bytes, cut off before or anywhere behind its pixels.

    Raises
    ------
    ContractViolation
        ``SOURCE_HEADER_UNREADABLE`` when it is no DICOM or names no study.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the source's slips are not ours to report here
        try:
            dataset = pydicom.dcmread(io.BytesIO(header), stop_before_pixels=True)
            return _study(dataset)
        except (InvalidDicomError, EOFError, ValueError, KeyError) as error:
            raise ContractViolation(
                "SOURCE_HEADER_UNREADABLE", "the stored header of the source does not parse"
            ) from error


def _study(dataset: Dataset) -> SourceStudy:
    received = _received_text(dataset)
    elements: dict[str, Value] = dict.fromkeys(_EXPECTED)
    elements.update(_copied(dataset, (*_EXPECTED, *_WHERE_KNOWN)))
    if elements["PatientSex"] not in ("M", "F", "O"):
        elements["PatientSex"] = None
    if not {"DeidentificationMethod", "DeidentificationMethodCodeSequence"} & elements.keys():
        elements.pop("PatientIdentityRemoved", None)  # without a method it says too little
    study_uid = _plain(dataset, "StudyInstanceUID")
    if not study_uid:
        raise ValueError("no Study Instance UID")
    elements["StudyInstanceUID"] = study_uid
    zone = _zone(elements.pop("TimezoneOffsetFromUTC", None))
    if zone:
        elements["TimezoneOffsetFromUTC"] = _plain(dataset, "TimezoneOffsetFromUTC")
    return SourceStudy(
        study_instance_uid=study_uid,
        elements=elements,
        zone=zone,
        procedure=_procedure(dataset),
        study_date=str(elements["StudyDate"] or ""),
        position_reference_indicator=clip(_plain(dataset, "PositionReferenceIndicator")),
        patient_orientation=_patient_orientation(dataset),
        lossy_compression=_copied(
            dataset, ("LossyImageCompressionRatio", "LossyImageCompressionMethod")
        ),
        acquisition_equipment=_acquisition_equipment(dataset),
        modality_lut=_luts(dataset, "ModalityLUTSequence"),
        voi_lut=_luts(dataset, "VOILUTSequence"),
        requests=_requests(dataset, study_uid, elements),
        character_set=_character_set(dataset),
        received_text={
            tag_of(keyword): (raw, text.encode())
            for keyword, raw in received.items()
            if isinstance(text := elements.get(keyword), str) and text
        },
    )


def _received_text(dataset: Dataset) -> dict[str, bytes]:
    """Return the bytes of top-level texts, before anything has parsed them."""
    found: dict[str, bytes] = {}
    for keyword in (*_EXPECTED, *_WHERE_KNOWN):
        raw = dataset.get_item(tag_of(keyword)) if keyword in dataset else None
        if isinstance(raw, RawDataElement) and isinstance(raw.value, bytes):
            found[keyword] = raw.value.rstrip(b" \0")
    return found


def _character_set(dataset: Dataset) -> str:
    value = dataset.get("SpecificCharacterSet")
    return "\\".join(value) if isinstance(value, MultiValue) else str(value or "")


def _copied(dataset: Dataset, keywords: Iterable[str]) -> dict[str, Value]:
    """Return the valid values of the named attributes, decoded."""
    copied: dict[str, Value] = {}
    for keyword in keywords:
        if keyword not in dataset:
            continue
        try:
            value = _value(dataset[keyword])
        except (ValueError, TypeError, OverflowError, AttributeError):
            continue  # pydicom parses a value when it is first touched; this one is garbled
        if value is not None:
            copied[keyword] = value
    return copied


def _value(element: DataElement) -> Value:
    if element.VR == "SQ":
        return [content for entry in element.value if (content := _item(entry))] or None
    if element.value is None:
        return None
    if element.VR in _LINES:
        return str(element.value) or None
    several = element.value if isinstance(element.value, MultiValue) else [element.value]
    texts = [str(value).strip(" \0") for value in several]
    if element.VR in _TEXT:
        return "\\".join(texts) or None
    grammar = _GRAMMAR.get(element.VR)
    valid = grammar and all(grammar.fullmatch(text) for text in texts)
    return "\\".join(texts) if valid else None


def _item(dataset: Dataset) -> bytes:
    """Return an item with every standard attribute of it that can be carried over."""
    return encoded(_copied(dataset, [e.keyword for e in dataset if e.keyword]))


def _plain(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def _patient_orientation(dataset: Dataset) -> tuple[str, ...]:
    value = dataset.get("PatientOrientation")
    if not isinstance(value, MultiValue) or len(value) != 2:
        return ()
    letters = tuple(str(part) for part in value)
    return letters if all(re.fullmatch("[APRLHF]{1,3}", part) for part in letters) else ()


def _zone(offset: Value) -> timezone | None:
    matched = re.fullmatch(r"([+-])(\d\d)([0-5]\d)", offset if isinstance(offset, str) else "")
    if not matched:
        return None
    span = timedelta(hours=int(matched[2]), minutes=int(matched[3]))
    return timezone(-span if matched[1] == "-" else span) if span < timedelta(hours=15) else None


def _procedure(dataset: Dataset) -> Code | None:
    """Return the first coded procedure of the study that is a whole code."""
    for entry in dataset.get("ProcedureCodeSequence") or ():
        value, scheme, meaning = (
            _plain(entry, keyword)
            for keyword in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
        )
        if value and scheme and meaning and max(len(value), len(scheme)) <= 16:
            return Code(value=value, scheme=scheme, meaning=clip(meaning))
    return None


def _acquisition_equipment(dataset: Dataset) -> tuple[bytes, ...]:
    """Return the scanner as contributing equipment, when the source names its maker."""
    known = _copied(
        dataset,
        ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions",
         "InstitutionName", "StationName"),
    )  # fmt: skip
    if "Manufacturer" not in known:
        return ()
    purpose = codes.ACQUISITION_EQUIPMENT
    code = item(
        CodeValue=purpose.value,
        CodingSchemeDesignator=purpose.scheme,
        CodeMeaning=purpose.meaning,
    )
    return (encoded({**known, "PurposeOfReferenceCodeSequence": [code]}),)


def _luts(dataset: Dataset, keyword: str) -> tuple[bytes, ...]:
    """Return look-up tables as they stand; a garbled one is left out."""
    encoded_items = []
    for entry in dataset.get(keyword) or ():
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        try:
            write_dataset(buffer, entry)
        except (ValueError, TypeError, AttributeError, OverflowError, struct.error):
            continue
        encoded_items.append(buffer.getvalue())
    return tuple(encoded_items)


def _requests(dataset: Dataset, study_uid: str, elements: Mapping[str, Value]) -> tuple[bytes, ...]:
    """Return the requested procedures that the source fulfils (PS3.3 table C.17-2)."""
    attributes = dataset.get("RequestAttributesSequence") or []
    known = [_copied(entry, _REQUEST) for entry in attributes]
    if not known and elements.get("AccessionNumber"):
        known = [{}]
    blank: dict[str, Value] = dict.fromkeys(_REQUEST[:2] + _REQUEST[3:])
    return tuple(
        encoded(
            {
                **blank,
                "ReferencedStudySequence": [],
                "RequestedProcedureCodeSequence": [],
                **request,
                "StudyInstanceUID": study_uid,
                "AccessionNumber": elements.get("AccessionNumber"),
            }
        )
        for request in known
    )
