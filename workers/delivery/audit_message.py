"""An entry of the audit trail as a DICOM audit message.

References
----------
DICOM PS3.15 A.5.1 (schema), A.5.3 (messages), A.6 (syslog).
"""

import base64
from types import MappingProxyType
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

from service.core.access import Means
from service.records.audit import AuditEvent, AuditKind, AuditOutcome

_Code = tuple[str, str]

_EVENTS: Final = MappingProxyType(
    {
        AuditKind.START: (("110100", "Application Activity"), "E"),
        AuditKind.STOP: (("110100", "Application Activity"), "E"),
        AuditKind.LOGIN: (("110114", "User Authentication"), "E"),
        AuditKind.LOGOUT: (("110114", "User Authentication"), "E"),
        AuditKind.REFUSAL: (("110113", "Security Alert"), "E"),
        AuditKind.QUERY: (("110112", "Query"), "E"),
        AuditKind.VIEW: (("110103", "DICOM Instances Accessed"), "R"),
        AuditKind.RETRIEVE: (("110104", "DICOM Instances Transferred"), "R"),
        AuditKind.IMPORT: (("110104", "DICOM Instances Transferred"), "C"),
        AuditKind.EXPORT: (("110104", "DICOM Instances Transferred"), "R"),
        AuditKind.CHANGE: (("110103", "DICOM Instances Accessed"), "U"),
        AuditKind.SECURITY: (("110113", "Security Alert"), "E"),
    }
)
_TYPES: Final = MappingProxyType(
    {
        AuditKind.START: ("110120", "Application Start"),
        AuditKind.STOP: ("110121", "Application Stop"),
        AuditKind.LOGIN: ("110122", "Login"),
        AuditKind.LOGOUT: ("110123", "Logout"),
        AuditKind.REFUSAL: ("110126", "Node Authentication"),
        AuditKind.SECURITY: ("110137", "User Security Attributes Changed"),
    }
)
_APPLICATION: Final = ("110150", "Application")
_SOURCE: Final = ("110153", "Source Role ID")
_DESTINATION: Final = ("110152", "Destination Role ID")
_STUDY_UID: Final = ("110180", "Study Instance UID")
_PATIENT_NUMBER: Final = ("2", "Patient Number")
_SOP_CLASS_UID: Final = ("110181", "SOP Class UID")
_AUDIT_LOG: Final = ("12", "URI")
_SUCCESS, _MINOR_FAILURE = "0", "4"
_TRANSFERS: Final = frozenset({AuditKind.IMPORT, AuditKind.EXPORT, AuditKind.RETRIEVE})
_ANONYMOUS: Final = "anonymous"


def message(event: AuditEvent, *, source_id: str, patient_id: str = "") -> bytes:
    """Return the XML of an entry.

    `source_id` names this installation. Without `patient_id` the patient's object says
    ``anonymous``: the messages need one, and the study leads to the patient where it is kept.
    """
    root = Element("AuditMessage")
    _event(root, event)
    _participants(root, event, source_id)
    source = SubElement(root, "AuditSourceIdentification", {"AuditSourceID": source_id})
    SubElement(
        source,
        "AuditSourceTypeCode",
        {"csd-code": "4", "codeSystemName": "DCM", "originalText": "Application Server process"},
    )
    _objects(root, event, patient_id or _ANONYMOUS)
    xml: bytes = tostring(root, encoding="utf-8")
    return b'<?xml version="1.0" encoding="UTF-8"?>' + xml


def _event(root: Element, event: AuditEvent) -> None:
    code, action = _EVENTS[event.kind]
    failed = event.outcome is AuditOutcome.FAILURE
    identification = SubElement(
        root,
        "EventIdentification",
        {
            "EventActionCode": action,
            "EventDateTime": event.at.isoformat(timespec="milliseconds"),
            "EventOutcomeIndicator": _MINOR_FAILURE if failed else _SUCCESS,
        },
    )
    _coded(identification, "EventID", code)
    if event.kind in _TYPES:
        _coded(identification, "EventTypeCode", _TYPES[event.kind])
    if event.detail:
        SubElement(identification, "EventOutcomeDescription").text = _xml(event.detail)


