"""Detection: a heat map or boxes give candidates; more networks weigh and outline them.

The detector runs in windows over the part of the scan that the manifest names; what it finds is
then judged one by one (`workers.kinds.candidates`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.core.errors import InvalidModel
from service.core.findings import Analysis, FindingMask
from service.core.manifest_input import Tiling
from service.core.manifest_output import ClassSpec
from workers.inference.tiling import Blend, Plan, blend_windows, padded, plan_windows
from workers.kinds.boxes import box_peaks
from workers.kinds.candidates import Candidate, decoding_of, malignancies, outlined, weighed
from workers.kinds.contract import Context, require_shape, take
from workers.kinds.guards import features_of, judge
from workers.kinds.intensity import mapped, padding_of
from workers.kinds.measurements import measure_ball, measure_mask
from workers.kinds.peaks import Heat, Peak, find_peaks, merge_peaks
from workers.kinds.scan import Scan
from workers.kinds.statements import Statement, analysis_of
from workers.volume.grid import Grid, canonical_grid
from workers.volume.series import Volume

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Detection:
    """Finds lesions of a volume one by one."""

    def analyse(self, image: Volume, context: Context) -> Analysis:
        """Return the candidates above the floor, each measured and placed on the source images.

        Raises
        ------
        UnsuitableSeries
            When a guard refuses the scan.
        ContractViolation
            When a network breaks its promise.
        """
        scan = Scan(image)
        features = features_of(scan.coarse, scan.anatomy, image.voxels)
        scores = judge(context.manifest.guard, features, package=context.package)
        candidates = weighed(_candidates(scan, context), scan, context)
        masks = outlined(candidates, scan, context)
        malignant = malignancies(candidates, scan, context)
        statements = [
            _statement(candidate, mask, probability, scan, context)
            for candidate, mask, probability in zip(candidates, masks, malignant, strict=True)
        ]
        return analysis_of(statements, context, scores)


def _candidates(scan: Scan, context: Context) -> list[Candidate]:
    """Run the detector and return what its heat map shows, strongest first."""
    manifest, decoding = context.manifest, decoding_of(context)
    tiling, spacing_mm = manifest.tiling, manifest.input.spacing_mm
    if tiling is None or spacing_mm is None:
        raise InvalidModel("MANIFEST", f"{context.package}: input.spacing_mm and tiling are needed")
    grid = canonical_grid(scan.volume, spacing_mm, axes=manifest.input.axes)
    region = scan.region_on(grid, tiling.region, tiling.margin_mm)
    if region is not None and not region.any():
        return []
    volume = padded(
        mapped(scan.on(grid), manifest.input.intensity, population=scan.volume.voxels),
        tiling.patch,
        stride=decoding.stride,
        value=padding_of(manifest.input),
    )
    plan = plan_windows(
        volume.shape,
        tiling.patch,
        overlap=tiling.overlap,
        stride=decoding.stride,
        region=_grown(region, volume.shape),
    )
    if decoding.form == "boxes":
        found = box_peaks(volume, plan, grid.spacing_mm, context)
    else:
        heat = _heat(_blend(volume, plan, tiling, context), plan, context)
        found = find_peaks(heat, decoding)
    peaks = [peak for peak in found if _lies_in(peak, grid.shape, region)]
    merged = merge_peaks(
        peaks,
        spacing_mm=grid.spacing_mm,
        distance_mm=decoding.merge_distance_mm,
        limit=decoding.max_candidates,
    )
    return [_candidate(peak, grid, manifest.classes) for peak in merged]


def _blend(volume: Array, plan: Plan, tiling: Tiling, context: Context) -> Blend:
    return blend_windows(
        volume,
        plan,
        lambda windows: context.run("detector", windows),
        blending=tiling.blending,
        batch=tiling.batch,
        on_window=lambda done, total: context.progress("detector", done / total),
    )


def _heat(blend: Blend, plan: Plan, context: Context) -> Heat:
    channels = {"heat": len(context.manifest.classes), "offset": 3, "log_diameter": 1}
    maps = {name: take(blend.maps, name, package=context.package) for name in channels}
    for name, count in channels.items():
        require_shape(maps[name], (count, None, None, None), name=name, package=context.package)
    depth, height, width = plan.frame
    start = (depth.start, height.start, width.start)
    return Heat(start, maps["heat"], maps["offset"], maps["log_diameter"], blend.covered)


def _grown(region: Mask | None, shape: Sequence[int]) -> Mask | None:
    """Return the region on the padded volume."""
    if region is None:
        return None
    return np.pad(region, [(0, b - a) for a, b in zip(region.shape, shape, strict=True)])


def _lies_in(peak: Peak, shape: Sequence[int], region: Mask | None) -> bool:
    """Return whether a peak lies in the scan and in the region that was asked for."""
    place = np.rint(peak.index).astype(int)
    if (place < 0).any() or (place >= shape).any():
        return False
    return region is None or bool(region[tuple(place)])


def _candidate(peak: Peak, grid: Grid, classes: Sequence[ClassSpec]) -> Candidate:
    return Candidate(
        classes[peak.channel], grid.patient_mm(peak.index), peak.diameter_mm, peak.logit
    )


def _statement(
    candidate: Candidate,
    mask: FindingMask | None,
    malignancy: float | None,
    scan: Scan,
    context: Context,
) -> Statement:
    wanted = context.manifest.measurements.take
    measured = (
        measure_mask(mask, scan.volume, wanted)
        if mask
        else measure_ball(candidate.center_mm, candidate.diameter_mm, scan.volume, wanted)
    )
    return Statement(
        spec=candidate.spec,
        probability=candidate.probability,
        measured=measured,
        mask=mask,
        malignancy=malignancy,
        laterality=scan.side_of(candidate.center_mm) if candidate.spec.lateral else None,
    )
