"""What is drawn of a finding on each source frame: outlines, boxes, axes, and a line of words.

Points are (column, row) with (0, 0) at the top left corner of the top left pixel, which is what
both SCOORD (PS3.3 C.18.6.1.2) and graphic annotations in pixels (C.10.5.1.2) mean.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from service.core.findings import Analysis, Finding, FindingMask, RegionRole, RegionShape
from service.core.headers import SourceFrame
from workers.results.contours import loops_of
from workers.results.groups import is_placed
from workers.results.rendering import sentence

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Drawing:
    """One finding on one frame; ``lines`` are closed where they come back to their first point.

    ``number`` is that of the finding among those that are drawn, from 1. ``words`` stand on the
    frame that shows it best only.
    """

    finding: Finding
    number: int
    frame_index: int
    lines: tuple[Points, ...]
    words: str = ""

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """Left, top, right and bottom of what is drawn, or None where nothing is."""
        points = [point for line in self.lines for point in line]
        if not points:
            return None
        columns, rows = zip(*points, strict=True)
        return min(columns), min(rows), max(columns), max(rows)


def drawings_of(analysis: Analysis, frames: Sequence[SourceFrame]) -> Iterator[Drawing]:
    """Yield what is drawn, by finding and then by frame."""
    index_of = {(f.instance.sop_instance_uid, f.frame_number): i for i, f in enumerate(frames)}
    placed = [finding for finding in analysis.findings if is_placed(finding)]
    for number, finding in enumerate(placed, start=1):
        place = finding.location
        best = index_of.get((place.sop_instance_uid, place.frame_number)) if place else None
        lines = _outlines(analysis.masks.get(finding.id))
        if best is not None:
            lines[best] = [*lines.get(best, []), *_regions(finding, has_mask=best in lines)]
        for index in sorted(lines):
            words = sentence(finding) if index == best else ""
            yield Drawing(finding, number, index, tuple(lines[index]), words)


def _outlines(mask: FindingMask | None) -> dict[int, list[Points]]:
    """Return the closed outlines of a mask by source frame index."""
    if mask is None:
        return {}
    first, row, column = mask.offset
    return {
        first + int(plane): [
            tuple((float(x + column), float(y + row)) for x, y in (*loop, loop[0]))
            for loop in loops_of(mask.voxels[plane])
        ]
        for plane in np.flatnonzero(mask.voxels.any(axis=(1, 2)))
    }


def _regions(finding: Finding, *, has_mask: bool) -> Iterator[Points]:
    """Yield the regions that say more than a mask's own outline does."""
    regions = finding.location.regions if finding.location else ()
    outlined = has_mask or any(region.role is RegionRole.OUTLINE for region in regions)
    for region in regions:
        axis = region.role in (RegionRole.LONG_AXIS, RegionRole.SHORT_AXIS)
        outline = region.role is RegionRole.OUTLINE and not has_mask
        box = region.role is RegionRole.BOX and not outlined
        if region.shape is RegionShape.POINT or axis or outline or box:
            yield region.points
