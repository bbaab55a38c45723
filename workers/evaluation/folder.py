"""What lies in a folder of studies: series of images, reference objects, tables.

Files are told apart by their content. What is no DICOM file and no CSV is left alone and counted.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from service.core.elements import Encoding, walk
from service.core.errors import InvalidRequest, RefusedInstance
from service.core.headers import InstanceHeader
from service.core.part10 import read_file_meta
from service.core.received import read_instance
from workers.volume.pixels import SourceInstance

REFERENCE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
    "1.2.840.10008.5.1.4.1.1.88.22": "SR",
    "1.2.840.10008.5.1.4.1.1.88.33": "SR",
    "1.2.840.10008.5.1.4.1.1.88.34": "SR",
}
_FILE_BYTES_LIMIT = 2 << 30


@dataclass(frozen=True)
class ImageSeries:
    """The images of one series, and the folder under the data's root that they lie in."""

    instances: tuple[SourceInstance, ...]
    domain: str

    @property
    def header(self) -> InstanceHeader:
        """Header of the first instance, which stands for what all of them say."""
        return self.instances[0].header

    @property
    def uid(self) -> str:
        """Series Instance UID."""
        return self.header.series_instance_uid

    @property
    def slices(self) -> int:
        """Number of frames."""
        return sum(item.header.number_of_frames for item in self.instances)


@dataclass(frozen=True)
class ReferenceFile:
    """A DICOM object that says what is in other images: ``SEG``, ``RTSTRUCT`` or ``SR``."""

    kind: str
    path: Path
    header: InstanceHeader


@dataclass
class Folder:
    """Everything of use in a folder; `skipped` files were neither DICOM nor tables."""

    series: tuple[ImageSeries, ...] = ()
    references: tuple[ReferenceFile, ...] = ()
    tables: tuple[Path, ...] = ()
    skipped: int = 0


@dataclass
class _Gathered:
    images: dict[str, list[SourceInstance]] = field(default_factory=dict)
    domains: dict[str, str] = field(default_factory=dict)
    references: list[ReferenceFile] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    skipped: int = 0


def read_folder(root: Path, on_file: Callable[[int], None] | None = None) -> Folder:
    """Read the headers of everything under `root`; `on_file` hears the count so far.

    Raises
    ------
    InvalidRequest
        ``DATA`` when `root` is no folder.
    """
    if not root.is_dir():
        raise InvalidRequest("DATA", f"--data: found {root}, allowed a folder that exists")
    gathered = _Gathered()
    for count, path in enumerate(_files(root), start=1):
        _sort_in(path, root, gathered)
        if on_file:
            on_file(count)
    series = tuple(
        ImageSeries(tuple(items), gathered.domains[uid]) for uid, items in gathered.images.items()
    )
    return Folder(series, tuple(gathered.references), tuple(gathered.tables), gathered.skipped)


def _files(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        names.sort()
        for name in sorted(files):
            path = Path(folder) / name
            if path.is_file() and path.stat().st_size <= _FILE_BYTES_LIMIT:
                yield path


def _sort_in(path: Path, root: Path, gathered: _Gathered) -> None:
    if path.suffix.lower() == ".csv":
        gathered.tables.append(path)
        return
    found = read_source(path)
    if found is None:
        gathered.skipped += 1
        return
    header = found.header
    kind = REFERENCE_CLASSES.get(header.sop_class_uid)
    if kind:
        gathered.references.append(ReferenceFile(kind, path, header))
    elif header.has_pixels and header.modality not in ("SEG", "PR", "OT"):
        uid = header.series_instance_uid
        gathered.images.setdefault(uid, []).append(found)
        parts = path.relative_to(root).parts
        gathered.domains.setdefault(uid, parts[0] if len(parts) > 1 else "")
    else:
        gathered.skipped += 1


def read_source(path: Path) -> SourceInstance | None:
    """Return a DICOM file as the archive would hold it, or nothing when it is none."""
    content = path.read_bytes()
    try:
        meta = read_file_meta(content)
        if meta is None:
            return None
        encoding = Encoding.of(meta.transfer_syntax_uid)
        elements = walk(content, encoding, start=meta.length)
        header, _ = read_instance(
            content, encoding, elements, transfer_syntax_uid=meta.transfer_syntax_uid
        )
    except RefusedInstance:
        return None
    return SourceInstance(header, path, hashlib.sha256(content[meta.length :]).hexdigest())
