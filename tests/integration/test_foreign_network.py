"""A network made elsewhere runs as a package, with no code of its own."""

import gzip
import struct

import numpy as np
import pytest

from service.core.identifiers import finding_id, tracking_uid
from service.core.packages import ModelPackage, read_package
from tests.builders import onnx, packages
from tests.builders.outside import shared_data
from workers.golden import volume_of
from workers.importing.answers import Flags
from workers.importing.command import import_package
from workers.models import load_model
from workers.volume.series import Volume

TISSUES = [
    {"name": "background", "kind": "background"},
    {"name": "white_matter", "kind": "organ", "report": True,
     "label": {"value": "68523003", "scheme": "SCT", "meaning": "White matter"}},
    {"name": "gray_matter", "kind": "organ", "report": True,
     "label": {"value": "25991003", "scheme": "SCT", "meaning": "Gray matter"}},
]  # fmt: skip


def brain_package(models_dir, content: bytes) -> ModelPackage:
    """Return a package that gives a conformed brain network its grid, axes and intensities."""
    values = packages.manifest(
        "segmentation",
        applicability={"modalities": ["MR"]},
        classes=TISSUES,
        # A conformed volume of FreeSurfer runs to the left, the feet and the front.
        input={"spacing_mm": [1.0, 1.0, 1.0], "size": [96, 96, 96], "axes": "LIA",
               "intensity": {"mode": "percentile", "lower": 0, "upper": 99}},
        measurements={"take": ["volume"]},
    )  # fmt: skip
    del values["tiling"]
    package = packages.write_package(models_dir, values, {"segmenter": content})
    manifest = package.folder / "manifest.toml"
    named = manifest.read_text().replace('name = "t1",', 'name = "t1", meaning = "volume",')
    manifest.write_text(named)
    return read_package(package.folder)


def analysed(package: ModelPackage, volume: Volume):
    model = load_model(package, device="cpu", threads=2)
    found = model.analyse(
        volume, identify=lambda rank: (finding_id("job", rank), tracking_uid("job", rank))
    )
    return {finding.class_name: finding for finding in found.findings}


def nifti(path) -> Volume:
    """Return a NIfTI volume; its x and y run to the right and front, ours to left and back."""
    content = gzip.decompress(path.read_bytes())
    shape = struct.unpack("<3h", content[42:48])
    start = int(struct.unpack("<f", content[108:112])[0])
    rows = np.array(struct.unpack("<12f", content[280:328])).reshape(3, 4)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.vstack([rows, [0, 0, 0, 1]])
    voxels = np.frombuffer(content[start:], np.uint8).reshape(shape, order="F").T
    return volume_of(np.ascontiguousarray(voxels, dtype=np.int16), affine, unit="")


def imported(source, models_dir) -> ModelPackage:
    """Return the package that import makes of a conformed brain network and five answers."""
    answers = models_dir.parent / "answers.toml"
    answers.write_text("[input]\nsize = [96, 96, 96]\n[measurements]\ntake = ['volume']\n")
    flags = Flags(
        name="test_package", modality="MR", spacing="1", axes="LIA", intensity="percentile:0,99",
        classes="background,white matter,gray matter",
    )  # fmt: skip
    import_package(
        source, flags, models_dir, answers=answers, configuration=None, device="cpu", replace=False
    )
    return read_package(models_dir / "test_package")


@pytest.mark.slow
def test_a_brain_network_made_elsewhere_finds_both_tissues(tmp_path):
    network = shared_data("byom/brainchop_meshnet_model5_gw_ae.onnx")
    package = imported(network, tmp_path / "models")
    found = analysed(package, nifti(shared_data("byom/t1_crop.nii.gz")))
    # 885 ml round the middle of the head; the wrong axes give a third less.
    for tissue in ("white_matter", "gray_matter"):
        assert 200_000 < found[tissue].measured("volume") < 350_000
        assert found[tissue].probability > 0.83


def test_an_imported_network_gives_what_one_packaged_by_hand_gives(tmp_path):
    content = onnx.layers(0.3, 0.7, name="t1")
    source = onnx.write(tmp_path, "layers.onnx", content)
    voxels = np.zeros((60, 70, 80), np.int16)
    voxels[20:40, 20:50, 30:60] = 500
    volume = volume_of(voxels, np.eye(4), unit="")
    by_hand = analysed(brain_package(tmp_path / "hand", content), volume)
    by_import = analysed(imported(source, tmp_path / "models"), volume)
    assert {n: f.measured("volume") for n, f in by_import.items()} == {
        n: f.measured("volume") for n, f in by_hand.items()
    }


def test_a_network_with_names_and_axes_of_its_own_runs_by_its_manifest(tmp_path):
    content = onnx.layers(0.3, 0.7, name="t1")
    voxels = np.zeros((60, 70, 80), np.int16)
    voxels[20:40, 20:50, 30:60] = 500
    voxels[22:38, 25:45, 32:57] = 1000
    found = analysed(brain_package(tmp_path, content), volume_of(voxels, np.eye(4), unit=""))
    assert found["gray_matter"].measured("volume") == pytest.approx(16 * 20 * 25, rel=0.05)
    outer = 20 * 30 * 30 - 16 * 20 * 25
    assert found["white_matter"].measured("volume") == pytest.approx(outer, rel=0.05)
    place = found["gray_matter"].location.center_mm
    assert np.abs(np.subtract(place, (44.0, 34.5, 29.5))).max() < 0.5
