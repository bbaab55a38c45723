"""DICOMweb by a client that others wrote, over a real server: what went in comes out."""

import io
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from service.core.received import StudyAttributes
from service.records.archive import ArchivedFile
from service.records.studies import ReceivedInstance, register_instances
from tests.builders.dicom import ct_series, enhanced_ct, part10, radiograph
from tests.builders.headers import read_header
from tests.builders.http import Site, served, site
from tests.builders.results import header_bytes
from tests.builders.rows import NOW


@dataclass
class Web:
    """A served site with DICOMweb clients on it."""

    url: str
    site: Site
    http: httpx.Client
    client: DICOMwebClient

    def store(self, instances: list[Dataset]) -> list[Dataset]:
        """Upload instances and return them."""
        for instance in instances:
            answer = self.http.post(
                "/api/v1/studies",
                content=part10(instance),
                headers={"content-type": "application/dicom"},
            )
            assert answer.status_code == 200, answer.text
        return instances

    def get(self, path: str, accept: str = "*/*", **parameters: Any) -> httpx.Response:
        """Ask below the root of DICOMweb."""
        headers = {"accept": accept}
        return self.http.get(f"/dicom-web{path}", headers=headers, params=parameters)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("dicomweb")
    with (
        site(f"sqlite:///{folder / 'overread.db'}", folder) as here,
        served(here.settings, here.records) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        yield Web(url, here, http, DICOMwebClient(f"{url}/dicom-web"))


def new_series(**given: Any) -> list[Dataset]:
    name = uuid.uuid4().hex
    return ct_series(**{"slices": 3, "name": name, "study": name} | given)


def path_of(instance: Dataset) -> str:
    return (
        f"/studies/{instance.StudyInstanceUID}/series/{instance.SeriesInstanceUID}"
        f"/instances/{instance.SOPInstanceUID}"
    )


def uids(instance: Dataset) -> tuple[str, str, str]:
    return (
        str(instance.StudyInstanceUID),
        str(instance.SeriesInstanceUID),
        str(instance.SOPInstanceUID),
    )


def test_metadata_round_trip_equals_what_was_stored(web: Web) -> None:
    (first, *_) = web.store(new_series(PatientComments="several\r\nlines", KVP="120.50"))
    metadata = web.client.retrieve_instance_metadata(*uids(first))
    assert metadata.pop("7FE00010")["BulkDataURI"].startswith(web.url)
    found = Dataset.from_json(metadata)
    assert found.AvailableTransferSyntaxUID == ExplicitVRLittleEndian
    del found.AvailableTransferSyntaxUID
    for element in first:
        if element.keyword != "PixelData":
            assert found[element.tag] == element


def test_bulk_data_address_in_the_metadata_gives_the_pixels(web: Web) -> None:
    (first, *_) = web.store(new_series())
    metadata = web.client.retrieve_instance_metadata(*uids(first))
    (pixels,) = web.client.retrieve_bulkdata(metadata["7FE00010"]["BulkDataURI"])
    assert pixels == first.PixelData


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless,
        JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless,
    ],
)  # fmt: skip
def test_frames_come_native_from_every_lossless_syntax(web: Web, syntax: str) -> None:
    native = new_series(slices=1)
    name = uuid.uuid4().hex
    (stored,) = web.store(new_series(slices=1, transfer_syntax_uid=syntax, name=name, study=name))
    (frame,) = web.client.retrieve_instance_frames(
        *uids(stored), [1], media_types=[("application/octet-stream", ExplicitVRLittleEndian)]
    )
    assert frame == native[0].PixelData


def test_a_compressed_frame_comes_as_stored_when_any_syntax_is_taken(web: Web) -> None:
    (stored,) = web.store(new_series(slices=1, transfer_syntax_uid=JPEGLSLossless))
    accept = "multipart/related; type=application/octet-stream; transfer-syntax=*"
    answer = web.get(f"{path_of(stored)}/frames/1", accept)
    assert answer.status_code == 200
    assert 'type="application/octet-stream"' in answer.headers["content-type"]
    head, _, rest = answer.content.partition(b"\r\n\r\n")
    assert f"transfer-syntax={JPEGLSLossless}".encode() in head
    assert rest.startswith(b"\xff\xd8")
    jls = web.get(f"{path_of(stored)}/frames/1", 'multipart/related; type="image/jls"')
    assert 'type="image/jls"' in jls.headers["content-type"]


def test_frames_of_a_multi_frame_instance_come_in_the_order_asked(web: Web) -> None:
    name = uuid.uuid4().hex
    (stored,) = web.store(enhanced_ct(slices=5, name=name, study=name))
    frames = web.client.retrieve_instance_frames(*uids(stored), [4, 2])
    values = np.frombuffer(stored.PixelData, "<u2").reshape(5, -1)
    assert [frame == values[n].tobytes() for n, frame in zip((3, 1), frames, strict=True)] == [
        True, True,
    ]  # fmt: skip
    assert web.get(f"{path_of(stored)}/frames/6").status_code == 404


