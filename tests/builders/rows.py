"""Rows as the product leaves them: studies, series, instances, runs, findings, results, deliveries.

Every builder writes one row (with what it needs around it) and returns its key. A keyword that is
no column is refused by the database layer. Patients are invented.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert, select

from service.core.findings import (
    Code,
    Finding,
    Location,
    Measurement,
    PlanarRegion,
    Qualifier,
    RegionRole,
    RegionShape,
)
from service.core.headers import InstanceHeader
from service.core.identifiers import derive_uid, finding_id, tracking_uid
from service.core.states import DeliveryState, JobState, Priority, ResultState, StudyState
from service.records.tables import (
    assessments,
    deliveries,
    findings,
    instances,
    jobs,
    results,
    series,
    studies,
)

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
NODULE = Code(value="27925004", scheme="SCT", meaning="Nodule")
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_numbers: Iterator[int] = itertools.count(1)


def add_study(connection: Connection, **columns: Any) -> int:
    """Write a study and return its row id."""
    number = next(_numbers)
    values: dict[str, Any] = {
        "study_instance_uid": derive_uid("test study", str(number)),
        "patient_id": f"P{number:05}",
        "patient_name": f"Tester^Number{number}",
        "patient_birth_date": "19610430",
        "patient_sex": "F",
        "accession_number": f"A{number:05}",
        "study_date": "20261120",
        "study_description": "CT chest",
        "modalities": "CT",
        "source_ae_title": "MODALITY",
        "received_at": NOW,
        "last_received_at": NOW + timedelta(seconds=9),
        "revision": 1,
        "completed_revision": 1,
        "completed_at": NOW + timedelta(seconds=24),
        "state": StudyState.ANALYSED,
        "priority": Priority.ROUTINE,
        "series_count": 1,
        "instances_count": 1,
    } | columns
    return _key(connection, insert(studies).values(values).returning(studies.c.id))


def uid_of(connection: Connection, study_id: int) -> str:
    """Return the Study Instance UID of a row."""
    query = select(studies.c.study_instance_uid).where(studies.c.id == study_id)
    return str(connection.execute(query).scalar_one())


def add_series(connection: Connection, study_id: int, **columns: Any) -> int:
    """Write a series and return its row id."""
    values: dict[str, Any] = {
        "study_id": study_id,
        "series_instance_uid": derive_uid("test series", str(next(_numbers))),
        "modality": "CT",
        "series_number": 2,
        "series_description": "Lung 1.0",
        "body_part_examined": "CHEST",
        "received_at": NOW,
        "last_received_at": NOW + timedelta(seconds=9),
        "revision": 1,
        "completed_revision": 1,
        "completed_at": NOW + timedelta(seconds=14),
        "instances_count": 1,
    } | columns
    return _key(connection, insert(series).values(values).returning(series.c.id))


def add_instance(connection: Connection, study_id: int, series_id: int, **header: Any) -> str:
    """Write an image's row with this header and return its SOP Instance UID."""
    uid = derive_uid("test instance", str(next(_numbers)))
    described = InstanceHeader(
        sop_class_uid=CT_IMAGE,
        sop_instance_uid=uid,
        study_instance_uid=uid_of(connection, study_id),
        series_instance_uid=str(
            connection.execute(
                select(series.c.series_instance_uid).where(series.c.id == series_id)
            ).scalar_one()
        ),
        transfer_syntax_uid=EXPLICIT_LITTLE_ENDIAN,
        rows=512,
        columns=512,
    ).model_copy(update=header)
    connection.execute(
        insert(instances).values(
            study_id=study_id,
            series_id=series_id,
            sop_instance_uid=uid,
            version=1,
            current=True,
            sop_class_uid=described.sop_class_uid,
            transfer_syntax_uid=described.transfer_syntax_uid,
            sha256=hashlib.sha256(uid.encode()).hexdigest(),
            size_bytes=526_000,
            path=f"instances/{uid}.dcm",
            header=described.model_dump(mode="json"),
            header_bytes=b"",
            received_at=NOW,
            calling_ae_title="MODALITY",
        )
    )
    return uid


def add_assessment(connection: Connection, study_id: int, **columns: Any) -> None:
    """Write what a model makes of a study (or, with `series_id`, of a series)."""
    values: dict[str, Any] = {
        "study_id": study_id,
        "model_name": "lung_nodule_detection",
        "model_version": "1.0.0",
        "task": "lung_nodule_detection",
        "eligible": False,
        "chosen": False,
        "reason": "SLICE_GAP",
        "message": "a gap of 12.5 mm after slice 84",
        "assessed_at": NOW + timedelta(seconds=24),
    } | columns
    connection.execute(insert(assessments).values(values))


def add_job(connection: Connection, study_id: int, series_id: int, **columns: Any) -> str:
    """Write a completed run and return its id."""
    values: dict[str, Any] = {
        "id": hashlib.sha256(str(next(_numbers)).encode()).hexdigest()[:32],
        "study_id": study_id,
        "series_id": series_id,
        "task": "lung_nodule_detection",
        "model_name": "lung_nodule_detection",
        "model_version": "1.0.0",
        "model_sha256": "a" * 64,
        "parameters": {"operating_point": "balanced"},
        "inputs": [],
        "current": True,
        "destinations": None,
        "state": JobState.COMPLETED,
        "priority": Priority.ROUTINE,
        "attempts": 1,
        "device": "cpu",
        "due_at": NOW + timedelta(seconds=24),
        "timings_s": {"volume": 1.2, "network": 18.4, "results": 0.6},
        "scores": {},
        "created_at": NOW + timedelta(seconds=24),
        "started_at": NOW + timedelta(seconds=26),
        "ended_at": NOW + timedelta(seconds=47),
    } | columns
    connection.execute(insert(jobs).values(values))
    return str(values["id"])


