"""The modules that every result shares: patient, study, series, equipment, references."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from service.core import codes
from service.core.errors import ContractViolation
from service.core.findings import Code
from service.core.headers import InstanceHeader, SourceFrame
from service.core.identifiers import derive_uid, result_series_uid, result_uid
from workers.results.context import (
    NOT_REVIEWED,
    InstanceReference,
    ResultContext,
    ResultRole,
    WrittenResult,
)
from workers.results.encode import Value, clip, item
from workers.results.source import SourceStudy


class _Kind(NamedTuple):
    """How the series of a role is numbered within its job, marked and called."""

    offset: int
    modality: str
    word: str


_KINDS: Final = {
    ResultRole.SEG: _Kind(0, "SEG", "segmentation"),
    ResultRole.SR: _Kind(1, "SR", "report"),
    ResultRole.SECONDARY_CAPTURE: _Kind(2, "OT", "summary"),
    ResultRole.PRESENTATION_STATE: _Kind(3, "PR", "annotations"),
    ResultRole.PDF: _Kind(4, "DOC", "document"),
    ResultRole.KEY_OBJECTS: _Kind(5, "KO", "key images"),
    ResultRole.REJECTION_NOTE: _Kind(6, "KO", "rejection note"),
    ResultRole.STRUCTURE_SET: _Kind(7, "RTSTRUCT", "contours"),
    ResultRole.PARAMETRIC_MAP: _Kind(8, "OT", "evidence map"),
}


def series_description(context: ResultContext, role: ResultRole) -> str:
    """Return a Series Description that begins with AI and says what the series is for.

    Until a site has validated the model it ends in "(research)"; the title gives way.
    """
    tail = f" {_KINDS[role].word}" + (" (research)" if context.research_only else "")
    return f"AI {clip(context.model.title, 64 - 3 - len(tail))}{tail}"


def written(
    context: ResultContext, source: SourceStudy, role: ResultRole, sop_class_uid: str
) -> WrittenResult:
    """Return the identity of the job's result in a role, without content yet."""
    return WrittenResult(
        role=role,
        modality=_KINDS[role].modality,
        study_instance_uid=source.study_instance_uid,
        series_instance_uid=result_series_uid(context.job_id, context.named(role)),
        series_number=context.series_number + _KINDS[role].offset,
        series_description=series_description(context, role),
        sop_class_uid=sop_class_uid,
        sop_instance_uid=result_uid(context.job_id, context.named(role)),
        content=b"",
    )


def common_elements(
    context: ResultContext, source: SourceStudy, identity: WrittenResult
) -> dict[str, Value]:
    """Return the patient, study, series, equipment and SOP common modules (PS3.3 C.7, C.12)."""
    date, time = _local(context.created_at, source)
    equipment = context.equipment
    elements: dict[str, Value] = {
        **source.elements,
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": identity.sop_class_uid,
        "SOPInstanceUID": identity.sop_instance_uid,
        "InstanceCreationDate": date,
        "InstanceCreationTime": time,
        "InstanceNumber": 1,
        "Modality": identity.modality,
        "SeriesInstanceUID": identity.series_instance_uid,
        "SeriesNumber": identity.series_number,
        "SeriesDescription": identity.series_description,
        "SeriesDate": date,
        "SeriesTime": time,
        "ContentDate": date,
        "ContentTime": time,
        "Manufacturer": clip(equipment.manufacturer),
        "ManufacturerModelName": clip(equipment.model_name),
        "DeviceSerialNumber": clip(equipment.device_serial_number),
        "SoftwareVersions": software_versions(context),
        "ContributingEquipmentSequence": _contributing_equipment(context, source, date + time),
    }
    if equipment.institution_name:
        elements["InstitutionName"] = clip(equipment.institution_name)
    if equipment.station_name:
        elements["StationName"] = clip(equipment.station_name, 16)
    return elements


def software_versions(context: ResultContext) -> tuple[str, ...]:
    """Return the versions of the product and of the model."""
    model = context.model
    return (clip(context.equipment.product_version), clip(f"{model.name} {model.version}"))


def device_uid(context: ResultContext) -> str:
    """Return the UID of the observing device: the installation running this very network."""
    return derive_uid(
        "device", context.equipment.device_serial_number, context.model.sha256, context.model.name
    )