def test_frames_of_one_bit_a_pixel_are_cut_at_the_bit(web: Web) -> None:
    mask = np.random.default_rng(3).integers(0, 2, (3, 5, 7)).astype(np.uint8)
    name = uuid.uuid4().hex
    (stored,) = enhanced_ct(slices=3, rows=5, columns=7, name=name, study=name)
    stored.BitsAllocated = stored.BitsStored = 1
    stored.HighBit = 0
    packed = np.packbits(mask.ravel(), bitorder="little").tobytes()
    stored.PixelData = packed + b"\0" * (len(packed) % 2)
    stored["PixelData"].VR = "OB"
    web.store([stored])
    frames = web.client.retrieve_instance_frames(*uids(stored), [1, 2, 3])
    for frame, wanted in zip(frames, mask, strict=True):
        bits = np.unpackbits(np.frombuffer(frame, np.uint8), bitorder="little")[:35]
        assert (bits == wanted.ravel()).all()


def test_instances_come_as_stored_or_in_explicit_little_endian(web: Web) -> None:
    (native, *_) = new_series(slices=1)
    (stored,) = web.store(new_series(slices=1, transfer_syntax_uid=JPEGLSLossless))
    kept = web.client.retrieve_instance(*uids(stored))
    assert kept.file_meta.TransferSyntaxUID == JPEGLSLossless
    assert kept.PixelData == stored.PixelData
    plain = web.get(path_of(stored), 'multipart/related; type="application/dicom"')
    (found,) = parts(plain)
    dataset = pydicom.dcmread(io.BytesIO(found))
    assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert dataset.PixelData == native.PixelData
    single = web.get(path_of(stored), "application/dicom; transfer-syntax=*")
    assert pydicom.dcmread(io.BytesIO(single.content)).PixelData == stored.PixelData


def test_pixel_data_that_break_off_are_told_before_any_frame(web: Web) -> None:
    (stored,) = new_series(slices=1, transfer_syntax_uid=JPEG2000Lossless)
    stored.NumberOfFrames = 100_000_000
    web.store([stored])
    answer = web.get(f"{path_of(stored)}/bulkdata/7FE00010")
    assert (answer.status_code, answer.json()["reason"]) == (409, "PIXEL_DATA")
    plain = web.get(path_of(stored), "application/dicom")
    assert plain.status_code == 406
    assert web.get(f"{path_of(stored)}/bulkdata/00080018/1/00080018").status_code == 404


def parts(answer: httpx.Response) -> list[bytes]:
    """Split a multipart answer as simply as can be."""
    boundary = answer.headers["content-type"].rpartition("boundary=")[2].encode()
    found = answer.content.split(b"--" + boundary)[1:-1]
    return [part.partition(b"\r\n\r\n")[2][:-2] for part in found]


def test_a_study_and_a_series_come_whole(web: Web) -> None:
    stored = web.store(new_series(slices=4))
    study, series, _ = uids(stored[0])
    for found in (web.client.retrieve_series(study, series), web.client.retrieve_study(study)):
        assert {one.SOPInstanceUID for one in found} == {one.SOPInstanceUID for one in stored}


def test_colour_frames_are_given_as_rgb(web: Web) -> None:
    name = uuid.uuid4().hex
    (stored,) = radiograph(name=name, study=name, bits_stored=8, rows=16, columns=16)
    colours = np.zeros((16, 16, 3), np.uint8)
    colours[:8] = (200, 30, 40)
    colours[8:] = (10, 180, 220)
    stored.SamplesPerPixel, stored.PhotometricInterpretation = 3, "RGB"
    stored.PlanarConfiguration = 1
    stored.PixelData = colours.transpose(2, 0, 1).tobytes()
    web.store([stored])
    answer = web.get(f"{path_of(stored)}/rendered", "image/png")
    assert (picture(answer) == colours).all()


def picture(answer: httpx.Response) -> np.ndarray:
    from PIL import Image  # noqa: PLC0415

    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_rendering_uses_the_window_asked_for(web: Web) -> None:
    (first, *_) = web.store(new_series(WindowCenter="40", WindowWidth="400"))
    hounsfield = first.pixel_array.astype(float) - 1024
    default = picture(web.get(f"{path_of(first)}/rendered"))
    lung = picture(web.get(f"{path_of(first)}/frames/1/rendered", window="-600,1500,linear"))
    for shown, center, width in ((default, 40, 400), (lung, -600, 1500)):
        wanted = np.clip((hounsfield - (center - 0.5)) / (width - 1) + 0.5, 0, 1) * 255
        assert np.abs(shown - wanted).max() <= 1
    jpeg = web.get(f"{path_of(first)}/rendered", "image/jpeg", quality="60")
    assert jpeg.headers["content-type"] == "image/jpeg"


