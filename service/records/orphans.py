"""Files without a row: what a process that died between file and commit leaves in the archive.

They are set aside, not deleted: an archive that was mounted beside the wrong database must not
lose what is in it. Only folders that changed since the last sweep are looked at, and only files
that nobody can still be registering.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import select

from service.records.archive import Archive
from service.records.database import Records
from service.records.tables import instances, results

SETTLED_S: Final = 3600.0
_AT_ONCE: Final = 500  # below the number of variables that an old SQLite takes
_MARK: Final = ".swept"


def set_aside(records: Records, archive: Archive, *, settled_s: float = SETTLED_S) -> int:
    """Move files without a row out of the archive; return how many there were.

    Raises
    ------
    OutOfResources
        ``DATABASE_AWAY`` when the rows cannot be looked at; the next sweep begins where this did.
    """
    began = time.time()
    mark = archive.root / _MARK
    swept_until = mark.stat().st_mtime if mark.exists() else 0.0
    moved = 0
    for folder in _changed_folders(archive.root, since=swept_until):
        for path in _without_row(records, archive, folder, settled_before=began - settled_s):
            archive.set_aside(path)
            moved += 1
    mark.touch()
    # What is younger than `settled_s` now belongs to the next sweep.
    os.utime(mark, (began - settled_s, began - settled_s))
    return moved


def _changed_folders(root: Path, *, since: float) -> Iterator[Path]:
    for outer in sorted(path for path in root.iterdir() if path.is_dir()):
        for folder in sorted(outer.iterdir()):
            if folder.stat().st_mtime >= since:
                yield folder


def _without_row(
    records: Records, archive: Archive, folder: Path, *, settled_before: float
) -> list[str]:
    paths = [
        str(file.relative_to(archive.root))
        for file in sorted(folder.glob("*.dcm"))
        if file.stat().st_mtime < settled_before
    ]
    known: set[str] = set()
    with records.reading() as connection:
        for i in range(0, len(paths), _AT_ONCE):
            some = paths[i : i + _AT_ONCE]
            for table in (instances, results):
                query = select(table.c.path).where(table.c.path.in_(some))
                known.update(connection.execute(query).scalars())
    return [path for path in paths if path not in known]
