"""Foreign networks become packages that pass their check, or are refused in one line."""

import json

import numpy as np
import pytest
from onnx import helper
from typer.testing import CliRunner

from service.core.errors import InvalidModel, InvalidRequest
from service.core.identifiers import finding_id, tracking_uid
from service.core.packages import read_package
from tests.builders import onnx
from workers.cli import app
from workers.golden import volume_of
from workers.importing.answers import Flags, complete, told
from workers.importing.command import import_package, read_source
from workers.importing.draft import merged
from workers.models import load_model

TISSUES = "background,white matter,gray matter"
BRAIN = Flags(modality="MR", spacing="1", intensity="percentile:0,99", classes=TISSUES)


def imported(source, models_dir, flags=BRAIN, **options):
    given = {"answers": None, "configuration": None, "device": "cpu", "replace": False} | options
    assert import_package(source, flags, models_dir, **given) == 0
    (folder,) = [p for p in models_dir.iterdir() if not p.name.startswith(".")]
    return read_package(folder)


def layered(folder, name="brain_layers.onnx"):
    folder.mkdir(parents=True, exist_ok=True)
    return onnx.write(folder, name, onnx.layers(0.3, 0.7, name="t1"))


def test_an_onnx_file_and_four_answers_are_a_package_that_runs(tmp_path):
    package = imported(layered(tmp_path), tmp_path / "models")
    assert package.name == "brain_layers"
    assert [spec.name for spec in package.manifest.classes] == [
        "background", "white_matter", "gray_matter",
    ]  # fmt: skip
    assert package.manifest.classes[2].label.value == "25991003"
    voxels = np.zeros((40, 50, 60), np.int16)
    voxels[10:30, 10:40, 20:50] = 500
    voxels[12:28, 15:35, 22:47] = 1000
    found = load_model(package, device="cpu", threads=1, probe=False).analyse(
        volume_of(voxels, np.eye(4), unit=""),
        identify=lambda rank: (finding_id("job", rank), tracking_uid("job", rank)),
    )
    volumes = {f.class_name: f.measured("volume") for f in found.findings}
    assert volumes["gray_matter"] == pytest.approx(16 * 20 * 25, rel=0.05)


def test_a_file_of_answers_may_say_anything_that_a_manifest_may(tmp_path):
    answers = tmp_path / "answers.toml"
    answers.write_text(
        'classes = ["background", "Odd thing", "lesion"]\n'
        '[package]\nname = "odd"\nlicence = "CC0"\n'
        '[applicability]\nmodalities = ["CT"]\nslices = { minimum = 20 }\n'
        "[input]\nspacing_mm = [2, 1, 1]\n"
        'intensity = { mode = "window", lower = -160, upper = 240 }\n'
        "[decoding]\nminimum_volume_mm3 = 40\n"
    )
    package = imported(layered(tmp_path), tmp_path / "models", Flags(), answers=answers)
    manifest = package.manifest
    assert (package.name, manifest.package.licence) == ("odd", "CC0")
    assert manifest.applicability.slices.minimum == 20
    odd = manifest.classes[1]
    assert (odd.label.scheme, odd.label.value) == ("99OVERREAD", "ODD_THING")


def test_what_is_missing_is_asked_for_where_somebody_can_answer(tmp_path):
    draft = read_source(layered(tmp_path), kind=None, configuration=None)
    said = {
        "modality": "mr", "spacing": "2, 1, 1", "Intensities": "standardise", "outputs": TISSUES,
    }  # fmt: skip
    asked = []

    def answer(text):
        asked.append(text)
        return next(value for word, value in said.items() if word in text)

    sections = complete(merged(draft.sections, told(Flags(), None)), answer)
    assert len(asked) == 4
    assert sections["applicability"]["modalities"] == ["MR"]
    assert sections["input"]["spacing_mm"] == [2.0, 1.0, 1.0]
    assert sections["input"]["intensity"] == {"mode": "standardise"}