def test_monochrome1_is_shown_inverted(web: Web) -> None:
    shown = []
    for interpretation in ("MONOCHROME1", "MONOCHROME2"):
        name = uuid.uuid4().hex
        (stored,) = web.store(
            radiograph(name=name, study=name, photometric_interpretation=interpretation)
        )
        shown.append(picture(web.get(f"{path_of(stored)}/rendered")).astype(int))
    assert (shown[0] + shown[1] == 255).all()


def test_a_lossy_radiograph_is_rendered(web: Web) -> None:
    name = uuid.uuid4().hex
    (stored,) = web.store(
        radiograph(name=name, study=name, bits_stored=8, transfer_syntax_uid=JPEGBaseline8Bit)
    )
    assert picture(web.get(f"{path_of(stored)}/rendered")).shape == (64, 48)


@pytest.mark.parametrize("depth", [2, 4, 6])
def test_thumbnails_are_small_at_every_level(web: Web, depth: int) -> None:
    (first, *_) = web.store(new_series(rows=200, columns=300))
    path = "/".join(path_of(first).split("/")[: depth + 1])
    answer = web.get(f"{path}/thumbnail")
    assert answer.headers["content-type"] == "image/jpeg"
    assert max(picture(answer).shape) <= 128


def test_metadata_of_five_hundred_instances_take_well_under_a_second(web: Web) -> None:
    stored = new_series(slices=500, rows=4, columns=4)
    received = [
        ReceivedInstance(
            header=header,
            study=StudyAttributes(),
            file=ArchivedFile(f"{header.sop_instance_uid}.dcm", header.sop_instance_uid[-60:], 900),
            header_bytes=header_bytes(one),
        )
        for one in stored
        for header in [read_header(one, transfer_syntax_uid=ExplicitVRLittleEndian)]
    ]
    web.site.add(register_instances, received=received, at=NOW)
    study, series, _ = uids(stored[0])
    path = f"/studies/{study}/series/{series}/metadata"
    cold, warm = (timed(web, path) for _ in range(2))
    print(f"500 instances: first {cold:.2f} s, then {warm:.2f} s")
    assert warm < 2.0  # several times less on a machine with nothing else to do


def timed(web: Web, path: str) -> float:
    start = time.perf_counter()
    answer = web.get(path)
    taken = time.perf_counter() - start
    assert len(answer.json()) == 500
    return taken


@pytest.mark.parametrize(
    ("path", "accept", "status", "reason"),
    [
        ("/studies/1.2.3/metadata", "*/*", 404, "NOT_STORED"),
        ("/studies/..%2Fetc/metadata", "*/*", 404, "NOT_FOUND"),
        ("/studies/1.02/metadata", "*/*", 400, "INVALID_UID"),
        ("/studies/1.02/series", "*/*", 400, "INVALID_UID"),
        ("/studies?StudyDate=yesterday", "*/*", 400, "INVALID_QUERY"),
        ("/studies?Nonsense=1", "*/*", 400, "INVALID_QUERY"),
        ("/studies?limit=-1", "*/*", 400, "INVALID_QUERY"),
        ("/studies?StudyInstanceUID=1.2,x", "*/*", 400, "INVALID_QUERY"),
        ("/studies", "application/dicom+xml", 406, "NOT_ACCEPTABLE"),
        ("{path}/frames/1", "image/webp", 406, "NOT_ACCEPTABLE"),
        ("{path}/frames/0", "*/*", 404, "NO_SUCH_FRAME"),
        ("{path}/frames/x", "*/*", 404, "NO_SUCH_FRAME"),
        ("{path}", "application/dicom; transfer-syntax=1.2.840.10008.1.2.4.80", 406, ""),
        ("{path}/bulkdata/00880200/1/7FE00010", "*/*", 404, "NO_BULK_DATA"),
        ("{path}/rendered?window=nan,nan", "*/*", 400, "INVALID_QUERY"),
        ("{path}/rendered?viewport=99999,9", "*/*", 400, "INVALID_QUERY"),
    ],
)
def test_what_is_wrong_is_told_as_a_problem(
    web: Web, path: str, accept: str, status: int, reason: str
) -> None:
    (first,) = web.store(new_series(slices=1))
    answer = web.http.get(
        "/dicom-web" + path.replace("{path}", path_of(first)), headers={"accept": accept}
    )
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["reason"] == (reason or "NOT_ACCEPTABLE")


def test_a_nested_big_value_is_reached_by_its_path(web: Web) -> None:
    (first,) = new_series(slices=1)
    icon = Dataset()
    icon.Rows = icon.Columns = 100
    icon.PixelData = bytes(range(100)) * 100
    icon["PixelData"].VR = "OB"
    first.IconImageSequence = [icon]
    first.EncapsulatedDocument = b"%PDF" + bytes(200_000)  # too big for the header in the row
    web.store([first])
    metadata = web.client.retrieve_instance_metadata(*uids(first))
    nested = metadata["00880200"]["Value"][0]["7FE00010"]["BulkDataURI"]
    assert web.http.get(nested).content == icon.PixelData
    assert web.http.get(metadata["00420011"]["BulkDataURI"]).content == first.EncapsulatedDocument
