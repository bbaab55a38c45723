"""Where the key image of a finding comes from, and which piece of it is shown."""

from hypothesis import given
from hypothesis import strategies as st

from service.core.findings import Location, PlanarRegion, RegionRole, RegionShape
from service.records.study_view import StoredFinding
from service.web.key_images import key_image
from tests.builders.rows import nodule

IMAGE = "1.2.3.4"


def stored(**fields: object) -> StoredFinding:
    finding = nodule("a" * 32, 0, probability=0.9, sop_instance_uid=IMAGE, **fields)
    return StoredFinding(finding, "a" * 32, "1.2.3", "t", "m", "1.0.0", "b" * 64, None, None, None)


def around(*points: tuple[float, float]) -> Location:
    region = PlanarRegion(
        role=RegionRole.OUTLINE,
        shape=RegionShape.POLYLINE,
        sop_instance_uid=IMAGE,
        points=(*points, points[0]),
    )
    return Location(sop_instance_uid=IMAGE, regions=(region,))


def test_the_frame_is_asked_for_by_its_uids() -> None:
    image = key_image(stored(), "1.2", {IMAGE: (512, 512)}, None)
    assert image is not None
    assert (
        image.address == f"/dicom-web/studies/1.2/series/1.2.3/instances/{IMAGE}/frames/1/rendered"
    )
    assert image.outlines == ("200,220 224,220 224,246 200,246 200,220",)


def test_without_a_place_or_an_image_there_is_none() -> None:
    assert key_image(stored(location=None), "1.2", {IMAGE: (512, 512)}, None) is None
    assert key_image(stored(), "1.2", {}, None) is None


def test_a_finding_without_an_outline_shows_the_whole_frame() -> None:
    image = key_image(
        stored(location=Location(sop_instance_uid=IMAGE)), "1", {IMAGE: (90, 70)}, None
    )
    assert image is not None
    assert (image.view_box, image.outlines) == ("0 0 70 90", ())


@given(
    st.integers(16, 3000),
    st.integers(16, 3000),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=6),
)
def test_the_piece_shown_lies_in_the_frame_and_is_square(
    rows: int, columns: int, shares: list[tuple[float, float]]
) -> None:
    points = [(across * columns, down * rows) for across, down in shares]
    image = key_image(stored(location=around(*points)), "1", {IMAGE: (rows, columns)}, None)
    assert image is not None
    left, top, width, height = map(float, image.view_box.split())
    assert width == height > 0
    assert left >= 0
    assert top >= 0
    assert left + width <= columns * 1.001
    assert top + height <= rows * 1.001
