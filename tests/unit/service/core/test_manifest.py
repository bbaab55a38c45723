"""Manifests: read whole, or refused in one line that names field, found and allowed."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.core.errors import InvalidModel
from service.core.findings import Qualifier
from service.core.manifest import Manifest, manifest_schema, parse_manifest, read_manifest
from service.core.manifest_faults import first_fault
from service.core.manifest_input import Range
from service.core.packages import installed_packages, read_package
from tests.builders.packages import NODULE, WINDOW, manifest, toml

MODELS = Path(__file__).parents[4] / "models"
DIGEST = "0" * 64
DETECTOR = {
    "role": "detector",
    "file": "detector.onnx",
    "sha256": DIGEST,
    "opset": 20,
    "inputs": [{"name": "volume", "shape": [0, 1, 0, 0, 0]}],
    "outputs": [{"name": "heat", "shape": [0, 1, 0, 0, 0]}],
}


def text(**sections: Any) -> str:
    return toml(manifest(**{"networks": [DETECTOR], **sections}))


def refusal(content: str) -> str:
    with pytest.raises(InvalidModel) as refused:
        parse_manifest(content, package="lung")
    assert refused.value.reason == "MANIFEST"
    assert "\n" not in refused.value.message
    assert refused.value.message.startswith("lung: ")
    return refused.value.message.removeprefix("lung: ")


def test_a_manifest_is_read_with_its_defaults():
    read = parse_manifest(text(), package="lung")
    assert read.package.kind == read.decoding.kind == "detection"
    assert read.network("detector") is read.networks[0]
    assert read.network("reduction") is None
    assert read.applicability.image_type_excludes == ("LOCALIZER", "SECONDARY")
    assert read.operating_point().name == "balanced"
    assert read.operating_point("sensitive").present == 0.3


def test_the_example_in_the_documentation_is_a_valid_manifest():
    document = (MODELS / "README.md").read_text()
    example = document.split("## A detection package")[1].split("```toml")[1].split("```")[0]
    read = parse_manifest(example, package="lung_nodule_detection")
    assert read.network("reduction") is not None


def test_the_published_schema_is_that_of_the_code():
    published = (MODELS / "manifest.schema.json").read_text()
    assert published == manifest_schema(), "run: python -m workers.model_check schema"


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        (
            {"decoding": {"strid": 2}},
            "decoding.strid: found an unknown field, allowed kind, stride",
        ),
        ({"decoding": {"stride": "two"}}, "decoding.stride: found 'two', allowed"),
        ({"networks": [DETECTOR | {"opset": 99}]}, "networks.0.opset: found 99, allowed less than"),
        (
            {"networks": [DETECTOR | {"sha256": "abc"}]},
            "networks.0.sha256: found 'abc', allowed String should match pattern",
        ),
        (
            {"networks": [DETECTOR | {"file": "../other.onnx"}]},
            "networks.0.file: found '../other.onnx', allowed",
        ),
        ({"networks": [DETECTOR | {"role": "eye"}]}, "networks.0.role: found 'eye', allowed 'det"),
        ({"networks": [DETECTOR, DETECTOR]}, "networks: role detector twice"),
        (
            {"networks": [DETECTOR, DETECTOR | {"role": "reduction"}]},
            "networks: reduction needs crop",
        ),
        ({"networks": [DETECTOR | {"role": "segmenter"}]}, "networks: no detector among segmenter"),
        (
            {"classes": [{"name": "a", "kind": "lesion"}]},
            "classes.0: class a needs a label with value, scheme and meaning",
        ),
        (
            {
                "classes": [
                    {"name": "a", "kind": "lesion", "label": {"value": "1", "scheme": "SCT"}}
                ]
            },
            "classes.0.label.meaning: found nothing, allowed text",
        ),
        ({"tiling": {"patch": [32, 32]}}, "tiling.patch must be (z, y, x) for this network"),
        ({"input": {"intensity": WINDOW}}, "input.spacing_mm is missing for a detection"),
        (
            {"input": {"spacing_mm": [1, 1, 1], "intensity": {"lower": 5, "upper": 5}}},
            "input.intensity: lower 5 must be below upper 5",
        ),
        (
            {"operating_points": [{"name": "a", "present": 0.2, "indeterminate": 0.3}]},
            "operating_points.0: indeterminate is above present",
        ),
        ({"calibration": {"classes": {"cyst": {"bias": 1}}}}, "no class is named cyst; there are"),
        ({"schema_version": 2}, "schema_version: found 2, allowed 1"),
        (
            {"applicability": {"modalities": ["CT"], "slices": {"minimum": 9, "maximum": 3}}},
            "applicability.slices: minimum is above maximum",
        ),
    ],
)
def test_a_fault_is_one_line_with_field_found_and_allowed(sections, line):
    assert refusal(text(**sections)).startswith(line)


def test_a_missing_section_is_named():
    content = text()
    without = "".join(part for part in content.splitlines(True) if not part.startswith("input"))
    assert refusal(without).startswith("input: found nothing, allowed a table")


def test_a_misspelt_section_is_named_as_unknown():
    assert refusal(text().replace("applicability =", "aplicability =")).startswith(
        "aplicability: found an unknown field, allowed schema_version, package"
    )


def test_an_unknown_kind_is_named_before_its_decoding():
    values = manifest(networks=[DETECTOR])
    values["package"]["kind"] = "registration"
    assert refusal(toml(values)).startswith(
        "package.kind: found 'registration', allowed 'detection'"
    )


@pytest.mark.parametrize("content", ["[package", "a = 1\na = 2", "x = " + "[" * 5000, "\x00"])
def test_text_that_is_not_toml_is_refused(content):
    assert refusal(content).startswith("manifest.toml: ")


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda raw: raw.decode("latin-1")))
def test_no_text_brings_down_the_reader(content):
    with pytest.raises(InvalidModel):
        parse_manifest(content, package="any")


@given(
    st.sampled_from(sorted(manifest())),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.lists(st.integers(), max_size=3) | st.dictionaries(st.text(max_size=3), st.integers()),
)  # fmt: skip
def test_no_section_of_another_type_brings_down_the_reader(section, value):
    values = manifest(networks=[DETECTOR]) | {section: value}
    faults = []
    try:
        Manifest.model_validate(values)
    except ValidationError as error:
        faults.append(first_fault(error, Manifest))
    assert all(fault and "\n" not in fault for fault in faults)


def test_a_probability_is_qualified_by_class_at_the_operating_point():
    point = {
        "name": "a",
        "present": 0.7,
        "indeterminate": 0.3,
        "classes": {"nodule": {"present": 0.9, "indeterminate": 0.8}},
    }
    read = parse_manifest(text(operating_points=[point]), package="lung").operating_point()
    assert read.qualify("other", 0.7) is Qualifier.PRESENT
    assert read.qualify("other", 0.699) is Qualifier.INDETERMINATE
    assert read.qualify("other", 0.29) is Qualifier.ABSENT
    assert read.qualify("nodule", 0.85) is Qualifier.INDETERMINATE
    assert read.qualify("nodule", 0.75) is Qualifier.ABSENT


def test_an_unknown_operating_point_is_refused_with_those_there_are():
    read = parse_manifest(text(), package="lung")
    with pytest.raises(InvalidModel, match="found 'other', allowed balanced, sensitive"):
        read.operating_point("other")


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_a_range_holds_what_lies_between_its_ends(first, second, value):
    low, high = sorted((first, second))
    assert Range(minimum=low, maximum=high).holds(value) == (low <= value <= high)
    assert Range(minimum=low).holds(value) == (value >= low)
    assert Range().holds(value)


def test_a_package_is_identified_by_the_bytes_of_its_manifest(tmp_path):
    folder = tmp_path / "test_package"
    folder.mkdir()
    (folder / "manifest.toml").write_text(text())
    first = read_package(folder)
    assert (first.name, first.version, first.kind) == ("test_package", "1.2.3", "detection")
    assert read_manifest(folder) == read_manifest(folder / "manifest.toml") == first.manifest
    (folder / "manifest.toml").write_text(text() + "# remark\n")
    assert read_package(folder).sha256 != first.sha256


def test_a_package_must_bear_the_name_of_its_folder(tmp_path):
    folder = tmp_path / "other_name"
    folder.mkdir()
    (folder / "manifest.toml").write_text(text())
    with pytest.raises(InvalidModel, match=r"other_name: package.name: found 'test_package'"):
        read_package(folder)


def test_packages_are_listed_by_name_and_folders_without_manifest_are_not(tmp_path):
    for name in ("second", "first"):
        values = manifest(networks=[DETECTOR])
        values["package"]["name"] = name
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.toml").write_text(toml(values))
    (tmp_path / "phantoms").mkdir()
    assert [package.name for package in installed_packages(tmp_path)] == ["first", "second"]


def test_an_endless_or_binary_manifest_is_refused(tmp_path):
    folder = tmp_path / "test_package"
    folder.mkdir()
    (folder / "manifest.toml").write_bytes(b"#" * (1 << 20) + b"##")
    with pytest.raises(InvalidModel, match="more than 1 MiB"):
        read_package(folder)
    (folder / "manifest.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidModel, match=r"manifest.toml"):
        read_package(folder)
    (folder / "manifest.toml").unlink()
    with pytest.raises(InvalidModel, match=r"manifest.toml"):
        read_package(folder)


def test_the_builders_toml_reads_back():
    values = manifest(networks=[DETECTOR])
    assert tomllib.loads(toml(values)) == values
    assert NODULE in [spec["label"] for spec in values["classes"]]
