import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.findings import Code, Finding, Location, Measurement, Qualifier
from workers.priors.matching import diameter_mm, match_lesions

NODULE = Code(value="27925004", scheme="SCT", meaning="Nodule")
MASS = Code(value="4147007", scheme="SCT", meaning="Mass")


def lesion(name, center_mm, *, size_mm=8.0, label=NODULE, class_name="nodule"):
    return Finding(
        id=name,
        tracking_uid=f"2.25.{abs(hash(name))}",
        tracking_id=name,
        label=label,
        class_name=class_name,
        probability=0.9,
        qualifier=Qualifier.PRESENT,
        location=Location(center_mm=center_mm, sop_instance_uid="1.2.3"),
        measurements=(
            Measurement(name="long_axis", value=size_mm * 1.1, unit="mm"),
            Measurement(name="short_axis", value=size_mm * 0.9, unit="mm"),
        ),
    )


def ids(matching):
    return (
        [(pair.current.id, pair.earlier.id) for pair in matching.pairs],
        [finding.id for finding in matching.only_current],
        [finding.id for finding in matching.only_earlier],
    )


def test_lesions_at_the_same_place_are_one_and_others_stay_alone():
    now = [lesion("a", (0, 0, 0)), lesion("b", (50, 0, 0)), lesion("new", (0, 90, 0))]
    then = [lesion("B", (52, 1, 0)), lesion("A", (1, 0, 1)), lesion("gone", (0, 0, 200))]

    assert ids(match_lesions(now, then)) == ([("a", "A"), ("b", "B")], ["new"], ["gone"])


def test_a_mapping_carries_earlier_places_into_the_current_scan():
    now, then = [lesion("a", (30, 0, 0))], [lesion("A", (0, 0, 0))]

    assert ids(match_lesions(now, then))[0] == []
    moved = match_lesions(now, then, mapping=lambda points: points + np.array([30.5, 0, 0]))
    assert ids(moved)[0] == [("a", "A")]
    assert moved.pairs[0].distance_mm == 0.5


def test_of_two_neighbours_each_gets_its_own_even_when_one_is_nearer_to_both():
    now = [lesion("a", (0, 0, 0)), lesion("b", (8, 0, 0))]
    then = [lesion("A", (3, 0, 0)), lesion("B", (11, 0, 0))]

    assert ids(match_lesions(now, then))[0] == [("a", "A"), ("b", "B")]


def test_size_decides_between_two_earlier_lesions_at_the_same_distance():
    now = [lesion("a", (0, 0, 0), size_mm=12)]
    then = [lesion("small", (4, 0, 0), size_mm=3), lesion("large", (-4, 0, 0), size_mm=11)]

    assert ids(match_lesions(now, then)) == ([("a", "large")], [], ["small"])


def test_another_label_at_the_same_place_is_the_same_lesion_unless_one_of_its_own_is_near():
    now = [lesion("a", (0, 0, 0))]
    mass, nodule = lesion("M", (1, 0, 0), label=MASS), lesion("N", (3, 0, 0))

    assert ids(match_lesions(now, [mass]))[0] == [("a", "M")]
    assert ids(match_lesions(now, [mass, nodule]))[0] == [("a", "N")]


def test_a_mass_over_the_place_of_a_speck_is_another_lesion():
    assert ids(
        match_lesions([lesion("a", (0, 0, 0), size_mm=60)], [lesion("A", (0, 0, 0), size_mm=4)])
    ) == ([], ["a"], ["A"])


def test_findings_without_a_place_pair_by_class_alone():
    now = [lesion("a", None, class_name="effusion"), lesion("b", None, class_name="nodule")]
    then = [lesion("A", None, class_name="effusion"), lesion("B", (0, 0, 0), class_name="nodule")]

    assert ids(match_lesions(now, then)) == ([("a", "A")], ["b"], ["B"])


def test_nothing_on_one_side_leaves_everything_alone():
    one = [lesion("a", (0, 0, 0))]

    assert ids(match_lesions(one, [])) == ([], ["a"], [])
    assert ids(match_lesions([], one)) == ([], [], ["a"])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(-200, 200)] * 3), max_size=6),
    st.lists(st.tuples(*[st.integers(-200, 200)] * 3), max_size=6),
)
def test_every_finding_comes_out_exactly_once(first, second):
    now = [lesion(f"n{i}", place) for i, place in enumerate(first)]
    then = [lesion(f"t{i}", place) for i, place in enumerate(second)]

    pairs, alone, gone = ids(match_lesions(now, then))

    assert sorted([a for a, _ in pairs] + alone) == sorted(f.id for f in now)
    assert sorted([b for _, b in pairs] + gone) == sorted(f.id for f in then)


def test_the_diameter_is_the_mean_of_both_axes():
    assert diameter_mm(lesion("a", (0, 0, 0), size_mm=8.0)) == 8.0
