"""Reading a package's pinned files: exactly the bytes that the manifest names, or none."""

import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from service.core.errors import InvalidModel

# Above what any network of this kind weighs, and below protobuf's 2 GiB.
FILE_BYTES_LIMIT = 512 << 20


def pinned_bytes(
    folder: Path, name: str, *, sha256: str, limit_bytes: int = FILE_BYTES_LIMIT
) -> bytes:
    """Return the bytes of a file of the package after comparing their SHA-256.

    What is returned is what was hashed: nothing opens the path a second time. A hard link or
    symbolic link could show another user's file, or change after the check, so neither is read.

    Raises
    ------
    InvalidModel
        ``MODEL_FILE`` when it is missing, a link, not a regular file, outside the folder or too
        large; ``DIGEST`` when the bytes are not the ones that were pinned.
    """
    content = regular_bytes(folder, name, limit_bytes=limit_bytes)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise InvalidModel(
            "DIGEST", f"{folder.name}: {name}: sha256: found {found}, allowed {sha256}"
        )
    return content


def regular_bytes(folder: Path, name: str, *, limit_bytes: int = FILE_BYTES_LIMIT) -> bytes:
    """Return the bytes of a regular file inside a folder.

    Raises
    ------
    InvalidModel
        ``MODEL_FILE`` as `pinned_bytes` does.
    """
    place = f"{folder.name}: {name}"
    try:
        with _open_regular(folder, name, place) as stream:
            content = stream.read(limit_bytes + 1)
    except OSError as error:
        raise InvalidModel("MODEL_FILE", f"{place}: {error.strerror}") from error
    if len(content) > limit_bytes:
        raise InvalidModel("MODEL_FILE", f"{place}: found more than {limit_bytes} bytes")
    return content


def _open_regular(folder: Path, name: str, place: str) -> BinaryIO:
    if (folder / name).resolve().parent != (folder.resolve() / name).parent:
        raise InvalidModel("MODEL_FILE", f"{place}: lies outside the package")
    descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise InvalidModel("MODEL_FILE", f"{place}: found a link or special file")
    return os.fdopen(descriptor, "rb")
