r"""A report as an HL7 v2 message: ORU^R01, version 2.5.1, encoding characters ``|^~\\&``.

References
----------
HL7 v2.5.1 chapters 2 (control) and 7 (observation reporting); IHE RAD TF-2 4.28, where OBX carries
the study as (113014, DCM, "DICOM Study").
"""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from service.core.codes import (
    ALGORITHM_NAME,
    CERTAINTY_OF_FINDING,
    DIAGNOSTIC_IMAGING_REPORT,
    FINDING,
    FINDING_SITE,
    LATERALITY,
    MEASUREMENTS,
    PRESENCE_OF_PROPERTY,
    TRACKING_UNIQUE_IDENTIFIER,
    UNITS,
)
from service.core.findings import Code, Finding, Measurement, Qualifier
from service.core.settings import Destination
from service.core.states import JobState
from service.records.report_content import ReportContent
from service.records.reviews import Review

APPLICATION: Final = "OVERREAD"
_ESCAPES: Final = MappingProxyType(
    {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}
)
_STUDY_CODE: Final = Code(value="113014", scheme="DCM", meaning="DICOM Study")
_NOT_CLINICAL: Final = "For research, not for clinical use."
_PRELIMINARY: Final = "P"


def message(content: ReportContent, destination: Destination, *, at: datetime) -> str:
    """Return the message, segments ended by carriage returns.

    The control id is derived from the report and its findings' reviews: sent again, the same
    message has the same id.
    """
    segments = [
        _header(content, destination, at),
        _patient(content),
        _request(content),
        *_notes(content),
        *_observations(content),
    ]
    return "\r".join(segments) + "\r"


def control_id(content: ReportContent) -> str:
    """Return the message's control id, 20 characters (MSH-10)."""
    told = [content.sop_instance_uid]
    told += [f"{review.verdict}{review.reviewed_at}" for _, review in content.findings if review]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:20]


def escaped(text: str) -> str:
    r"""Return text as a field may hold it (HL7 v2.5.1, 2.7).

    Line breaks become ``\.br\``, other control characters spaces: neither may end a segment, nor
    the message's frame.

    >>> escaped("A|B^C&D~E\\F") == r"A\F\B\S\C\T\D\R\E\E\F"
    True
    """
    shown = "".join(_ESCAPES.get(character, character) for character in text)
    lines = shown.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    joined = "\\.br\\".join(lines)
    return "".join(c if c.isprintable() else " " for c in joined)


def person_name(value: str) -> str:
    """Return a DICOM person name as XPN: each group a repetition with its representation.

    >>> person_name("Yamada^Tarou=山田^太郎")
    'Yamada^Tarou^^^^^L^A~山田^太郎^^^^^L^I'
    """
    repetitions = []
    for group, representation in zip(value.split("="), "AIP", strict=False):
        parts = [escaped(part.strip()) for part in group.split("^")]
        family, given, middle, prefix, suffix = [*parts, "", "", "", "", ""][:5]
        if any((family, given, middle, prefix, suffix)):
            name = (family, given, middle, suffix, prefix, "", "L", representation)
            repetitions.append("^".join(name))
    return "~".join(repetitions)


def _header(content: ReportContent, destination: Destination, at: datetime) -> str:
    return _segment(
        "MSH",
        r"^~\&",
        APPLICATION,
        "",
        escaped(destination.receiving_application),
        escaped(destination.receiving_facility),
        _time(at),
        "",
        "ORU^R01^ORU_R01",
        control_id(content),
        "P",
        "2.5.1",
        *[""] * 5,
        "UNICODE UTF-8",
    )


def _patient(content: ReportContent) -> str:
    issuer = escaped(content.issuer_of_patient_id)
    return _segment(
        "PID",
        "1",
        "",
        f"{escaped(content.patient_id)}^^^{issuer}^PI",
        "",
        person_name(content.patient_name),
        "",
        _digits(content.patient_birth_date, 8),
        content.patient_sex if content.patient_sex in {"M", "F", "O"} else "U",
    )


def _request(content: ReportContent) -> str:
    accession = escaped(content.accession_number)
    observed = _digits(content.study_date, 8)
    if len(observed) == 8:
        observed += _digits(content.study_time.partition(".")[0], 6)
    over = content.state is JobState.COMPLETED
    fields = [""] * 48
    fields[0], fields[1], fields[2] = "1", accession, accession
    fields[3] = f"{_code(DIAGNOSTIC_IMAGING_REPORT)}^{escaped(content.task)}^^99OVERREAD"
    fields[6] = observed
    fields[15] = person_name(content.referring_physician_name) and _physician(content)
    fields[21] = _time(content.created_at)
    fields[23] = "RAD"
    fields[24] = _PRELIMINARY if over else "X"  # X: no results could be obtained
    return _segment("OBR", *fields)


