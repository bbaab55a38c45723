"""References kept in CSV files: lists of lesions, and labels of images.

Lesions as LUNA16 lists them: ``seriesuid, coordX, coordY, coordZ, diameter_mm``, in LPS mm, one
row a lesion; a file with "excluded" in its name holds findings that count neither way. Labels:
one row an image, named by UID or file name, and a column of 0 and 1 for each class; or a column
``Finding Labels`` with names between bars, as ChestX-ray14 has it.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from service.core.errors import InvalidRequest
from workers.evaluation.folder import ImageSeries
from workers.evaluation.references import Classes, Lesion, Truth

_SERIES = ("seriesuid", "series_instance_uid", "seriesinstanceuid")
_IMAGES = (
    "sop_instance_uid", "sopinstanceuid", *_SERIES, "study_instance_uid", "studyinstanceuid",
    "image index", "image", "image_id", "filename", "file", "path", "name", "id",
)  # fmt: skip
_CENTER = ("coordx", "coordy", "coordz")
_LISTED = "finding labels"
_YES = frozenset({"1", "1.0", "true", "yes", "present"})
_NO = frozenset({"0", "0.0", "false", "no", "absent"})

Row = Mapping[str, str]


@dataclass
class Tables:
    """Lesions by Series Instance UID, and labels by whatever names an image."""

    lesions: dict[str, list[Lesion]] = field(default_factory=dict)
    labels: dict[str, dict[str, bool]] = field(default_factory=dict)
    lists_lesions: bool = False

    def truth_of(self, series: ImageSeries) -> Truth | None:
        """Return what the tables say of a series.

        A list of lesions speaks of all scans: one that it does not name has none.
        """
        labels: dict[str, bool] = {}
        for item in series.instances:
            header, path = item.header, item.path
            for name in (
                header.sop_instance_uid, header.series_instance_uid, header.study_instance_uid,
                path.name, path.stem,
            ):  # fmt: skip
                labels |= self.labels.get(name, {})
        if not labels and not self.lists_lesions:
            return None
        return Truth(lesions=list(self.lesions.get(series.uid, [])), labels=labels)


def read_tables(paths: tuple[Path, ...], classes: Classes) -> Tables:
    """Read every CSV file that is a list of lesions or of labels; others are left alone.

    Raises
    ------
    InvalidRequest
        ``REFERENCE`` with file, line and field of the first value that cannot be read.
    """
    tables = Tables()
    for path in paths:
        try:
            with path.open(newline="", encoding="utf-8-sig") as stream:
                _read_table(path, csv.DictReader(stream), classes, tables)
        except (UnicodeDecodeError, csv.Error) as error:
            raise InvalidRequest("REFERENCE", f"{path.name}: no table: {error}") from error
    return tables


def _read_table(
    path: Path, reader: "csv.DictReader[str]", classes: Classes, tables: Tables
) -> None:
    columns = {name.strip().lower(): name for name in reader.fieldnames or () if name}
    series = next((columns[name] for name in _SERIES if name in columns), None)
    if series and all(name in columns for name in _CENTER):
        tables.lists_lesions |= "excluded" not in path.name.lower()
        for line, row in enumerate(reader, start=2):
            found = _lesion(f"{path.name} line {line}", row, columns, classes)
            if found:
                counted = "excluded" not in path.name.lower()
                tables.lesions.setdefault(row[series].strip(), []).append(
                    Lesion(found.class_name, found.center_mm, found.diameter_mm, counted)
                )
        return
    image = next((columns[name] for name in _IMAGES if name in columns), None)
    known = {column: classes.of_words(column) for column in columns.values() if column != image}
    if image is None or not (_LISTED in columns or any(known.values())):
        return
    for line, row in enumerate(reader, start=2):
        said = (
            _listed(row[columns[_LISTED]], classes)
            if _LISTED in columns
            else _answered(f"{path.name} line {line}", row, known)
        )
        tables.labels.setdefault(row[image].strip(), {}).update(said)


def _lesion(where: str, row: Row, columns: Mapping[str, str], classes: Classes) -> Lesion | None:
    x, y, z = (_number(where, row, columns[name]) for name in _CENTER)
    diameter = _number(where, row, columns["diameter_mm"]) if "diameter_mm" in columns else 0.0
    named = row.get(columns["class"], "") if "class" in columns else ""
    name = classes.of_words(named or "lesion") or (classes.names[0] if classes.names else None)
    # LUNA16 writes -1 where nobody measured.
    return Lesion(name, (x, y, z), max(0.0, diameter)) if name else None


def _number(where: str, row: Row, column: str) -> float:
    try:
        return float(row[column])
    except (TypeError, ValueError):
        found = (row[column] or "nothing")[:40]
        raise InvalidRequest(
            "REFERENCE", f"{where}: {column}: found {found!r}, allowed a number"
        ) from None


def _listed(text: str, classes: Classes) -> dict[str, bool]:
    there = {classes.of_words(name) for name in (text or "").split("|")}
    return {name: name in there for name in classes.names}


def _answered(where: str, row: Row, known: Mapping[str, str | None]) -> dict[str, bool]:
    """Return the labels of a row; two columns of one class are true when either is."""
    said: dict[str, bool] = {}
    for column, name in known.items():
        answer = (row.get(column) or "").strip().lower()
        if name is None or answer in ("", "-1", "-1.0", "nan"):
            continue
        if answer not in _YES | _NO:
            raise InvalidRequest(
                "REFERENCE", f"{where}: {column}: found {answer!r}, allowed 0 or 1"
            )
        said[name] = said.get(name, False) or answer in _YES
    return said