def _participants(root: Element, event: AuditEvent, source_id: str) -> None:
    """Write who did it, and this application as the other side."""
    actor = {
        "UserID": _xml(event.actor) or "unknown",
        "UserIsRequestor": "true",
    }
    if event.means in {Means.LOGIN, Means.TOKEN}:
        actor["UserName"] = _xml(event.actor)
    if event.address:
        actor["NetworkAccessPointID"] = _xml(event.address)
        actor["NetworkAccessPointTypeCode"] = "2"  # an IP address
    ours = {"UserID": source_id, "AlternativeUserID": _xml(event.process)}
    ours["UserIsRequestor"] = "false"
    roles = {
        AuditKind.IMPORT: (_SOURCE, _DESTINATION),
        AuditKind.RETRIEVE: (_DESTINATION, _SOURCE),
        AuditKind.EXPORT: (_DESTINATION, _SOURCE),
    }
    theirs, own = roles.get(event.kind, (None, _APPLICATION))
    node = SubElement(root, "ActiveParticipant", actor)
    if theirs is not None:
        _coded(node, "RoleIDCode", theirs)
    elif event.role:
        role = {"csd-code": event.role, "codeSystemName": "overread", "originalText": event.role}
        SubElement(node, "RoleIDCode", role)
    _coded(SubElement(root, "ActiveParticipant", ours), "RoleIDCode", own)


def _objects(root: Element, event: AuditEvent, patient_id: str) -> None:
    if event.study_instance_uid:
        study = _object(root, event.study_instance_uid, ("2", "3"), _STUDY_UID)
        SubElement(study, "ParticipantObjectName").text = "Study"
        _details(study, event)
        patient = _object(root, patient_id, ("1", "1"), _PATIENT_NUMBER, system="RFC-3881")
        SubElement(patient, "ParticipantObjectName").text = _ANONYMOUS
    elif event.kind is AuditKind.QUERY:
        # A query's SOP class is mandatory; ours come by HTTP, the name of the route stands in.
        query = _object(root, _xml(event.operation), ("2", "3"), _SOP_CLASS_UID)
        text = base64.b64encode(event.operation.encode()).decode()
        SubElement(query, "ParticipantObjectQuery").text = text
        _details(query, event)
    else:
        other = _object(root, event.operation, ("2", "13"), _AUDIT_LOG, system="RFC-3881")
        SubElement(other, "ParticipantObjectName").text = _xml(event.subject_id or event.operation)
        _details(other, event)


def _object(
    root: Element, identifier: str, kind: tuple[str, str], code: _Code, *, system: str = "DCM"
) -> Element:
    node = SubElement(
        root,
        "ParticipantObjectIdentification",
        {
            "ParticipantObjectID": identifier,
            "ParticipantObjectTypeCode": kind[0],
            "ParticipantObjectTypeCodeRole": kind[1],
        },
    )
    _coded(node, "ParticipantObjectIDTypeCode", code, system=system)
    return node


def _details(node: Element, event: AuditEvent) -> None:
    """Write what our trail knows beside; the digest lets a repository vouch for the chain."""
    told = {
        "operation": event.operation,
        "subject": event.subject_id,
        "entry": str(event.id),
        "sha256": event.sha256,
    }
    for name, value in told.items():
        if value:
            coded = base64.b64encode(value.encode()).decode()
            SubElement(node, "ParticipantObjectDetail", {"type": name, "value": coded})


def _coded(parent: Element, name: str, code: _Code, *, system: str = "DCM") -> None:
    values = {"csd-code": code[0], "codeSystemName": system, "originalText": code[1]}
    SubElement(parent, name, values)


def _xml(text: str) -> str:
    """Return text without the characters that XML 1.0 cannot hold, escaped or not."""
    return "".join(c if c.isprintable() else " " for c in text)
