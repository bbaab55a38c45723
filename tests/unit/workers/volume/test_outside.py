"""Real and hostile series from elsewhere; each has a twin of our own making in this folder."""

import re

import numpy as np
import pytest
from scipy.ndimage import label

from service.core.errors import UnsuitableSeries
from service.core.geometry import to_patient_mm
from tests.builders.outside import shared_data
from tests.builders.volumes import source_instance, sources_in
from workers.volume.pixels import SourceInstance, frame_format, read_frames
from workers.volume.plan import VolumeRules
from workers.volume.radiograph import load_radiograph
from workers.volume.series import load_volume

RESAMPLING = VolumeRules(allow_resampling=True)

# Foreign files break value representation rules, of which pydicom warns while it reads them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def frames_of(path):
    source = source_instance(path)
    stored = frame_format(source.header)
    frames = np.empty((source.header.number_of_frames, stored.rows, stored.columns), stored.dtype)
    read_frames(source, list(enumerate(frames, start=1)), verify=True)
    return frames


def by_syntax(folder):
    """Return the CT image of each transfer syntax by its UID."""
    found = {}
    for path in sorted(folder.glob("CTImage*.dcm")):
        match = re.search(r"_(1\.2\.840[\d.]+)\.dcm$", path.name)
        assert match
        found[match.group(1)] = frames_of(path)[0].astype(int)
    return found


def refusal(folder, rules=VolumeRules()):  # noqa: B008 - frozen
    with pytest.raises(UnsuitableSeries) as caught:
        load_volume(sources_in(shared_data(folder)), rules)
    return caught.value.reason


def test_fifteen_transfer_syntaxes_of_one_slice_agree():
    images = by_syntax(shared_data("torture/transfer_syntaxes/chest_ct_ohif"))
    assert len(images) == 15
    plain = images["1.2.840.10008.1.2.1"]
    lossless = "1.2 1.2.2 1.2.1.99 1.2.4.57 1.2.4.70 1.2.4.80 1.2.4.90 1.2.5".split()
    for tail in lossless:
        assert np.array_equal(images[f"1.2.840.10008.{tail}"], plain), tail
    for tail in ["1.2.4.81", "1.2.4.91"]:
        assert np.abs(images[f"1.2.840.10008.{tail}"] - plain).max() <= 8, tail
    # The lossy JPEG twins were made from a windowed copy: alike in shape, not in scale.
    for tail in ["1.2.4.50", "1.2.4.51", "1.2.4.53", "1.2.4.55"]:
        image = images[f"1.2.840.10008.{tail}"]
        assert np.corrcoef(image.ravel(), plain.ravel())[0, 1] > 0.9, tail
    assert np.array_equal(images["1.2.840.10008.1.2.4.51"], images["1.2.840.10008.1.2.4.53"])


@pytest.mark.parametrize("name", ["CT1", "CT2"])
def test_compression_samples_of_the_standard_agree(name):
    folder = shared_data("torture/transfer_syntaxes/nema_wg04")
    images = {
        kind: frames_of(folder / f"{name}_{kind}.dcm") for kind in ("J2KR", "JLSL", "JPLL", "RLE")
    }
    assert all(np.array_equal(image, images["RLE"]) for image in images.values())
    near = frames_of(folder / f"{name}_JLSN.dcm").astype(int)
    assert np.abs(near - images["RLE"]).max() <= 10


def test_fragmented_and_indexed_frames_of_one_enhanced_ct_agree():
    folder = shared_data("torture/encapsulation_enhanced_ct")
    plain = frames_of(folder / "CT0012.not_fragmented_bot_rle.dcm").astype(int)
    for path in sorted(folder.glob("CT0012*")):
        if "jpeg_baseline" not in path.name:
            difference = np.abs(frames_of(path).astype(int) - plain).max()
            assert difference <= (2 if ".81." in path.name else 0), path.name


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("torture/made/geo_missing_slices", "SLICE_GAP"),
        ("torture/made/geo_duplicate_slice", "DUPLICATE_POSITION"),
        ("torture/made/geo_varying_spacing", "INCONSISTENT_SPACING"),
        ("torture/made/geo_same_uid_other_pixels", "CONFLICTING_INSTANCES"),
        ("ct/tilt_ge_head", "INCONSISTENT_SPACING"),
    ],
)
def test_geometry_that_lies_is_refused_by_name(folder, reason):
    assert refusal(folder) == reason


@pytest.mark.parametrize("name", ["duplicate_slice", "missing_slices", "varying_spacing"])
def test_geometry_that_lies_is_resampled_where_allowed(name):
    volume = load_volume(sources_in(shared_data(f"torture/made/geo_{name}")), RESAMPLING)
    assert volume.is_resampled
    assert volume.spacing_mm[0] == pytest.approx(2.5, abs=0.01)


