"""Search for inputs that break a reader: ``python -m tests.faults.fuzz READER [--minutes N]``.

Seeded mutation, some ten thousand inputs a second for the small readers. With ``--coverage``
atheris looks for inputs that reach new code (``uv run --with atheris python -m ...``). A find is
written into the corpus, where every run of the tests reads it again.
"""

import argparse
import contextlib
import hashlib
import inspect
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

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


# What reads bytes; instrumenting every library takes longer than searching.
_INSTRUMENTED = (
    "service.core", "service.intake", "service.dicomweb.qido", "service.studies.routing",
    "workers.inference.graph", "workers.volume.encapsulation",
)  # fmt: skip


def _instrument(atheris: Any, prefix: str) -> None:
    """Have atheris see the branches of every loaded function below a module."""
    for name, module in list(sys.modules.items()):
        if not name.startswith(prefix):
            continue
        for found in vars(module).values():
            if inspect.isfunction(found) and found.__module__ == name:
                atheris.instrument_func(found)
            elif inspect.isclass(found) and found.__module__ == name:
                for method in vars(found).values():
                    if inspect.isfunction(method):
                        atheris.instrument_func(method)


def keep(reader: str, data: bytes) -> None:
    """Write an input into the corpus."""
    name = hashlib.sha256(data).hexdigest()[:12]
    (CORPUS / f"{reader}-{name}.bin").write_bytes(data)


def by_coverage(reader: str, *, seconds: int) -> int:
    """Let atheris search; it ends the process with its own status when it finds something."""
    try:
        import atheris  # noqa: PLC0415  not a dependency: its wheels trail new Pythons
    except ImportError:
        print("atheris is not here: uv run --with atheris python -m tests.faults.fuzz ...")
        return 2
    read = READERS[reader]

    def one(data: bytes) -> None:
        try:
            with contextlib.suppress(OverreadError):
                read(data)
        except Exception:
            keep(reader, data)
            raise

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "seed").write_bytes(SEEDS[reader])
        for name in _INSTRUMENTED:
            _instrument(atheris, name)
        atheris.Setup(["fuzz", folder, f"-max_total_time={seconds}", "-print_final_stats=1"], one)
        atheris.Fuzz()
    return 0


def main() -> int:
    """Search until the time is over or something is found; return 1 when something was."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz", description=__doc__)
    parser.add_argument("reader", choices=sorted(READERS))
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--coverage", action="store_true", help="look for new code by atheris")
    asked = parser.parse_args()
    if asked.coverage:
        return by_coverage(asked.reader, seconds=int(asked.minutes * 60))
    chance, read, seed = random.Random(asked.seed), READERS[asked.reader], SEEDS[asked.reader]
    end, count = time.monotonic() + asked.minutes * 60, 0
    while time.monotonic() < end:
        count += 1
        data = mutated(seed, chance)
        try:
            with contextlib.suppress(OverreadError):
                read(data)
        except Exception:  # noqa: BLE001  that is what is looked for
            keep(asked.reader, data)
            traceback.print_exc()
            return 1
    print(f"{asked.reader}: {count} inputs, nothing found")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
