"""What a source does not say and somebody has to: by flags, by a file, or asked for.

Answers are sections of a manifest, so a file of answers may say anything that a manifest may.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.core.errors import InvalidModel, InvalidRequest
from workers.importing.draft import Sections, merged
from workers.inference.files import regular_bytes

_LIMIT_BYTES = 1 << 20
_MODES = ("range", "format", "percentile", "standardise")


@dataclass(frozen=True)
class Flags:
    """Answers as the command line gives them; None where it says nothing."""

    name: str | None = None
    kind: str | None = None
    modality: str | None = None
    spacing: str | None = None
    axes: str | None = None
    intensity: str | None = None
    classes: str | None = None


@dataclass(frozen=True)
class Question:
    """One thing that has to be known: its flag, how to ask, and where it belongs."""

    flag: str
    text: str
    allowed: str
    section: str
    key: str
    read: Callable[[str], Any]


def _modalities(text: str) -> list[str]:
    return [part.strip().upper() for part in text.split(",") if part.strip()]


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _spacing(text: str) -> list[float]:
    numbers = _numbers(text)
    if len(numbers) == 1:
        return numbers * 3
    if len(numbers) != 3:
        raise ValueError(text)
    return numbers


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.replace("x", ",").split(",")]


def _intensity(text: str) -> Sections:
    """Read ``-160,240`` as a window, or ``percentile:0.5,99.5``, ``standardise``, ``range``."""
    mode, _, interval = text.partition(":")
    if mode.strip() not in _MODES:
        mode, interval = "window", text
    section: Sections = {"mode": mode.strip()}
    if interval:
        section["lower"], section["upper"] = _numbers(interval)
    elif mode == "window":
        raise ValueError(text)
    return section


MODALITY = Question(
    "--modality", "Which modality is it for", "CT, MR, DX, ... (several with commas)",
    "applicability", "modalities", _modalities,
)  # fmt: skip
SPACING = Question(
    "--spacing", "Voxel spacing it was trained at, z,y,x in mm (0: the scan's own)",
    "one number or three", "input", "spacing_mm", _spacing,
)  # fmt: skip
INTENSITY = Question(
    "--intensity", "Intensities: LOWER,UPPER mapped to 0..1, or range, format,"
    " percentile:LO,HI, standardise", "a window or a mode", "input", "intensity", _intensity,
)  # fmt: skip
CLASSES = Question(
    "--classes", "What its outputs are called, in order, background among them",
    "names with commas", "", "classes", _names,
)  # fmt: skip


def told(flags: Flags, file: Path | None) -> Sections:
    """Return the answers of a file with those of the flags over them.

    Raises
    ------
    InvalidRequest
        ``ANSWERS`` when either cannot be read.
    """
    sections = _from_file(file) if file else {}
    for text, question in (
        (flags.modality, MODALITY), (flags.spacing, SPACING), (flags.intensity, INTENSITY),
        (flags.classes, CLASSES),
    ):  # fmt: skip
        if text is not None:
            sections = merged(sections, _answer(question, text))
    if flags.axes:
        sections = merged(sections, {"input": {"axes": flags.axes.upper()}})
    for key, value in (("name", flags.name), ("kind", flags.kind)):
        if value:
            sections = merged(sections, {"package": {key: value}})
    return sections


def complete(sections: Sections, ask: Callable[[str], str] | None) -> Sections:
    """Return the sections with every missing answer asked for.

    Raises
    ------
    InvalidRequest
        ``ANSWERS`` naming all that is missing when nobody can be asked.
    """
    missing = [q for q in _questions(sections) if not _known(sections, q)]
    if missing and ask is None:
        wanted = "; ".join(f"{q.flag} ({q.allowed})" for q in missing)
        raise InvalidRequest("ANSWERS", f"the source does not say everything, give {wanted}")
    for question in missing:
        assert ask is not None
        sections = merged(sections, _answer(question, ask(question.text)))
    return sections


def _questions(sections: Sections) -> list[Question]:
    volumes = sections["package"]["kind"] != "classification"
    return [MODALITY, *([SPACING] if volumes else []), INTENSITY, CLASSES]


def _known(sections: Sections, question: Question) -> bool:
    holder = sections.get(question.section, {}) if question.section else sections
    found = holder.get(question.key)
    if question is CLASSES and found:
        # Channels that nobody has named yet.
        return not all(isinstance(name, str) and name.startswith("class ") for name in found)
    return bool(found)


def _answer(question: Question, text: str) -> Sections:
    try:
        value = question.read(text)
    except ValueError:
        value = None
    if not value:
        raise InvalidRequest(
            "ANSWERS", f"{question.flag}: found {text[:60]!r}, allowed {question.allowed}"
        )
    return {question.section: {question.key: value}} if question.section else {question.key: value}


def _from_file(file: Path) -> Sections:
    try:
        text = regular_bytes(file.parent, file.name, limit_bytes=_LIMIT_BYTES).decode()
        found: Mapping[str, Any] = tomllib.loads(text)
    except InvalidModel as error:
        raise InvalidRequest("ANSWERS", f"--answers: {error.message}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidRequest("ANSWERS", f"--answers: {file.name}: {error}") from error
    return dict(found)
