"""Every kind of result on every geometry of source: judged, kept by a real PACS, read back."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO

from service.core.part10 import read_file_meta
from service.core.profiles import LABEL_MAP_STORAGE, SegForm
from service.core.settings import Destination
from tests.builders.results import nodules, radiograph_findings, result_context, source_frames
from tests.builders.sources import RADIOGRAPHS, SERIES
from tests.peers import catalogue
from tests.peers.catalogue import RealPeer
from tests.peers.orthanc import Orthanc
from tests.peers.tools import Dciodvfy, Dcmtk
from workers.delivery import dimse, stow
from workers.results.context import ResultRole, WrittenResult
from workers.results.on_request import ON_REQUEST
from workers.results.rendering import Display
from workers.results.writer import write_results

pytestmark = [pytest.mark.peers, pytest.mark.slow]

GEOMETRIES = [
    "axial", "coronal", "sagittal", "oblique", "gapped", "gantry tilt", "feet first", "enhanced",
]  # fmt: skip
DOCUMENTS = ("sr", "ko")
# Of kinds that there is nothing to write of: contours need a space, evidence maps a radiograph.
KINDS_OF_SERIES = {"seg", "sr", "sc", "gsps", "pdf", "ko", "rtstruct"}
KINDS_OF_RADIOGRAPHS = {"seg", "sr", "sc", "gsps", "pdf", "ko", "pmap"}


@pytest.fixture(scope="module")
def archive(
    need_peer: Callable[[RealPeer], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Orthanc]:
    """One Orthanc for the whole matrix; each cell leaves it empty."""
    program = need_peer(catalogue.ORTHANC)
    plugin = need_peer(catalogue.ORTHANC_DICOMWEB)
    folder = tmp_path_factory.mktemp("orthanc")
    # Orthanc 1.10 is older than label maps and refuses them over C-STORE otherwise.
    settings = {"UnknownSopClassAccepted": True}
    with Orthanc(program, plugin, folder=folder, settings=settings) as server:
        yield server


def results_of(name: str) -> list[WrittenResult]:
    """Return every kind of result on a source, the segmentation in each of its forms."""
    flat = name in RADIOGRAPHS
    instances = (RADIOGRAPHS if flat else SERIES)[name]()
    frames = source_frames(instances)
    context = result_context(instances[0], made_up_plane=False)
    analysis = radiograph_findings(frames, with_mask=True) if flat else nodules(frames)
    shape = (len(frames), instances[0].Rows, instances[0].Columns)
    display = Display(np.zeros(shape, np.float32), (0, 1))
    written = list(write_results(context, analysis, frames, display=display, also=ON_REQUEST))
    for form in (SegForm.FRACTIONAL, SegForm.LABELMAP):
        other = result_context(instances[0], seg_form=form, forms={"seg": form[:2]})
        written += [
            one for one in write_results(other, analysis, frames) if one.role is ResultRole.SEG
        ]
    return written


def kept(folder: Path, results: Sequence[WrittenResult]) -> list[Path]:
    """Write results into files."""
    paths = [folder / f"{number}-{one.role}.dcm" for number, one in enumerate(results)]
    for path, one in zip(paths, results, strict=True):
        path.write_bytes(one.content)
    return paths


def data_set(content: bytes) -> bytes:
    """Return the bytes behind the file meta information, which an archive writes anew."""
    meta = read_file_meta(content)
    assert meta is not None
    return content[meta.length :]


@pytest.mark.parametrize("name", [*GEOMETRIES, *RADIOGRAPHS])
def test_every_kind_is_valid_and_comes_back_unchanged_from_a_pacs(
    name: str, archive: Orthanc, dciodvfy: Dciodvfy, dcmtk: Dcmtk, tmp_path: Path
) -> None:
    results = results_of(name)
    assert {one.role.value for one in results} == (
        KINDS_OF_RADIOGRAPHS if name in RADIOGRAPHS else KINDS_OF_SERIES
    )
    paths = kept(tmp_path, results)
    for one, path in zip(results, paths, strict=True):
        if one.sop_class_uid != LABEL_MAP_STORAGE:  # younger than the validator
            assert dciodvfy(path).errors == (), one.role
        if one.role in DOCUMENTS:
            printed = dcmtk("dsrdump", path).stdout
            assert not [line for line in printed.splitlines() if line.startswith(("E:", "F:"))]
    for by in (by_dimse(archive), by_stow(archive)):
        for one, path in zip(results, paths, strict=True):
            by(one, path)
        assert_same(archive, results)
        for instance in archive.find("Instance"):
            archive.delete(instance)


def by_dimse(archive: Orthanc) -> Callable[[WrittenResult, Path], None]:
    """Return how a result is stored over C-STORE."""
    to = Destination(
        name="PACS", ae_title=archive.ae_title, host="127.0.0.1", port=archive.dicom_port
    )

    def send(one: WrittenResult, path: Path) -> None:
        dimse.send(
            to,
            calling_ae_title="OVERREAD",
            file=path,
            sop_class_uid=one.sop_class_uid,
            transfer_syntax_uid=one.transfer_syntax_uid,
        )

    return send


def by_stow(archive: Orthanc) -> Callable[[WrittenResult, Path], None]:
    """Return how a result is stored over STOW-RS."""
    to = Destination(name="PACS", stow_url=archive.dicomweb_url)
    return lambda one, path: stow.send(to, file=path, sop_instance_uid=one.sop_instance_uid)


def assert_same(archive: Orthanc, results: Sequence[WrittenResult]) -> None:
    """Every result is there, byte for byte, and reads as the same data set."""
    for one in results:
        (instance,) = archive.find("Instance", SOPInstanceUID=one.sop_instance_uid)
        back = archive.file(instance)
        assert data_set(back) == data_set(one.content), one.role
        dataset = dcmread(DicomBytesIO(back))
        assert (dataset.SOPClassUID, dataset.SeriesInstanceUID) == (
            one.sop_class_uid,
            one.series_instance_uid,
        )
