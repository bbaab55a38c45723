"""Who went silent: leases that nobody extends, judged without trusting any two clocks to agree.

A holder writes a new end of its lease every few seconds. A lease whose end is past by our clock
may belong to a holder whose clock is behind, or ours was just put forward; one whose end is far
ahead may belong to a holder that died with a clock ahead. So a lease counts as lost only after we
have seen it unchanged for a while by a clock that only goes forward.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Lease:
    """A row that somebody holds until a time; ``fence`` tells this holding from the next."""

    subject_id: str
    fence: int
    until: datetime


class LeaseWatch:
    """Watches the leases of one kind of rows from look to look."""

    def __init__(self, lease_s: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._monotonic = monotonic
        self._seen: dict[Lease, float] = {}

    def lost(self, held: Iterable[Lease], *, at: datetime) -> list[Lease]:
        """Return those of the leases held now that nobody extends any more.

        One that is over by our clock is lost when it stays unchanged for longer than a holder
        waits between two extensions; any other when it stays unchanged for a whole lease.
        """
        now = self._monotonic()
        # What is not held any more, or was extended, is forgotten here.
        self._seen = {lease: self._seen.get(lease, now) for lease in held}
        return [
            lease
            for lease, since in self._seen.items()
            if now - since >= (self._lease_s / 2 if lease.until < at else self._lease_s)
        ]
