"""Studies for as long as you like, and what the installation holds on to.

``python -m tests.benchmarks.soak --minutes 480`` runs for a night and prints JSON: for every role
how its memory, file handles and threads changed (per hour, by least squares, after a warm-up), the
length of SQLite's write-ahead log, what was left half-received, and whether every study arrived.
``--check`` ends with 1 when something grows.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.builders.studies import ball_package, chest_study
from tests.peers.overread import Overread
from tests.peers.pacs import PlayingPacs

ROLES = ("receiver", "scheduler", "worker", "deliverer", "api")
QUANTITIES = ("memory_mb", "handles", "threads")
# What a role may gain in an hour and still count as flat.
ALLOWED = {"memory_mb": 1.0, "handles": 5.0, "threads": 2.0}
_SAMPLE_EVERY_S = 2.0


@dataclass
class Samples:
    """What each role held, over time."""

    times_s: list[float] = field(default_factory=list)
    values: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def take(self, overread: Overread, at_s: float) -> None:
        """Look at every role once; a role that is being restarted is skipped."""
        found: dict[tuple[str, str], float] = {}
        for role in ROLES:
            for process in overread.processes(role):
                with contextlib.suppress(psutil.NoSuchProcess):
                    held = (_own_mb(process), process.num_fds(), process.num_threads())
                    for quantity, value in zip(QUANTITIES, held, strict=True):
                        key = role, quantity
                        found[key] = found.get(key, 0.0) + value
        if len(found) == len(ROLES) * len(QUANTITIES):
            self.times_s.append(at_s)
            for key, value in found.items():
                self.values[key].append(value)


def _own_mb(process: psutil.Process) -> float:
    """Return a process's own memory, without the pages of files that it has mapped."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


def slope_an_hour(times_s: Sequence[float], values: Sequence[float]) -> float:
    """Return by how much a quantity grows in an hour, by least squares.

    >>> slope_an_hour([0, 1800, 3600], [10, 11, 12])
    2.0
    """
    if len(values) < 2 or len(set(times_s)) < 2:
        return 0.0
    return statistics.linear_regression(times_s, values).slope * 3600


def figures(samples: Samples, warm_up_s: float) -> dict[str, Any]:
    """Return start, end and growth of every quantity of every role, after the warm-up."""
    first = next((i for i, at in enumerate(samples.times_s) if at >= warm_up_s), 0)
    found: dict[str, Any] = {}
    for (role, quantity), values in sorted(samples.values.items()):
        kept = values[first:]
        found.setdefault(role, {})[quantity] = {
            "first": round(kept[0], 1),
            "last": round(kept[-1], 1),
            "most": round(max(kept), 1),
            "an_hour": round(slope_an_hour(samples.times_s[first:], kept), 2),
        }
    return found


def grows(roles: Mapping[str, Any]) -> list[str]:
    """Return what is not flat."""
    return [
        f"{role} {quantity}: {values[quantity]['an_hour']:+} an hour"
        for role, values in roles.items()
        for quantity in QUANTITIES
        if values[quantity]["an_hour"] > ALLOWED[quantity]
    ]


def soak(folder: Path, *, minutes: float, every_s: float) -> dict[str, Any]:
    """Send studies for that long, one every so many seconds; return the figures."""
    ball_package(folder / "models")
    samples, sent, refused = Samples(), 0, 0
    with PlayingPacs(folder / "pacs") as pacs:
        peer = {"name": "PACS", "ae_title": pacs.ae_title, "host": "127.0.0.1", "port": pacs.port}
        with Overread(
            folder / "overread", models__dir=folder / "models", destinations=[peer]
        ) as overread:
            began = time.monotonic()
            due_s = sampled_s = 0.0
            while (now_s := time.monotonic() - began) < minutes * 60:
                if now_s >= due_s:
                    study = chest_study(folder, name=f"p{sent}", BodyPartExamined="CHEST")
                    refused += len(overread.send(study.files))
                    for file in study.files:
                        file.unlink()
                    sent, due_s = sent + 1, due_s + every_s
                if now_s >= sampled_s:
                    samples.take(overread, now_s)
                    sampled_s = now_s + _SAMPLE_EVERY_S
                time.sleep(0.1)
            done = _drained(overread, sent, limit_s=max(120.0, sent * 5.0))
            left = _left(overread)
    roles = figures(samples, warm_up_s=min(1800.0, minutes * 60 / 4))
    return {
        "minutes": minutes,
        "studies": sent,
        "instances_refused": refused,
        "studies_delivered": done,
        "results_in_the_pacs": len({item.sop_instance_uid for item in pacs.received}),
        "roles": roles,
        **left,
        "grows": grows(roles),
    }


def _drained(overread: Overread, wanted: int, *, limit_s: float) -> int:
    """Wait until every study's results are delivered; return how many are."""
    end = time.monotonic() + limit_s
    while True:
        states = overread.get("/deliveries", state="DELIVERED", limit=1)["items"]
        done = len(_delivered_studies(overread)) if states else 0
        if done >= wanted or time.monotonic() > end:
            return done
        time.sleep(1)


def _delivered_studies(overread: Overread) -> set[str]:
    found: dict[str, int] = defaultdict(int)
    cursor = None
    while True:
        more = {"cursor": cursor} if cursor else {}
        page = overread.get("/deliveries", state="DELIVERED", limit=500, **more)
        for item in page["items"]:
            found[item["study_instance_uid"]] += 1
        cursor = page["next"]
        if cursor is None:
            return {uid for uid, count in found.items() if count >= 2}


def _left(overread: Overread) -> dict[str, Any]:
    data = overread.folder / "data"
    log = data / "overread.sqlite-wal"
    return {
        "write_ahead_log_mb": round(log.stat().st_size / (1 << 20), 1) if log.exists() else 0.0,
        "half_received": len(list((data / "incoming").iterdir())),
    }


def main() -> int:
    """Run it, print the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between studies")
    parser.add_argument("--json", type=Path, help="record the figures here, too")
    parser.add_argument("--check", action="store_true", help="end with 1 when something grows")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="overread-soak-") as folder:
        found = soak(Path(folder), minutes=asked.minutes, every_s=asked.every)
    print(json.dumps(found, indent=2))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")
    failed = found["grows"] or found["studies_delivered"] < found["studies"]
    return 1 if failed and asked.check else 0


if __name__ == "__main__":
    sys.exit(main())
