"""Measurements of a finding on the source images: axes, volume, attenuation, and their place."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.core import codes
from service.core.findings import (
    Code,
    FindingMask,
    Location,
    Measurement,
    PlanarRegion,
    RegionRole,
    RegionShape,
)
from service.core.headers import SourceFrame
from workers.kinds.outlines import Axes, Point, box_of, outline_of, recist_axes
from workers.volume.resample import point_on_source
from workers.volume.series import Volume

Floats = NDArray[np.float64]

AREA = Code(value="42798000", scheme="SCT", meaning="Area")
HOUNSFIELD_UNIT = "[hnsf'U]"


@dataclass(frozen=True)
class Measured:
    """What was measured of one finding, and where it is shown."""

    measurements: tuple[Measurement, ...]
    location: Location


@dataclass(frozen=True)
class Plane:
    """One plane of a mask: boolean pixels, and where and how large they are in the frame."""

    frame: SourceFrame
    pixels: NDArray[np.bool_]
    row: int
    column: int
    row_spacing_mm: float
    column_spacing_mm: float

    def axes(self) -> Axes:
        """Return the RECIST axes, in pixels of the block."""
        return recist_axes(
            self.pixels,
            row_spacing_mm=self.row_spacing_mm,
            column_spacing_mm=self.column_spacing_mm,
        )

    @property
    def area_mm2(self) -> float:
        """Area of the mask in this plane."""
        return float(self.pixels.sum()) * self.row_spacing_mm * self.column_spacing_mm

    def region(self, role: RegionRole, points: Sequence[Point]) -> PlanarRegion:
        """Return points of the block as a region of the frame."""
        moved = tuple((x + self.column, y + self.row) for x, y in points)
        return PlanarRegion(
            role=role,
            shape=RegionShape.POLYLINE,
            sop_instance_uid=self.frame.instance.sop_instance_uid,
            frame_number=self.frame.frame_number,
            points=moved,
        )


def measure_mask(mask: FindingMask, volume: Volume, take: Sequence[str]) -> Measured:
    """Measure a mask on the source planes.

    The axes are taken in the plane where the mask is largest; volume and attenuation over all
    planes. Names in `take` are those of the manifest; attenuation is left out where voxels are not
    in Hounsfield units.
    """
    plane = _largest_plane(mask, volume)
    axes = plane.axes()
    thickness = plane_depths_mm(volume)[mask.offset[0] :][: len(mask.voxels)]
    pixel_mm2 = plane.row_spacing_mm * plane.column_spacing_mm
    volume_mm3 = float((mask.voxels.sum(axis=(1, 2)) * thickness).sum() * pixel_mm2)
    found = {
        "long_axis": _mm("long_axis", axes.long.length_mm, codes.LONG_AXIS),
        "short_axis": _mm("short_axis", axes.short.length_mm, codes.SHORT_AXIS),
        "diameter": sphere_diameter(volume_mm3),
        "area": Measurement(name="area", value=plane.area_mm2, unit="mm2", code=AREA),
        "volume": Measurement(name="volume", value=volume_mm3, unit="mm3", code=codes.VOLUME),
    }
    found |= _attenuation(mask, volume)
    location = Location(
        center_mm=_triple(_centroid_mm(mask, volume)),
        sop_instance_uid=plane.frame.instance.sop_instance_uid,
        frame_number=plane.frame.frame_number,
        regions=(
            plane.region(RegionRole.OUTLINE, outline_of(plane.pixels)),
            plane.region(RegionRole.BOX, box_of(plane.pixels)),
            plane.region(RegionRole.LONG_AXIS, axes.long.ends),
            plane.region(RegionRole.SHORT_AXIS, axes.short.ends),
        ),
    )
    return Measured(tuple(found[name] for name in take if name in found), location)


def measure_ball(
    center_mm: Floats, diameter_mm: float, volume: Volume, take: Sequence[str]
) -> Measured:
    """Return place and size of a candidate of which only centre and diameter are known."""
    place, stack = point_on_source(volume, center_mm), volume.stack
    frame, column, row = place.frame, place.column, place.row
    half_x = diameter_mm / 2 / stack.column_spacing_mm
    half_y = diameter_mm / 2 / stack.row_spacing_mm
    header = frame.instance
    left, right = _within(column - half_x, header.columns), _within(column + half_x, header.columns)
    top, bottom = _within(row - half_y, header.rows), _within(row + half_y, header.rows)
    corners = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
    box = PlanarRegion(
        role=RegionRole.BOX,
        shape=RegionShape.POLYLINE,
        sop_instance_uid=header.sop_instance_uid,
        frame_number=frame.frame_number,
        points=corners,
    )
    location = Location(
        center_mm=_triple(center_mm),
        sop_instance_uid=header.sop_instance_uid,
        frame_number=frame.frame_number,
        regions=(box,),
    )
    size = _mm("diameter", diameter_mm, codes.DIAMETER)
    return Measured((size,) if "diameter" in take else (), location)


def sphere_diameter(volume_mm3: float) -> Measurement:
    """Return the diameter of the ball of a volume."""
    return _mm("diameter", float(np.cbrt(6 * volume_mm3 / np.pi)), codes.DIAMETER)


def plane_depths_mm(volume: Volume) -> Floats:
    """Return how much of the patient each source plane stands for: half-way to its neighbours."""
    distances = volume.stack.distances_mm
    if len(distances) < 2:
        return np.ones(len(distances))
    gaps = np.diff(distances)
    return np.concatenate([gaps[:1], (gaps[:-1] + gaps[1:]) / 2, gaps[-1:]])


def _largest_plane(mask: FindingMask, volume: Volume) -> Plane:
    first, row, column = mask.offset
    index = int(mask.voxels.sum(axis=(1, 2)).argmax())
    return Plane(
        frame=volume.frames[first + index],
        pixels=mask.voxels[index],
        row=row,
        column=column,
        row_spacing_mm=volume.stack.row_spacing_mm,
        column_spacing_mm=volume.stack.column_spacing_mm,
    )


def _centroid_mm(mask: FindingMask, volume: Volume) -> Floats:
    planes, rows, columns = np.nonzero(mask.voxels)
    stack = volume.stack
    origins = stack.origins_mm[planes + mask.offset[0]]
    across = (columns + mask.offset[2])[:, None] * stack.row_direction * stack.column_spacing_mm
    down = (rows + mask.offset[1])[:, None] * stack.column_direction * stack.row_spacing_mm
    center: Floats = (origins + across + down).mean(axis=0)
    return center


def _attenuation(mask: FindingMask, volume: Volume) -> dict[str, Measurement]:
    """Return mean and deviation in HU, where the mask's planes are the volume's slices."""
    if volume.unit != "HU" or volume.is_resampled:
        return {}
    first, row, column = mask.offset
    planes, rows, columns = mask.voxels.shape
    block = volume.voxels[first : first + planes, row : row + rows, column : column + columns]
    values = block[mask.voxels].astype(np.float64)
    mean = Measurement(
        name="mean_hu",
        value=float(values.mean()),
        unit=HOUNSFIELD_UNIT,
        code=codes.MEAN_ATTENUATION_COEFFICIENT,
    )
    deviation = Measurement(name="sd_hu", value=float(values.std()), unit=HOUNSFIELD_UNIT)
    return {"mean_hu": mean, "sd_hu": deviation}


def _within(place: float, length: int | None) -> float:
    return float(min(max(place, 0.0), float(length or 0)))


def _mm(name: str, value: float, code: Code) -> Measurement:
    return Measurement(name=name, value=value, unit="mm", code=code)


def _triple(point: Floats) -> tuple[float, float, float]:
    return float(point[0]), float(point[1]), float(point[2])
