"""Words in a study's texts, found by an index of trigrams where the database has one.

PostgreSQL has one when its extension pg_trgm could be created, SQLite when it was built with FTS5;
the migration makes it. Without one, and for words of one or two characters, every row is looked
at: the answer is the same.
"""

from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, column, func, literal, or_, select, table, text

from service.records.tables import studies

_SEARCHED: Final = (
    studies.c.patient_name,
    studies.c.patient_id,
    studies.c.accession_number,
    studies.c.study_description,
    studies.c.study_instance_uid,
)
_SHORTEST: Final = 3  # characters; a trigram needs them
_INDEX: Final = "studies_search"  # of SQLite, a virtual table whose rowid is the study's

_has_index: WeakKeyDictionary[Engine, bool] = WeakKeyDictionary()


def contains(connection: Connection, word: str) -> Any:
    """Return the condition that a word without spaces occurs in one of the texts, in any case."""
    if connection.dialect.name == "postgresql":
        # One expression, the same as the index's: the words have no line feeds.
        everything: Any = _SEARCHED[0]
        for each in _SEARCHED[1:]:
            everything = everything + func.chr(10) + each
        return func.lower(everything).contains(word.lower(), autoescape=True)
    if len(word) >= _SHORTEST and _is_indexed(connection):
        found = table(_INDEX, column("rowid"), column(_INDEX))
        phrase = '"' + word.replace('"', '""') + '"'
        matching = select(found.c.rowid).where(found.c[_INDEX].op("MATCH")(literal(phrase)))
        return studies.c.id.in_(matching)
    return or_(*(each.icontains(word, autoescape=True) for each in _SEARCHED))


def _is_indexed(connection: Connection) -> bool:
    known = _has_index.get(connection.engine)
    if known is None:
        query = text("SELECT 1 FROM sqlite_master WHERE name = :name").bindparams(name=_INDEX)
        known = connection.execute(query).first() is not None
        _has_index[connection.engine] = known
    return known
