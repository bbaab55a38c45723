"""WADO-RS without HTTP: metadata, files, frames and bulk data of archived instances.

References
----------
DICOM PS3.18 section 10.4 (retrieve transaction).
"""

import io
import mmap
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
)

from service.core.elements import PIXEL_DATA, Element, Encoding, items, walk
from service.core.errors import InvalidRequest, NotFound, RefusedInstance
from service.core.identifiers import is_uid
from service.core.multipart import Part
from service.core.part10 import MAX_HEADER_ELEMENT_BYTES, read_file_meta
from service.dicomweb.accept import AS_STORED, EXPLICIT, not_acceptable
from service.dicomweb.dicom_json import DataSetJson, element, of_file, stated_vr
from service.dicomweb.pixels import FrameReader, is_native
from service.records.archive import Archive
from service.records.database import Records
from service.records.dicomweb import StoredInstance, header_bytes_of, instances_of

PIECE_BYTES: Final = 1 << 20
MAX_TRANSCODED_BYTES: Final = 1 << 30
_CACHE_BYTES: Final = 64 << 20
_PIXELS: Final = f"{PIXEL_DATA:08X}"
# Stands for the service's address in what is cached; no data set can hold it.
_BASE: Final = f"overread-{secrets.token_hex(16)}"
_PATH_LIMIT: Final = 32


class MetadataCache:
    """Instances' metadata as JSON, the least recently used going first."""

    def __init__(self, limit_bytes: int = _CACHE_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, str], bytes] = OrderedDict()

    def get(self, key: tuple[int, str]) -> bytes | None:
        """Return what was kept."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: tuple[int, str], metadata: bytes) -> None:
        """Keep an instance's metadata."""
        with self._lock:
            self._bytes += len(metadata) - len(self._kept.pop(key, b""))
            self._kept[key] = metadata
            while self._bytes > self._limit_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= len(dropped)


