"""Statements that run for every received instance, on the driver's own cursor.

Running a statement through SQLAlchemy costs about ten times what SQLite needs for it. Here
SQLAlchemy says the SQL and converts the values, once for each database and number of values in a
list, and its connection and transaction are used as they stand.
"""

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Dialect, Float, Numeric
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.selectable import SelectBase

Convert = Callable[[Any], Any]


class _Compiled(NamedTuple):
    """One statement in the words of one database."""

    sql: str
    names: tuple[str, ...]  # of its parameters, in the order of the placeholders
    is_positional: bool
    fixed: Mapping[str, Any]  # values that the statement itself holds
    binding: Mapping[str, Convert]
    results: Sequence[tuple[int, Convert]]

    def arguments(self, values: Mapping[str, Any]) -> Any:
        binding = self.binding
        if self.fixed:
            values = {**self.fixed, **values}
        if self.is_positional:
            return [
                binding[name](values[name]) if name in binding else values[name]
                for name in self.names
            ]
        return {
            name: binding[name](value) if name in binding else value
            for name, value in values.items()
        }


class Prepared:
    """A statement that is compiled when it first runs."""

    def __init__(self, statement: Any, *, columns: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._columns = columns  # of an INSERT
        self._compiled: dict[tuple[str, tuple[tuple[str, int], ...]], _Compiled] = {}
        selected = statement.selected_columns if isinstance(statement, SelectBase) else ()
        self._types = [column.type for column in selected]
        self._row = _row_type([str(column.key) for column in selected])

    def rows(self, connection: Connection, **values: Any) -> list[Any]:
        """Return the rows of a SELECT as named tuples; a list fills a parameter that expands.

        Lists are for IN and have at least one value.
        """
        lists = {name: _padded(value) for name, value in values.items() if isinstance(value, list)}
        lengths = tuple((name, len(value)) for name, value in lists.items())
        compiled = self._for(connection.dialect, lengths)
        for name, value in lists.items():
            values.update({f"{name}_{number}": each for number, each in enumerate(value, 1)})
            del values[name]
        cursor = connection.connection.cursor()
        try:
            cursor.execute(compiled.sql, compiled.arguments(values))
            found = cursor.fetchall()
        except connection.dialect.loaded_dbapi.Error as error:
            raise _translated(connection, compiled.sql, error) from error
        finally:
            cursor.close()
        if compiled.results:
            return [self._row._make(_converted(row, compiled.results)) for row in found]
        return [self._row._make(row) for row in found]

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run an INSERT or UPDATE once for each of the rows."""
        compiled = self._for(connection.dialect, ())
        cursor = connection.connection.cursor()
        try:
            if len(rows) == 1:
                cursor.execute(compiled.sql, compiled.arguments(rows[0]))
            else:
                cursor.executemany(compiled.sql, [compiled.arguments(row) for row in rows])
        except connection.dialect.loaded_dbapi.Error as error:
            raise _translated(connection, compiled.sql, error) from error
        finally:
            cursor.close()

    def _for(self, dialect: Dialect, lengths: tuple[tuple[str, int], ...]) -> _Compiled:
        found = self._compiled.get((dialect.name, lengths))
        if found is None:
            found = self._compiled[dialect.name, lengths] = self._compile(dialect, lengths)
        return found

    def _compile(self, dialect: Dialect, lengths: tuple[tuple[str, int], ...]) -> _Compiled:
        statement = self._statement
        if lengths:
            statement = statement.params({name: [""] * length for name, length in lengths})
        compiled = statement.compile(
            dialect=dialect,
            column_keys=self._columns,
            compile_kwargs={"render_postcompile": True},
        )
        binding = {
            name: convert
            for name, parameter in compiled.binds.items()
            if (convert := parameter.type.dialect_impl(dialect).bind_processor(dialect))
        }
        results = [
            (index, convert)
            for index, kind in enumerate(self._types)
            if not isinstance(kind, Float | Numeric)  # drivers give numbers
            and (convert := kind.dialect_impl(dialect).result_processor(dialect, None))
        ]
        fixed = {
            name: parameter.value
            for name, parameter in compiled.binds.items()
            if parameter.value is not None and not parameter.expanding
        }
        names = tuple(compiled.positiontup or ())
        return _Compiled(str(compiled), names, compiled.positional, fixed, binding, results)


def _row_type(names: Sequence[str]) -> Any:
    return namedtuple("Row", names)


def _padded(values: list[Any]) -> list[Any]:
    """Repeat the last value up to a power of two, so that few lengths are compiled."""
    return values + values[-1:] * ((1 << (len(values) - 1).bit_length()) - len(values))


def _converted(row: Sequence[Any], results: Sequence[tuple[int, Convert]]) -> list[Any]:
    values = list(row)
    for index, convert in results:
        values[index] = convert(values[index])
    return values


def _translated(connection: Connection, sql: str, error: Exception) -> BaseException:
    """Return a driver's error as SQLAlchemy would raise it, without the values."""
    dialect = connection.dialect
    driver = connection.connection.driver_connection
    is_gone = dialect.is_disconnect(error, driver, None)  # type: ignore[arg-type]
    if is_gone:
        connection.invalidate(error)
    return DBAPIError.instance(
        sql,
        None,
        error,
        dialect.loaded_dbapi.Error,
        hide_parameters=True,
        connection_invalidated=is_gone,
        dialect=dialect,
    )
