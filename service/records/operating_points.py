"""Findings judged anew: other thresholds on the candidates that are stored, no network run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from service.core.errors import InvalidRequest
from service.core.packages import ModelPackage
from service.records.study_view import StoredFinding


def at_operating_point(
    stored: Sequence[StoredFinding], name: str, packages: Mapping[str, ModelPackage]
) -> list[StoredFinding]:
    """Judge stored candidates by another operating point of the very model that found them.

    Findings of a model that has no point of that name keep their own, as long as another model
    of the study has one.

    Raises
    ------
    InvalidRequest
        ``OPERATING_POINT`` when no model of the study has such a point, or the version that
        found them is not installed any more.
    """
    judged = [_judged(item, name, packages.get(item.model_name)) for item in stored]
    if stored and not any(item.operating_point == name for item in judged):
        raise InvalidRequest("OPERATING_POINT", f"operating_point: {_known(stored, packages)}")
    return judged


def _judged(item: StoredFinding, name: str, package: ModelPackage | None) -> StoredFinding:
    if package is None or package.sha256 != item.model_sha256:
        return item
    point = next((one for one in package.manifest.operating_points if one.name == name), None)
    if point is None:
        return item
    qualifier = point.qualify(item.finding.class_name, item.finding.probability)
    judged = item.finding.model_copy(update={"qualifier": qualifier})
    return replace(item, finding=judged, operating_point=name)


def _known(stored: Sequence[StoredFinding], packages: Mapping[str, ModelPackage]) -> str:
    told = []
    for item in {one.model_name: one for one in stored}.values():
        package = packages.get(item.model_name)
        if package is None or package.sha256 != item.model_sha256:
            told.append(f"{item.model_name} {item.model_version} is not installed any more")
        else:
            points = ", ".join(point.name for point in package.manifest.operating_points)
            told.append(f"{item.model_name} has {points}")
    return "; ".join(told)
