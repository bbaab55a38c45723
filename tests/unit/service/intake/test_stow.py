"""STOW-RS without HTTP: what is kept, what is refused, and how the response says so."""

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from service.core.errors import InvalidRequest
from service.core.multipart import Part, encode_multipart
from service.intake.ingest import Ingest
from service.intake.stow import Stow
from service.records.archive import Archive
from service.records.studies import Registration
from service.records.tables import instances
from tests.builders.dicom import ct_series, in_syntax, part10

MULTIPART = 'multipart/related; type="application/dicom"; boundary=here'
URL = "http://host/dicom-web"


def body_of(*files: bytes, content_type: str = "application/dicom") -> bytes:
    parts = [Part({"Content-Type": content_type}, [file]) for file in files]
    return b"".join(encode_multipart(parts, "here"))


def upload(stow: Stow, body: bytes, content_type: str = MULTIPART, *, step: int = 1000, **more):
    with stow.open(content_type, **more) as opened:
        for i in range(0, len(body), step):
            opened.feed(body[i : i + step])
        return opened.finish(URL)


@pytest.fixture
def stow(house) -> Stow:
    return Stow(house.ingest)


@pytest.mark.parametrize("step", [1, 37, 10_000_000])
def test_every_part_is_kept_however_the_body_is_cut(house, stow, step):
    datasets = ct_series(slices=2, rows=8, columns=8)
    response = upload(stow, body_of(*map(part10, datasets)), step=step, sender="HTTP")
    assert response.status_code == 200
    assert [o.registration for o in response.stored] == [Registration.NEW] * 2
    stored = house.rows(instances)
    assert [row.sop_instance_uid for row in stored] == [d.SOPInstanceUID for d in datasets]
    assert {row.calling_ae_title for row in stored} == {"HTTP"}
    references = response.body["00081199"]["Value"]
    assert references[0]["00081155"]["Value"] == [datasets[0].SOPInstanceUID]
    assert response.body["00081190"]["Value"] == [f"{URL}/studies/{datasets[0].StudyInstanceUID}"]


def test_one_instance_without_multipart_is_kept(house, stow):
    dataset = ct_series(slices=1)[0]
    response = upload(stow, part10(dataset), "application/dicom")
    assert response.status_code == 200
    assert len(house.files()) == 1


def test_a_received_preamble_is_not_kept(house, stow):
    upload(stow, b"\x7fELF" + part10(ct_series(slices=1)[0])[4:], "application/dicom")
    assert house.files()[0].read_bytes()[:128] == bytes(128)


def test_good_parts_are_kept_beside_bad_ones(house, stow):
    good, other = ct_series(slices=2)
    cut = part10(other)[:-100]
    response = upload(stow, body_of(part10(good), cut, b"no DICOM at all" * 20))
    assert response.status_code == 202
    assert len(response.stored) == 1
    failed = response.body["00081198"]["Value"]
    assert failed[0]["00081155"]["Value"] == [other.SOPInstanceUID]
    assert 0xC000 <= failed[0]["00081197"]["Value"][0] <= 0xCFFF
    assert len(response.body["0008119A"]["Value"]) == 1
    assert house.unfinished() == []
    assert len(house.files()) == 1


def test_nothing_but_bad_parts_is_a_conflict(stow):
    assert upload(stow, body_of(b"", b"x" * 500)).status_code == 409


def test_an_instance_of_another_study_than_the_urls_is_refused(house, stow):
    file = part10(ct_series(slices=1)[0])
    response = upload(stow, body_of(file), study_instance_uid="1.2.3")
    assert response.status_code == 409
    assert response.body["00081198"]["Value"][0]["00081197"]["Value"] == [0xA900]
    assert house.files() == []


def test_a_deflated_instance_is_refused_unless_asked_for(house, stow):
    dataset = ct_series(slices=1)[0]
    dataset = in_syntax(dataset, ExplicitVRLittleEndian)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file = part10(dataset)
    response = upload(stow, body_of(file))
    assert response.body["00081198"]["Value"][0]["00081197"]["Value"] == [0xC122]
    allowing = Stow(house.ingest, accept_deflated=True)
    assert upload(allowing, body_of(file)).status_code == 200
    row = house.rows(instances)[0]
    assert row.header["rows"] == dataset.Rows
    assert "pixel_data_offset" not in row.header
    assert house.files()[0].read_bytes()[-100:] == file[-100:]


def test_what_is_not_storage_is_refused(stow):
    file = part10(ct_series(slices=1)[0])
    other = file.replace(b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.5.1.4.9.9.2\0")
    response = upload(stow, body_of(other))
    assert response.body["00081198"]["Value"][0]["00081197"]["Value"] == [0x0122]


def test_a_part_of_another_type_is_refused(stow):
    file = part10(ct_series(slices=1)[0])
    assert upload(stow, body_of(file, content_type="image/jpeg")).status_code == 409


def test_a_low_disk_is_told_as_unavailable(house, tmp_path):
    archive = Archive(tmp_path, min_free_bytes=1 << 62)
    ingest = Ingest(house.records, archive, _Clock(), max_instance_bytes=1 << 22)
    response = upload(Stow(ingest), body_of(part10(ct_series(slices=1)[0])))
    assert response.status_code == 503
    assert response.body["00081198"]["Value"][0]["00081197"]["Value"] == [0xA700]


class _Clock:
    def now(self):
        raise AssertionError("nothing is committed")


def test_an_instance_beyond_the_limit_is_refused_and_the_rest_goes_on(house):
    big, small = ct_series(slices=2, rows=8, columns=8)
    big.PixelData = bytes(20_000)
    ingest = Ingest(
        house.records, house.archive, house.ingest._commit._clock, max_instance_bytes=10_000
    )
    response = upload(Stow(ingest), body_of(part10(big), part10(small)))
    assert response.status_code == 202
    assert response.stored[0].sop_instance_uid == small.SOPInstanceUID


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/json", 'multipart/related; type="image/png"; boundary=x'],
)
def test_another_media_type_is_refused(stow, content_type):
    with pytest.raises(InvalidRequest) as caught:
        stow.open(content_type)
    assert caught.value.reason == "UNSUPPORTED_MEDIA_TYPE"


@pytest.mark.parametrize("body", [b"", b"--here\r\n\r\n", body_of(b"x")[:-6]])
def test_a_body_that_ends_early_is_malformed_and_leaves_nothing(house, stow, body):
    with pytest.raises(InvalidRequest) as caught:
        upload(stow, body)
    assert caught.value.reason == "MALFORMED_MULTIPART"
    assert house.unfinished() == []


def test_a_request_without_instances_is_refused(stow):
    with pytest.raises(InvalidRequest) as caught:
        upload(stow, b"--here--")
    assert caught.value.reason == "NO_INSTANCES"


def test_an_upload_that_breaks_off_leaves_no_half_instance(house, stow):
    file = part10(ct_series(slices=1)[0])
    with stow.open("application/dicom") as opened:
        opened.feed(file[: len(file) // 2])
        assert len(house.unfinished()) == 1
    assert house.unfinished() == []
