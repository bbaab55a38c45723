"""Where a finding can be seen: the address of the frame, the window, and the outline over it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.core.findings import RegionRole, RegionShape
from service.core.packages import ModelPackage
from service.records.reviews import Review, Verdict
from service.records.study_view import StoredFinding

_OUTLINES = (RegionRole.OUTLINE, RegionRole.BOX)
# The piece of the frame that is shown is this many times the finding, and no less than this.
_CONTEXT = 3.5
_LEAST_PIXELS = 96.0


@dataclass(frozen=True)
class KeyImage:
    """One frame with a finding on it; coordinates are (column, row) in its pixels."""

    address: str
    rows: int
    columns: int
    view_box: str
    outlines: tuple[str, ...]


def key_image(
    stored: StoredFinding,
    study_instance_uid: str,
    sizes: Mapping[str, tuple[int, int]],
    package: ModelPackage | None,
) -> KeyImage | None:
    """Return the frame that shows a finding best, or None when there is none."""
    location = stored.finding.location
    if location is None or location.sop_instance_uid not in sizes:
        return None
    rows, columns = sizes[location.sop_instance_uid]
    regions = [
        region
        for region in location.regions
        if region.sop_instance_uid == location.sop_instance_uid
        and region.frame_number == location.frame_number
        and region.role in _OUTLINES
        and region.shape is RegionShape.POLYLINE
    ]
    address = (
        f"/dicom-web/studies/{study_instance_uid}/series/{stored.series_instance_uid}"
        f"/instances/{location.sop_instance_uid}/frames/{location.frame_number}/rendered"
        f"{window_query(package)}"
    )
    points = [point for region in regions for point in region.points]
    outlines = tuple(
        " ".join(f"{column:g},{row:g}" for column, row in region.points) for region in regions
    )
    return KeyImage(address, rows, columns, _view_box(points, rows, columns), outlines)


def edited_place(history: Sequence[Review]) -> Mapping[str, Any] | None:
    """Return where the newest edit put a finding: frame, column and row; None when nowhere."""
    if not history or history[-1].verdict is not Verdict.EDITED:
        return None
    place = history[-1].changes.get("place")
    return place if isinstance(place, Mapping) else None


def window_query(package: ModelPackage | None) -> str:
    """Return the model's own intensity window as WADO-RS asks for it (PS3.18 8.3.5.1.4)."""
    if package is None:
        return ""
    intensity = package.manifest.input.intensity
    if intensity.mode != "window" or package.manifest.applicability.modalities != ("CT",):
        return ""
    center = (intensity.lower + intensity.upper) / 2
    return f"?window={center:g},{intensity.upper - intensity.lower:g},linear"


def _view_box(points: list[tuple[float, float]], rows: int, columns: int) -> str:
    """Return the square piece of the frame around the points, kept inside the frame."""
    if not points:
        return f"0 0 {columns} {rows}"
    across = [point[0] for point in points]
    down = [point[1] for point in points]
    extent = max(max(across) - min(across), max(down) - min(down))
    edge = min(max(extent * _CONTEXT, _LEAST_PIXELS), float(min(rows, columns)))
    left = _inside((max(across) + min(across) - edge) / 2, columns - edge)
    top = _inside((max(down) + min(down) - edge) / 2, rows - edge)
    return f"{left:g} {top:g} {edge:g} {edge:g}"


def _inside(start: float, last: float) -> float:
    return min(max(start, 0.0), max(last, 0.0))
