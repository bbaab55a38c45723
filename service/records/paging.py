"""Keyset pages: which rows follow the last one seen, without counting or sorting what went before.

A cursor holds the sort's name and the last row's sort values. It is opaque to clients and not a
secret: whatever it holds is checked like any other parameter, and it can only say where to go on.
"""

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import orjson
from sqlalchemy import ColumnElement, Select, tuple_

from service.core.errors import InvalidRequest
from service.records.tables import UtcDateTime

PAGE_DEFAULT: Final = 50
PAGE_LIMIT: Final = 500
_CURSOR_CHARACTERS: Final = 1024
_INTEGER_LIMIT: Final = 2**63


@dataclass(frozen=True)
class Order:
    """Columns in one direction; the last is unique, so that every row has its place."""

    name: str
    columns: tuple[ColumnElement[Any], ...]
    descending: bool

    def page(self, query: Select[Any], *, limit: int, cursor: str | None) -> Select[Any]:
        """Return the query for one page and one row more, which tells whether there is a next.

        Raises
        ------
        InvalidRequest
            ``CURSOR`` when the cursor is not one that this order gave out.
        """
        directed = [column.desc() if self.descending else column.asc() for column in self.columns]
        if cursor is not None:
            place = self._place(cursor)
            here = tuple_(*self.columns)
            query = query.where(here < place if self.descending else here > place)
        return query.order_by(*directed).limit(limit + 1)

    def cursor(self, row: Any) -> str:
        """Return the cursor that stands behind a row that has the sort's columns."""
        last = [getattr(row, str(column.key)) for column in self.columns]
        return (
            base64.urlsafe_b64encode(orjson.dumps([self.name, *last], option=orjson.OPT_UTC_Z))
            .rstrip(b"=")
            .decode()
        )

    def _place(self, cursor: str) -> tuple[object, ...]:
        values = _decoded(cursor)
        if len(values) != len(self.columns) + 1 or values[0] != self.name:
            raise _unknown_cursor()
        pairs = zip(self.columns, values[1:], strict=True)
        return tuple(_checked(_kind(column), value) for column, value in pairs)


def _decoded(cursor: str) -> list[object]:
    if len(cursor) > _CURSOR_CHARACTERS or not cursor.isascii():
        raise _unknown_cursor()
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        values = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise _unknown_cursor() from error
    if not isinstance(values, list):
        raise _unknown_cursor()
    return values


def _kind(column: ColumnElement[Any]) -> type:
    return datetime if isinstance(column.type, UtcDateTime) else column.type.python_type


def _checked(kind: type, value: object) -> object:
    """Return a cursor's value as the type of its column."""
    if kind is datetime and isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
        except ValueError as error:
            raise _unknown_cursor() from error
        if time.tzinfo is None:
            raise _unknown_cursor()
        return time
    if kind is float and type(value) in (int, float):
        return value
    if kind is int and type(value) is int and abs(value) < _INTEGER_LIMIT:
        return value
    if kind is str and isinstance(value, str) and "\x00" not in value:
        return value
    raise _unknown_cursor()


def _unknown_cursor() -> InvalidRequest:
    return InvalidRequest("CURSOR", "cursor: not one that this list gave out with this sort")
