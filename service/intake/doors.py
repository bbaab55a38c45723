"""How much one address may take of the listener, and who is told when somebody is turned away.

Counted by each listening process for itself. The addresses of this machine are not bounded unless
the settings say a number: tests, proxies and tunnels all come from there.
"""

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from service.core.settings import DicomSettings, is_loopback

CONNECTIONS_PER_ADDRESS: Final = 20
# Above what a sender reaches that opens an association for each image (measured: 83 a second).
ASSOCIATIONS_PER_MINUTE: Final = 6000
_REMEMBERED_ADDRESSES: Final = 10_000


class Alarm(Protocol):
    """Is told of everybody who was turned away (PS3.15 A.5.3.11, Security Alert)."""

    def __call__(self, operation: str, *, actor: str, address: str, detail: str) -> None:
        """Tell what was tried, by which AE title, from where, and why it was refused."""
        ...


def no_alarm(operation: str, *, actor: str, address: str, detail: str) -> None:
    """Tell nobody."""


@dataclass
class _Bucket:
    """Associations that an address may still open; filled again as time goes by."""

    left: float
    at_s: float


class Doors:
    """Counts connections and associations by address."""

    def __init__(
        self, settings: DicomSettings, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._connections = settings.max_connections_per_address
        self._associations = settings.max_associations_per_minute
        self._monotonic = monotonic
        self._inside: dict[str, int] = defaultdict(int)
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def enter(self, address: str) -> bool:
        """Count a connection; False when its address has too many already."""
        limit = _limit(self._connections, address, CONNECTIONS_PER_ADDRESS)
        with self._lock:
            if limit is not None and self._inside[address] >= limit:
                return False
            self._inside[address] += 1
            return True

    def leave(self, address: str) -> None:
        """Count a connection as gone."""
        with self._lock:
            self._inside[address] -= 1
            if self._inside[address] <= 0:
                del self._inside[address]

    def may_associate(self, address: str) -> bool:
        """Spend one association; False when the address opened too many within a minute."""
        limit = _limit(self._associations, address, ASSOCIATIONS_PER_MINUTE)
        if limit is None:
            return True
        now = self._monotonic()
        with self._lock:
            bucket = self._buckets.pop(address, None) or _Bucket(limit, now)
            bucket.left = min(limit, bucket.left + (now - bucket.at_s) * limit / 60)
            bucket.at_s = now
            self._buckets[address] = bucket
            if len(self._buckets) > _REMEMBERED_ADDRESSES:
                self._buckets.popitem(last=False)
            if bucket.left < 1:
                return False
            bucket.left -= 1
            return True


def _limit(setting: int | None, address: str, usual: int) -> int | None:
    if setting is not None:
        return setting
    return None if is_loopback(address.partition("%")[0].removeprefix("::ffff:")) else usual
