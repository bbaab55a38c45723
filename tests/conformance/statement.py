"""The tables of the conformance statement, made from what the code negotiates and writes.

``python -m tests.conformance.statement`` writes them into ``service/docs/conformance.md``.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from pydicom.uid import UID

from service.core.identifiers import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from service.core.profiles import LABEL_MAP_STORAGE, SegForm
from service.intake.commitment import COMMITMENT
from service.intake.contexts import STORAGE, VERIFICATION, transfer_syntaxes
from service.intake.statuses import Status
from tests.conformance.air import CHECKLIST
from workers.results.context import ResultRole, SrClass
from workers.results.document import ENCAPSULATED_PDF
from workers.results.key_objects import KEY_OBJECT_SELECTION
from workers.results.parametric_map import PARAMETRIC_MAP_STORAGE
from workers.results.presentation_state import GRAYSCALE_PRESENTATION_STATE
from workers.results.secondary_capture import SECONDARY_CAPTURE_STORAGE
from workers.results.structure_set import STRUCTURE_SET_STORAGE

STATEMENT = Path(__file__).parents[2] / "service" / "docs" / "conformance.md"
# What each role of a result may be stored as, in the order of writing.
SENT = {
    ResultRole.SEG: tuple(dict.fromkeys(form.sop_class_uid for form in SegForm)),
    ResultRole.SR: tuple(SrClass),
    ResultRole.SECONDARY_CAPTURE: (SECONDARY_CAPTURE_STORAGE,),
    ResultRole.PRESENTATION_STATE: (GRAYSCALE_PRESENTATION_STATE,),
    ResultRole.PDF: (ENCAPSULATED_PDF,),
    ResultRole.KEY_OBJECTS: (KEY_OBJECT_SELECTION,),
    ResultRole.REJECTION_NOTE: (KEY_OBJECT_SELECTION,),
    ResultRole.STRUCTURE_SET: (STRUCTURE_SET_STORAGE,),
    ResultRole.PARAMETRIC_MAP: (PARAMETRIC_MAP_STORAGE,),
}
# UIDs that are younger than pydicom's dictionary.
_YOUNG = {LABEL_MAP_STORAGE: "Label Map Segmentation Storage"}


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
            ("object", "SOP class", "UID"),
            [
                (role.value, _YOUNG.get(uid) or UID(uid).name, str(uid))
                for role, classes in SENT.items()
                for uid in classes
            ],
        ),
        "ai results": _table(
            ("AI Results asks", "done by", "seen in"),
            [(line.asked, line.done, "`{}::{}`".format(*line.evidence)) for line in CHECKLIST],
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


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    STATEMENT.write_text(with_tables(STATEMENT.read_text()))
