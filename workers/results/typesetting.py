"""Words and pictures set as a PDF/A-2b document, with every character in a font of ours.

The same words give the same bytes: no clock is read, and no font of the machine is looked for.
"""

import json
import re
import unicodedata
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Final

import typst
from PIL import Image

from service.core.errors import ContractViolation

Json = str | int | Sequence["Json"] | Mapping[str, "Json"]

_HERE: Final = Path(str(files("workers.results")))
_FONTS: Final = _HERE / "fonts"
_TEMPLATE: Final = _HERE / "report.typ"
_NOT_IN_A_FONT: Final = re.compile(r"the text `(\"(?:[^\"\\]|\\.)*\")` could not be displayed")
_CHARACTERS_REPLACED_AT_MOST: Final = 200


def typeset(
    sheet: Mapping[str, Json], pictures: Sequence[Image.Image], *, created_at: datetime
) -> bytes:
    """Return the report with what the template asks of `sheet`.

    A character that no font has stands as its number, never as an empty box: PDF/A forbids boxes,
    so that the typesetter names the first such character, which is replaced before the next try.

    Raises
    ------
    ContractViolation
        ``NOT_TYPESET`` when the sheet does not fit the template.
    """
    inputs = {f"picture{number}": _as_svg(picture) for number, picture in enumerate(pictures)}
    words = json.dumps(_printable({**sheet, "pictures": len(pictures)}), ensure_ascii=False)
    for _ in range(_CHARACTERS_REPLACED_AT_MOST):
        try:
            return bytes(
                typst.compile(
                    _TEMPLATE,
                    font_paths=[_FONTS],
                    ignore_system_fonts=True,
                    sys_inputs={**inputs, "sheet": words},
                    pdf_standards=["a-2b"],
                    timestamp=int(created_at.timestamp()),
                )
            )
        except typst.TypstError as error:
            missing = _missing_from_fonts(str(error))
            if not missing or missing not in words:
                raise ContractViolation("NOT_TYPESET", "the report cannot be set") from error
            words = words.replace(missing, "".join(f"[U+{ord(c):04X}]" for c in missing))
    raise ContractViolation("NOT_TYPESET", "the report is in a script that no font has")


def _printable(value: Json) -> Json:
    """Return the same without control characters, which sources carry in names at times."""
    if isinstance(value, str):
        return "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in value)
    if isinstance(value, Mapping):
        return {key: _printable(one) for key, one in value.items()}
    return [_printable(one) for one in value] if isinstance(value, Sequence) else value


def _missing_from_fonts(message: str) -> str:
    """Return the characters that an error names as being in no font."""
    named = _NOT_IN_A_FONT.search(message)
    if not named:
        return ""
    text = re.sub(r"\\u\{([0-9a-fA-F]+)\}", lambda found: chr(int(found[1], 16)), named[1][1:-1])
    return text.replace('\\"', '"').replace("\\\\", "\\")


def _as_svg(picture: Image.Image) -> str:
    """Return a picture in the one form that the typesetter takes as text."""
    buffer = BytesIO()
    picture.convert("RGB").save(buffer, "PNG")
    width, height = picture.size
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
        f'<image width="{width}" height="{height}" '
        f'href="data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"/></svg>'
    )