def bundle(folder, **inference):
    layered(folder / "models", "model.onnx")
    (folder / "configs").mkdir()
    channels = {"0": "background", "1": "spleen", "2": "tumour"}
    metadata = {
        "name": "Spleen CT segmentation", "version": "0.5.3", "authors": "MONAI team",
        "description": "A pre-trained model", "intended_use": "an example",
        "network_data_format": {
            "inputs": {"image": {"modality": "CT", "num_channels": 1,
                                 "spatial_shape": [96, 96, 96], "is_patch_data": True}},
            "outputs": {"pred": {"num_channels": 3, "channel_def": channels}},
        },
    }  # fmt: skip
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    configuration = {
        "pixdim": [1.5, 1.0, 2.0],
        "preprocessing": {"_target_": "Compose", "transforms": [
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": "@pixdim"},
            {"_target_": "ScaleIntensityRanged", "a_min": -57, "a_max": 164,
             "b_min": 0, "b_max": 1, "clip": True},
        ]},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [96, 96, 64], "overlap": 0.5},
        "postprocessing": {"_target_": "Compose", "transforms": [
            {"_target_": "Activationsd", "softmax": True}]},
    } | inference  # fmt: skip
    (folder / "configs" / "inference.json").write_text(json.dumps(configuration))
    return folder


def test_a_monai_bundle_says_everything_itself(tmp_path):
    package = imported(bundle(tmp_path / "spleen"), tmp_path / "models", Flags())
    manifest = package.manifest
    assert package.name == "spleen_ct_segmentation"
    assert manifest.package.version == "0.5.3"
    assert manifest.applicability.modalities == ("CT",)
    # pixdim runs x, y, z; the manifest's spacing z, y, x.
    assert manifest.input.spacing_mm == (2.0, 1.0, 1.5)
    assert manifest.input.axes == "RAS"
    assert (manifest.input.intensity.lower, manifest.input.intensity.upper) == (-57, 164)
    assert manifest.tiling.patch == (96, 96, 64)
    assert [(c.name, c.kind) for c in manifest.classes] == [
        ("background", "background"), ("spleen", "organ"), ("tumour", "lesion"),
    ]  # fmt: skip


def test_a_bundle_of_torchscript_says_how_to_get_an_onnx_network(tmp_path):
    folder = bundle(tmp_path / "spleen")
    (folder / "models" / "model.onnx").rename(folder / "models" / "model.ts")
    with pytest.raises(InvalidModel, match=r"found models/model.ts.*onnx_export") as caught:
        read_source(folder, kind=None, configuration=None)
    assert caught.value.reason == "MODEL_FORMAT"


def nnunet(folder, **plans):
    layered(folder, "model.onnx")
    (folder / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "tumour": 2},
        "file_ending": ".nii.gz",
    }))  # fmt: skip
    (folder / "plans.json").write_text(json.dumps({
        "dataset_name": "Dataset003_Liver", "transpose_forward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 99.5, "std": 37.1, "percentile_00_5": -15.0, "percentile_99_5": 197.0}},
        "configurations": {
            "2d": {"spacing": [0.8, 0.8], "patch_size": [512, 512],
                   "normalization_schemes": ["CTNormalization"]},
            "3d_fullres": {"spacing": [1.0, 0.77, 0.77], "patch_size": [64, 96, 96],
                           "normalization_schemes": ["CTNormalization"],
                           "use_mask_for_norm": [False]},
        },
    } | plans))  # fmt: skip
    return folder


def test_an_nnunet_folder_gives_its_spacing_and_normalisation(tmp_path):
    manifest = imported(nnunet(tmp_path / "liver"), tmp_path / "models", Flags()).manifest
    assert manifest.package.name == "dataset003_liver"
    assert manifest.input.spacing_mm == (1.0, 0.77, 0.77)
    intensity = manifest.input.intensity
    assert (intensity.lower, intensity.upper, intensity.to) == (-15.0, 197.0, (-15.0, 197.0))
    assert (intensity.mean, intensity.sd) == (99.5, 37.1)
    assert manifest.tiling.patch == (64, 96, 96)
    assert [c.kind for c in manifest.classes] == ["background", "organ", "lesion"]


