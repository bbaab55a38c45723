"""The files: every instance as a DICOM file under the data directory, as it was received.

A file appears under its final name only when all its bytes are written, and its row is committed
only when file and folder are on the disk. File names are hashes of the identifiers, never received
text; the same instance with the same bytes has the same name, so writing it twice is harmless.
"""

import errno
import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self
from uuid import uuid4

from service.core.errors import NotFound, OutOfResources

_STALE_S: Final = 3600
_FOLDER_MODE: Final = 0o750
_FILE_MODE: Final = 0o640


@dataclass(frozen=True)
class ArchivedFile:
    """A file in the archive; ``sha256`` covers the data set, not the header before it."""

    path: str  # relative to the archive's root
    sha256: str
    size_bytes: int


class Spool:
    """A file that is being written and vanishes unless it is archived."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)

    def __enter__(self) -> Self:
        """Return the open file."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file, and remove it when it was not archived."""
        self.discard()

    @property
    def sha256(self) -> str:
        """Digest of what was written as data set so far."""
        return self._hash.hexdigest()

    def write_header(self, header: bytes) -> None:
        """Write bytes of the file format, which the digest leaves out.

        Raises
        ------
        OutOfResources
            ``DISK_FULL`` when the disk takes no more, ``DISK_ERROR`` when it fails.
        """
        self._write(header)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write bytes of the data set; raises as `write_header` does."""
        self._write(data)
        self._hash.update(data)

    def fileno(self) -> int:
        """Return the descriptor, for mapping the file into memory."""
        return self._fd

    def sync(self) -> None:
        """Bring the bytes to the disk."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise _disk_error(error) from error

    def discard(self) -> None:
        """Close the file and remove it unless it has been archived; may be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self.path.unlink(missing_ok=True)

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        left = memoryview(data)
        try:
            while left:
                written = os.write(self._fd, left)
                left = left[written:]
                self.size_bytes += written
        except OSError as error:
            raise _disk_error(error) from error


class Archive:
    """The folder of all instances; processes on one machine or a shared disk may use it at once."""

    def __init__(self, data_dir: Path, *, min_free_bytes: int = 0) -> None:
        self.root = data_dir / "archive"
        self._incoming = data_dir / "incoming"
        self._aside = data_dir / "orphans"
        self._min_free_bytes = min_free_bytes
        self._names = itertools.count()
        self._own = uuid4().hex  # no two processes, here or elsewhere, write the same file

    def prepare(self) -> None:
        """Make the folders and remove what an earlier process left half-written.

        Files younger than an hour are left alone: another process may be writing them.
        """
        for folder in (self.root, self._incoming):
            folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        before = time.time() - _STALE_S
        for path in self._incoming.iterdir():
            if path.stat(follow_symlinks=False).st_mtime < before:
                path.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Return how much the disk can still take."""
        return shutil.disk_usage(self.root).free

    def require_space(self) -> None:
        """Refuse to take more when the disk is below its watermark.

        Raises
        ------
        OutOfResources
            ``DISK_LOW`` below the watermark, ``DISK_ERROR`` when the disk does not answer.
        """
        try:
            free = self.free_bytes()
        except OSError as error:
            raise _disk_error(error) from error
        if free < self._min_free_bytes:
            raise OutOfResources("DISK_LOW", f"{free} bytes free, {self._min_free_bytes} wanted")

    def spool(self) -> Spool:
        """Open a file for an instance that is coming in, on the archive's own file system."""
        try:
            return Spool(self._incoming / f"{self._own}-{os.getpid()}-{next(self._names)}.part")
        except OSError as error:
            raise _disk_error(error) from error

    def place(self, spool: Spool, *, study_instance_uid: str, sop_instance_uid: str) -> str:
        """Return the relative path that belongs to a spooled instance."""
        folder = _digest(study_instance_uid)
        return f"{folder[:2]}/{folder}/{_digest(sop_instance_uid)}-{spool.sha256}.dcm"

    def keep(self, placed: Iterable[tuple[Spool, str]]) -> None:
        """Give files their names, then bring them and the folders to the disk.

        In this order one trip serves both: what brings the file there takes its new name along.

        Raises
        ------
        OutOfResources
            ``DISK_FULL`` or ``DISK_ERROR``; what was named already may stay, without a row.
        """
        folders: dict[Path, None] = {}
        try:
            for spool, path in placed:
                folders.update(dict.fromkeys(self._named(spool, self.root / path)))
                spool.sync()
            for folder in folders:
                _sync_folder(folder)
        except OSError as error:
            raise _disk_error(error) from error

    def store(
        self, header: bytes, data_set: bytes, *, study_instance_uid: str, sop_instance_uid: str
    ) -> ArchivedFile:
        """Write an instance that is at hand as a whole, and bring it to the disk."""
        with self.spool() as spool:
            spool.write_header(header)
            spool.write(data_set)
            path = self.place(
                spool, study_instance_uid=study_instance_uid, sop_instance_uid=sop_instance_uid
            )
            self.keep([(spool, path)])
            return ArchivedFile(path, spool.sha256, spool.size_bytes)

    def quarantine(self, content: bytes, *, job_id: str, name: str) -> ArchivedFile:
        """Keep a file that must not leave, apart from everything that is read or sent."""
        with self.spool() as spool:
            spool.write(content)
            spool.sync()
            path = f"quarantine/{_digest(job_id)}/{_digest(name)}-{spool.sha256}.dcm"
            self.keep([(spool, path)])
            return ArchivedFile(path, spool.sha256, spool.size_bytes)

    def path_of(self, path: str) -> Path:
        """Return where a file lies; raises `NotFound` for a path that leaves the archive."""
        found = self.root / path
        if ".." in found.parts or Path(path).is_absolute():
            raise NotFound("INSTANCE_NOT_FOUND", "the path leaves the archive")
        return found

    def size_bytes(self, path: str) -> int | None:
        """Return a file's size, None when it is not there."""
        try:
            return self.path_of(path).stat().st_size
        except FileNotFoundError:
            return None

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading.

        Raises
        ------
        NotFound
            ``FILE_MISSING`` when the row's file is not there.
        OutOfResources
            ``DISK_ERROR`` when it cannot be read.
        """
        try:
            return self.path_of(path).open("rb")
        except FileNotFoundError as error:
            raise NotFound("FILE_MISSING", "an archived file is not there") from error
        except OSError as error:
            raise _disk_error(error) from error

    def read(self, path: str) -> bytes:
        """Return a file's bytes; raises as `open` does."""
        with self.open(path) as file:
            return file.read()

    def set_aside(self, path: str) -> None:
        """Move a file out of the archive, where nobody looks for it but a person."""
        file = self.path_of(path)
        self._aside.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        file.replace(self._aside / file.name)

    def delete(self, path: str) -> None:
        """Remove a file, and its folder when that is empty then; a missing file is fine."""
        file = self.path_of(path)
        file.unlink(missing_ok=True)
        for folder in (file.parent, file.parent.parent):
            try:
                folder.rmdir()
            except OSError:
                return

    def _named(self, spool: Spool, final: Path) -> list[Path]:
        """Give a file its name; return every folder whose entries changed."""
        folder = final.parent
        changed = [folder]
        while not folder.is_dir():
            folder = folder.parent
            changed.append(folder)
        try:
            final.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            spool.path.replace(final)
        except FileNotFoundError:  # `delete` took the empty folder away in between
            final.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            spool.path.replace(final)
        return changed


def _digest(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _disk_error(error: OSError) -> OutOfResources:
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return OutOfResources("DISK_FULL" if full else "DISK_ERROR", f"{type(error).__name__}")
