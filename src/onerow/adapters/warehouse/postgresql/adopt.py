"""Any existing table of a PostgreSQL database, for a check without configuration.

The check needs quoted column names and nothing else, so the spec that is built here declares only the
columns it looks at. Types that no key of ours may have, such as double precision, are looked at all the same.
"""

from __future__ import annotations

import difflib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import psycopg

from onerow.adapters.postgresql.connection import Server, begin, milliseconds, rollback, rows
from onerow.adapters.postgresql.sqlstate import map_error
from onerow.adapters.warehouse.postgresql import inspection, sql
from onerow.adapters.warehouse.postgresql.control import control_statements
from onerow.adapters.warehouse.postgresql.target import PUBLIC, TargetColumn, find_columns
from onerow.core.spec import Column, TableSpec
from onerow.core.types import ColumnType, parse_type
from onerow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from onerow.adapters.postgresql.connection import Connection
    from onerow.ports.warehouse import InspectRequest, TableCheck

CONTROL_SCHEMA: Final = "onerow"
KNOWN_TABLES: Final = 20

# Partition columns whose values can be named in text; any other is compared as text.
_PARTITION_TYPES: Final = {"date": "date", "bool": "bool", **dict.fromkeys(("int2", "int4", "int8"), "int64")}

_TABLES: Final = sql.SQL(
    "select n.nspname, c.relname from pg_catalog.pg_class as c "
    "join pg_catalog.pg_namespace as n on n.oid = c.relnamespace "
    "where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname not in ('pg_catalog', 'information_schema') "
    "and n.nspname !~ '^pg_' order by 1, 2"
)


class ExistingTable:
    """A table that is looked at and never merged into; it needs no control tables."""

    def __init__(self, server: Server, spec: TableSpec, *, busy_timeout_s: float) -> None:
        self._server = server
        self._busy_timeout_s = busy_timeout_s
        self.spec = spec

    def inspect(self, request: InspectRequest) -> TableCheck:
        """Look for duplicates and keys in several partitions.

        Raises:
            WarehouseError: the table cannot be read.
        """
        with _looking(self._server, self._busy_timeout_s) as connection:
            return inspection.inspect(connection, request, control_statements(CONTROL_SCHEMA))

    def close(self) -> None:
        """Let go of connections."""
        self._server.close()


def open_existing(
    url: str,
    *,
    target: tuple[str, ...],
    key: Sequence[str],
    partition_column: str | None,
    id_column: str | None,
    busy_timeout_s: float,
) -> ExistingTable:
    """Return a table with a spec of the columns that it is to be checked by.

    Raises:
        UsageError: there is no such table or column; near names are told.
        WarehouseError: the database cannot be read.
    """
    if len(target) > 2:  # noqa: PLR2004 -- schema and table
        raise UsageError(f"A table in PostgreSQL is table or schema.table, not {'.'.join(target)!r}.")
    server = Server(url)
    try:
        with _looking(server, busy_timeout_s) as connection:
            target = _find(connection, target)
            columns = {column.name: column for column in find_columns(connection, *target)[0]}
        name = ".".join(target if target[0] != PUBLIC else target[1:])
        found_key = tuple(dict.fromkeys(_column(column, columns, name) for column in key))
        partition = None if partition_column is None else _column(partition_column, columns, name)
        identifier = None if id_column is None else _column(id_column, columns, name)
    except BaseException:
        server.close()
        raise
    kinds = {column: ColumnType("string") for column in (*found_key, partition, identifier) if column}
    if partition is not None:
        kinds[partition] = _partition_type(columns[partition])
    spec = TableSpec(
        name=name.replace("/", "_"),
        target=target,
        key=found_key,
        order_by=found_key,
        columns=tuple(Column(column, kind) for column, kind in kinds.items()),
        partition=partition,
        id_column=identifier,
    )
    return ExistingTable(server, spec, busy_timeout_s=busy_timeout_s)


@contextmanager
def _looking(server: Server, busy_timeout_s: float) -> Iterator[Connection]:
    """Run a block in a transaction that is rolled back: looking changes nothing."""
    try:
        with server.connection() as connection:
            try:
                begin(connection, settings={"lock_timeout": milliseconds(busy_timeout_s)})
                yield connection
            finally:
                rollback(connection)
    except psycopg.Error as error:
        raise map_error(error, "the table cannot be read") from error


def _find(connection: Connection, target: tuple[str, ...]) -> tuple[str, str]:
    """Return schema and name of the table as they are written: exactly, or else whatever the case."""
    tables = [(str(schema), str(name)) for schema, name in rows(connection, _TABLES)]
    wanted = (target[-2] if len(target) > 1 else PUBLIC, target[-1])
    if wanted in tables:
        return wanted
    folded = [table for table in tables if tuple(map(str.casefold, table)) == tuple(map(str.casefold, wanted))]
    if len(folded) == 1:
        return folded[0]
    known = [name if schema == PUBLIC else f"{schema}.{name}" for schema, name in tables]
    shown = ".".join(target)
    near = difflib.get_close_matches(shown, known, n=5, cutoff=0.4)
    raise UsageError(
        f"There is no table {shown!r} in the database that this role may see.",
        hint=f"Names that come near: {', '.join(near)}."
        if near
        else f"It has: {', '.join(known[:KNOWN_TABLES]) or 'none'}.",
    )


def _column(name: str, columns: Mapping[str, TargetColumn], table: str) -> str:
    if name in columns:
        return name
    for column in columns:
        if column.casefold() == name.casefold():
            return column
    near = difflib.get_close_matches(name, columns, n=3, cutoff=0.5)
    raise UsageError(
        f"The table {table!r} has no column {name!r}.",
        hint=f"Names that come near: {', '.join(near)}." if near else f"It has: {', '.join(columns)}.",
    )


def _partition_type(column: TargetColumn) -> ColumnType:
    if column.type_name == "numeric" and column.modifier >= 0:
        return parse_type(column.type_text.replace("numeric", "decimal"))
    return parse_type(_PARTITION_TYPES.get(column.type_name, "string"))
