"""Put synthetic nodules into a real scan's lungs and count how many the package finds.

``python -m models.training.nodule_insertion --series DIR --package DIR [--nodules 60] --out FILE``

Real lungs, synthetic nodules: this measures the networks among real vessels and noise, not on real
disease. Each nodule is painted into a copy of its surroundings and judged there by the package's
own networks and calibration; false positives are those of the untouched scan, measured apart.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pydicom
from scipy import ndimage

from models.phantoms.geometry import Grid, resample
from models.phantoms.nodules import Lesion, LesionForm, make_lesion, paint_lesion
from models.phantoms.population import NoduleKind, Site
from service.core.manifest import Manifest, read_manifest

_HALF_MM = 48.0
_SIZES_MM = ((4.0, 6.0), (6.0, 10.0), (10.0, 20.0))
_KINDS = (NoduleKind.SOLID, NoduleKind.IRREGULAR, NoduleKind.GROUND_GLASS, NoduleKind.SPICULATED)


@dataclass(frozen=True)
class Place:
    """A nodule to be inserted, and the probability that the package gave it (0: no candidate)."""

    lesion: Lesion
    probability: float


def read_series(folder: Path) -> tuple[np.ndarray, Grid]:
    """Return HU and grid of an axial series without tilt, slices from the feet up."""
    slices = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    slices.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    hu = np.stack([
        ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in slices
    ]).astype(np.float32)  # fmt: skip
    x, y, z = (float(v) for v in slices[0].ImagePositionPatient)
    step = float(slices[1].ImagePositionPatient[2]) - z
    rows, columns = (float(v) for v in slices[0].PixelSpacing)
    return hu, Grid((x, y, z), (columns, rows, step), hu.shape)


def lung_depth(hu: np.ndarray, grid: Grid) -> tuple[np.ndarray, Grid]:
    """Return the depth under the lung's surface on a 3 mm grid, in mm; 0 outside the lungs."""
    shape = tuple(int(grid.spacing_mm[a] * (grid.shape[2 - a] - 1) / 3) + 1 for a in (2, 1, 0))
    coarse = Grid(grid.origin_mm, (3.0, 3.0, 3.0), (shape[0], shape[1], shape[2]))
    dark = ndimage.gaussian_filter(resample(hu, grid, coarse), 1) < -500
    pieces, count = ndimage.label(dark)
    border = set(np.unique(pieces[:, [0, -1], :])) | set(np.unique(pieces[:, :, [0, -1]]))
    sizes = ndimage.sum(dark, pieces, range(count + 1))
    lungs = [n for n in range(1, count + 1) if n not in border and sizes[n] > 10_000]
    filled = ndimage.binary_closing(np.isin(pieces, lungs), iterations=3)
    return ndimage.distance_transform_edt(filled) * 3.0, coarse


def inserted(hu: np.ndarray, grid: Grid, lesion: Lesion, blur_mm: float = 1.0) -> np.ndarray:
    """Return HU with a nodule painted in, averaged over the slices' depth and blurred."""
    depth = max(1, round(grid.spacing_mm[2]))
    window = grid.window(
        lesion.centre_mm - lesion.reach_mm - 4, lesion.centre_mm + lesion.reach_mm + 4
    )
    if window is None:
        return hu
    part = grid.part(window)
    step = part.spacing_mm[2] / depth
    start = part.origin_mm[2] - step * (depth - 1) / 2
    fine = Grid(
        (part.origin_mm[0], part.origin_mm[1], start),
        (part.spacing_mm[0], part.spacing_mm[1], step),
        (part.shape[0] * depth, part.shape[1], part.shape[2]),
    )
    before = np.repeat(hu[window], depth, axis=0)
    after = before.copy()
    paint_lesion(after, fine, lesion)
    added = (after - before).reshape(part.shape[0], depth, *part.shape[1:]).mean(1)
    sigma = blur_mm / 2.355 / part.spacing_mm[0]
    changed = hu.copy()
    changed[window] += ndimage.gaussian_filter(added, (0, sigma, sigma))
    return changed


