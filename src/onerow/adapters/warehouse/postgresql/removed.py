"""The table beside a target that holds the rows which a repair has moved aside, in the target's own types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from onerow.adapters.postgresql.connection import run
from onerow.adapters.warehouse.postgresql import sql
from onerow.adapters.warehouse.postgresql.target import find_columns, related_name, related_table, schema_of
from onerow.errors import ConfigurationError, NotInstalledError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.adapters.postgresql.connection import Connection
    from onerow.adapters.warehouse.postgresql.target import TargetColumn
    from onerow.core.spec import TableSpec

REMOVED_SUFFIX: Final = "_removed_duplicates"
REMOVED_COLUMNS: Final = {
    "__onerow_run": "text",
    "__onerow_removed_at": "timestamp with time zone",
    "__onerow_reason": "text",
    "__onerow_batch": "text",
}


def removed_name(spec: TableSpec) -> str:
    """Return the name of the table of rows that were moved aside, without its schema."""
    return related_name(spec, REMOVED_SUFFIX)


def removed_table(spec: TableSpec) -> sql.Identifier:
    """Return the full name of the table of rows that were moved aside."""
    return related_table(spec, REMOVED_SUFFIX)


def install_removed(connection: Connection, spec: TableSpec, columns: Sequence[TargetColumn]) -> list[str]:
    """Create the table of moved rows, or the columns that were declared since; return lines for people.

    Args:
        connection: inside the transaction of the install.
        spec: the table.
        columns: the target's.

    Raises:
        ConfigurationError: a table of this name is there and cannot keep the target's rows as they are.
    """
    name, table = _told(spec), removed_table(spec)
    there, _ = find_columns(connection, schema_of(spec), removed_name(spec))
    wanted = _wanted(spec, columns)
    if not there:
        definitions = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.column(column), kind) for column, (_, kind) in wanted.items()
        )
        run(connection, sql.SQL("create table {} ({})").format(table, definitions))
        return [f"table {name}"]
    known = {column.name for column in there}
    if any(column not in known for column in REMOVED_COLUMNS):
        raise ConfigurationError(
            f"The table {name} is there, but it is not what onerow keeps removed rows in.",
            hint="Nothing was created. Rename that table.",
        )
    _check_types(name, there, wanted)
    made = []
    for column, (_, kind) in wanted.items():
        if column not in known:
            run(connection, sql.SQL("alter table {} add column {} {}").format(table, sql.column(column), kind))
            made.append(f"column {name}.{column}")
    return made


def problems(connection: Connection, spec: TableSpec) -> list[str]:
    """Return what is wrong with the table of moved rows, for ``doctor``."""
    there, _ = find_columns(connection, schema_of(spec), removed_name(spec))
    if not there:
        return [f"the table {removed_name(spec)} is missing; run `onerow init`"]
    lacking = _lacking(spec, there)
    return [f"the table {removed_name(spec)} lacks {', '.join(lacking)}; run `onerow init`"] if lacking else []


def check_removed(connection: Connection, spec: TableSpec, columns: Sequence[TargetColumn]) -> None:
    """Check that rows can be moved aside as they are.

    Raises:
        NotInstalledError: the table is not there or lacks a declared column.
        ConfigurationError: a column has another type than the target's.
    """
    name = _told(spec)
    there, _ = find_columns(connection, schema_of(spec), removed_name(spec))
    lacking = _lacking(spec, there)
    if lacking:
        raise NotInstalledError(
            f"The table {name} is missing or lacks the column {lacking[0]!r}.", hint="Run `onerow init`."
        )
    _check_types(name, there, _wanted(spec, columns))


def _told(spec: TableSpec) -> str:
    return ".".join((*spec.target[:-1], removed_name(spec)))


def _lacking(spec: TableSpec, there: Sequence[TargetColumn]) -> list[str]:
    known = {column.name for column in there}
    return [
        name for name in (*(column.name for column in spec.stored_columns), *REMOVED_COLUMNS) if name not in known
    ]


def _wanted(spec: TableSpec, columns: Sequence[TargetColumn]) -> dict[str, tuple[str, sql.Piece]]:
    """Return type and definition of every column; the types are those that the server has written."""
    declared = {column.name for column in spec.stored_columns}
    own = {column.name: (column.type_text, _type(column)) for column in columns if column.name in declared}
    return {**own, **{name: (text, sql.SQL(sql.own(text))) for name, text in REMOVED_COLUMNS.items()}}


def _type(column: TargetColumn) -> sql.Piece:
    text = sql.SQL(sql.own(column.type_text))
    if column.collation is None:
        return text
    return sql.SQL("{} collate {}").format(text, sql.Identifier(*column.collation))


def _check_types(name: str, there: Sequence[TargetColumn], wanted: dict[str, tuple[str, sql.Piece]]) -> None:
    for column in there:
        text, _ = wanted.get(column.name, (column.type_text, None))
        if column.type_text != text:
            raise ConfigurationError(
                f"The column {column.name!r} of {name} is {column.type_text}; the table's own is {text}.",
                hint="Nothing was changed. Give it the same type, or rename that table and run `onerow init`.",
            )

