"""Findings drawn on their images, for people whose viewer shows nothing else.

No identity is ever drawn: the picture may be copied out of the PACS.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from service.core.findings import Analysis, Finding, Qualifier, RegionRole, RegionShape
from service.core.headers import SourceFrame

Rgb = NDArray[np.uint8]

_EDGE: Final = 448  # pixels of the longer side of one of several images
_EDGE_OF_ONE: Final = 1024
_TILES: Final = 6
_TILES_A_ROW: Final = 3
_LINE: Final = 18
_TEXT: Final = (235, 235, 235)
_NOTE: Final = (255, 120, 120)
_MARKS: Final = (
    (255, 90, 90), (90, 220, 110), (110, 160, 255), (250, 210, 70),
    (225, 120, 235), (80, 220, 220), (255, 165, 70), (200, 200, 200),
)  # fmt: skip
_HEAT_OPACITY: Final = 0.45


@dataclass(frozen=True)
class Display:
    """The pixels to draw on, as they were analysed.

    ``voxels`` are modality values (HU for CT) on the source frames, shape (frames, rows,
    columns). ``window`` is (lower, upper) in the same unit; without one the instance's own is
    taken, else the frame's percentiles. With ``inverted``, larger values are darker.
    """

    voxels: NDArray[np.generic]
    window: tuple[float, float] | None = None
    inverted: bool = False


def summary_image(
    analysis: Analysis, frames: Sequence[SourceFrame], display: Display, lines: Sequence[str]
) -> Rgb:
    """Return one picture: the frames that show findings, their outlines, and what was found.

    Parameters
    ----------
    lines
        Written at the top, such as the model's name and what the result may be used for.

    Returns
    -------
    NDArray
        Shape (rows, columns, 3), 8 bits a colour.
    """
    painter = _Painter(analysis, frames, display)
    tiles = [painter.tile(index) for index in painter.shown]
    elsewhere = [sentence(f) for f in analysis.findings if f.id not in painter.drawn]
    if not analysis.findings:
        elsewhere = ["No findings"]
    return np.asarray(_page(tiles, lines, elsewhere))


def key_images(
    analysis: Analysis, frames: Sequence[SourceFrame], display: Display
) -> list[Image.Image]:
    """Return the frames that show findings, each with its outlines and a line for each finding."""
    painter = _Painter(analysis, frames, display)
    return [painter.tile(index) for index in painter.shown] if painter.drawn else []


class _Painter:
    """Draws single frames; knows which frames are worth showing."""

    def __init__(self, analysis: Analysis, frames: Sequence[SourceFrame], display: Display) -> None:
        self._analysis, self._frames, self._display = analysis, frames, display
        self._edge = _EDGE_OF_ONE if len(frames) == 1 else _EDGE
        index_of = {(f.instance.sop_instance_uid, f.frame_number): i for i, f in enumerate(frames)}
        self._on: dict[int, list[Finding]] = {}
        for finding in sorted(analysis.findings, key=lambda f: -f.probability):
            place = finding.location
            index = index_of.get((place.sop_instance_uid, place.frame_number)) if place else None
            if index is not None and finding.qualifier is not Qualifier.ABSENT:
                self._on.setdefault(index, []).append(finding)
        self.shown = list(self._on)[:_TILES] or [len(frames) // 2]
        self.drawn = {f.id for index in self.shown for f in self._on.get(index, [])}

    def tile(self, index: int) -> Image.Image:
        """Return one frame with what lies on it, and a line of text for each finding below."""
        picture = self._grey(index)
        findings = self._on.get(index, [])
        size = self._size(index)
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        for number, finding in enumerate(findings):
            picture = self._marked(picture, finding, index, _MARKS[number % len(_MARKS)])
        captions = [f"Frame {index + 1} of {len(self._frames)}"] if len(self._frames) > 1 else []
        tile = Image.new("RGB", (size[0], size[1] + _LINE * (len(findings) + len(captions)) + 4))
        tile.paste(picture)
        draw = ImageDraw.Draw(tile)
        _write(draw, (4, size[1] + 2), captions, _TEXT)
        for number, finding in enumerate(findings):
            at = (4, size[1] + 2 + _LINE * (number + len(captions)))
            _write(draw, at, [sentence(finding)], _MARKS[number % len(_MARKS)])
        return tile

    def _grey(self, index: int) -> Image.Image:
        values = np.asarray(self._display.voxels[index], np.float32)
        lower, upper = self._window(index, values)
        grey = np.clip((values - lower) / max(upper - lower, 1e-6), 0, 1)
        grey = 1 - grey if self._display.inverted else grey
        return Image.fromarray((grey * 255).astype(np.uint8)).convert("RGB")

    def _window(self, index: int, values: NDArray[np.float32]) -> tuple[float, float]:
        if self._display.window:
            return self._display.window
        instance = self._frames[index].instance
        if instance.window_center is not None and instance.window_width:
            half = instance.window_width / 2
            return instance.window_center - half, instance.window_center + half
        lower, upper = np.percentile(values, (1, 99))
        return float(lower), float(upper)

    def _size(self, index: int) -> tuple[int, int]:
        """Return (width, height) on the page, with the proportions of the body."""
        rows, columns = self._display.voxels.shape[1:]
        geometry = self._frames[index].geometry
        tall = rows * (geometry.row_spacing_mm or 1.0)
        wide = columns * (geometry.column_spacing_mm or 1.0)
        scale = self._edge / max(tall, wide)
        return max(1, round(wide * scale)), max(1, round(tall * scale))

    def _marked(
        self, picture: Image.Image, finding: Finding, index: int, color: tuple[int, int, int]
    ) -> Image.Image:
        """Return the picture with a finding's map, outline or regions on it."""
        heat = self._analysis.maps.get(finding.id)
        if heat is not None:
            picture = _heated(picture, heat)
        mask = self._analysis.masks.get(finding.id)
        if mask is not None and 0 <= index - mask.offset[0] < len(mask.voxels):
            whole = np.zeros(self._display.voxels.shape[1:], bool)
            voxels = mask.voxels[index - mask.offset[0]]
            _, row, column = mask.offset
            whole[row : row + voxels.shape[0], column : column + voxels.shape[1]] = voxels
            picture = _outlined(picture, whole, color)
        scale = np.divide(picture.size, self._display.voxels.shape[:0:-1])
        _draw_regions(picture, finding, scale, color)
        return picture


