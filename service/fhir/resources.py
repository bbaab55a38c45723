"""Studies, findings and models as FHIR R4 resources, plain JSON objects.

References
----------
FHIR R4 (4.0.1): ImagingStudy, DiagnosticReport, Observation, Device.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import Any, Final

from service.core.codes import (
    CERTAINTY_OF_FINDING,
    DIAGNOSTIC_IMAGING_REPORT,
    MEASUREMENTS,
    PRESENCE,
    UNITS,
)
from service.core.findings import Code, Finding, Measurement, Qualifier
from service.core.states import JobState
from service.records.listings import JobItem
from service.records.study_view import SeriesItem, StoredFinding, StudyDetail

Resource = dict[str, Any]

_SYSTEMS: Final = MappingProxyType(
    {
        "SCT": "http://snomed.info/sct",
        "DCM": "http://dicom.nema.org/resources/ontology/DCM",
        "LN": "http://loinc.org",
        "UCUM": "http://unitsofmeasure.org",
        "RADLEX": "http://radlex.org",
    }
)
_OURS: Final = "urn:overread"
_UID: Final = "urn:dicom:uid"
_UCUM: Final = "http://unitsofmeasure.org"
_REPORT_STATUS: Final = MappingProxyType(
    {
        JobState.SCHEDULED: "registered",
        JobState.IN_PROGRESS: "registered",
        JobState.COMPLETED: "preliminary",
        JobState.NOT_APPLICABLE: "cancelled",
        JobState.FAILED: "cancelled",
        JobState.CANCELED: "cancelled",
    }
)
_VERDICTS: Final = MappingProxyType({"accepted": "final", "edited": "amended"})
_NOT_CLINICAL: Final = "For research, not for clinical use."


def imaging_study(study: StudyDetail) -> Resource:
    """Return a study with its series, without its instances: DICOMweb has those."""
    identifiers: list[Resource] = [{"system": _UID, "value": f"urn:oid:{study.study_instance_uid}"}]
    if study.accession_number:
        coding = {"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}
        identifiers.append({"type": {"coding": [coding]}, "value": study.accession_number})
    return _known(
        resourceType="ImagingStudy",
        id=study.study_instance_uid,
        identifier=identifiers,
        status="available",
        modality=[_modality(one) for one in study.modalities],
        subject=_subject(study),
        started=_date(study.study_date),
        numberOfSeries=len(study.series),
        numberOfInstances=sum(one.instances_count for one in study.series),
        description=study.study_description,
        series=[_series(one) for one in study.series],
    )


def diagnostic_report(study: StudyDetail, job: JobItem, found: Sequence[StoredFinding]) -> Resource:
    """Return what one run of one model says about the study."""
    conclusion = _conclusion(job, found)
    return _known(
        resourceType="DiagnosticReport",
        id=job.id,
        identifier=[{"system": f"{_OURS}:job", "value": job.id}],
        status=_REPORT_STATUS[job.state],
        category=[_category("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology")],
        code=_concept(DIAGNOSTIC_IMAGING_REPORT, text=job.task.replace("_", " ")),
        subject=_subject(study),
        effectiveDateTime=_date(study.study_date),
        issued=None if job.ended_at is None else _instant(job.ended_at),
        result=[{"reference": f"Observation/{item.finding.id}"} for item in stated(found)],
        imagingStudy=[{"reference": f"ImagingStudy/{study.study_instance_uid}"}],
        conclusion=conclusion,
    )


def observation(study: StudyDetail, item: StoredFinding) -> Resource:
    """Return one finding with its probability, place and measurements."""
    finding = item.finding
    verdict = "" if item.review is None else str(item.review.verdict)
    status = "cancelled" if verdict == "rejected" else _VERDICTS.get(verdict, "preliminary")
    notes = [] if item.review is None else [{"text": _review_text(item)}]
    return _known(
        resourceType="Observation",
        id=finding.id,
        identifier=[{"system": _UID, "value": f"urn:oid:{finding.tracking_uid}"}],
        status=status,
        category=[
            _category(
                "http://terminology.hl7.org/CodeSystem/observation-category", "imaging", "Imaging"
            )
        ],
        code=_concept(finding.label),
        subject=_subject(study),
        effectiveDateTime=_date(study.study_date),
        valueCodeableConcept=_concept(PRESENCE[finding.qualifier]),
        bodySite=_body_site(finding),
        device={"reference": f"Device/{item.model_sha256}"},
        derivedFrom=[{"reference": f"ImagingStudy/{study.study_instance_uid}"}],
        note=notes,
        component=[_certainty(finding), *map(_component, finding.measurements)],
    )


def device(name: str, version: str, sha256: str) -> Resource:
    """Return a model as the device that observed."""
    return {
        "resourceType": "Device",
        "id": sha256,
        "identifier": [{"system": f"{_OURS}:model", "value": sha256}],
        "status": "active",
        "manufacturer": "overread",
        "deviceName": [{"name": name, "type": "model-name"}],
        "type": {"text": "Computer-aided detection software"},
        "version": [{"value": version}],
    }


def stated(found: Sequence[StoredFinding]) -> list[StoredFinding]:
    """Return the findings that are told: what a model holds absent is no observation."""
    return [item for item in found if item.finding.qualifier is not Qualifier.ABSENT]


def _series(series: SeriesItem) -> Resource:
    body_site = {"system": f"{_OURS}:body-part-examined", "code": series.body_part_examined}
    return _known(
        uid=series.series_instance_uid,
        number=series.series_number if (series.series_number or -1) >= 0 else None,
        modality=_modality(series.modality),
        description=series.series_description,
        numberOfInstances=series.instances_count,
        bodySite=body_site if series.body_part_examined else None,
    )


def _subject(study: StudyDetail) -> Resource:
    """Return the patient as a logical reference: this server keeps no Patient resources."""
    identifier = _known(value=study.patient_id)
    shown = _known(
        type="Patient", identifier=identifier or None, display=_display(study.patient_name)
    )
    return shown if len(shown) > 1 else {"type": "Patient", "display": "unknown"}


def _display(name: str) -> str:
    """Return the first group of a DICOM person name (PS3.5 6.2.1) as people write it."""
    parts = [*name.partition("=")[0].split("^"), "", "", "", ""]
    family, given, middle, prefix, suffix = parts[:5]
    shown = (prefix, given, middle, family, suffix)
    return " ".join(part.strip() for part in shown if part.strip())


def _conclusion(job: JobItem, found: Sequence[StoredFinding]) -> str:
    research = "" if job.parameters.get("clinical_use") else f" {_NOT_CLINICAL}"
    if job.state is JobState.COMPLETED:
        present = [one for one in found if one.finding.qualifier is Qualifier.PRESENT]
        return f"{len(present)} present.{research}"
    if job.state in (JobState.SCHEDULED, JobState.IN_PROGRESS):
        return ""
    return f"Not analysed: {job.message or job.reason}.{research}"


def _certainty(finding: Finding) -> Resource:
    value = {"value": round(finding.probability * 100, 2), **_quantity("%", "%")}
    return {"code": _concept(CERTAINTY_OF_FINDING), "valueQuantity": value}


def _component(measurement: Measurement) -> Resource:
    code = measurement.code or MEASUREMENTS.get(measurement.name)
    concept = {"text": measurement.name} if code is None else _concept(code)
    unit = UNITS.get(measurement.unit)
    quantity = _quantity(measurement.unit, measurement.unit if unit is None else unit.value)
    return {"code": concept, "valueQuantity": {"value": measurement.value, **quantity}}


def _quantity(unit: str, code: str) -> Resource:
    return {"unit": unit, "system": _UCUM, "code": code}


def _body_site(finding: Finding) -> Resource | None:
    codes = [code for code in (finding.site, finding.laterality) if code is not None]
    return {"coding": [_coding(code) for code in codes]} if codes else None


def _review_text(item: StoredFinding) -> str:
    review = item.review
    assert review is not None
    by = f" by {review.reviewer}" if review.reviewer else ""
    return f"{review.verdict}{by}" + (f": {review.comment}" if review.comment else "")


def _category(system: str, code: str, display: str) -> Resource:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def _concept(code: Code, *, text: str = "") -> Resource:
    return _known(coding=[_coding(code)], text=text)


def _coding(code: Code) -> Resource:
    system = _SYSTEMS.get(code.scheme, f"{_OURS}:{code.scheme.lower()}")
    return {"system": system, "code": code.value, "display": code.meaning}


def _modality(value: str) -> Resource:
    return {"system": _SYSTEMS["DCM"], "code": value or "OT"}


def _date(value: str | None) -> str | None:
    """Return a date in FHIR's form; received text may be anything."""
    text = (value or "").replace("-", "")
    try:
        return datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).date().isoformat()
    except ValueError:
        return None


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def today(at: datetime) -> date:
    """Return the day of a time in UTC."""
    return at.astimezone(UTC).date()