def test_shuffled_prone_and_scouted_copies_of_one_run_hold_the_same_tissue():
    volumes = [
        load_volume(sources_in(shared_data(f"torture/made/geo_{name}")), VolumeRules())
        for name in ("shuffled_instance_numbers", "localizer_in_series")
    ]
    prone = load_volume(sources_in(shared_data("torture/made/geo_prone_flipped")), VolumeRules())
    assert np.array_equal(volumes[0].voxels, volumes[1].voxels)
    assert np.allclose(volumes[0].affine, volumes[1].affine)
    assert (prone.affine[0, 0] < 0, prone.affine[1, 1] < 0) == (True, True)
    assert volumes[1].remarks == ("localizers left out: 1",)


def test_sheared_gantry_tilt_is_made_upright():
    volume = load_volume(
        sources_in(shared_data("torture/made/geo_gantry_tilt_sheared")), VolumeRules()
    )
    assert volume.remarks == ("resampled upright: gantry tilt of 18.0 degrees",)
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("huge_rows", "PIXEL_DATA"),
        ("bits_mismatch", "PIXEL_DATA"),
        ("no_position", "NO_GEOMETRY"),
        ("zero_spacing", "NO_GEOMETRY"),
    ],
)
def test_single_slice_that_lies_is_refused_by_name(name, reason):
    source = source_instance(shared_data(f"torture/made/{name}.dcm"))
    with pytest.raises(UnsuitableSeries) as caught:
        load_volume([source], VolumeRules(minimum_slices=1))
    assert caught.value.reason == reason


def test_series_without_rescale_is_in_no_unit():
    sources = sources_in(shared_data("torture/made/geo_shuffled_instance_numbers"))
    bare = {"rescale_slope": None, "rescale_intercept": None}
    bare_sources = [
        SourceInstance(source.header.model_copy(update=bare), source.path, source.sha256)
        for source in sources
    ]
    header = source_instance(shared_data("torture/made/no_rescale.dcm")).header
    assert header.rescale_slope is None
    with pytest.raises(UnsuitableSeries) as caught:
        load_volume(bare_sources, VolumeRules())
    assert caught.value.reason == "UNIT"


def test_real_chest_ct_has_lungs_full_of_air_on_both_sides():
    volume = load_volume(
        sources_in(shared_data("ct/cptac_lscc_C3N-00247")), VolumeRules(), verify=True
    )
    assert volume.voxels.shape == (99, 512, 512)
    assert volume.spacing_mm == pytest.approx((3.0, 0.564, 0.564), abs=1e-3)
    assert (volume.unit, volume.remarks) == ("HU", ())
    coarse = volume.voxels[::2, ::8, ::8]
    regions, count = label((coarse < -500) & (coarse > -990))
    largest = np.bincount(regions.ravel())[1:].argmax() + 1 if count else 0
    slices, rows, columns = np.nonzero(regions == largest)
    litres = len(slices) * 2 * 64 * np.prod(volume.spacing_mm) / 1e6
    assert 1.0 < litres < 9.0
    places = to_patient_mm(volume.affine, np.stack([columns * 8, rows * 8, slices * 2], axis=-1))
    assert places[:, 0].min() < -40
    assert places[:, 0].max() > 40


@pytest.mark.parametrize("patient", ["0001", "0002", "0003"])
def test_padding_of_real_scans_is_air_however_it_is_marked(patient):
    sources = sources_in(shared_data(f"ct/lidc_partial/LIDC-IDRI-{patient}"))
    volume = load_volume(sources, VolumeRules())
    assert volume.voxels.shape[0] == len(sources)
    assert (volume.voxels[:, :5, :5] == -1024).all()
    assert volume.voxels.min() == -1024


def test_compressed_abdomen_is_read():
    found = sources_in(shared_data("ct/totalseg_j2k_body"))
    numbered = [
        SourceInstance(
            source.header.model_copy(update={"sop_instance_uid": f"2.25.{index + 1}"}),
            source.path,
            source.sha256,
        )
        for index, source in enumerate(found)
    ]
    volume = load_volume(numbered, VolumeRules(), verify=True)
    assert volume.voxels.shape[0] == len(found)
    assert volume.spacing_mm[0] == pytest.approx(2.0)


@pytest.mark.parametrize("name", ["cxr_two_windows_sigmoid", "cxr_voi_lut_sequence"])
def test_inverted_and_windowed_radiographs_equal_the_plain_one(name):
    inverse = load_radiograph(source_instance(shared_data("torture/made/cxr_mono1_inverse.dcm")))
    other = load_radiograph(source_instance(shared_data(f"torture/made/{name}.dcm")))
    assert np.array_equal(inverse.pixels, other.pixels)


def test_radiograph_with_the_wrong_sop_class_is_read():
    image = load_radiograph(source_instance(shared_data("cxr/nih_dx_1024.dcm")))
    assert image.pixels.shape == (1024, 1024)
    assert image.value_range == (0.0, 255.0)
    assert image.spacing_mm is None
