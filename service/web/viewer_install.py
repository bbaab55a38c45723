"""`overread viewer install`: gets OHIF's build from the npm registry, pinned by its content."""

import base64
import hashlib
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

import httpx

from service.core.errors import InvalidRequest, OutOfResources, PeerUnavailable
from service.web.ohif import INDEX

VERSION: Final = "3.12.10"
INTEGRITY: Final = (
    "sha512-0kuF66Mq9c9dMD++bUsTjMrJpXJwaZhz9B4uS244"
    "DawAjSkTwIYFU93pxPuRUQixaRi7QAHlF3Fe1qudBlZrmA=="
)
ADDRESS: Final = f"https://registry.npmjs.org/@ohif/app/-/app-{VERSION}.tgz"
_DIST: Final = PurePosixPath("package/dist")
# Source maps, networks for smart brushes and the microscopy viewer are three quarters of the build.
_LEFT_OUT: Final = ("ort", "dicom-microscopy-viewer")
_LIMIT_BYTES: Final = 200 << 20
_TIMEOUT_S: Final = 30.0

# Told the bytes that are there and the bytes that there will be, 0 where that is not known.
Progress = Callable[[int, int], None]


def install(folder: Path, *, archive: Path | None = None, progress: Progress) -> None:
    """Put OHIF's build into a folder, from the registry or from an archive that is at hand.

    The folder is replaced only once everything is there and has been verified.

    Raises
    ------
    PeerUnavailable
        ``REGISTRY_AWAY`` when the registry does not give the package.
    InvalidRequest
        ``VIEWER_CHANGED`` when the content is not the one that is pinned.
    OutOfResources
        ``DISK_ERROR`` when it cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="viewer-") as scratch:
            got = archive or download(ADDRESS, Path(scratch) / "viewer.tgz", progress=progress)
            require_pinned(got, INTEGRITY)
            unpacked = Path(scratch) / "unpacked"
            unpack(got, unpacked)
            shutil.rmtree(folder, ignore_errors=True)
            unpacked.rename(folder)
    except OSError as error:
        raise OutOfResources("DISK_ERROR", f"{folder}: {error.strerror}") from error


def download(address: str, file: Path, *, progress: Progress) -> Path:
    """Write what is at an address into a file; raises `PeerUnavailable`."""
    try:
        with httpx.stream("GET", address, timeout=_TIMEOUT_S, follow_redirects=True) as answer:
            answer.raise_for_status()
            whole = int(answer.headers.get("content-length", 0))
            with file.open("wb") as written:
                for piece in answer.iter_bytes(1 << 20):
                    written.write(piece)
                    progress(written.tell(), whole)
                    if written.tell() > _LIMIT_BYTES:
                        raise PeerUnavailable("REGISTRY_AWAY", f"{address} gives too much")
    except httpx.HTTPError as error:
        raise PeerUnavailable("REGISTRY_AWAY", f"{address}: {type(error).__name__}") from error
    return file


def require_pinned(file: Path, integrity: str) -> None:
    """Compare a file with its digest as package locks write it; raises `InvalidRequest`."""
    algorithm, _, expected = integrity.partition("-")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, algorithm).digest()
    if base64.b64encode(digest).decode() != expected:
        raise InvalidRequest("VIEWER_CHANGED", f"{file.name} is not OHIF {VERSION} as pinned")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the build, without what is not needed here."""
    folder.mkdir()
    with tarfile.open(archive, "r:gz") as opened:
        for member in opened:
            path = PurePosixPath(member.name)
            if not member.isfile() or not path.is_relative_to(_DIST):
                continue
            inside = path.relative_to(_DIST)
            if inside.suffix == ".map" or inside.parts[0] in _LEFT_OUT:
                continue
            opened.extract(member.replace(name=str(inside)), folder, filter="data")
    if not (folder / INDEX).is_file():
        raise InvalidRequest("VIEWER_CHANGED", "the package holds no built viewer")
