"""Classification end to end: a bright patch is stated, boxed and mapped on the stored image."""

from typing import Any

import numpy as np
import pytest

from service.core import codes
from service.core.errors import ContractViolation, UnsuitableSeries
from service.core.findings import Qualifier, RegionRole
from service.core.headers import SourceFrame
from service.core.identifiers import finding_id, tracking_uid
from tests.builders import onnx, packages
from tests.builders.dicom import header_of, part10, radiograph
from workers.kinds.classification import network_image
from workers.kinds.contract import Context
from workers.kinds.images import fit_of, on_canvas, on_image, resized
from workers.models import load_model
from workers.volume.radiograph import Radiograph, Turn

SIZE = (96, 64)
STRIDE = 4
CLASSES = [
    {"name": "opacity", "kind": "finding", "label": packages.OPACITY, "site": packages.LUNG,
     "lateral": True},
    {"name": "normal", "kind": "finding", "label": packages.NORMAL, "has_region": False},
]  # fmt: skip
UPRIGHT = Turn()
IMAGE = (360, 300)
# Rows, columns of the upright image; it lies on the image's left, the patient's right.
PATCH = (slice(110, 230), slice(30, 120))


def identify(rank):
    return finding_id("job", rank), tracking_uid("job", rank)


def model(models_dir, *, network=None, **sections: Any):
    values = packages.manifest(
        "classification",
        **{
            "applicability": {"modalities": ["DX"]},
            "input": {"size": list(SIZE), "intensity": {"lower": 0, "upper": 1000}},
            "decoding": {"mask_threshold": 0.5},
            "classes": CLASSES,
            "measurements": {"take": ["long_axis", "short_axis", "area"]},
            **sections,
        },
    )
    content = network or onnx.classifier(size=SIZE, stride=STRIDE, threshold=0.6)
    package = packages.write_package(models_dir, values, {"classifier": content})
    return load_model(package, device="cpu", threads=1, probe=False)


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    path = tmp_path_factory.mktemp("dicom") / "image.dcm"
    path.write_bytes(part10(radiograph()[0]))
    return header_of(path)


def image(header, *, bright=(PATCH,), turn=UPRIGHT, spacing_mm=(0.5, 0.25)):
    pixels = np.full(IMAGE, 200, np.float32)
    for patch in bright:
        pixels[patch] = 900
    return Radiograph(
        pixels=pixels,
        value_range=(0.0, 1000.0),
        frame=SourceFrame(header),
        turn=turn,
        spacing_mm=spacing_mm,
    )


def by_class(analysis):
    return {finding.class_name: finding for finding in analysis.findings}


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_a_bright_patch_is_present_where_it_lies(tmp_path, header, fit):
    settings = {"size": list(SIZE), "intensity": {"lower": 0, "upper": 1000}, "fit": fit}
    analysis = model(tmp_path, input=settings).analyse(image(header), identify=identify)
    found = by_class(analysis)
    assert found["opacity"].qualifier is Qualifier.PRESENT
    assert found["normal"].qualifier is Qualifier.ABSENT
    assert found["normal"].location is None
    assert found["opacity"].laterality == codes.RIGHT
    box = next(r for r in found["opacity"].location.regions if r.role is RegionRole.BOX)
    corners = np.array(box.points)
    rows, columns = PATCH
    # One cell of the map is 4 pixels of the canvas and 15 to 19 of the image.
    assert corners.min(axis=0) == pytest.approx([columns.start, rows.start], abs=12)
    assert corners.max(axis=0) == pytest.approx([columns.stop, rows.stop], abs=12)
    evidence = analysis.maps[found["opacity"].id]
    assert evidence.shape == IMAGE
    assert evidence.dtype == np.float32
    assert evidence[PATCH].mean() > 0.7
    assert 0 <= evidence.min() <= evidence.max() <= 1
    assert evidence[:, 200:].max() < 0.01
    mask = analysis.masks[found["opacity"].id]
    assert mask.voxels.shape[0] == 1
    assert found["opacity"].segment_number == 1


def test_lengths_are_those_of_the_detector_plane(tmp_path, header):
    analysis = model(tmp_path).analyse(image(header), identify=identify)
    opacity = by_class(analysis)["opacity"]
    # 120 rows of 0.5 mm and 90 columns of 0.25 mm, to a cell of the map.
    assert opacity.measured("long_axis") == pytest.approx(np.hypot(60, 22.5), abs=6)
    assert opacity.measured("area") == pytest.approx(1350, rel=0.2)
    without = model(tmp_path).analyse(image(header, spacing_mm=None), identify=identify)
    assert by_class(without)["opacity"].measurements == ()