def _known(**values: Any) -> Resource:
    """Return an object without what is not known: FHIR has no empty values."""
    return {name: value for name, value in values.items() if value not in (None, "", [], {})}


def bundle(resources: Sequence[Resource], *, address: str, base: str) -> Resource:
    """Return a search's answer."""
    entries = [
        {
            "fullUrl": f"{base}/{one['resourceType']}/{one['id']}",
            "resource": one,
            "search": {"mode": "match"},
        }
        for one in resources
    ]
    return _known(
        resourceType="Bundle",
        type="searchset",
        total=len(resources),
        link=[{"relation": "self", "url": address}],
        entry=entries,
    )


def outcome(code: str, text: str) -> Resource:
    """Return a failure."""
    issue = {"severity": "error", "code": code, "diagnostics": text}
    return {"resourceType": "OperationOutcome", "issue": [issue]}


def capability_statement(
    *, base: str, version: str, at: datetime, searches: Mapping[str, Sequence[str]]
) -> Resource:
    """Return what this server can do; `searches` are the parameters by type of resource."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": today(at).isoformat(),
        "kind": "instance",
        "software": {"name": "overread", "version": version},
        "implementation": {"description": "Findings in imaging studies", "url": base},
        "fhirVersion": "4.0.1",
        "format": ["application/fhir+json", "json"],
        "rest": [
            {
                "mode": "server",
                "security": {"description": "Bearer tokens or API keys, as for /api/v1"},
                "resource": [_supported(kind, names) for kind, names in searches.items()],
            }
        ],
    }


def _supported(kind: str, names: Sequence[str]) -> Resource:
    return {
        "type": kind,
        "interaction": [{"code": "read"}, {"code": "search-type"}],
        "searchParam": [
            {"name": name, "type": "reference" if name == "derived-from" else "token"}
            for name in names
        ],
    }