def _physician(content: ReportContent) -> str:
    first = person_name(content.referring_physician_name).split("~")[0]
    family, given, middle, *_ = first.split("^")
    return f"^{family}^{given}^{middle}"


def _notes(content: ReportContent) -> Iterator[str]:
    notes = [] if content.clinical_use else [_NOT_CLINICAL]
    if content.state is not JobState.COMPLETED:
        notes.append(f"Not analysed: {content.message or content.reason}")
    for number, note in enumerate(notes, start=1):
        yield _segment("NTE", str(number), "O", escaped(note))


def _observations(content: ReportContent) -> Iterator[str]:
    rows = list(_rows(content))
    for number, (kind, code, group, value, unit) in enumerate(rows, start=1):
        yield _segment(
            "OBX", str(number), kind, code, group, value, unit, "", "", "", "",
            _PRELIMINARY if content.state is JobState.COMPLETED else "X",
        )  # fmt: skip


_Row = tuple[str, str, str, str, str]


def _rows(content: ReportContent) -> Iterator[_Row]:
    study = f"^{escaped(content.study_instance_uid)}^ISO"
    yield "HD", _code(_STUDY_CODE), "", study, ""
    report = f"^{escaped(content.sop_instance_uid)}^ISO"
    yield "HD", "SOP Instance UID^Structured report^99OVERREAD", "", report, ""
    model = escaped(f"{content.model_name} {content.model_version}")
    yield "ST", _code(ALGORITHM_NAME), "", model, ""
    stated = [one for one in content.findings if one[0].qualifier is not Qualifier.ABSENT]
    if content.state is JobState.COMPLETED and not stated:
        yield "TX", _code(FINDING), "", "No findings", ""
    for group, (finding, review) in enumerate(stated, start=1):
        yield from _finding(finding, review, str(group))


def _finding(finding: Finding, review: Review | None, group: str) -> Iterator[_Row]:
    yield "CWE", _code(FINDING), group, _code(finding.label), ""
    yield "ST", _code(PRESENCE_OF_PROPERTY), group, finding.qualifier.value, ""
    certainty = f"{finding.probability * 100:.1f}"
    yield "NM", _code(CERTAINTY_OF_FINDING), group, certainty, "%^percent^UCUM"
    if finding.site is not None:
        yield "CWE", _code(FINDING_SITE), group, _code(finding.site), ""
    if finding.laterality is not None:
        yield "CWE", _code(LATERALITY), group, _code(finding.laterality), ""
    for measurement in finding.measurements:
        value = f"{measurement.value:.6g}"
        yield "NM", _measured(measurement), group, value, _unit(measurement.unit)
    tracking = f"^{escaped(finding.tracking_uid)}^ISO"
    yield "HD", _code(TRACKING_UNIQUE_IDENTIFIER), group, tracking, ""
    if review is not None:
        verdict = escaped(f"{review.verdict} by {review.reviewer or 'a reader'}")
        yield "ST", "review^Reader's verdict^99OVERREAD", group, verdict, ""


def _measured(measurement: Measurement) -> str:
    code = measurement.code or MEASUREMENTS.get(measurement.name)
    if code is None:
        return f"{escaped(measurement.name)}^{escaped(measurement.name)}^99OVERREAD"
    return _code(code)


def _unit(unit: str) -> str:
    code = UNITS.get(unit)
    return _code(code) if code is not None else f"{escaped(unit)}^^UCUM"


def _code(code: Code) -> str:
    return "^".join(escaped(part) for part in (code.value, code.meaning, code.scheme))


def _segment(name: str, *fields: str) -> str:
    return "|".join([name, *fields]).rstrip("|")


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")


def _digits(text: str, count: int) -> str:
    """Return a DICOM date or time where it is one; received text may be anything."""
    return text[:count] if text[:count].isascii() and text[:count].isdigit() else ""


def acknowledgement(text: str) -> tuple[str, str, Sequence[str]]:
    """Return code (MSA-1), control id (MSA-2) and the texts of an answer.

    Raises
    ------
    ValueError
        When it is no acknowledgement.
    """
    segments = [segment.split("|") for segment in text.replace("\n", "\r").split("\r") if segment]
    if not segments or not segments[0][0].startswith("MSH"):
        raise ValueError("no MSH segment")
    for segment in segments:
        if segment[0] == "MSA" and len(segment) > 2:
            return segment[1].strip().upper(), segment[2].strip(), segment[3:]
    raise ValueError("no MSA segment")
