"""Wrong keys are counted by address, so that nobody can guess for long."""

import hashlib
import time
from typing import Final

# Many different keys are a guess; one key over and over is a program with an old one.
GUESSES_LIMIT: Final = 20
WRONG_LIMIT: Final = 500
WINDOW_S: Final = 60.0
_WELCOME_FOR_S: Final = 24 * 3600.0
_PLACES_LIMIT: Final = 10_000


class Throttle:
    """Counts what was wrong lately, and remembers which keys were right from where."""

    def __init__(self) -> None:
        self._wrong: dict[str, list[tuple[float, bytes]]] = {}
        self._welcome: dict[tuple[str, bytes], float] = {}

    def note(self, offered: str, address: str) -> bool:
        """Count a wrong key or sign-in; return whether there were too many before it."""
        recent = self._recent(address)
        self._wrong[address] = [*recent[-WRONG_LIMIT:], (time.monotonic(), _digest(offered))]
        return _are_many(recent)

    def admits(self, offered: str, address: str) -> bool:
        """Return whether a key is to be looked at.

        From an address that guesses, only the keys that were right there before are: an honest
        program beside a guesser goes on, and the guesser learns nothing.
        """
        if not self.holds_off(address):
            return True
        welcome_at = self._welcome.get((address, _digest(offered)))
        return welcome_at is not None and time.monotonic() - welcome_at < _WELCOME_FOR_S

    def holds_off(self, address: str) -> bool:
        """Return whether an address has offered too many wrong keys lately."""
        return _are_many(self._recent(address))

    def welcome(self, offered: str, address: str) -> None:
        """Remember that a key was right."""
        if len(self._welcome) >= _PLACES_LIMIT:
            self._welcome.clear()
        self._welcome[address, _digest(offered)] = time.monotonic()

    def forget(self) -> None:
        """Begin to count anew."""
        self._wrong.clear()

    def _recent(self, address: str) -> list[tuple[float, bytes]]:
        since = time.monotonic() - WINDOW_S
        if len(self._wrong) >= _PLACES_LIMIT:
            self._wrong = {name: seen for name, seen in self._wrong.items() if seen[-1][0] > since}
        return [one for one in self._wrong.get(address, []) if one[0] > since]


def _digest(offered: str) -> bytes:
    return hashlib.sha256(offered.encode("utf-8", "surrogatepass")).digest()


def _are_many(recent: list[tuple[float, bytes]]) -> bool:
    return len(recent) >= WRONG_LIMIT or len({digest for _, digest in recent}) >= GUESSES_LIMIT
