"""What every route needs: settings, records, clock and the model packages."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import Request

from service.core.access import LOCAL
from service.core.clock import Clock
from service.core.errors import InvalidModel
from service.core.manifest import MANIFEST_NAME
from service.core.packages import ModelPackage, read_package
from service.core.settings import Settings
from service.records.database import Records


class PackageShelf:
    """The installed model packages, read again when a manifest changed.

    A package that cannot be read is left out here; the worker, which needs it, says why.
    """

    def __init__(self, models_dir: Path) -> None:
        self._dir = models_dir
        self._lock = threading.Lock()
        self._seen: tuple[tuple[str, int], ...] | None = None
        self._packages: Mapping[str, ModelPackage] = {}

    def packages(self) -> Mapping[str, ModelPackage]:
        """Return the readable packages by name."""
        files = sorted(self._dir.glob(f"*/{MANIFEST_NAME}"))
        seen = tuple((file.parent.name, file.stat().st_mtime_ns) for file in files)
        with self._lock:
            if seen != self._seen:
                self._packages = dict(_readable(files))
                self._seen = seen
            return self._packages


def _readable(files: list[Path]) -> list[tuple[str, ModelPackage]]:
    found = []
    for file in files:
        try:
            package = read_package(file.parent)
        except InvalidModel:
            continue
        found.append((package.name, package))
    return found


def asker(request: Request) -> str:
    """Return the name of who asks, as the gate found it; empty where nobody is asked for a name."""
    principal = request.scope.get("principal")
    return "" if principal is None or principal is LOCAL else str(principal.name)


@dataclass(frozen=True)
class Context:
    """What the routes share; `stop` is set when the process is asked to end."""

    settings: Settings
    records: Records
    clock: Clock
    shelf: PackageShelf
    stop: threading.Event = field(default_factory=threading.Event)
