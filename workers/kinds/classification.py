"""Classification: statements about a radiograph, with the evidence for each on the image."""

from collections.abc import Sequence

import cc3d
import numpy as np
from numpy.typing import NDArray

from service.core import codes
from service.core.errors import InvalidModel
from service.core.findings import Analysis, Code, FindingMask, Location, Measurement, RegionRole
from service.core.manifest_output import ClassificationDecoding, ClassSpec
from workers.kinds.contract import Context, logit, require_shape, sigmoid, take
from workers.kinds.guards import judge, radiograph_features
from workers.kinds.images import Fit, fit_of, on_canvas, on_image, resized
from workers.kinds.intensity import mapped
from workers.kinds.measurements import AREA, Measured, Plane
from workers.kinds.outlines import box_of, outline_of
from workers.kinds.scan import trimmed
from workers.kinds.statements import Statement, analysis_of, lowest_threshold
from workers.volume.radiograph import Radiograph

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

# A second region this large beside the largest belongs to the finding (both pleural cavities);
# smaller ones are noise of the map.
_SECOND_REGION = 0.2
_BILATERAL_SHARE = 0.25


class Classification:
    """Says which findings an image shows."""

    def analyse(self, image: Radiograph, context: Context) -> Analysis:
        """Return one finding a class, absent ones too, with evidence for the others.

        Raises
        ------
        UnsuitableSeries
            When a guard refuses the image.
        ContractViolation
            When the network breaks its promise.
        """
        features = radiograph_features(image.pixels)
        scores = judge(context.manifest.guard, features, package=context.package)
        fit, feed = network_image(image, context)
        outputs = context.run("classifier", feed[None])
        context.progress("classifier", 1.0)
        logits = take(outputs, "logits", package=context.package)[0]
        specs = context.manifest.classes
        require_shape(logits, (len(specs),), name="logits", package=context.package)
        probabilities = _probabilities(logits, context)
        maps = outputs.get("evidence")
        if maps is not None:
            shape = (1, len(specs), None, None)
            require_shape(maps, shape, name="evidence", package=context.package)
        statements = [
            _statement(
                spec, probability, None if maps is None else maps[0, place], image, fit, context
            )
            for place, (spec, probability) in enumerate(zip(specs, probabilities, strict=True))
            if spec.kind in ("finding", "lesion")
        ]
        return analysis_of(statements, context, scores)


def network_image(image: Radiograph, context: Context) -> tuple[Fit, Array]:
    """Return how the image lies on the network's canvas, and the canvas (channels, H, W)."""
    settings = context.manifest.input
    if settings.size is None or len(settings.size) != 2:
        raise InvalidModel("MANIFEST", f"{context.package}: input.size: allowed (rows, columns)")
    rows, columns = image.pixels.shape
    fit = fit_of((rows, columns), (settings.size[0], settings.size[1]), settings.fit)
    scaled = mapped(
        resized(image.pixels, fit.scaled), settings.intensity, value_range=image.value_range
    )
    # Bars are as dark as the image itself, whatever its normalisation made of that.
    padding = float(scaled.min()) if settings.padding_value is None else settings.padding_value
    canvas = on_canvas(scaled, fit, padding=padding)
    return fit, np.repeat(canvas[None], settings.channels, axis=0)


def decoding_of(context: Context) -> ClassificationDecoding:
    """Return the manifest's decoding, which for this kind is that of a classification."""
    decoding = context.manifest.decoding
    if not isinstance(decoding, ClassificationDecoding):
        raise InvalidModel("MANIFEST", f"{context.package}: decoding.kind: found {decoding.kind}")
    return decoding


def _probabilities(logits: Array, context: Context) -> list[float]:
    """Return calibrated probabilities, by class."""
    activation = decoding_of(context).activation
    if activation == "softmax":
        shares = np.exp(logits - logits.max())
        logits = np.array([logit(share) for share in shares / shares.sum()], dtype=np.float32)
    elif activation == "none":
        logits = np.array([logit(value) for value in logits], dtype=np.float32)
    own = [context.manifest.calibration.of(spec.name) for spec in context.manifest.classes]
    scaled = [value / c.temperature + c.bias for value, c in zip(logits, own, strict=True)]
    return [float(p) for p in sigmoid(np.array(scaled, dtype=np.float32))]


