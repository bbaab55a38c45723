"""Analyses of synthetic images, ready to be written as results."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from service.core import codes
from service.core.findings import (
    Analysis,
    Code,
    Finding,
    FindingMask,
    Location,
    Measurement,
    PlanarRegion,
    Qualifier,
    RegionRole,
    RegionShape,
)
from service.core.headers import SourceFrame
from service.core.identifiers import finding_id, tracking_uid
from tests.builders.dicom import part10
from tests.builders.headers import read_header
from workers.results.context import Equipment, ModelIdentity, ResultContext

JOB_ID = "0123456789abcdef0123456789abcdef"
CONSOLIDATION = Code(value="95436008", scheme="SCT", meaning="Lung consolidation")
MODEL = ModelIdentity(
    name="lung_nodule",
    version="1.2.0",
    sha256="ab" * 32,
    title="Lung nodules",
    parameters={"operating_point": "balanced"},
)
EQUIPMENT = Equipment(
    product_version="0.1.0",
    device_serial_number="OVR-1",
    institution_name="Klinikum Süd",
    station_name="OVR1",
)


def header_bytes(dataset: Dataset) -> bytes:
    """Return an instance's file up to its pixels, as receipt keeps it."""
    bare = Dataset()
    bare.update({e.tag: e for e in dataset if e.keyword != "PixelData"})
    bare.file_meta = dataset.file_meta
    return part10(bare)


def result_context(dataset: Dataset, **changes: Any) -> ResultContext:
    """Return the context of a job on this source."""
    context = ResultContext(
        job_id=JOB_ID,
        source_header=header_bytes(dataset),
        created_at=datetime(2026, 3, 1, 10, 30, 15, tzinfo=UTC),
        model=MODEL,
        equipment=EQUIPMENT,
    )
    return replace(context, **changes)


def source_frames(instances: Sequence[Dataset]) -> list[SourceFrame]:
    """Return every frame of the instances, in their order."""
    headers = [
        read_header(instance, transfer_syntax_uid=str(instance.file_meta.TransferSyntaxUID))
        for instance in instances
    ]
    return [
        SourceFrame(header, number)
        for header in headers
        for number in range(1, header.number_of_frames + 1)
    ]


