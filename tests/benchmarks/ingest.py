"""C-STORE ingest: instances a second and processor time an instance, beside Orthanc and dcmtk.

Orthanc runs with its default settings, which make an instance durable before the answer, as ours
do; dcmtk's storescp makes nothing durable. All get the same bytes over the same connections.
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks import receivers
from tests.benchmarks.instances import ct_slices, small_instances
from tests.benchmarks.measure import Goal, Report
from tests.benchmarks.receivers import Peer
from tests.benchmarks.sending import Message, send
from tests.peers.postgres import PostgresServer, server_programs

# Name: what is sent, how many instances, over how many associations.
CASES: Mapping[str, tuple[Callable[[int], list[Message]], int, int]] = {
    "ct, 1 association": (ct_slices, 200, 1),
    "ct, 4 associations": (ct_slices, 400, 4),
    "ct, 8 associations": (ct_slices, 400, 8),
    "small, 1 association": (small_instances, 300, 1),
    "small, 4 associations": (small_instances, 1200, 4),
    "small, 8 associations": (small_instances, 1200, 8),
}
_SETTLE_S = 0.3


def run(*, rounds: int = 5, cases: str = "", only: str = "") -> Report:
    """Measure the receivers that are here, in turn, with new instances each round."""
    report = Report("ingest")
    chosen = {name: case for name, case in CASES.items() if cases in name}
    with tempfile.TemporaryDirectory(prefix="overread-ingest-") as folder, ExitStack() as stack:
        peers = _peers(Path(folder), stack, report, only)
        found: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for round_number in range(rounds + 1):
            for case, (make, count, associations) in chosen.items():
                for name, peer in peers.items():
                    figures = _one(peer, make(count), associations)
                    if round_number:  # the first warms up
                        found.setdefault((case, name), []).append(figures)
    for (case, name), values in found.items():
        rates, costs = zip(*values, strict=True)
        report.add(case, name, "rate", "/s", rates)
        report.add(case, name, "processor", "ms each", costs)
    if not only:
        report.goals = _goals(report, chosen)
    return report


def _peers(folder: Path, stack: ExitStack, report: Report, only: str) -> dict[str, Peer]:
    starters: dict[str, Callable[[], Peer]] = {
        "orthanc": lambda: receivers.orthanc(folder / "orthanc", stack),
        "storescp": lambda: receivers.storescp(folder / "storescp", stack),
        "overread, sqlite": lambda: receivers.overread(folder / "sqlite", stack),
    }
    programs = server_programs()
    if programs is not None:
        starters["overread, postgresql"] = lambda: receivers.overread(
            folder / "postgresql", stack, database_url=_database(programs, stack)
        )
    peers = {}
    for name, start in starters.items():
        if only not in name:
            continue
        try:
            peers[name] = start()
        except FileNotFoundError as error:
            report.notes.append(f"{name} is not here: {error}")
    return peers


def _database(programs: Path, stack: ExitStack) -> str:
    server = PostgresServer(programs, durable=True)
    stack.callback(server.close)
    return stack.enter_context(server.new_database())


def _one(peer: Peer, messages: list[Message], associations: int) -> tuple[float, float]:
    before = peer.processor_s()
    seconds = send(
        messages, associations=associations, port=peer.port, called_ae_title=peer.ae_title
    )
    time.sleep(_SETTLE_S)
    spent = peer.processor_s() - before
    return len(messages) / seconds, 1e3 * spent / len(messages)


def _goals(report: Report, cases: Mapping[str, object]) -> list[Goal]:
    names = {figure.contender for figure in report.figures}
    ours = "overread, sqlite"
    goals = []

    def rate(case: str, peer: str, bound: float) -> None:
        if case in cases and peer in names:
            ratio = report.median(case, ours, "rate") / report.median(case, peer, "rate")
            goals.append(Goal(f"{case}: rate against {peer}", ratio, bound))

    rate("ct, 4 associations", "orthanc", 5)
    rate("small, 4 associations", "orthanc", 3)
    rate("ct, 4 associations", "storescp", 1)
    if "ct, 4 associations" in cases and "orthanc" in names:
        case = "ct, 4 associations"
        ratio = report.median(case, ours, "processor") / report.median(case, "orthanc", "processor")
        goals.append(Goal(f"{case}: processor against orthanc", ratio, 0.25, at_most=True))
    return goals
