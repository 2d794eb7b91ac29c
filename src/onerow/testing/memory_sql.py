"""SQL on the rows of a transaction in memory: a private instance of an engine that holds nothing else."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Self

import duckdb
import pyarrow as pa

from onerow.adapters.warehouse.duckdb import sql
from onerow.adapters.warehouse.duckdb.guarded import check_statement
from onerow.core.rows import arrow_schema
from onerow.errors import OnerowError, WarehouseError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from onerow.core.spec import TableSpec
    from onerow.testing.memory_tables import Row


class MemorySql:
    """A GuardedTransaction whose table is filled when the first statement comes.

    Args:
        rows: the rows that the transaction sees, in declared order of columns.
        before_statement: asked before each statement; raises if the work is to stop.
    """

    def __init__(self, spec: TableSpec, rows: Sequence[Row], *, before_statement: Callable[[], None]) -> None:
        self._spec = spec
        self._names = [column.name for column in spec.stored_columns]
        self._rows = rows
        self._before_statement = before_statement
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._failure: OnerowError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    @property
    def target(self) -> str:
        """The target table as a statement names it."""
        return sql.table(*self._spec.target).sql(sql.DIALECT)

    def execute(
        self, statement: str, parameters: Sequence[object] | Mapping[str, object] = ()
    ) -> Sequence[tuple[object, ...]]:
        """Run one statement."""
        self._before_statement()
        connection = self._connection = self._connection or self._filled()
        try:
            check_statement(connection, statement)
            return connection.execute(statement, parameters or None).fetchall()
        except duckdb.Error as error:
            self._failure = WarehouseError(f"The statement failed: {str(error).splitlines()[0]}")
            raise self._failure from error

    def rows(self) -> list[Row] | None:
        """Return the rows after all statements; None if there was none.

        Raises:
            WarehouseError: a statement has failed, even if the block went on.
        """
        if self._failure is not None:
            raise self._failure
        if self._connection is None:
            return None
        names = sql.exp.select(*sql.columns(self._names)).from_(sql.table(*self._spec.target))
        with closing(self._connection.cursor()) as cursor:
            table = cursor.execute(names.sql(sql.DIALECT)).to_arrow_table()
        found = table.cast(arrow_schema(self._spec.stored_columns)).to_pylist()
        return [tuple(row[name] for name in self._names) for row in found]

    def _filled(self) -> duckdb.DuckDBPyConnection:
        spec = self._spec
        connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
        connection.execute("set TimeZone = 'UTC'")
        dicts = [dict(zip(self._names, row, strict=True)) for row in self._rows]
        connection.register("given", pa.Table.from_pylist(dicts, schema=arrow_schema(spec.stored_columns)))
        if len(spec.target) > 1:
            connection.execute(f"create schema {sql.table(*spec.target[:-1]).sql(sql.DIALECT)}")
        columns = [sql.staged_column(column, present=True) for column in spec.stored_columns]
        query = sql.exp.select(*columns).from_("given")
        connection.execute(f"create table {self.target} as {query.sql(sql.DIALECT)}")
        connection.unregister("given")
        return connection
