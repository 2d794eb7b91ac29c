"""Any existing table of a DuckDB file or of a lake, for a check without configuration.

The check needs quoted column names and nothing else, so the spec that is built here declares only the
columns it looks at. Types that no key of ours may have, such as DOUBLE, are looked at all the same.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final

import duckdb

from onerow.adapters.warehouse.duckdb import inspection, sql
from onerow.adapters.warehouse.duckdb import install as installation
from onerow.adapters.warehouse.duckdb.database import Database, rows
from onerow.core.spec import Column, TableSpec
from onerow.core.types import ColumnType, parse_type
from onerow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onerow.ports.warehouse import InspectRequest, TableCheck

CONTROL_SCHEMA: Final = "onerow"

# Partition columns whose values can be named in text; any other is compared as text.
_PARTITION_TYPES: Final = {
    "DATE": "date",
    "BOOLEAN": "bool",
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"), "int64"),
}


class ExistingTable:
    """A table that is looked at and never merged into; it needs no control tables."""

    def __init__(self, database: Database, shown: str, spec: TableSpec, types: Mapping[str, str]) -> None:
        self._database = database
        self._shown = shown
        self._types = types
        self.spec = spec

    def inspect(self, request: InspectRequest) -> TableCheck:
        """Look for duplicates and keys in several partitions.

        Raises:
            WarehouseError: the table cannot be read.
        """
        control = installation.control_statements(CONTROL_SCHEMA)
        try:
            with self._database.open(read_only=True) as connection:
                return inspection.inspect(connection, request, self._types, control)
        except duckdb.Error as error:
            raise self._database.map_error(error, f"{self._shown} cannot be read") from None

    def close(self) -> None:
        """Let go of connections."""
        self._database.close()


def open_existing(
    path: Path,
    *,
    target: tuple[str, ...],
    key: Sequence[str],
    partition_column: str | None,
    id_column: str | None,
    busy_timeout_s: float,
) -> ExistingTable:
    """Return a table with a spec of the columns that it is to be checked by.

    Raises:
        UsageError: there is no such file, table or column; near names are told.
        WarehouseError: the file cannot be read.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    database = Database(path, busy_timeout_s=busy_timeout_s)
    return adopt(database, str(path), target=target, key=key, partition_column=partition_column, id_column=id_column)


def adopt(
    database: Database,
    shown: str,
    *,
    target: tuple[str, ...],
    key: Sequence[str],
    partition_column: str | None,
    id_column: str | None,
) -> ExistingTable:
    """Return a table of what can be attached.

    Args:
        database: closed again with the table, or if there is none.
        shown: what people may see of where it is.
        target: schema and table, or table.
        key: columns that name a row.
        partition_column: a column that is part of a row's identity.
        id_column: a column to show for each duplicate.

    Raises:
        UsageError: there is no such table or column; near names are told.
        WarehouseError: it cannot be read.
    """
    try:
        try:
            with database.open(read_only=True) as connection:
                target, types = _look(connection, target)
        except duckdb.Error as error:
            raise database.map_error(error, f"{shown} cannot be read") from None
        spec = _spec(target, types, key, partition_column, id_column)
    except BaseException:
        database.close()
        raise
    return ExistingTable(database, shown, spec, types)


def _spec(
    target: tuple[str, ...],
    types: Mapping[str, str],
    key: Sequence[str],
    partition_column: str | None,
    id_column: str | None,
) -> TableSpec:
    """Return a spec of the columns that a table is to be checked by."""
    name = ".".join(target)
    found_key = tuple(dict.fromkeys(_column(column, types, name) for column in key))
    partition = None if partition_column is None else _column(partition_column, types, name)
    identifier = None if id_column is None else _column(id_column, types, name)
    kinds = {column: ColumnType("string") for column in (*found_key, partition, identifier) if column}
    if partition is not None:
        kinds[partition] = _partition_type(types[partition])
    return TableSpec(
        name=name.replace("/", "_"),
        target=target,
        key=found_key,
        order_by=found_key,
        columns=tuple(Column(column, kind) for column, kind in kinds.items()),
        partition=partition,
        id_column=identifier,
    )


def _look(connection: duckdb.DuckDBPyConnection, target: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the names of the table as they are written in the file, and its columns with their types."""
    if len(target) > 2:  # noqa: PLR2004 -- schema and table
        raise UsageError(f"The name of a table is table or schema.table, not {'.'.join(target)!r}.")
    schema = target[-2] if len(target) > 1 else installation.MAIN
    found = rows(
        connection,
        "select schema_name, table_name, column_name, data_type from duckdb_columns() "
        "where database_name = ? and not internal order by schema_name, table_name, column_index",
        sql.DATABASE,
    )
    tables: dict[tuple[str, str], dict[str, str]] = {}
    for schema_name, table_name, column, data_type in found:
        tables.setdefault((schema_name, table_name), {})[column] = data_type
    wanted = (schema.casefold(), target[-1].casefold())
    for (schema_name, table_name), types in tables.items():
        if (schema_name.casefold(), table_name.casefold()) == wanted:
            names = (table_name,) if schema_name == installation.MAIN else (schema_name, table_name)
            return names, types
    known = [name if schema == installation.MAIN else f"{schema}.{name}" for schema, name in tables]
    shown = ".".join(target)
    near = difflib.get_close_matches(shown, known, n=5, cutoff=0.4)
    raise UsageError(
        f"There is no table {shown!r}.",
        hint=f"Names that come near: {', '.join(near)}." if near else f"It has: {', '.join(known[:20]) or 'none'}.",
    )


def _column(name: str, types: Mapping[str, str], table: str) -> str:
    for column in types:
        if column.casefold() == name.casefold():
            return column
    near = difflib.get_close_matches(name, types, n=3, cutoff=0.5)
    raise UsageError(
        f"The table {table!r} has no column {name!r}.",
        hint=f"Names that come near: {', '.join(near)}." if near else f"It has: {', '.join(types)}.",
    )


def _partition_type(engine_type: str) -> ColumnType:
    if engine_type.startswith("DECIMAL"):
        return parse_type(engine_type.lower())
    return parse_type(_PARTITION_TYPES.get(engine_type, "string"))
