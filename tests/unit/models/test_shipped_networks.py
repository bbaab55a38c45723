"""The figures that cards and manifests state are those that were measured."""

import json
import re
import tomllib
from pathlib import Path

import onnx
import pytest

from models.phantoms.findings import Finding

MODELS = Path(__file__).parents[3] / "models"
CHEST, LESION = MODELS / "chest_xray", MODELS / "lesion_segmentation"


def manifest(folder: Path):
    return tomllib.loads((folder / "manifest.toml").read_text())


def metrics(folder: Path):
    return json.loads((folder / "metrics.json").read_text())


def card(folder: Path) -> str:
    return (folder / "card.md").read_text()


PACKAGES = sorted(file.parent for file in MODELS.glob("*/manifest.toml"))


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_each_network_is_at_most_fifteen_megabytes_and_all_are_sixty(folder):
    assert all(file.stat().st_size <= 15_000_000 for file in folder.glob("*.onnx"))
    assert sum(file.stat().st_size for file in MODELS.glob("*/*.onnx")) <= 60_000_000


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_each_package_says_what_it_is_what_changed_and_what_was_measured(folder):
    stated = manifest(folder)
    assert "for clinical use" in card(folder)
    assert stated["package"]["version"] in (folder / "changes.md").read_text()
    assert metrics(folder)
    assert stated["golden"]
    guarded = stated["guard"]
    assert guarded["rules"]


def test_child_pneumonia_states_the_measured_figures():
    folder = MODELS / "child_pneumonia"
    stated, measured = manifest(folder), metrics(folder)
    own = {name: stated["calibration"][name] for name in ("temperature", "bias")}
    assert own == measured["calibration"]
    assert stated["calibration"]["ece"] == measured["ece"]
    assert f"AUROC | {measured['auroc']:.3f} (" in card(folder)


def test_child_pneumonia_is_for_series_that_say_they_show_a_child():
    part = manifest(MODELS / "child_pneumonia")["applicability"]["body_part"]
    assert part["required"]
    assert "CHEST" not in part["words"]


def test_chest_classes_are_the_findings_in_the_networks_order():
    assert [c["name"] for c in manifest(CHEST)["classes"]] == [f.value for f in Finding]


def test_chest_calibration_and_thresholds_are_the_fitted_ones():
    stated, measured = manifest(CHEST), metrics(CHEST)
    assert stated["calibration"]["classes"] == measured["calibration"]
    assert stated["operating_points"][0]["classes"] == measured["thresholds"]
    assert stated["calibration"]["ece"] == measured["sets"]["test"]["ece"]


@pytest.mark.parametrize("finding", list(Finding))
def test_chest_card_states_the_measured_areas(finding):
    words = {"nodule_mass": "nodule or mass", "pleural_effusion": "pleural effusion"}
    name = words.get(finding.value, finding.value)
    row = re.search(rf"^\| {name} \| (\S+) \(\S+\) \| (\S+) \(", card(CHEST), re.MULTILINE)
    assert row, name
    for text, split in zip(row.groups(), ("test", "shift"), strict=True):
        area = metrics(CHEST)["sets"][split]["findings"][finding.value]["auroc"]
        assert float(text) == pytest.approx(area, abs=6e-4)


def test_lesion_threshold_and_calibration_are_the_fitted_ones():
    stated, measured = manifest(LESION), metrics(LESION)
    assert stated["decoding"]["lesion_threshold"] == measured["lesion_threshold"]
    assert stated["calibration"]["classes"]["lesion"] == measured["calibration"]


def test_lesion_card_states_the_measured_dice():
    stated = r"^\| Dice of each lesion of 10 mm and more .*?\| (\S+) \("
    row = re.search(stated, card(LESION), re.MULTILINE)
    assert row
    dice = metrics(LESION)["sets"]["test"]["lesions"]["10_mm_and_up"]["dice"]
    assert float(row.group(1)) == pytest.approx(dice, abs=6e-4)


@pytest.mark.parametrize("folder", [CHEST, LESION], ids=lambda folder: folder.name)
def test_sets_measured_on_never_meet_the_training_seeds(folder):
    for measured in metrics(folder)["sets"].values():
        first, last = measured["seeds"]
        assert first >= 2_000_000
        assert last >= first


@pytest.mark.parametrize("folder", [CHEST, LESION], ids=lambda folder: folder.name)
def test_card_says_that_it_is_not_for_clinical_use(folder):
    assert "Not for clinical use" in card(folder)
    assert "synthetic" in card(folder)


def test_brain_lesion_card_states_the_measured_overlap():
    folder = MODELS / "brain_lesion"
    measured = metrics(folder)
    low, high = measured["dice_interval"]
    assert f"{measured['dice']:.3f} ({low:.3f}–{high:.3f})" in card(folder)
    assert manifest(folder)["decoding"]["lesion_threshold"] == measured["threshold"]


def test_patch_networks_state_the_measured_figures_and_are_no_package():
    folder = MODELS / "nodule_patches"
    assert not (folder / "manifest.toml").exists()
    measured = metrics(folder)
    area, overlap = measured["candidates"], measured["outlines"]
    assert f"AUROC {area['auroc']:.3f} (" in card(folder)
    assert f"sensitivity {area['sensitivity_at_specificity_0.99']:.3f} at 1 %" in card(folder)
    assert f"mean Dice {overlap['dice']:.3f} (" in card(folder)


@pytest.mark.parametrize("file", sorted(MODELS.glob("*/*.onnx")), ids=lambda file: file.stem)
def test_networks_carry_no_notes_of_the_machine_that_exported_them(file):
    model = onnx.load(file, load_external_data=False)
    parts = (model, model.graph, *model.graph.node, *model.graph.value_info)
    assert not any(part.metadata_props or part.doc_string for part in parts)