def test_nnunet_normalisation_is_what_the_network_then_sees(tmp_path):
    from workers.kinds.intensity import mapped  # noqa: PLC0415

    manifest = imported(nnunet(tmp_path / "liver"), tmp_path / "models", Flags()).manifest
    values = np.array([-1000.0, 99.5, 136.6, 3000.0])
    seen = mapped(values, manifest.input.intensity)
    wanted = (np.clip(values, -15, 197) - 99.5) / 37.1
    assert seen == pytest.approx(wanted, abs=1e-5)


def xrv(folder, names=("Atelectasis", ""), probabilities=True):
    folder.mkdir()
    onnx.write(folder, "model.onnx", onnx.classifier(size=(224, 224), stride=8, threshold=0.6))
    described = {"weights": "densenet121-res224-nih", "pathologies": list(names),
                 "resolution": 224, "probabilities": probabilities}  # fmt: skip
    (folder / "torchxrayvision.json").write_text(json.dumps(described))
    return folder


def test_a_torchxrayvision_classifier_keeps_its_findings_and_scale(tmp_path):
    manifest = imported(xrv(tmp_path / "xrv"), tmp_path / "models", Flags()).manifest
    assert manifest.input.size == (224, 224)
    assert (manifest.input.fit, manifest.input.intensity.to) == ("crop", (-1024.0, 1024.0))
    assert manifest.decoding.activation == "none"
    assert manifest.classes[0].label.value == "46621007"
    # A place that the weights leave empty is not reported.
    assert manifest.classes[1].kind == "background"


def custom_operator():
    shape = ["n", 3, "d", "h", "w"]
    node = helper.make_node("Anything", ["t1"], ["logits"], domain="com.example")
    entry = {"t1": ["n", 1, "d", "h", "w"]}
    return onnx.network([node], entry, {"logits": shape}, {}, domains={"com.example": 1})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "nothing.onnx", "No such file"),
        (lambda d: onnx.write(d, "weights.pth", b"pickle"), "runs code when it is opened"),
        (lambda d: onnx.write(d, "broken.onnx", b"\xff" * 64), "not an ONNX model"),
        (lambda d: onnx.write(d, "far.onnx", onnx.with_outside_data(
            onnx.layers(0.3, 0.7), "../../etc/passwd")), "tensors outside the file"),
        (lambda d: onnx.write(d, "two.onnx", onnx.layers(0.5)),
         "found 3 names, allowed 2, the network's outputs"),
        (lambda d: onnx.write(d, "own.onnx", custom_operator()), "operators of com.example"),
        (lambda d: bundle(d / "b", pixdim=["a", 1, 1]), "pixdim: found"),
        (lambda d: nnunet(d / "n", transpose_forward=[1, 0, 2]), "transpose_forward: found"),
        (lambda d: nnunet(d / "n", configurations={}), "allowed 3d_fullres"),
        (lambda d: xrv(d / "x", names=("a", "b", "c")), "pathologies: found 3"),
        (lambda d: d, "allowed an .onnx file, a MONAI bundle"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_package_is_refused_in_one_line(tmp_path, make, message):
    source = make(tmp_path)
    with pytest.raises((InvalidModel, InvalidRequest)) as caught:
        imported(source, tmp_path / "models", BRAIN)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    left = list((tmp_path / "models").glob("*")) if (tmp_path / "models").exists() else []
    assert left == []


def test_links_are_not_followed_out_of_a_folder(tmp_path):
    folder = bundle(tmp_path / "spleen")
    network = folder / "models" / "model.onnx"
    moved = tmp_path / "elsewhere.onnx"
    network.rename(moved)
    network.symlink_to(moved)
    with pytest.raises(InvalidModel, match="lies outside the package"):
        read_source(folder, kind=None, configuration=None)


def test_a_package_is_replaced_only_when_asked(tmp_path):
    source, models = layered(tmp_path), tmp_path / "models"
    imported(source, models)
    with pytest.raises(InvalidRequest, match="allowed another --name"):
        imported(source, models)
    imported(source, models, replace=True)


def test_the_command_names_every_answer_that_is_missing_and_exits_2(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = layered(tmp_path)
    done = CliRunner().invoke(app, ["models", "import", str(source), "--to", str(tmp_path / "m")])
    assert isinstance(done.exception, InvalidRequest)
    for flag in ("--modality", "--spacing", "--intensity", "--classes"):
        assert flag in str(done.exception)
