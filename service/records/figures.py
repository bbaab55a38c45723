"""Figures that took long to count are given again for a while, so that looking costs little."""

import threading
import time
from datetime import datetime, timedelta
from typing import Final

from service.records import statistics
from service.records.database import Records
from service.records.statistics import Statistics

_SLOW_S: Final = 1.0
_KEPT_S: Final = 300.0
_KEPT_AT_MOST: Final = 16


class Figures:
    """Statistics over stretches of time; shared by a process's threads."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._lock = threading.Lock()
        self._kept: dict[tuple[datetime, timedelta], tuple[float, Statistics]] = {}

    def over(self, since: datetime, until: datetime) -> Statistics:
        """Return the figures; those that were slow to count may be five minutes old.

        Readers wait for one another here: the same long count at the same time helps nobody.
        """
        key = (since, until - since)
        with self._lock:
            counted_at, found = self._kept.get(key, (float("-inf"), None))
            if found is not None and time.monotonic() - counted_at < _KEPT_S:
                return found
            begun = time.monotonic()
            with self._records.reading() as connection:
                counted = statistics.over(connection, since, until)
            if time.monotonic() - begun > _SLOW_S:
                self._keep(key, counted)
            return counted

    def _keep(self, key: tuple[datetime, timedelta], counted: Statistics) -> None:
        self._kept[key] = (time.monotonic(), counted)
        while len(self._kept) > _KEPT_AT_MOST:
            del self._kept[next(iter(self._kept))]