def _statement(
    spec: ClassSpec,
    probability: float,
    evidence: Array | None,
    image: Radiograph,
    fit: Fit,
    context: Context,
) -> Statement:
    if (
        evidence is None
        or not spec.has_region
        or probability < lowest_threshold(context, spec.name)
    ):
        return Statement(spec, probability)
    decoding = decoding_of(context)
    active = sigmoid(evidence) if decoding.evidence_activation == "sigmoid" else _relative(evidence)
    upright = np.clip(on_image(active, fit), 0.0, 1.0)
    region = _region(upright, decoding)
    if region is None:
        return Statement(spec, probability, evidence=image.map_on_source(upright))
    mask = image.map_on_source(region)
    return Statement(
        spec=spec,
        probability=probability,
        measured=_measured(mask, image, context.manifest.measurements.take),
        mask=trimmed((0, 0, 0), mask[None]),
        evidence=image.map_on_source(upright),
        laterality=_side(region) if spec.lateral else None,
    )


def _relative(evidence: Array) -> Array:
    low, high = float(evidence.min()), float(evidence.max())
    return np.asarray((evidence - low) / (high - low if high > low else 1.0), dtype=np.float32)


def _region(evidence: Array, decoding: ClassificationDecoding) -> Mask | None:
    """Return the pixels that carry the finding: the largest piece and any that match it."""
    highest = float(evidence.max())
    if highest <= 0:
        return None
    enough = highest >= decoding.mask_threshold
    threshold = decoding.mask_threshold if enough else decoding.region_threshold * highest
    labels = cc3d.connected_components(evidence >= max(threshold, 1e-6), connectivity=8)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    wanted = sizes >= max(1, _SECOND_REGION * sizes.max())
    region: Mask = wanted[labels]
    return region


def _measured(mask: Mask, image: Radiograph, wanted: Sequence[str]) -> Measured:
    """Return outline and box of the largest piece on the stored image, measured where possible."""
    labels = cc3d.connected_components(mask, connectivity=8)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    block = trimmed((0, 0, 0), (labels == sizes.argmax())[None])
    if block is None:
        raise ValueError("an empty mask has no outline")
    plane = _plane(block, image)
    regions = [
        plane.region(RegionRole.OUTLINE, outline_of(plane.pixels)),
        plane.region(RegionRole.BOX, box_of(plane.pixels)),
    ]
    measurements = []
    if image.spacing_mm is not None:
        axes = plane.axes()
        area = Measurement(name="area", value=plane.area_mm2, unit="mm2", code=AREA)
        found = {
            "long_axis": (RegionRole.LONG_AXIS, axes.long, codes.LONG_AXIS),
            "short_axis": (RegionRole.SHORT_AXIS, axes.short, codes.SHORT_AXIS),
        }
        for name in wanted:
            if name in found:
                role, chord, code = found[name]
                regions.append(plane.region(role, chord.ends))
                measurements.append(
                    Measurement(name=name, value=chord.length_mm, unit="mm", code=code)
                )
        measurements += [area] if "area" in wanted else []
    location = Location(
        sop_instance_uid=image.frame.instance.sop_instance_uid,
        frame_number=image.frame.frame_number,
        regions=tuple(regions),
    )
    return Measured(tuple(measurements), location)


def _plane(block: FindingMask, image: Radiograph) -> Plane:
    rows_mm, columns_mm = image.spacing_mm or (1.0, 1.0)
    if image.turn.transpose:
        rows_mm, columns_mm = columns_mm, rows_mm
    return Plane(
        frame=image.frame,
        pixels=block.voxels[0],
        row=block.offset[1],
        column=block.offset[2],
        row_spacing_mm=rows_mm,
        column_spacing_mm=columns_mm,
    )


def _side(upright: Mask) -> Code:
    """Return the side of the patient: an upright image shows the right one on its left."""
    half = upright.shape[1] // 2
    right = float(upright[:, :half].sum()) / float(upright.sum())
    if min(right, 1 - right) >= _BILATERAL_SHARE:
        return codes.BILATERAL
    return codes.RIGHT if right > 0.5 else codes.LEFT