def code_item(code: Code) -> bytes:
    """Return the basic attributes of a coded concept (PS3.3 section 8.8)."""
    return item(CodeValue=code.value, CodingSchemeDesignator=code.scheme, CodeMeaning=code.meaning)


def analysed_instances(frames: Sequence[SourceFrame]) -> tuple[InstanceHeader, ...]:
    """Return each instance that was analysed once, in the order of the frames."""
    return tuple({frame.instance.sop_instance_uid: frame.instance for frame in frames}.values())


def reference_of(instance: InstanceHeader) -> InstanceReference:
    """Return how a result names a source instance."""
    return InstanceReference(
        instance.study_instance_uid,
        instance.series_instance_uid,
        instance.sop_class_uid,
        instance.sop_instance_uid,
    )


def sop_reference(reference: InstanceReference) -> bytes:
    """Return the SOP Instance Reference Macro (PS3.3 table 10-11)."""
    return item(
        ReferencedSOPClassUID=reference.sop_class_uid,
        ReferencedSOPInstanceUID=reference.sop_instance_uid,
    )


def referenced_series(references: Sequence[InstanceReference]) -> list[bytes]:
    """Return the Common Instance Reference Module's series of one study (PS3.3 C.12.2)."""
    return [
        item(
            SeriesInstanceUID=series_uid,
            ReferencedInstanceSequence=[sop_reference(reference) for reference in members],
        )
        for series_uid, members in _by_series(references).items()
    ]


def evidence(references: Sequence[InstanceReference]) -> list[bytes]:
    """Return references by study and series (PS3.3 table C.17-3)."""
    studies: dict[str, list[InstanceReference]] = {}
    for reference in references:
        studies.setdefault(reference.study_instance_uid, []).append(reference)
    return [
        item(
            StudyInstanceUID=study_uid,
            ReferencedSeriesSequence=[
                item(
                    SeriesInstanceUID=series_uid,
                    ReferencedSOPSequence=[sop_reference(reference) for reference in members],
                )
                for series_uid, members in _by_series(of_study).items()
            ],
        )
        for study_uid, of_study in studies.items()
    ]


def check_source(source: SourceStudy, instances: Sequence[InstanceHeader]) -> None:
    """Refuse to write about images of another study than the header's.

    Raises
    ------
    ContractViolation
        ``NO_SOURCE_INSTANCES`` or ``SOURCE_STUDY_DIFFERS``.
    """
    if not instances:
        raise ContractViolation("NO_SOURCE_INSTANCES", "a result needs the images it is about")
    for instance in instances:
        if instance.study_instance_uid != source.study_instance_uid:
            raise ContractViolation(
                "SOURCE_STUDY_DIFFERS",
                f"{instance.sop_instance_uid} is not of study {source.study_instance_uid}",
            )


def _by_series(references: Sequence[InstanceReference]) -> dict[str, list[InstanceReference]]:
    series: dict[str, list[InstanceReference]] = {}
    for reference in references:
        series.setdefault(reference.series_instance_uid, []).append(reference)
    return series


def _local(created_at: datetime, source: SourceStudy) -> tuple[str, str]:
    """Return DICOM date and time in the zone that the source's times are in, if it says so."""
    if created_at.tzinfo is None:
        raise ContractViolation("NAIVE_TIME", "created_at must be aware of its time zone")
    at = created_at.astimezone(source.zone) if source.zone else created_at
    return at.strftime("%Y%m%d"), at.strftime("%H%M%S.%f")


def _contributing_equipment(context: ResultContext, source: SourceStudy, at: str) -> list[bytes]:
    """Return the scanner and the algorithm as contributors (PS3.3 C.12.1.1.5, IHE AIR)."""
    model, equipment = context.model, context.equipment
    algorithm = item(
        PurposeOfReferenceCodeSequence=[code_item(codes.PROCESSING_EQUIPMENT)],
        Manufacturer=clip(model.manufacturer),
        ManufacturerModelName=clip(model.name),
        DeviceSerialNumber=clip(equipment.device_serial_number),
        SoftwareVersions=software_versions(context),
        DeviceUID=device_uid(context),
        ContributionDateTime=at,
        ContributionDescription=f"{NOT_REVIEWED} sha256={model.sha256}",
    )
    # The algorithm's own contribution stays unreviewed; the reader's is told beside it.
    return [*source.acquisition_equipment, algorithm]
