"""What a report says of change over time: the time point of a group, and how a lesion has changed.

The lesion keeps its tracking UID from study to study. The group of values is placed in time
against the earlier study (PS3.16 TID 1502), and the change is coded as the interval change of a
finding (concept 111049 with PS3.16 CID 6134, "new" from CID 6002); what has no code (the volume
doubling time) is said in words. The earlier report is named as pertinent other evidence.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from service.core import codes
from service.core.findings import Change, Code, Finding
from workers.results import content
from workers.results.content import Relation
from workers.results.context import InstanceReference

CHANGES: Final[Mapping[Change, Code]] = MappingProxyType(
    {
        Change.NEW: codes.NEW_FINDING,
        Change.GROWING: codes.INCREASE_IN_SIZE,
        Change.STABLE: codes.NO_SIGNIFICANT_CHANGE,
        Change.SHRINKING: codes.DECREASE_IN_SIZE,
    }
)


def time_point(finding: Finding) -> list[bytes]:
    """Return when a group was measured, told from the earlier study (TID 1502 row 1).

    In words alone: PixelMed 2022 takes a Longitudinal Temporal Offset from Event (row 7), a number,
    for one of the group's measurements and calls the report wrong.
    """
    prior = finding.prior
    if prior is None or prior.interval_days is None:
        return []
    when = f"{prior.interval_days} days after {prior.study_date}"
    return [content.text(Relation.HAS_OBS_CONTEXT, codes.TIME_POINT, when)]


def change_of(finding: Finding, relation: Relation = Relation.CONTAINS) -> list[bytes]:
    """Return the coded change of a finding; nothing where none was seen for certain."""
    change = CHANGES.get(finding.prior.change) if finding.prior else None
    return [] if change is None else [content.code(relation, codes.QUALITATIVE_DIFFERENCE, change)]


def earlier_reports(findings: Iterable[Finding]) -> list[InstanceReference]:
    """Return the reports of the earlier studies that findings were compared with, each once."""
    references = {
        prior.report.sop_instance_uid: InstanceReference(
            prior.study_instance_uid,
            prior.report.series_instance_uid,
            prior.report.sop_class_uid,
            prior.report.sop_instance_uid,
        )
        for finding in findings
        if (prior := finding.prior) is not None and prior.report is not None
    }
    return list(references.values())