def nodule(
    job_id: str, rank: int, *, probability: float, sop_instance_uid: str, **fields: Any
) -> Finding:
    """Return a lung nodule as the detector reports it."""
    qualifier = (
        Qualifier.PRESENT
        if probability >= 0.5
        else Qualifier.INDETERMINATE
        if probability >= 0.2
        else Qualifier.ABSENT
    )
    box = ((200.0, 220.0), (224.0, 220.0), (224.0, 246.0), (200.0, 246.0), (200.0, 220.0))
    values: dict[str, Any] = {
        "id": finding_id(job_id, rank),
        "tracking_uid": tracking_uid(job_id, rank),
        "tracking_id": f"Nodule {rank + 1}",
        "label": NODULE,
        "class_name": "nodule",
        "site": Code(value="39607008", scheme="SCT", meaning="Lung"),
        "probability": probability,
        "qualifier": qualifier,
        "location": Location(
            center_mm=(-61.5, 12.0, -140.25),
            sop_instance_uid=sop_instance_uid,
            regions=(
                PlanarRegion(
                    role=RegionRole.BOX,
                    shape=RegionShape.POLYLINE,
                    sop_instance_uid=sop_instance_uid,
                    points=box,
                ),
            ),
        ),
        "measurements": (
            Measurement(name="long_axis", value=14.2, unit="mm"),
            Measurement(name="short_axis", value=11.0, unit="mm"),
            Measurement(name="volume", value=980.0, unit="mm3"),
        ),
        "segment_number": rank + 1,
    }
    return Finding.model_validate(values | fields)


def add_findings(connection: Connection, study_id: int, job_id: str, found: Sequence[Finding]):
    """Write a run's findings, the first having rank 0."""
    for rank, finding in enumerate(found):
        connection.execute(
            insert(findings).values(
                id=finding.id,
                job_id=job_id,
                study_id=study_id,
                rank=rank,
                class_name=finding.class_name,
                probability=finding.probability,
                qualifier=finding.qualifier,
                content=finding.model_dump(mode="json"),
            )
        )


def add_result(connection: Connection, study_id: int, job_id: str, **columns: Any) -> int:
    """Write a valid SR of a run and return its row id."""
    values: dict[str, Any] = {
        "job_id": job_id,
        "study_id": study_id,
        "role": "sr",
        "sop_class_uid": COMPREHENSIVE_3D_SR,
        "sop_instance_uid": derive_uid("test result", str(next(_numbers))),
        "series_instance_uid": derive_uid("test result series", str(next(_numbers))),
        "transfer_syntax_uid": EXPLICIT_LITTLE_ENDIAN,
        "path": "results/sr.dcm",
        "sha256": "b" * 64,
        "size_bytes": 20_480,
        "state": ResultState.VALID,
        "created_at": NOW + timedelta(seconds=47),
    } | columns
    return _key(connection, insert(results).values(values).returning(results.c.id))


def add_delivery(connection: Connection, study_id: int, result_id: int, **columns: Any) -> int:
    """Write an acknowledged delivery and return its row id."""
    values: dict[str, Any] = {
        "result_id": result_id,
        "study_id": study_id,
        "destination": "pacs",
        "state": DeliveryState.DELIVERED,
        "priority": Priority.ROUTINE,
        "attempts": 1,
        "due_at": NOW + timedelta(seconds=47),
        "give_up_at": NOW + timedelta(days=1),
        "created_at": NOW + timedelta(seconds=47),
        "delivered_at": NOW + timedelta(seconds=48),
    } | columns
    return _key(connection, insert(deliveries).values(values).returning(deliveries.c.id))


def add_analysed_study(
    connection: Connection, *, probabilities: Sequence[float] = (0.93, 0.31, 0.08), **columns: Any
) -> int:
    """Write a study with one series, one run, a nodule per probability, an SR and its delivery."""
    top = max(probabilities, default=0.0)
    urgency = top if top >= 0.5 else 0.0
    reason = f"Nodule 14 mm, p {top:.2f}" if urgency else ""
    study_id = add_study(connection, **{"urgency": urgency, "urgency_reason": reason} | columns)
    series_id = add_series(connection, study_id)
    image = add_instance(
        connection, study_id, series_id, manufacturer="ACME", manufacturer_model_name="Scan 3000"
    )
    job_id = add_job(connection, study_id, series_id)
    add_assessment(
        connection, study_id, series_id=series_id, eligible=True, chosen=True, reason="", message=""
    )
    found = [
        nodule(job_id, rank, probability=probability, sop_instance_uid=image)
        for rank, probability in enumerate(probabilities)
    ]
    add_findings(connection, study_id, job_id, found)
    result_id = add_result(connection, study_id, job_id)
    add_delivery(connection, study_id, result_id)
    return study_id


def _key(connection: Connection, statement: Any) -> int:
    return int(connection.execute(statement).scalar_one())
