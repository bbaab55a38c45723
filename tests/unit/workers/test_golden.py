"""A package is checked against the findings that it has to give."""

import hashlib
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.core.errors import InvalidModel
from service.core.manifest import parse_manifest
from service.core.packages import read_package
from tests.builders import onnx, packages
from tests.builders.chests import Ball, chest
from workers.golden import analyse_input, run_golden
from workers.model_check import check_package, write_golden
from workers.models import load_model, volume_rules
from workers.volume.radiograph import Radiograph, Turn

LESION = Ball((15.0, 5.0, -6.0), 16.0, hounsfield=700)
VALUES = packages.manifest(
    "segmentation",
    classes=[
        {"name": "background", "kind": "background"},
        {"name": "lesion", "kind": "lesion", "label": packages.LESION},
    ],
    measurements={"take": ["long_axis", "volume"]},
)
NETWORKS = {"segmenter": onnx.layers(0.7)}


def saved(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Return a package with a golden case that it passes."""
    volume = chest((LESION,))
    folder = packages.write_package(tmp_path_factory.mktemp("models"), VALUES, NETWORKS).folder
    (folder / "golden").mkdir()
    content = saved(voxels=volume.voxels, affine=volume.affine)
    (folder / "golden" / "ball.npz").write_bytes(content)
    section = write_golden(folder, "ball")
    with (folder / "manifest.toml").open("a") as manifest:
        manifest.write(section)
    return read_package(folder)


@pytest.fixture(scope="module")
def model(original):
    return load_model(original, device="cpu", threads=1, probe=False)


@pytest.fixture
def package(original, tmp_path):
    """Return a copy of the package that a test may change."""
    return read_package(Path(shutil.copytree(original.folder, tmp_path / original.folder.name)))


def with_expected(package, change):
    """Change the expected findings, pinned again as an author would have."""
    file = package.folder / "golden" / "ball.json"
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    document = json.loads(file.read_text())
    change(document["findings"])
    file.write_text(json.dumps(document))
    after = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest = package.folder / "manifest.toml"
    manifest.write_text(manifest.read_text().replace(before, after))
    return read_package(package.folder)


def test_a_package_passes_with_the_findings_it_gave(package):
    checked = check_package(package, threads=1)
    assert (checked.name, checked.golden, checked.networks) == (
        "test_package",
        ("ball",),
        ("segmenter",),
    )
    assert checked.device == "cpu"
    assert checked.sha256 == package.sha256
    (expected,) = json.loads((package.folder / "golden" / "ball.json").read_text())["findings"]
    assert np.linalg.norm(np.subtract(expected["center_mm"], LESION.center_mm)) < 0.8
    assert expected["qualifier"] == "present"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda f: f[0].update(probability=0.5), r"finding 1 \(lesion\): probability: found 0.9"),
        (lambda f: f[0]["measurements"].update(volume=1.0), r"finding 1 \(lesion\): volume: found"),
        (lambda f: f[0]["measurements"].update(area=3.0), "area: found nothing, allowed 3"),
        (lambda f: f[0].update(center_mm=[0, 0, 0]), "was not found"),
        (lambda f: f[0].update(class_name="cyst"), "was not found"),
        (lambda f: f.clear(), "found a lesion more than allowed"),
        (lambda f: f[0].update(surprise=1), "golden/ball.json: not readable"),
    ],
)
def test_a_package_with_other_findings_fails_with_the_difference(model, package, change, line):
    changed = with_expected(package, change)
    (golden,) = changed.manifest.golden
    with pytest.raises(InvalidModel, match=line) as failed:
        run_golden(replace(model, package=changed), golden)
    assert failed.value.reason == "GOLDEN"
    assert failed.value.message.startswith("test_package: golden ball: ")


def test_a_changed_golden_input_is_refused_by_its_digest(model, package):
    (package.folder / "golden" / "ball.npz").write_bytes(saved(voxels=np.zeros((2, 2, 2))))
    (golden,) = package.manifest.golden
    with pytest.raises(InvalidModel, match="sha256: found") as failed:
        run_golden(replace(model, package=package), golden)
    assert failed.value.reason == "DIGEST"


def pickled() -> bytes:
    return saved(voxels=np.array([{"a": 1}], dtype=object), affine=np.eye(4))


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", pickled(), saved(other=np.zeros(3)),
     saved(voxels=np.zeros((4, 4)), affine=np.eye(4)),
     saved(voxels=np.zeros((4, 4, 4)), affine=np.zeros((4, 4))),
     saved(voxels=np.zeros((4, 4, 4)), affine=np.diag([1.0, 1.0, -1.0, 1.0]))],
)  # fmt: skip
def test_an_input_that_is_no_volume_is_refused(model, content):
    with pytest.raises(InvalidModel) as failed:
        analyse_input(model, content)
    assert failed.value.reason == "GOLDEN"


def test_an_input_that_unpacks_beyond_its_limit_is_refused_before_it_does(model, monkeypatch):
    monkeypatch.setattr("workers.golden._UNPACKED_BYTES_LIMIT", 1 << 20)
    bomb = saved(voxels=np.zeros((128, 128, 128), np.int16), affine=np.eye(4))
    assert len(bomb) < 1 << 16
    with pytest.raises(InvalidModel, match="input holds 41"):
        analyse_input(model, bomb)


def test_a_network_that_cannot_run_is_refused_when_it_is_loaded(tmp_path):
    shape = ["n", 1, "d", "h", "w"]
    broken = packages.write_package(
        tmp_path, VALUES, {"segmenter": onnx.not_a_number("volume", shape, "logits")}
    )
    with pytest.raises(InvalidModel, match="logits: found NaN or Inf") as failed:
        load_model(broken, device="cpu", threads=1)
    assert failed.value.reason == "MODEL_OUTPUT"


def test_a_model_takes_one_kind_of_image(model):
    assert model.reads_volumes
    shown = Radiograph(np.zeros((9, 9), np.float32), (0.0, 1.0), None, Turn(), None)
    with pytest.raises(InvalidModel, match="takes volumes"):
        model.analyse(shown, identify=lambda rank: ("", ""))


def test_a_package_asks_of_a_series_what_its_manifest_says():
    text = packages.toml(
        packages.manifest(
            applicability={"modalities": ["CT"], "slices": {"minimum": 30},
                           "allow_resampling": True},
            networks=[packages.network_entry("detector", onnx.bright_voxels(threshold=0.5))],
        )
    )  # fmt: skip
    rules = volume_rules(parse_manifest(text, package="p"))
    assert (rules.unit, rules.minimum_slices, rules.allow_resampling) == ("HU", 30, True)
