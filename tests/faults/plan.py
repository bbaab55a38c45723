"""The plan of faults: forty things that go wrong, and what must be seen when they do.

Tests name the fault that they inject by `@pytest.mark.faults(number=...)`; several tests may share
one. `tests.faults.plugin` tells after a run which were seen and passed.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Fault:
    """One fault and what an installation must make of it."""

    number: int
    fault: str
    expected: str


PLAN: Final = tuple(
    Fault(number, fault, expected)
    for number, (fault, expected) in enumerate(
        (
            # Network and associations
            ("twenty connections that are gone at once", "the next association is accepted"),
            (
                "30 peers that drip their association request",
                "C-ECHO answered meanwhile; each dropped within 15 s",
            ),
            (
                "30 peers that stop inside a data set",
                "others served below the limit; each dropped within 30 s",
            ),
            (
                "TLS port: 50 silent sockets, plain DICOM, no certificate, a foreign one",
                "good client served; the others closed within 10 s; security alert",
            ),
            (
                "a request of 4 GiB; a data set without end; a multi-frame of gigabytes",
                "cut; ended at the limit and nothing left; memory bounded",
            ),
            ("wrong called AE, calling AE or address", "1/1/7, 1/1/3; security alert"),
            (
                "even ids, no syntaxes, wrong context name, lies in lengths",
                "A-ABORT or 1/1/2; descriptors come back",
            ),
            (
                "abort, reset or half-close in the middle of an instance",
                "no file, no row, nothing incoming",
            ),
            (
                "associations beyond the limit, in all or from one address; idle ones",
                "2/3/2; idle ones aborted at 30 s",
            ),
            (
                "300 associations one after the other; 8 senders at once",
                "descriptors and memory flat; all 0x0000",
            ),
            # Malformed objects
            ("instance, class or study that was not announced; UID missing", "0xA900 or 0xC0xx"),
            (
                "UIDs that traverse paths, hold NUL or newline, are too long",
                "0xC0xx; no file outside",
            ),
            ("truncated, lying lengths, garbage, a file as a data set", "0xC0xx, never success"),
            (
                "deep nesting, 200 000 items, 100 000 elements",
                "0xC0xx for the first two; the third is stored",
            ),
            (
                "deflate bomb, a person name of 64 KiB, a private element of 40 MiB",
                "context refused; stored; memory bounded",
            ),
            (
                "geometry and compressed frames that lie; codec bombs",
                "0x0000, then the job ends with its reason; worker alive, next study done",
            ),
            (
                "character sets, control characters, markup and formulas in text",
                "stored; one JSON line per event; pages clean",
            ),
            (
                "the same instance again; the same UID with other bytes",
                "0x0000 and one file; both versions kept, study assessed again",
            ),
            (
                "150 instances with random bytes flipped",
                "only statuses; no success for what cannot be read",
            ),
            # Storage
            (
                "disk full, at once and in the middle of an instance",
                "0xA700, no file, no row; not ready, alive",
            ),
            ("space comes back", "0x0000 at once"),
            ("archive read-only, out of inodes, or failing", "0xA700, no crash"),
            ("a file deleted or changed under its row", "job FAILED, DIGEST; no result"),
            # Worker, device, model
            (
                "worker killed for memory in the middle of a job",
                "runs again within 30 s; FAILED after three; next study done",
            ),
            (
                "a network that never ends; native code that hangs",
                "ended at its limit, told, process replaced",
            ),
            ("worker frozen and thawed", "another worker delivers; the first writes nothing"),
            ("the device is gone", "refused or waiting, never another device in silence"),
            ("hostile model files", "refused at load with the reason; nothing outside read"),
            ("NaN, infinity or wrong shapes from a network", "job FAILED, MODEL_OUTPUT; no result"),
            # Database and Redis
            ("database down or locked", "0xA700 within 15 s, REST 503; resumes by itself"),
            ("connection or process killed while committing", "no second row, nothing lost"),
            (
                "Redis away at the start, killed, emptied, frozen",
                "C-STORE unaffected; waiting jobs run once it is back",
            ),
            ("a poisoned message; a message naming os.system", "worker alive, nothing executed"),
            # Destinations
            (
                "PACS away, refusing associations, aborting, busy, hanging, slow",
                "growing pauses; other destinations unaffected; all arrive once",
            ),
            (
                "PACS refuses for good (A900, C000, 0122, no context)",
                "PARKED with the reason; a retry by hand works",
            ),
            (
                "PACS loses answers; STOW answers 202, 409 or no JSON",
                "same UID and bytes again; one in the PACS",
            ),
            # HTTP
            (
                "hostile requests without, with wrong and lesser credentials",
                "401, 403, 4xx; no 5xx, no traceback",
            ),
            # Time, restart, upgrade
            (
                "clock an hour ahead or back; dates of 1900 and 2099; 29 February",
                "no lease storm; order stable",
            ),
            (
                "SIGTERM under load; everything killed; random kills of every part",
                "nothing lost, no second UID, no changed bytes",
            ),
            (
                "upgrade with work in flight, killed half-way; older code; newer schema",
                "migrated and finished; whole or not at all; refused in one line",
            ),
        ),
        start=1,
    )
)

BY_NUMBER: Final = {fault.number: fault for fault in PLAN}
