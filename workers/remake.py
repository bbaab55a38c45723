"""Findings for a report made anew: from what a run kept, as readers see it, without the network."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np

from service.core.errors import ContractViolation, InvalidModel
from service.core.findings import (
    Analysis,
    Code,
    Finding,
    Location,
    Measurement,
    PlanarRegion,
    Qualifier,
    RegionRole,
    RegionShape,
)
from service.core.headers import InstanceHeader, SourceFrame
from service.core.manifest import Manifest
from service.records.results import StoredAnalysis
from service.records.reviews import Review as Verdicts
from service.records.reviews import Verdict
from workers.evidence import masks_and_maps
from workers.results.context import Review

_AXES: Final = ("long_axis", "short_axis")
_WORDS: Final = {
    Verdict.ACCEPTED: "Accepted by the reader",
    Verdict.REJECTED: "Rejected by the reader",
    Verdict.EDITED: "Supplemented by the reader",
}


@dataclass(frozen=True)
class Kept:
    """What there is of a finished run: its findings, masks and the images it was made on."""

    found: Sequence[Finding]
    stored: StoredAnalysis
    headers: Sequence[InstanceHeader]


@dataclass(frozen=True)
class Asked:
    """What a report is asked to say: the operating point, and whose verdicts count.

    ``verdicts`` are by finding id. ``reviewer`` went through the study as a whole.
    """

    operating_point: str
    verdicts: Mapping[str, Verdicts]
    is_review: bool = False
    reviewer: str = ""
    verified: bool = False
    organization: str = ""
    asked_at: datetime | None = None


@dataclass(frozen=True)
class Remade:
    """An analysis to write results of, and the review that it rests on, if on any."""

    analysis: Analysis
    frames: tuple[SourceFrame, ...]
    review: Review | None


def remade(kept: Kept, asked: Asked, manifest: Manifest) -> Remade:
    """Return what a run found, judged anew.

    Probabilities stay the algorithm's; what a reader accepted or corrected is present, what a
    reader rejected is absent and loses its segment.

    Raises
    ------
    InvalidModel
        ``OPERATING_POINT`` when the model has none of that name.
    ContractViolation
        ``EVIDENCE_UNREADABLE`` or ``INPUT_GONE``.
    """
    if asked.operating_point not in {point.name for point in manifest.operating_points}:
        raise InvalidModel("OPERATING_POINT", f"the model has no {asked.operating_point}")
    point = manifest.operating_point(asked.operating_point)
    frames = _frames(kept)
    masks, maps = masks_and_maps(kept.stored)
    findings = []
    for finding in kept.found:
        qualifier = point.qualify(finding.class_name, finding.probability)
        judged = finding.model_copy(update={"qualifier": qualifier})
        verdict = asked.verdicts.get(finding.id)
        if verdict is not None:
            judged = as_reviewed(judged, verdict, frames)
            if _moves(verdict.changes):
                masks.pop(finding.id, None)
        findings.append(judged)
    numbered = _numbered(findings, masks)
    shown = Analysis(tuple(numbered), masks=masks, maps=maps)
    return Remade(shown, frames, _review(asked))


def as_reviewed(finding: Finding, verdict: Verdicts, frames: Sequence[SourceFrame]) -> Finding:
    """Return a finding as a reader left it.

    One that was moved or measured anew keeps no number that was taken of its old voxels.
    """
    if verdict.verdict is Verdict.REJECTED:
        return finding.model_copy(update={"qualifier": Qualifier.ABSENT})
    changes = verdict.changes
    values: dict[str, Any] = {"qualifier": Qualifier.PRESENT}
    if "label" in changes:
        values["label"] = Code.model_validate(changes["label"])
    if _moves(changes):
        values["location"] = _placed(finding, changes, frames)
        values["measurements"] = tuple(_measured(finding, changes))
    return finding.model_copy(update=values)


def _moves(changes: Mapping[str, Any]) -> bool:
    return bool(changes.keys() & {"place", "center_mm", "long_axis_mm", "short_axis_mm"})


def _measured(finding: Finding, changes: Mapping[str, Any]) -> Iterable[Measurement]:
    """Yield the axes, the reader's where given, the algorithm's where it was only moved."""
    for name in _AXES:
        known = next((one for one in finding.measurements if one.name == name), None)
        value = changes.get(f"{name}_mm")
        if value is not None:
            base = known or Measurement(name=name, value=0.0, unit="mm")
            yield base.model_copy(update={"value": float(value)})
        elif known is not None:
            yield known


def _placed(
    finding: Finding, changes: Mapping[str, Any], frames: Sequence[SourceFrame]
) -> Location | None:
    """Return where a finding lies: without lines that do not show its size any more."""
    location = finding.location
    center = changes.get("center_mm")
    place = changes.get("place")
    analysed = {(frame.instance.sop_instance_uid, frame.frame_number) for frame in frames}
    if place and (place["sop_instance_uid"], int(place["frame_number"])) in analysed:
        point = (float(place["column"]), float(place["row"]))
        return _at(place["sop_instance_uid"], int(place["frame_number"]), point, center)
    if center is not None:
        frame, point = _nearest(center, frames)
        if frame is not None:
            return _at(frame.instance.sop_instance_uid, frame.frame_number, point, center)
        return None if location is None else location.model_copy(update={"center_mm": center})
    if location is None:
        return None
    kept = [r for r in location.regions if r.role is RegionRole.CENTER] or [
        r for r in location.regions if r.role is RegionRole.BOX
    ]
    return location.model_copy(update={"regions": tuple(kept)})


def _at(
    sop_instance_uid: str,
    frame_number: int,
    point: tuple[float, float],
    center_mm: Sequence[float] | None,
) -> Location:
    region = PlanarRegion(
        role=RegionRole.CENTER,
        shape=RegionShape.POINT,
        sop_instance_uid=sop_instance_uid,
        frame_number=frame_number,
        points=(point,),
    )
    x, y, z = center_mm or (0.0, 0.0, 0.0)
    return Location(
        center_mm=(x, y, z) if center_mm else None,
        sop_instance_uid=sop_instance_uid,
        frame_number=frame_number,
        regions=(region,),
    )


def _nearest(
    center_mm: Sequence[float], frames: Sequence[SourceFrame]
) -> tuple[SourceFrame | None, tuple[float, float]]:
    """Return the frame whose plane lies nearest to a point, and the point on it in pixels."""
    best: tuple[float, SourceFrame | None, tuple[float, float]] = (np.inf, None, (0.0, 0.0))
    for frame in frames:
        plane = frame.geometry
        if (
            plane.image_position_mm is None
            or plane.image_orientation is None
            or plane.row_spacing_mm is None
            or plane.column_spacing_mm is None
        ):
            continue
        right, down = np.array(plane.image_orientation).reshape(2, 3)
        away = np.asarray(center_mm, float) - np.array(plane.image_position_mm)
        distance = abs(float(away @ np.cross(right, down)))
        if distance < best[0]:
            # The middle of the first pixel is (0.5, 0.5).
            column = float(away @ right) / plane.column_spacing_mm + 0.5
            row = float(away @ down) / plane.row_spacing_mm + 0.5
            inside = (
                min(max(column, 0.0), float(frame.instance.columns or 0)),
                min(max(row, 0.0), float(frame.instance.rows or 0)),
            )
            best = (distance, frame, inside)
    return best[1], best[2]


def _numbered(findings: Sequence[Finding], masks: Mapping[str, object]) -> Iterable[Finding]:
    """Yield the findings with segments numbered anew: what is shown and was drawn."""
    number = 0
    for finding in findings:
        drawn = finding.id in masks and finding.qualifier is not Qualifier.ABSENT
        number += drawn
        yield finding.model_copy(update={"segment_number": number if drawn else None})


def _review(asked: Asked) -> Review | None:
    if not asked.is_review or asked.asked_at is None:
        return None
    remarks = {
        finding_id: ". ".join(
            part
            for part in (
                _WORDS[said.verdict] + (f" {said.reviewer}" if said.reviewer else ""),
                said.comment,
            )
            if part
        )
        for finding_id, said in asked.verdicts.items()
    }
    return Review(
        reviewer=asked.reviewer,
        reviewed_at=asked.asked_at,
        remarks=remarks,
        verified=asked.verified,
        organization=asked.organization,
    )


def _frames(kept: Kept) -> tuple[SourceFrame, ...]:
    by_uid = {header.sop_instance_uid: header for header in kept.headers}
    try:
        return tuple(SourceFrame(by_uid[uid], number) for uid, number in kept.stored.frames)
    except KeyError as error:
        raise ContractViolation("INPUT_GONE", "a frame of the masks is not there") from error
