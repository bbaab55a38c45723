"""What people put on studies: labels, and how far somebody is with reading them."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import BindParameter, Connection, bindparam, delete, func, insert, select

from service.core.errors import InvalidRequest
from service.core.states import ReadingState
from service.records import events
from service.records.driver import Prepared
from service.records.events import EventKind
from service.records.tables import labels, readings, studies

LABEL_CHARACTERS: Final = 64
LABELS_LIMIT: Final = 20
_KNOWN_LIMIT: Final = 500


@dataclass(frozen=True, slots=True)
class Reading:
    """How far a person is with a study."""

    state: ReadingState
    reader: str
    changed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Marks:
    """What is on one study."""

    labels: Sequence[str]
    reading: Reading


@dataclass(frozen=True, slots=True)
class LabelCount:
    """A label and how many studies have it."""

    label: str
    studies: int


_STUDY_IDS: BindParameter[int] = bindparam("study_ids", expanding=True)
_LABELS: Final = Prepared(
    select(labels.c.study_id, labels.c.label)
    .where(labels.c.study_id.in_(_STUDY_IDS))
    .order_by(labels.c.label)
)
_READINGS: Final = Prepared(select(readings).where(readings.c.study_id.in_(_STUDY_IDS)))

NOTHING: Final = Marks((), Reading(ReadingState.UNREAD, "", None))


def cleaned(label: str) -> str:
    """Return a label as it is kept: composed characters, single spaces, no control characters.

    Raises
    ------
    InvalidRequest
        ``LABEL`` when nothing is left or it is too long.

    >>> cleaned("  second   opinion ")
    'second opinion'
    """
    text = " ".join(unicodedata.normalize("NFC", label).split())
    if not text or len(text) > LABEL_CHARACTERS or not text.isprintable():
        raise InvalidRequest("LABEL", f"labels: each has 1 to {LABEL_CHARACTERS} characters")
    return text


def of_studies(connection: Connection, study_ids: Sequence[int]) -> Mapping[int, Marks]:
    """Return what is on these studies, by study; those with nothing on them are left out."""
    if not study_ids:
        return {}
    named: defaultdict[int, list[str]] = defaultdict(list)
    keys = list(study_ids)
    for study_id, label in _LABELS.rows(connection, study_ids=keys):
        named[study_id].append(label)
    read = {
        row.study_id: Reading(ReadingState(row.state), row.reader, row.changed_at)
        for row in _READINGS.rows(connection, study_ids=keys)
    }
    return {
        study_id: Marks(named.get(study_id, ()), read.get(study_id, NOTHING.reading))
        for study_id in {*named, *read}
    }


def set_labels(
    connection: Connection, study_id: int, wanted: Iterable[str], *, by: str, at: datetime
) -> None:
    """Give a study these labels and no others.

    Raises
    ------
    InvalidRequest
        ``LABEL`` when one cannot be kept, or there are too many.
    """
    kept = sorted({cleaned(label) for label in wanted})
    if len(kept) > LABELS_LIMIT:
        raise InvalidRequest("LABEL", f"labels: at most {LABELS_LIMIT} on a study")
    mine = labels.c.study_id == study_id
    there = set(connection.execute(select(labels.c.label).where(mine)).scalars())
    connection.execute(delete(labels).where(mine, labels.c.label.not_in(kept)))
    for label in kept:
        if label not in there:
            values = {"study_id": study_id, "label": label, "added_by": by, "added_at": at}
            connection.execute(insert(labels).values(values))
    if set(kept) != there:
        _tell(connection, study_id, "LABELS", at)


def set_reading(
    connection: Connection, study_id: int, state: ReadingState, *, reader: str, at: datetime
) -> None:
    """Write how far a person is with a study; UNREAD takes it back."""
    connection.execute(delete(readings).where(readings.c.study_id == study_id))
    if state is not ReadingState.UNREAD:
        values = {"study_id": study_id, "state": state, "reader": reader, "changed_at": at}
        connection.execute(insert(readings).values(values))
    _tell(connection, study_id, state.value, at)


def known_labels(connection: Connection) -> Sequence[LabelCount]:
    """Return every label in use with the number of its studies, the most used first."""
    number = func.count()
    query = (
        select(labels.c.label, number)
        .group_by(labels.c.label)
        .order_by(number.desc(), labels.c.label)
        .limit(_KNOWN_LIMIT)
    )
    return [LabelCount(label, count) for label, count in connection.execute(query)]


def _tell(connection: Connection, study_id: int, reason: str, at: datetime) -> None:
    wanted = select(studies.c.study_instance_uid).where(studies.c.id == study_id)
    events.append(
        connection,
        kind=EventKind.STUDY,
        study_instance_uid=connection.execute(wanted).scalar_one(),
        state="MARKED",
        reason=reason,
        at=at,
    )
