"""The tables of the conformance statement, made from what the code negotiates and writes.

``python -m tests.conformance.statement`` writes them into ``service/docs/conformance.md``.
"""

import re
from pathlib import Path

from pydicom.uid import UID

from service.core.identifiers import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from service.intake.commitment import COMMITMENT
from service.intake.contexts import STORAGE, VERIFICATION, transfer_syntaxes
from service.intake.statuses import Status
from workers.results.context import SrClass

STATEMENT = Path(__file__).parents[2] / "service" / "docs" / "conformance.md"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def tables() -> dict[str, str]:
    """Return each generated table by the name of its place in the statement."""
    return {
        "implementation": _table(
            ("what", "value"),
            [
                ("Implementation Class UID", IMPLEMENTATION_CLASS_UID),
                ("Implementation Version Name", IMPLEMENTATION_VERSION_NAME),
            ],
        ),
        "sop classes received": _table(
            ("SOP class", "UID"),
            sorted((UID(uid).name, uid) for uid in (VERIFICATION, COMMITMENT, *STORAGE)),
        ),
        "transfer syntaxes received": _table(
            ("transfer syntax", "UID"),
            sorted((UID(uid).name, uid) for uid in transfer_syntaxes(accept_deflated=False)),
        ),
        "sop classes sent": _table(
            ("SOP class", "UID"),
            [(UID(uid).name, uid) for uid in (SEGMENTATION, SrClass.COMPREHENSIVE_3D.value)],
        ),
        "statuses": _table(
            ("status", "meaning"),
            [(f"0x{status:04X}", status.name.lower().replace("_", " ")) for status in Status],
        ),
    }


def with_tables(text: str) -> str:
    """Return the statement with each table between its markers made anew."""
    for name, table in tables().items():
        pattern = re.compile(f"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"the statement has no place for the table {name!r}")
        text = pattern.sub(lambda found, table=table: found[1] + table + found[2], text)
    return text


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [head, ("---", "---"), *rows]
    return "".join(f"| {left} | {right} |\n" for left, right in lines)


if __name__ == "__main__":
    STATEMENT.write_text(with_tables(STATEMENT.read_text()))
