"""Which series suits a model, and the reason when it does not."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from service.core.headers import InstanceHeader
from service.core.manifest import Manifest
from service.studies.eligibility import SeriesFacts, assess, choose, closest, units_of_work
from tests.builders.dicom import AXIAL, ct_series, radiograph
from tests.builders.headers import read_header
from tests.builders.packages import manifest as manifest_values

CHEST = {
    "modalities": ["CT"],
    "body_part": {"words": ["chest", "thorax"], "excluded_words": ["head", "abdomen"]},
    "orientation": "axial",
    "slices": {"minimum": 10, "maximum": 100},
    "patient_age_years": {"minimum": 18},
    "slice_spacing_mm": {"maximum": 5.0},
    "preferred_kernels": ["B70f"],
}


def manifest(kind: str = "detection", **applicability: Any) -> Manifest:
    values = manifest_values(kind, applicability={**CHEST, **applicability})
    entry = {
        "role": {"detection": "detector", "classification": "classifier"}[kind],
        "file": "network.onnx",
        "sha256": "a" * 64,
        "opset": 17,
        "inputs": [{"name": "volume", "shape": [0, 1, 0, 0, 0]}],
        "outputs": [{"name": "heat", "shape": [0, 1, 0, 0, 0]}],
    }
    values["networks"] = [entry]
    if kind == "classification":
        values["input"] = {"size": [32, 32], "intensity": values["input"]["intensity"]}
        values.pop("tiling")
    return Manifest.model_validate(values)


def facts(datasets: list[Dataset], *, series_id: int = 1, is_result: bool = False) -> SeriesFacts:
    headers = tuple(
        read_header(item, transfer_syntax_uid=str(item.file_meta.TransferSyntaxUID))
        for item in datasets
    )
    return SeriesFacts(series_id, is_result, headers)


def chest(**attributes: Any) -> list[Dataset]:
    values = {"BodyPartExamined": "CHEST", "orientation": AXIAL, **attributes}
    return ct_series(slices=12, **values)


def test_a_chest_ct_suits_a_model_for_chest_ct() -> None:
    assert assess(facts(chest()), manifest()).eligible


def _with(datasets: list[Dataset], **attributes: Any) -> list[Dataset]:
    for dataset in datasets:
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
    return datasets


UNSUITABLE: dict[str, Callable[[], list[Dataset]]] = {
    "MODALITY": lambda: _with(chest(), Modality="MR"),
    "LOCALIZER": lambda: _with(chest(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "SECONDARY_CAPTURE": lambda: _with(chest(), SOPClassUID="1.2.840.10008.5.1.4.1.1.7"),
    "DERIVED_SERIES": lambda: _with(chest(), ImageType=["DERIVED", "SECONDARY", "MPR"]),
    "IMAGE_TYPE_SECONDARY": lambda: _with(chest(), ImageType=["ORIGINAL", "SECONDARY", "AXIAL"]),
    "NOT_CHEST": lambda: _with(chest(), BodyPartExamined="HEAD"),
    "TOO_FEW_SLICES": lambda: chest()[:9],
    "SLICE_GAP": lambda: [item for place, item in enumerate(chest()) if place != 6],
    "DUPLICATE_POSITION": lambda: [*chest(), chest()[4]],
    "PATIENT_AGE": lambda: _with(chest(), PatientAge="016M"),
    "SLICE_SPACING": lambda: chest(spacing_mm=(6.0, 0.7, 0.8)),
    "ORIENTATION": lambda: chest(orientation=(0, 1, 0, 0, 0, -1)),
    "NO_GEOMETRY": lambda: _with(chest(), ImagePositionPatient=None),
    "INCONSISTENT_SIZE": lambda: [*chest()[:-1], *_with(chest()[-1:], Rows=64)],
}


@pytest.mark.parametrize("reason", UNSUITABLE)
def test_an_unsuitable_series_says_why(reason: str) -> None:
    verdict = assess(facts(UNSUITABLE[reason]()), manifest())
    assert verdict.reason == reason
    assert verdict.message
    assert not verdict.eligible


def test_a_gap_is_told_by_place_and_size() -> None:
    verdict = assess(facts(UNSUITABLE["SLICE_GAP"]()), manifest())
    assert "5 mm after slice 6" in verdict.message


def test_a_model_that_may_resample_takes_a_series_with_a_gap() -> None:
    assert assess(facts(UNSUITABLE["SLICE_GAP"]()), manifest(allow_resampling=True)).eligible


def test_our_own_results_and_reports_are_never_analysed() -> None:
    assert assess(facts(chest(), is_result=True), manifest()).reason == "OWN_RESULT"
    report = InstanceHeader(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.67",
        sop_instance_uid="1.2",
        study_instance_uid="1.3",
        series_instance_uid="1.4",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="SR",
    )
    assert assess(SeriesFacts(1, False, (report,)), manifest()).reason == "NOT_AN_IMAGE"


def test_of_two_chest_series_the_preferred_kernel_is_chosen() -> None:
    soft = facts(_with(chest(name="soft"), ConvolutionKernel="B30f"), series_id=1)
    sharp = facts(_with(chest(name="sharp"), ConvolutionKernel="B70f"), series_id=2)
    verdicts = [assess(item, manifest()) for item in (soft, sharp)]
    assert [verdict.series_id for verdict in choose(verdicts, manifest())] == [2]
    both = manifest(select="each")
    assert [verdict.series_id for verdict in choose(verdicts, both)] == [2, 1]


def test_equal_series_are_chosen_alike_in_every_run() -> None:
    verdicts = [assess(facts(chest(name=str(n)), series_id=n), manifest()) for n in (3, 1, 2)]
    assert [verdict.series_id for verdict in choose(verdicts, manifest())] == [1]


def test_the_study_is_told_the_refusal_that_came_latest() -> None:
    localizer = assess(facts(UNSUITABLE["LOCALIZER"](), series_id=1), manifest())
    gap = assess(facts(UNSUITABLE["SLICE_GAP"](), series_id=2), manifest())
    assert closest([localizer, gap]) == gap


def test_radiographs_are_analysed_one_by_one_and_laterals_left_out() -> None:
    rules = manifest(
        "classification",
        modalities=["DX"],
        orientation="any",
        slices={},
        slice_spacing_mm={},
        view_positions=["PA", "AP"],
    )
    images = [
        _with(radiograph(name=view), ViewPosition=view, BodyPartExamined="CHEST")[0]
        for view in ("PA", "LL", "AP")
    ]
    series = facts(images)
    assert assess(series, rules).eligible
    assert units_of_work(series, rules) == ((0,), (2,))
    assert assess(facts(images[1:2]), rules).reason == "VIEW_POSITION"


def test_spacing_is_measured_between_positions_not_read_from_thickness() -> None:
    thick = _with(chest(spacing_mm=(2.5, 0.7, 0.8)), SliceThickness="8")
    assert assess(facts(thick), manifest()).eligible
    assert np.isclose(facts(thick).stack.distances_mm[1], 2.5)