class Wado:
    """Reads what the archive holds; shared by a process's threads."""

    def __init__(self, records: Records, archive: Archive) -> None:
        self.records = records
        self.archive = archive
        self._cache = MetadataCache()

    def instances(
        self, study: str, series: str | None, sop: str | None
    ) -> Sequence[StoredInstance]:
        """Return the instances of a resource by its UIDs.

        Raises
        ------
        InvalidRequest
            ``INVALID_UID`` when one is none.
        NotFound
            ``NOT_STORED`` when there are no instances.
        """
        for name, uid in (("study", study), ("series", series), ("instance", sop)):
            require_uid(uid, name)
        with self.records.reading() as connection:
            found = instances_of(
                connection,
                study_instance_uid=study,
                series_instance_uid=series,
                sop_instance_uid=sop,
            )
        if not found:
            raise NotFound("NOT_STORED", "no such study, series or instance is here")
        return found

    def metadata(self, found: Sequence[StoredInstance], service: str) -> bytes:
        """Return the metadata of instances as a JSON array; `service` is its root's address."""
        written = {one.row_id: self._cache.get(one.key) for one in found}
        missing = [one for one in found if written[one.row_id] is None]
        if missing:
            with self.records.reading() as connection:
                headers = header_bytes_of(connection, [one.row_id for one in missing])
            for one in missing:
                metadata = orjson.dumps(self._metadata(one, headers[one.row_id]))
                self._cache.put(one.key, metadata)
                written[one.row_id] = metadata
        body = b",".join(written[one.row_id] or b"" for one in found)
        return b"[" + body.replace(_BASE.encode(), service.encode()) + b"]"

    def data_sets(self, row_ids: Sequence[int]) -> dict[int, DataSetJson]:
        """Return the headers of instances in the DICOM JSON model, without addresses."""
        with self.records.reading() as connection:
            headers = header_bytes_of(connection, row_ids)
        return {row_id: of_file(header, str) for row_id, header in headers.items()}

    def file_part(self, one: StoredInstance, transfer_syntax_uid: str) -> Part:
        """Return an instance as a part of an answer, in the transfer syntax asked for.

        Raises
        ------
        InvalidRequest
            ``NOT_ACCEPTABLE`` when it cannot be given so.
        """
        stored = one.header.transfer_syntax_uid
        wanted = transfer_syntax_uid or EXPLICIT
        if wanted in {AS_STORED, stored}:
            return Part(_dicom(stored), self._pieces(one))
        if wanted != EXPLICIT:
            raise not_acceptable(f"available: transfer-syntax={EXPLICIT} or {stored}")
        return Part(_dicom(EXPLICIT), [self._transcoded(one)])

    def require_file(self, one: StoredInstance) -> None:
        """Raise `NotFound` before an answer begins whose file is not there."""
        self.archive.open(one.path).close()

    def bulk_data(self, one: StoredInstance, path: str) -> bytes:
        """Return a value by its path of tags and item numbers, such as ``00880200/1/7FE00010``.

        Raises
        ------
        NotFound
            ``NO_BULK_DATA`` when there is no such value.
        """
        with _Mapped(self.archive, one) as mapped:
            found = mapped.at(path.split("/"))
            return bytes(mapped.buffer[found.value_start : found.value_end])

    def pixel_part(self, one: StoredInstance, service: str) -> Part:
        """Return the native pixels of an instance, all frames in one part.

        Raises
        ------
        InvalidRequest
            ``NOT_ACCEPTABLE`` when they are too many, or no codec here decodes them.
        """
        with FrameReader(self.archive, one) as reader:
            if reader.format.bits // 8 * reader.format.frames > MAX_TRANSCODED_BYTES:
                raise not_acceptable("so large an instance is given by frames")
            frames = [reader.native(number) for number in range(1, reader.format.frames + 1)]
        address = _address(one).replace(_BASE, service)
        headers = {
            "Content-Type": f"application/octet-stream; transfer-syntax={EXPLICIT}",
            "Content-Location": f"{address}/bulkdata/{_PIXELS}",
        }
        return Part(headers, frames)

    def _metadata(self, one: StoredInstance, header: bytes) -> DataSetJson:
        root = _address(one)
        found = of_file(header, lambda path: f"{root}/bulkdata/{path}")
        pixels_bytes = one.header.pixel_data_length or 0
        if one.header.pixel_data_offset is not None:
            deep = (one.header.bits_allocated or 0) > 8 and is_native(one)
            found[_PIXELS] = _bulk("OW" if deep else "OB", f"{root}/bulkdata/{_PIXELS}")
        # Receipt leaves elements above 64 KiB out of the header; they are looked for only then.
        if one.size_bytes - len(header) - pixels_bytes > MAX_HEADER_ELEMENT_BYTES:
            with _Mapped(self.archive, one) as mapped:
                left_out = {f"{e.tag:08X}": e for e in mapped.elements if e.tag >> 16 != 0xFFFC}
            for tag, big in left_out.items():
                vr = stated_vr(big.tag, big.vr, signed=False)
                found.setdefault(tag, _bulk(vr, f"{root}/bulkdata/{tag}"))
        found["00083002"] = element("UI", one.header.transfer_syntax_uid)
        return dict(sorted(found.items()))

    def _pieces(self, one: StoredInstance) -> Iterator[bytes]:
        with self.archive.open(one.path) as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    def _transcoded(self, one: StoredInstance) -> bytes:
        """Return an instance as a file in Explicit VR Little Endian."""
        header = one.header
        frame_bits = (header.rows or 0) * (header.columns or 0) * (header.bits_allocated or 0)
        pixels_bytes = frame_bits // 8 * header.samples_per_pixel * header.number_of_frames
        if max(one.size_bytes, pixels_bytes) > MAX_TRANSCODED_BYTES:
            raise not_acceptable("so large an instance is given as stored: transfer-syntax=*")
        with self.archive.open(one.path) as file:
            dataset = dcmread(file)
        if header.transfer_syntax_uid == ExplicitVRBigEndian:
            _require_no_other_words(dataset)
        if "PixelData" in dataset:
            _set_native_pixels(dataset, self.archive, one)
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        written = io.BytesIO()
        dataset.save_as(written, implicit_vr=False, little_endian=True, enforce_file_format=True)
        return written.getvalue()


