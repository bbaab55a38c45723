"""What a destination gets, and what stands in for what it refuses."""

import itertools

import pytest

from service.core.profiles import (
    SEGMENTATION_STORAGE,
    Profile,
    SegForm,
    SrForm,
    TextForm,
    adapted,
)
from service.core.settings import Destination

BOTH = ("sr", "seg")


def test_the_usual_form_has_no_key() -> None:
    assert [Profile().form_of(role) for role in ("sr", "seg", "sc")] == ["", "", ""]


def test_forms_that_differ_never_share_a_key() -> None:
    profiles = [
        Profile(BOTH, sr, seg, text, made_up_plane=plane, keep_empty_frames=kept)
        for sr, seg, text, plane, kept in itertools.product(
            SrForm, SegForm, TextForm, (False, True), (False, True)
        )
    ]
    keys = [profile.form_of("sr") for profile in profiles]
    assert len(set(keys)) == len(profiles)
    assert max(map(len, keys)) <= 32


def test_a_report_without_a_segmentation_of_its_own_names_the_usual_one() -> None:
    alone = Profile(("sr",), made_up_plane=True)
    assert alone.form_of("sr") == ""
    assert not alone.with_usual_regions.made_up_plane


@pytest.mark.parametrize(
    ("refused", "sr"),
    [
        ([SrForm.COMPREHENSIVE_3D], SrForm.ENHANCED),
        ([SrForm.COMPREHENSIVE_3D, SrForm.ENHANCED], SrForm.COMPREHENSIVE),
    ],
)
def test_another_class_of_report_stands_in_for_a_refused_one(
    refused: list[SrForm], sr: SrForm
) -> None:
    changed = adapted(Profile(), [form.sop_class_uid for form in refused])
    assert changed.profile == Profile(sr=sr)
    assert [str(one) for one in changed.changes] == [
        f"sr {sr} instead of sr comprehensive_3d, which the destination refused"
    ]


def test_a_picture_stands_in_for_regions_and_reports_that_are_not_taken_at_all() -> None:
    reports = [form.sop_class_uid for form in SrForm]
    assert adapted(Profile(), [SEGMENTATION_STORAGE]).profile.objects == ("sr", "sc")
    assert adapted(Profile(), reports).profile.objects == ("seg", "sc")
    assert adapted(Profile(), [*reports, SEGMENTATION_STORAGE]).profile.objects == ("sc",)


def test_a_label_map_becomes_a_binary_segmentation() -> None:
    wanted = Profile(seg=SegForm.LABELMAP)
    changed = adapted(wanted, [SegForm.LABELMAP.sop_class_uid])
    assert changed.profile == Profile(seg=SegForm.BINARY)


def test_nothing_changes_for_who_takes_everything() -> None:
    assert adapted(Profile(), ["1.2.3"]).changes == ()


def test_a_destination_is_set_by_words() -> None:
    given = {"sr_class": "enhanced", "character_set": "source", "made_up_plane": True}
    destination = Destination.model_validate(
        {"name": "A", "stow_url": "http://localhost/dicom-web", **given}
    )
    assert destination.profile == Profile(
        sr=SrForm.ENHANCED, text=TextForm.SOURCE, made_up_plane=True
    )