class Judge:
    """The package's detector and second stage on one cube."""

    def __init__(self, package: Path) -> None:
        self.manifest: Manifest = read_manifest(package / "manifest.toml")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 2
        self._sessions = {
            net.role: ort.InferenceSession(str(package / net.file), options)
            for net in self.manifest.networks
        }

    def probability(self, hu: np.ndarray, grid: Grid, lesion: Lesion) -> float:
        """Return the best calibrated probability of a mark within the nodule's radius."""
        low = lesion.centre_mm - _HALF_MM
        side = int(2 * _HALF_MM)
        cube = Grid((low[0], low[1], low[2]), (1.0,) * 3, (side,) * 3)
        x = self._mapped(resample(hu, grid, cube))
        heat, offset, _ = self._sessions["detector"].run(None, {"volume": x[None, None]})
        logits = heat[0, 0]
        peaks = (logits == ndimage.maximum_filter(logits, 3)) & (logits > -2.94)
        best = 0.0
        for cell in np.argwhere(peaks):
            index = (cell + 0.5) * 2 - 0.5 + offset[(0, slice(None), *cell)]
            centre = low + index[::-1]
            if np.linalg.norm(centre - lesion.centre_mm) < lesion.radius_mm:
                best = max(best, self._weighed(hu, grid, centre, float(logits[tuple(cell)])))
        return best

    def _weighed(self, hu: np.ndarray, grid: Grid, centre: np.ndarray, heat: float) -> float:
        corner = centre - 15.5
        crop = Grid((corner[0], corner[1], corner[2]), (1.0,) * 3, (32,) * 3)
        x = self._mapped(resample(hu, grid, crop))
        second = float(self._sessions["reduction"].run(None, {"crop": x[None, None]})[0][0, 0])
        weights = self.manifest.calibration
        logit = weights.detector * heat + weights.reduction * second + weights.bias
        return float(1 / (1 + np.exp(-logit)))

    @staticmethod
    def _mapped(hu: np.ndarray) -> np.ndarray:
        return ((np.clip(hu, -1000, 400) + 300) / 700).astype(np.float32)


def draw_lesion(rng: np.random.Generator, depth: tuple[np.ndarray, Grid], number: int) -> Lesion:
    """Draw a nodule of a size band and kind that go round with `number`, inside the lungs."""
    low, high = _SIZES_MM[number % len(_SIZES_MM)]
    kind = _KINDS[number // len(_SIZES_MM) % len(_KINDS)]
    diameter = float(rng.uniform(low, high))
    if kind is NoduleKind.SPICULATED and diameter < 7:
        kind = NoduleKind.SOLID
    deep = np.argwhere(depth[0] > max(6.0, diameter / 2))
    index = deep[rng.integers(len(deep))] + rng.uniform(-0.5, 0.5, 3)
    centre = np.asarray(depth[1].origin_mm) + index[::-1] * 3.0
    hu = rng.uniform(-680, -420) if kind is NoduleKind.GROUND_GLASS else rng.uniform(-20, 80)
    rays = int(rng.integers(7, 14)) if kind is NoduleKind.SPICULATED else 0
    axes = tuple(rng.uniform(0.55, 1.0, 3)) if kind is NoduleKind.IRREGULAR else None
    form = LesionForm(rng.uniform(0.05, 0.2), axes, None, rays)
    return make_lesion(
        rng, centre, diameter, kind=kind, site=Site.PARENCHYMA, hu=float(hu), form=form
    )


def summary(places: list[Place], thresholds: dict[str, float]) -> dict[str, object]:
    """Return the share found at each operating point, by size and by kind."""
    groups: dict[str, list[float]] = {"all": []}
    for place in places:
        size = place.lesion.diameter_mm
        band = next(f"{a:g} to {b:g} mm" for a, b in _SIZES_MM if size <= b)
        for name in ("all", band, place.lesion.kind.value):
            groups.setdefault(name, []).append(place.probability)
    return {
        name: {
            "nodules": len(found),
            **{
                point: round(float(np.mean(np.array(found) >= least)), 4)
                for point, least in thresholds.items()
            },
        }
        for name, found in sorted(groups.items())
    }


def main() -> None:
    """Insert, judge and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=Path, required=True)
    parser.add_argument("--package", type=Path, default=Path("models/lung_nodule_detection"))
    parser.add_argument("--nodules", type=int, default=60)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    hu, grid = read_series(chosen.series)
    depth = lung_depth(hu, grid)
    judge, rng = Judge(chosen.package), np.random.default_rng(17)
    places = []
    for number in range(chosen.nodules):
        lesion = draw_lesion(rng, depth, number)
        found = judge.probability(inserted(hu, grid, lesion), grid, lesion)
        places.append(Place(lesion, found))
        print(f"{number} {lesion.kind} {lesion.diameter_mm:.1f} mm: {found:.3f}", flush=True)
    points = {point.name: point.present for point in judge.manifest.operating_points}
    chosen.out.write_text(json.dumps(summary(places, points), indent=1) + "\n")


if __name__ == "__main__":
    main()
