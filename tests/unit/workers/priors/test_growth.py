import pytest

from service.core.findings import Change, Code, Finding, Measurement, Qualifier
from workers.priors.growth import days_between, doubling_time_days, growth_between


def lesion(diameter_mm: float | None, volume_mm3: float | None = None) -> Finding:
    sizes = {"long_axis": (diameter_mm, "mm"), "volume": (volume_mm3, "mm3")}
    return Finding(
        id="f",
        tracking_uid="2.25.1",
        tracking_id="Nodule 1",
        label=Code(value="27925004", scheme="SCT", meaning="Nodule"),
        class_name="nodule",
        probability=0.9,
        qualifier=Qualifier.PRESENT,
        measurements=tuple(
            Measurement(name=name, value=value, unit=unit)
            for name, (value, unit) in sizes.items()
            if value is not None
        ),
    )


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ((8, 268), (9, 340), Change.GROWING),  # +27 % of the volume
        ((8, 268), (8.9, 330), Change.STABLE),  # +23 %
        ((8, 268), (9.6, 330), Change.GROWING),  # the diameter by more than 1.5 mm
        ((8, 268), (9.5, 330), Change.STABLE),
        ((8, 268), (9.6, 250), Change.STABLE),  # the measures disagree, neither is sure
        ((8, 268), (8, 200), Change.SHRINKING),  # growing back would be 34 %
        ((8, 268), (8, 220), Change.STABLE),
        ((8, None), (10, None), Change.GROWING),
        ((8, None), (9.4, None), Change.STABLE),
        ((8, None), (6, None), Change.SHRINKING),
        ((None, None), (8, 268), Change.STABLE),
    ],
)
def test_a_change_counts_from_what_can_be_measured(
    before: tuple[float, float], after: tuple[float, float], change: Change
) -> None:
    assert growth_between(lesion(*before), lesion(*after), days=90).change is change


def test_the_doubling_time_is_told_only_of_growth() -> None:
    assert growth_between(lesion(8, 268), lesion(10, 536), days=90).doubling_time_days == 90
    assert growth_between(lesion(8, 268), lesion(8, 300), days=90).doubling_time_days is None
    assert growth_between(lesion(8, 268), lesion(10, 536), days=None).doubling_time_days is None
    assert doubling_time_days(100, 200, 0) is None


def test_dates_that_are_none_give_no_interval() -> None:
    assert days_between("20260102", "20260404") == 92
    assert days_between("", "20260404") is None
    assert days_between("20261340", "20260404") is None
