"""Taking an existing table into versions mode: its rows become the versions of their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onerow.adapters.warehouse.duckdb import sql
from onerow.adapters.warehouse.duckdb.database import row
from onerow.errors import DuplicatesError

if TYPE_CHECKING:
    import duckdb

    from onerow.core.spec import TableSpec


def number_rows(
    connection: duckdb.DuckDBPyConnection,
    spec: TableSpec,
    target: sql.exp.Table,
    version_column: str,
    *,
    required: bool,
) -> None:
    """Add the version column, NOT NULL if ``required``, and number the rows of each key from the oldest on.

    Raises:
        DuplicatesError: rows are identical in all declared columns; nothing tells them apart.
    """
    templates = sql.templates("numbering.sql")
    pieces: dict[str, sql.Piece] = {
        "columns": sql.columns(spec.column_names),
        "identity": sql.columns(spec.identity),
        "oldest_first": list(sql.oldest_first(spec.comparison).expressions),
    }

    def statement(name: str) -> str:
        return sql.render(templates[name], tables={"target": target}, pieces=pieces)

    contents, extra = row(connection, statement("count_identical"))
    if contents:
        raise DuplicatesError(
            f"{contents} rows of {spec.name!r} stand more than once, identical in every column, {extra} too many: "
            "they cannot be versions of their key.",
            hint=f"Remove the copies with `onerow dedupe --table {spec.name}`, still in upsert mode, and run "
            "`onerow init` again. Nothing was changed.",
        )
    place = target.sql(sql.DIALECT)
    version = sql.column(version_column).sql(sql.DIALECT)
    # The engine sets NOT NULL only while no row has changed, so the column begins with a value.
    connection.execute(f"ALTER TABLE {place} ADD COLUMN {version} BIGINT DEFAULT 0")
    if required:
        connection.execute(f"ALTER TABLE {place} ALTER COLUMN {version} SET NOT NULL")
    connection.execute(f"ALTER TABLE {place} ALTER COLUMN {version} DROP DEFAULT")
    pieces["version"] = sql.exp.to_identifier(version_column, quoted=True)
    connection.execute(statement("number"))
