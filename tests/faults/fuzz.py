"""Search for inputs that break a reader: ``python -m tests.faults.fuzz READER [--minutes N]``.

Seeded mutation without coverage, some ten thousand inputs a second for the small readers. A find is
written into the corpus, where every run of the tests reads it again.
"""

import argparse
import contextlib
import hashlib
import random
import time
import traceback

from service.core.errors import OverreadError
from tests.faults.readers import READERS
from tests.faults.test_fuzz import CORPUS, SEEDS

_PIECES = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0", b"\x7f")


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """Return the seed with a few changes: bytes, cuts, repeats and telling pieces."""
    data = bytearray(seed)
    for _ in range(chance.randrange(1, 9)):
        at = chance.randrange(len(data) or 1)
        match chance.randrange(5):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[at : at + chance.randrange(1, 40)]
            case 2:
                piece = data[at : at + chance.randrange(1, 60)]
                data[at:at] = piece * chance.randrange(1, 5)
            case 3:
                data[at:at] = chance.choice(_PIECES)
            case _:
                data[at : at + 4] = chance.choice(_PIECES)
    return bytes(data)


def main() -> int:
    """Search until the time is over or something is found; return 1 when something was."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz", description=__doc__)
    parser.add_argument("reader", choices=sorted(READERS))
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    chance, read, seed = random.Random(asked.seed), READERS[asked.reader], SEEDS[asked.reader]
    end, count = time.monotonic() + asked.minutes * 60, 0
    while time.monotonic() < end:
        count += 1
        data = mutated(seed, chance)
        try:
            with contextlib.suppress(OverreadError):
                read(data)
        except Exception:  # noqa: BLE001  that is what is looked for
            name = hashlib.sha256(data).hexdigest()[:12]
            (CORPUS / f"{asked.reader}-{name}.bin").write_bytes(data)
            traceback.print_exc()
            return 1
    print(f"{asked.reader}: {count} inputs, nothing found")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
