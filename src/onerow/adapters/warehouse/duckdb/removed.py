"""The table beside a target that holds the rows which a repair has moved aside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from onerow.adapters.warehouse.duckdb import sql
from onerow.adapters.warehouse.duckdb.database import types_of
from onerow.errors import ConfigurationError, NotInstalledError

if TYPE_CHECKING:
    import duckdb

    from onerow.core.spec import TableSpec

REMOVED_SUFFIX: Final = "_removed_duplicates"
REMOVED_COLUMNS: Final = {
    "__onerow_run": "VARCHAR",
    "__onerow_removed_at": "TIMESTAMP",
    "__onerow_reason": "VARCHAR",
    "__onerow_batch": "VARCHAR",
}


def removed_table(spec: TableSpec) -> sql.exp.Table:
    """Return the full name of the table of rows that were moved aside."""
    return sql.table(sql.DATABASE, _schema_of(spec), spec.target[-1] + REMOVED_SUFFIX)


def _schema_of(spec: TableSpec) -> str:
    return spec.target[-2] if len(spec.target) > 1 else "main"


def _wanted(spec: TableSpec) -> dict[str, str]:
    return {**{column.name: sql.duckdb_type(column.type) for column in spec.stored_columns}, **REMOVED_COLUMNS}


def _there(connection: duckdb.DuckDBPyConnection, spec: TableSpec) -> dict[str, str]:
    return types_of(connection, removed_table(spec))


def install_removed(connection: duckdb.DuckDBPyConnection, spec: TableSpec) -> list[str]:
    """Create the table of moved rows, or the columns that were declared since; return lines for people.

    Raises:
        ConfigurationError: a table of this name is there and is none of ours.
    """
    name = ".".join(spec.target) + REMOVED_SUFFIX
    there, wanted = _there(connection, spec), _wanted(spec)
    table = removed_table(spec)
    if not there:
        definitions = [_definition(column, type_text) for column, type_text in wanted.items()]
        schema = sql.exp.Schema(this=table, expressions=definitions)
        connection.execute(sql.exp.Create(this=schema, kind="TABLE").sql(sql.DIALECT))
        return [f"table {name}"]
    foreign = [column for column in REMOVED_COLUMNS if column not in there]
    foreign += [column for column in wanted if there.get(column, wanted[column]) != wanted[column]]
    if foreign:
        raise ConfigurationError(
            f"The table {name} is there, but its column {foreign[0]!r} is not what onerow keeps removed rows in.",
            hint="Nothing was created. Rename that table.",
        )
    made = []
    for column, type_text in wanted.items():
        if column not in there:
            definition = _definition(column, type_text).sql(sql.DIALECT)
            connection.execute(f"ALTER TABLE {table.sql(sql.DIALECT)} ADD COLUMN {definition}")
            made.append(f"column {name}.{column}")
    return made


def lacking(connection: duckdb.DuckDBPyConnection, spec: TableSpec) -> list[str]:
    """Return the columns that the table of moved rows lacks; all of them if it is not there."""
    there = _there(connection, spec)
    return [column for column in _wanted(spec) if column not in there]


def problems(connection: duckdb.DuckDBPyConnection, spec: TableSpec) -> list[str]:
    """Return what is wrong with the table of moved rows, for ``doctor``."""
    missing = lacking(connection, spec)
    name = spec.target[-1] + REMOVED_SUFFIX
    if len(missing) == len(_wanted(spec)):
        return [f"the table {name} is missing; run `onerow init`"]
    return [f"the table {name} lacks {', '.join(missing)}; run `onerow init`"] if missing else []


def check_removed(connection: duckdb.DuckDBPyConnection, spec: TableSpec) -> None:
    """Check that rows can be moved aside.

    Raises:
        NotInstalledError: the table is not there or lacks a declared column.
    """
    missing = lacking(connection, spec)
    if missing:
        raise NotInstalledError(
            f"The table {'.'.join(spec.target)}{REMOVED_SUFFIX} is missing or lacks the column {missing[0]!r}.",
            hint="Run `onerow init`.",
        )


def _definition(column: str, type_text: str) -> sql.exp.ColumnDef:
    return sql.exp.ColumnDef(
        this=sql.exp.to_identifier(column, quoted=True),
        kind=sql.exp.DataType.build(type_text, dialect=sql.DIALECT),
    )