def ball(frames: int, *, radius: tuple[float, float, float] = (2.2, 5.0, 3.5)) -> NDArray[np.bool_]:
    """Return an ellipsoid in a block just large enough, frames first."""
    half = [math.ceil(r) for r in radius]
    half[0] = min(half[0], (frames - 1) // 2)
    grid = np.ogrid[tuple(slice(-h, h + 1) for h in half)]
    return np.asarray(sum((g / r) ** 2 for g, r in zip(grid, radius, strict=True)) <= 1)


def nodule(
    frames: Sequence[SourceFrame], rank: int, offset: tuple[int, int, int], **changes: Any
) -> tuple[Finding, FindingMask]:
    """Return a nodule with a mask at `offset`, its axes drawn on the frame of greatest area."""
    mask = FindingMask(offset, ball(len(frames)))
    best = offset[0] + int(mask.voxels.sum(axis=(1, 2)).argmax())
    frame = frames[best]
    _, top, left = offset
    height, width = mask.voxels.shape[1:]
    middle = (left + width / 2, top + height / 2)
    lines = {
        RegionRole.LONG_AXIS: ((middle[0], top), (middle[0], top + height)),
        RegionRole.SHORT_AXIS: ((left, middle[1]), (left + width, middle[1])),
    }
    regions = tuple(
        PlanarRegion(
            role=role,
            shape=RegionShape.POLYLINE,
            sop_instance_uid=frame.instance.sop_instance_uid,
            frame_number=frame.frame_number,
            points=points,
        )
        for role, points in lines.items()
    )
    finding = Finding(
        id=finding_id(JOB_ID, rank),
        tracking_uid=tracking_uid(JOB_ID, rank),
        tracking_id=f"nodule-{rank + 1}",
        label=codes.NODULE,
        class_name="nodule",
        site=codes.LUNG,
        laterality=codes.RIGHT,
        probability=0.93 - 0.1 * (rank % 9),
        qualifier=Qualifier.PRESENT,
        malignancy_probability=0.41,
        location=Location(
            center_mm=(1.0, 2.0, 3.0),
            sop_instance_uid=frame.instance.sop_instance_uid,
            frame_number=frame.frame_number,
            regions=regions,
        ),
        measurements=(
            Measurement(name="long_axis", value=7.7123456, unit="mm", code=codes.LONG_AXIS),
            Measurement(name="short_axis", value=5.6, unit="mm", code=codes.SHORT_AXIS),
            Measurement(name="volume", value=231.25, unit="mm3", code=codes.VOLUME),
            Measurement(
                name="mean_hu",
                value=-31.5,
                unit="HU",
                code=codes.MEAN_ATTENUATION_COEFFICIENT,
            ),
            Measurement(name="sd_hu", value=44.25, unit="[hnsf'U]"),
        ),
        segment_number=rank + 1,
    )
    return finding.model_copy(update=changes), mask


def nodules(frames: Sequence[SourceFrame], count: int = 2) -> Analysis:
    """Return an analysis with `count` nodules, each with a segment of its own."""
    rows = frames[0].instance.rows or 0
    columns = frames[0].instance.columns or 0
    depth, height, width = ball(len(frames)).shape
    found = []
    for rank in range(count):
        offset = (
            (2 * rank) % max(1, len(frames) - depth + 1),
            (3 + 7 * rank) % (rows - height),
            (2 + 11 * rank) % (columns - width),
        )
        found.append(nodule(frames, rank, offset))
    return Analysis(
        findings=tuple(finding for finding, _ in found),
        masks={finding.id: mask for finding, mask in found},
    )


def radiograph_findings(frames: Sequence[SourceFrame], *, with_mask: bool = False) -> Analysis:
    """Return statements on a radiograph: one with a box and a map, one without, one absent."""
    instance = frames[0].instance
    box = PlanarRegion(
        role=RegionRole.BOX,
        shape=RegionShape.POLYLINE,
        sop_instance_uid=instance.sop_instance_uid,
        points=((10.0, 20.0), (30.0, 20.0), (30.0, 44.0), (10.0, 44.0), (10.0, 20.0)),
    )
    effusion = Code(value="60046008", scheme="SCT", meaning="Pleural effusion")
    pneumothorax = Code(value="36118008", scheme="SCT", meaning="Pneumothorax")
    specs = (
        (CONSOLIDATION, "consolidation", 0.88, Qualifier.PRESENT, (box,)),
        (effusion, "effusion", 0.47, Qualifier.INDETERMINATE, ()),
        (pneumothorax, "pneumothorax", 0.04, Qualifier.ABSENT, ()),
    )
    findings = [
        Finding(
            id=finding_id(JOB_ID, rank),
            tracking_uid=tracking_uid(JOB_ID, rank),
            tracking_id=name,
            label=label,
            class_name=name,
            probability=probability,
            qualifier=qualifier,
            location=Location(sop_instance_uid=instance.sop_instance_uid, regions=regions),
            segment_number=1 if with_mask and regions else None,
        )
        for rank, (label, name, probability, qualifier, regions) in enumerate(specs)
    ]
    shape = (instance.rows or 0, instance.columns or 0)
    row, column = np.mgrid[: shape[0], : shape[1]]
    heat = np.exp(-(((row - 32) / 9) ** 2) - ((column - 20) / 7) ** 2).astype(np.float32)
    masks = {findings[0].id: FindingMask((0, 0, 0), (heat > 0.5)[None])} if with_mask else {}
    return Analysis(tuple(findings), masks=masks, maps={findings[0].id: heat})


def nothing_found() -> Analysis:
    """Return an analysis that found nothing."""
    return Analysis(findings=())