def require_uid(uid: str | None, name: str) -> None:
    """Refuse what breaks the grammar of UIDs.

    Raises
    ------
    InvalidRequest
        ``INVALID_UID``.
    """
    if uid is not None and not is_uid(uid):
        raise InvalidRequest("INVALID_UID", f"{name}: breaks the grammar of UIDs")


class _Mapped:
    """The elements of an archived file, read where they lie."""

    def __init__(self, archive: Archive, one: StoredInstance) -> None:
        if one.header.transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
            raise NotFound("NO_BULK_DATA", "values of deflated instances come with the instance")
        with archive.open(one.path) as file:  # the map outlives the open file
            self.buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._encoding = Encoding.of(one.header.transfer_syntax_uid)
        meta = read_file_meta(self.buffer)
        self.elements = walk(self.buffer, self._encoding, start=meta.length if meta else 0)

    def __enter__(self) -> "_Mapped":
        return self

    def __exit__(self, *_: object) -> None:
        self.buffer.close()

    def at(self, path: Sequence[str]) -> Element:
        """Return the element that a path leads to."""
        if len(path) > _PATH_LIMIT:
            raise _no_bulk_data()
        elements = self.elements
        for tag, number in zip(path[::2], path[1::2], strict=False):
            elements = self._item(_named(elements, tag), number)
        return _named(elements, path[-1])

    def _item(self, sequence: Element, number: str) -> list[Element]:
        # Items of a sequence whose VR is UN are implicit, as when the metadata were written.
        encoding = Encoding(implicit=True) if sequence.vr == "UN" else self._encoding
        try:
            found = list(items(self.buffer, encoding, sequence))
        except RefusedInstance:  # no sequence at all
            raise _no_bulk_data() from None
        if not (number.isascii() and number.isdigit() and 1 <= int(number[:9]) <= len(found)):
            raise _no_bulk_data()
        return found[int(number[:9]) - 1]


def _named(elements: Sequence[Element], tag: str) -> Element:
    for one in elements:
        if f"{one.tag:08X}" == tag.upper():
            return one
    raise _no_bulk_data()


def _no_bulk_data() -> NotFound:
    return NotFound("NO_BULK_DATA", "the instance has no such value")


def _bulk(vr: str, address: str) -> dict[str, Any]:
    return {"vr": vr, "BulkDataURI": address}


def _dicom(transfer_syntax_uid: str) -> dict[str, str]:
    return {"Content-Type": f"application/dicom; transfer-syntax={transfer_syntax_uid}"}


def _address(one: StoredInstance) -> str:
    header = one.header
    return (
        f"{_BASE}/studies/{header.study_instance_uid}/series/{header.series_instance_uid}"
        f"/instances/{header.sop_instance_uid}"
    )


def _require_no_other_words(dataset: Dataset) -> None:
    """Refuse to rewrite big endian data sets whose words outside of Pixel Data would stay so."""
    if any(one.VR == "OW" and one.tag != PIXEL_DATA for one in dataset.iterall()):
        raise not_acceptable(f"available: transfer-syntax={ExplicitVRBigEndian}")


def _set_native_pixels(dataset: Dataset, archive: Archive, one: StoredInstance) -> None:
    syntax = one.header.transfer_syntax_uid
    if is_native(one) and syntax != ExplicitVRBigEndian:
        return
    with FrameReader(archive, one) as reader:
        if reader.format.bits_allocated == 1:  # bits have no byte order
            return
        pixels = b"".join(reader.native(n) for n in range(1, reader.format.frames + 1))
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    dataset["PixelData"].VR = "OW" if reader.format.bits_allocated > 8 else "OB"
    dataset["PixelData"].is_undefined_length = False
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            delattr(dataset, keyword)
    if reader.format.samples == 3 and not is_native(one):
        dataset.PlanarConfiguration = 0
        dataset.PhotometricInterpretation = "RGB"
