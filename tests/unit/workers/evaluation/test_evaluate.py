"""A whole evaluation on small studies whose references are known to the voxel."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from typer.testing import CliRunner

from service.core.errors import InvalidRequest
from tests.builders import onnx, packages, references
from tests.builders.dicom import AXIAL, ct_series, part10, radiograph, write_series
from workers.cli import app
from workers.evaluation.report import report_html
from workers.evaluation.run import evaluate
from workers.models import load_model

SPACING_MM = (2.0, 1.0, 1.0)
LESION = ("52988006", "SCT", "Lesion")
# Boxes of slices, rows, columns; bright in the image.
FIRST = (slice(4, 9), slice(20, 32), slice(10, 22))
SECOND = (slice(10, 13), slice(40, 46), slice(36, 44))
CLASSES = [
    {"name": "background", "kind": "background"},
    {"name": "lesion", "kind": "lesion", "label": packages.LESION, "site": packages.LIVER},
]


def quiet(stage, done, total):
    pass


def scan(*boxes, name="series", **attributes):
    hounsfield = np.full((16, 64, 56), 0, np.int16)
    for box in boxes:
        hounsfield[box] = 800
    return ct_series(
        hounsfield=hounsfield, spacing_mm=SPACING_MM, orientation=AXIAL, name=name, study=name,
        **attributes,
    )  # fmt: skip


def drawn(*boxes):
    mask = np.zeros((16, 64, 56), np.bool_)
    for box in boxes:
        mask[box] = True
    return mask


def outliner(models_dir):
    values = packages.manifest(
        "segmentation",
        classes=CLASSES,
        input={"spacing_mm": [2.0, 1.0, 1.0], "intensity": packages.WINDOW},
        decoding={"minimum_volume_mm3": 1},
        tiling={"patch": [16, 64, 56], "overlap": 0.0},
    )
    return packages.write_package(models_dir, values, {"segmenter": onnx.layers(0.7)})


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    package = outliner(tmp_path_factory.mktemp("models"))
    return load_model(package, device="cpu", threads=1, probe=False)


def test_outlines_are_scored_against_a_segmentation_lesion_by_lesion(lesions, tmp_path):
    images = scan(FIRST, SECOND, Manufacturer="Maker")
    write_series(images, tmp_path / "hospital" / "ct")
    # The reader saw the first lesion and one that is not bright.
    missed = (slice(2, 5), slice(50, 58), slice(4, 14))
    reference = references.segmentation(images, drawn(FIRST, missed), code=LESION, label="lesion")
    (tmp_path / "seg.dcm").write_bytes(part10(reference))
    found = evaluate(lesions, tmp_path, progress=quiet)
    figures = found.document["figures"]["classes"]["lesion"]
    true, marked, missing = 5 * 12 * 12, 3 * 6 * 8, 3 * 8 * 10
    assert figures["dice"] == pytest.approx(2 * true / (2 * true + marked + missing), abs=1e-3)
    assert figures["lesion_wise"]["iou_0.5"] == {"sensitivity": 0.5, "precision": 0.5, "f1": 0.5}
    assert figures["false_positives_per_scan"] == 1
    assert figures["lesions"]["10 mm and more"]["lesions"] == 1
    assert figures["lesions"]["10 mm and more"]["dice"] == pytest.approx(1.0, abs=1e-3)
    assert found.document["cases"][0]["folder"] == "hospital"
    assert found.worst[0].picture.startswith("data:image/png;base64,")


def test_contours_give_the_same_figures_as_the_mask_they_enclose(lesions, tmp_path):
    images = scan(FIRST)
    write_series(images, tmp_path)
    x, y, z = (float(v) for v in images[0].ImagePositionPatient)
    left, top = x + FIRST[2].start, y + FIRST[1].start
    right, bottom = x + FIRST[2].stop - 1, y + FIRST[1].stop - 1
    outlines = {
        k: [c for px, py in ((left, top), (right, top), (right, bottom), (left, bottom))
            for c in (px, py, z + 2.0 * k)]
        for k in range(FIRST[0].start, FIRST[0].stop)
    }  # fmt: skip
    reference = references.contours(images, "GTV lesion", outlines)
    (tmp_path / "rt.dcm").write_bytes(part10(reference))
    figures = evaluate(lesions, tmp_path, progress=quiet).document["figures"]
    assert figures["classes"]["lesion"]["dice"] == pytest.approx(1.0, abs=1e-3)


def test_a_segmentation_of_another_grid_is_remarked_on_and_not_scored(lesions, tmp_path):
    images = scan(FIRST)
    write_series(images, tmp_path)
    reference = references.segmentation(images, drawn(FIRST), code=LESION, label="lesion")
    reference.Rows, reference.Columns = 56, 64
    (tmp_path / "seg.dcm").write_bytes(part10(reference))
    found = evaluate(lesions, tmp_path, progress=quiet)
    assert found.analysed == 0
    assert found.document["data"]["failed"] == {"REFERENCE": 1}
    assert "allowed (64, 56)" in found.document["remarks"][0]


def detector(models_dir):
    values = packages.manifest(
        input={"spacing_mm": [1.0, 1.0, 1.0], "intensity": packages.WINDOW},
        tiling={"patch": [32, 64, 56], "overlap": 0.0},
        decoding={"stride": 2, "floor": 0.01, "merge_distance_mm": 12},
        calibration={"method": "logistic", "detector": 1.0},
    )
    package = packages.write_package(
        models_dir, values, {"detector": onnx.detector(threshold=0.55, diameter_mm=9)}
    )
    return load_model(package, device="cpu", threads=1, probe=False)


def center_of(images, box):
    x, y, z = (float(v) for v in images[0].ImagePositionPatient)
    middle = [(side.start + side.stop - 1) / 2 for side in box]
    return x + middle[2], y + middle[1], z + 2.0 * middle[0]


def test_a_list_like_luna16s_gives_froc_with_unlisted_scans_as_negatives(tmp_path):
    listed, negative = scan(FIRST, name="a"), scan(SECOND, name="b")
    write_series(listed, tmp_path / "a")
    write_series(negative, tmp_path / "b")
    x, y, z = center_of(listed, FIRST)
    (tmp_path / "annotations.csv").write_text(
        "seriesuid,coordX,coordY,coordZ,diameter_mm\n"
        f"{listed[0].SeriesInstanceUID},{x},{y},{z},12\n"
    )
    found = evaluate(detector(tmp_path / "models"), tmp_path, progress=quiet)
    figures = found.document["figures"]
    assert figures["scans"] == 2
    assert figures["all"]["lesions"] == 1
    assert figures["all"]["sensitivity"][-1] == 1.0
    assert figures["operating_points"]["sensitive"]["false_positives_per_scan"] == 0.5
    assert [case["found"] for case in found.document["cases"]] == [1, 0]


def test_a_report_with_measured_regions_counts_as_a_list_of_lesions(tmp_path):
    images = scan(FIRST)
    write_series(images, tmp_path)
    # Image coordinates count from the corner of the first pixel.
    corners = [10, 20, 22, 20, 22, 32, 10, 32]
    nodule = ("27925004", "SCT", "Nodule")
    reference = references.report(images, groups=[(nodule, 6, corners, 12.0)])
    (tmp_path / "sr.dcm").write_bytes(part10(reference))
    figures = evaluate(detector(tmp_path / "models"), tmp_path, progress=quiet).document["figures"]
    assert figures["all"]["lesions"] == 1
    assert figures["all"]["cpm"] == 1.0


def readers(models_dir):
    values = packages.manifest(
        "classification",
        applicability={"modalities": ["DX"]},
        input={"size": [64, 48], "fit": "stretch", "intensity": {"lower": 0, "upper": 4095}},
        classes=[
            {"name": "opacity", "kind": "finding", "label": packages.OPACITY, "has_region": False},
            {"name": "normal", "kind": "finding", "label": packages.NORMAL, "has_region": False},
        ],
    )
    content = onnx.classifier(size=(64, 48), stride=4, threshold=0.6)
    package = packages.write_package(models_dir, values, {"classifier": content})
    return load_model(package, device="cpu", threads=1, probe=False)


def films(folder, brightness):
    for number, bright in enumerate(brightness):
        stored = np.full((64, 48), 400, np.int64)
        stored[20:44, 10:30] = bright
        write_series(radiograph(stored=stored, name=f"film{number}"), folder / f"film{number}")


def test_labels_in_a_table_give_areas_by_class_and_unknown_ones_are_left_out(tmp_path):
    films(tmp_path, (3900, 500, 3500, 700))
    names = [f"film{k}" for k in range(4)]
    uids = {name: radiograph(name=name)[0].SOPInstanceUID for name in names}
    rows = ["sop_instance_uid,Opacity,Remark"]
    rows += [f"{uids[n]},{label},x" for n, label in zip(names, ("1", "0", "1", ""), strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    found = evaluate(readers(tmp_path / "models"), tmp_path, progress=quiet)
    opacity = found.document["figures"]["classes"]["opacity"]
    assert (opacity["positives"], opacity["negatives"]) == (2, 1)
    assert opacity["auroc"] == 1.0
    assert found.analysed == 3


def test_a_report_that_states_findings_labels_the_image(tmp_path):
    films(tmp_path, (3900,))
    images = radiograph(name="film0")
    opacity = ("128309005", "SCT", "Opacity")
    normal = ("17621005", "SCT", "Normal")
    reference = references.report(images, stated=[(opacity, True), (normal, False)])
    (tmp_path / "sr.dcm").write_bytes(part10(reference))
    case = evaluate(readers(tmp_path / "models"), tmp_path, progress=quiet).document["cases"][0]
    assert case["opacity"]["label"] is True
    assert case["normal"]["label"] is False


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("annotations.csv", "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2,1,2,x,5\n",
         "annotations.csv line 2: coordZ: found 'x', allowed a number"),
        ("labels.csv", "image,lesion\nfirst,maybe\n",
         "labels.csv line 2: lesion: found 'maybe', allowed 0 or 1"),
        ("notes.csv", "who,when\nme,now\n", "found 1 series, 0 reference objects and 1 tables"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_on_is_named_in_one_line(lesions, tmp_path, name, text, message):
    write_series(scan(FIRST), tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidRequest) as caught:
        evaluate(lesions, tmp_path, progress=quiet)
    assert message in caught.value.message
    assert "\n" not in str(caught.value)


def test_the_command_writes_json_and_a_page_that_needs_nothing_else(tmp_path, monkeypatch):
    outliner(tmp_path / "models")
    images = scan(FIRST, SECOND)
    write_series(images, tmp_path / "data")
    reference = references.segmentation(images, drawn(FIRST), code=LESION, label="lesion")
    (tmp_path / "data" / "seg.dcm").write_bytes(part10(reference))
    monkeypatch.setenv("OVERREAD_MODELS__DIR", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(
        app,
        ["models", "evaluate", "test_package", "--data", "data", "--json", "found.json",
         "--report", "found.html", "--device", "cpu"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "test_package 1.2.3: 1 analysed, 0 refused, 0 failed" in done.output
    document = json.loads((tmp_path / "found.json").read_text())
    assert document["data"]["references"] == {"SEG": 1}
    page = (tmp_path / "found.html").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_names_from_files_cannot_bring_markup_into_the_page(lesions, tmp_path):
    images = scan(FIRST, name="x", Manufacturer="<script>alert(1)</script>")
    write_series(images, tmp_path / "a")
    write_series(scan(SECOND, name="y"), tmp_path / "b")
    for number, (one, box) in enumerate(((images, FIRST), (scan(SECOND, name="y"), SECOND))):
        reference = references.segmentation(one, drawn(box), code=LESION, label="lesion")
        (tmp_path / f"{number}.dcm").write_bytes(part10(reference))
    found = evaluate(lesions, tmp_path, progress=quiet)
    assert "scanner" in found.document["subgroups"]
    page = report_html(found, at=datetime(2024, 1, 1, tzinfo=UTC))
    assert "<script>" not in page