def _draw_regions(
    picture: Image.Image, finding: Finding, scale: NDArray[np.float64], color: tuple[int, int, int]
) -> None:
    """Draw boxes, outlines and points; axes would hide a small lesion."""
    draw = ImageDraw.Draw(picture)
    for region in finding.location.regions if finding.location else ():
        points = [(float(x * scale[0]), float(y * scale[1])) for x, y in region.points]
        if region.shape is RegionShape.POINT:
            x, y = points[0]
            draw.ellipse((x - 8, y - 8, x + 8, y + 8), outline=color, width=2)
        elif region.role in (RegionRole.BOX, RegionRole.OUTLINE):
            draw.line(points, fill=color, width=2)


def _heated(picture: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """Return the picture with a map of evidence over it, from blue to red."""
    size = picture.size
    wide = Image.fromarray(np.asarray(heat, np.float32)).resize(size, Image.Resampling.BILINEAR)
    strength = np.clip(np.asarray(wide), 0, 1)[..., None]
    centers = np.array([0.75, 0.5, 0.25], np.float32)
    colors = 255 * np.clip(1.5 - 4 * np.abs(strength - centers), 0, 1)
    opacity = _HEAT_OPACITY * strength
    mixed = (1 - opacity) * np.asarray(picture, np.float32) + opacity * colors
    return Image.fromarray(mixed.astype(np.uint8))


def _outlined(
    picture: Image.Image, mask: NDArray[np.bool_], color: tuple[int, int, int]
) -> Image.Image:
    """Return the picture with the mask's rim drawn just inside it."""
    scaled = Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST)
    padded = np.pad(np.asarray(scaled, bool), 2)
    inner = padded.copy()
    for shift in (-2, -1, 1, 2):
        inner &= np.roll(padded, shift, 0) & np.roll(padded, shift, 1)
    rim = (padded & ~inner)[2:-2, 2:-2]
    pixels = np.array(picture)
    pixels[rim] = color
    return Image.fromarray(pixels)


def _page(
    tiles: Sequence[Image.Image], lines: Sequence[str], elsewhere: Sequence[str]
) -> Image.Image:
    """Return tiles in rows between the heading and the list of findings without a picture."""
    rows = [tiles[i : i + _TILES_A_ROW] for i in range(0, len(tiles), _TILES_A_ROW)]
    width = max(480, *(sum(tile.width + 8 for tile in row) + 8 for row in rows))
    heights = [max(tile.height for tile in row) + 8 for row in rows]
    top = _LINE * len(lines) + 12
    page = Image.new("RGB", (width, top + sum(heights) + _LINE * len(elsewhere) + 8))
    draw = ImageDraw.Draw(page)
    _write(draw, (8, 6), lines, _NOTE)
    for row, height in zip(rows, heights, strict=True):
        left = 8
        for tile in row:
            page.paste(tile, (left, top))
            left += tile.width + 8
        top += height
    _write(draw, (8, top), elsewhere, _TEXT)
    return page


def _write(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    lines: Sequence[str],
    color: tuple[int, int, int],
) -> None:
    font = ImageFont.load_default(14)
    for number, line in enumerate(lines):
        draw.text((at[0], at[1] + number * _LINE), line, fill=color, font=font)


def sentence(finding: Finding) -> str:
    """Return what is known of a finding in one line of plain letters."""
    words = [f"{finding.label.meaning} {100 * finding.probability:.0f} %"]
    long, short = finding.measured("long_axis"), finding.measured("short_axis")
    if long is not None and short is not None:
        words.append(f"{long:.1f} x {short:.1f} mm")
    volume = finding.measured("volume")
    if volume is not None:
        words.append(f"{volume:.0f} mm3")
    if finding.qualifier is not Qualifier.PRESENT:
        words.append(f"({finding.qualifier})")
    return "  ".join(words)