@pytest.mark.parametrize(
    "turn",
    [Turn(flip_columns=True), Turn(flip_rows=True), Turn(transpose=True),
     Turn(transpose=True, flip_rows=True)],
)  # fmt: skip
def test_evidence_lies_on_the_image_as_it_is_stored(tmp_path, header, turn):
    shown = image(header, turn=turn)
    analysis = model(tmp_path).analyse(shown, identify=identify)
    opacity = by_class(analysis)["opacity"]
    stored = turn.stored(shown.pixels)
    evidence = analysis.maps[opacity.id]
    assert evidence.shape == stored.shape
    assert evidence[stored == 900].mean() > 0.7
    assert evidence[stored != 900].mean() < 0.05
    mask = analysis.masks[opacity.id]
    whole = np.zeros(stored.shape, bool)
    _, row, column = mask.offset
    _, rows, columns = mask.voxels.shape
    whole[row : row + rows, column : column + columns] = mask.voxels[0]
    assert whole[stored == 900].mean() > 0.7
    box = next(r for r in opacity.location.regions if r.role is RegionRole.BOX)
    (left, top), _, (right, bottom), *_ = box.points
    assert (right - left, bottom - top) == (np.ptp(np.nonzero(whole)[1]) + 1,
                                            np.ptp(np.nonzero(whole)[0]) + 1)  # fmt: skip
    assert opacity.laterality == codes.RIGHT


def test_bars_are_as_dark_as_the_image(tmp_path, header):
    settings = {"size": list(SIZE), "intensity": {"mode": "standardise"}, "fit": "letterbox"}
    loaded = model(tmp_path, input=settings)
    context = Context(
        loaded.package.manifest, {}, loaded.package.manifest.operating_point(), identify
    )
    fit, canvas = network_image(image(header), context)
    assert fit.top > 0
    assert (canvas[0, : fit.top] == canvas.min()).all()
    inside = canvas[0, fit.top : fit.top + fit.scaled[0]]
    assert inside.mean() == pytest.approx(0, abs=1e-4)
    assert inside.std() == pytest.approx(1, abs=1e-3)


def test_regions_on_both_sides_are_bilateral_and_one_mask(tmp_path, header):
    both = image(header, bright=(PATCH, (slice(130, 220), slice(190, 260))))
    analysis = model(tmp_path).analyse(both, identify=identify)
    opacity = by_class(analysis)["opacity"]
    assert opacity.laterality == codes.BILATERAL
    assert analysis.masks[opacity.id].voxels.shape[2] > 140


def test_a_dark_image_is_normal_with_no_region(tmp_path, header):
    analysis = model(tmp_path).analyse(image(header, bright=()), identify=identify)
    found = by_class(analysis)
    assert found["normal"].qualifier is Qualifier.PRESENT
    assert found["opacity"].qualifier is Qualifier.ABSENT
    assert analysis.masks == analysis.maps == {}
    assert [finding.class_name for finding in analysis.findings] == ["normal", "opacity"]


def test_probabilities_are_calibrated_class_by_class(tmp_path, header):
    calibration = {"classes": {"opacity": {"temperature": 4.0, "bias": -1.0}}}
    analysis = model(tmp_path, calibration=calibration).analyse(image(header), identify=identify)
    # The brightest cell is 0.9 after the window: GAIN x 0.3 = 12 logits.
    assert by_class(analysis)["opacity"].probability == pytest.approx(
        1 / (1 + np.exp(-2)), abs=0.01
    )


def test_an_image_unlike_the_training_set_is_refused_and_a_like_one_scored(tmp_path, header):
    distribution = {
        "features": ["aspect_ratio"],
        "mean": [IMAGE[1] / IMAGE[0]],
        "inverse_covariance": [[10000.0]],
        "threshold": 3.0,
    }
    guarded = model(tmp_path, guard={"distribution": distribution})
    like = guarded.analyse(image(header), identify=identify)
    assert like.scores["out_of_distribution"] == pytest.approx(0, abs=1e-6)
    wide = image(header)
    wide = Radiograph(wide.pixels[:100], wide.value_range, wide.frame, wide.turn, wide.spacing_mm)
    with pytest.raises(UnsuitableSeries) as refused:
        guarded.analyse(wide, identify=identify)
    assert refused.value.reason == "OUT_OF_DISTRIBUTION"


def test_a_network_with_other_classes_breaks_the_contract(tmp_path, header):
    classes = [*CLASSES, CLASSES[0] | {"name": "third"}]
    with pytest.raises(ContractViolation, match=r"logits: found \(2,\), allowed \(3,\)"):
        model(tmp_path, classes=classes).analyse(image(header), identify=identify)


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("shape", [(200, 100), (100, 200), (150, 150)])
def test_a_map_comes_back_to_where_the_image_had_it(fit, shape):
    pixels = np.zeros(shape, np.float32)
    rows, columns = shape[0] // 2, shape[1] // 2
    pixels[rows - 12 : rows + 6, columns - 6 : columns + 12] = 1
    lies = fit_of(shape, (64, 64), fit)
    canvas = on_canvas(resized(pixels, lies.scaled), lies, padding=-1)
    back = on_image(canvas, lies)
    assert canvas.shape == (64, 64)
    assert back.shape == shape
    there, here = (np.argwhere(m > 0.5).mean(axis=0) for m in (pixels, back))
    assert np.abs(there - here).max() < 1.5
    assert (back > 0.5).sum() == pytest.approx(pixels.sum(), rel=0.25)
