"""What is known to lose or double rows in a lake, found and, where it is ours, switched off.

DuckLake may keep few rows in the catalog instead of writing a file for them ("inlining"). Deletions of such rows, and
deletions kept there, are lost or applied twice in the versions that we know (github.com/duckdb/ducklake, issues 1084,
1215 and 1364), so neither the control tables nor targets may have any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import duckdb

from onerow.adapters.warehouse.duckdb import install as installation
from onerow.adapters.warehouse.duckdb import sql
from onerow.adapters.warehouse.duckdb.database import rows
from onerow.adapters.warehouse.ducklake import kept
from onerow.adapters.warehouse.ducklake.lake import METADATA

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from onerow.core.spec import TableSpec

OPTION: Final = "data_inlining_row_limit"

# The versions that the tests have run with; of others the doctor says that nobody has tried them.
TESTED_VERSIONS: Final = frozenset({"1.5.5"})


def switch_off_inlining(connection: duckdb.DuckDBPyConnection) -> None:
    """Have no client of the lake keep rows in the catalog."""
    connection.execute(f"CALL {sql.DATABASE}.set_option('{OPTION}', 0)")


def switch_off_inlining_of(
    connection: duckdb.DuckDBPyConnection, control_schema: str, specs: Sequence[TableSpec]
) -> list[str]:
    """Switch inlining off for the control tables and for targets that are there; return what was changed."""
    options = _Options(connection)
    call = f"CALL {sql.DATABASE}.set_option('{OPTION}', 0"
    made = []
    if options.limit(control_schema) != 0:
        connection.execute(f"{call}, schema => ?)", [control_schema])
        made.append(f"rows in files, not in the catalog: schema {control_schema}")
    for spec in specs:
        schema, table = installation.schema_of(spec), spec.target[-1]
        if options.limit(schema, table) != 0 and _table_id(connection, schema, table) is not None:
            connection.execute(f"{call}, schema => ?, table_name => ?)", [schema, table])
            made.append(f"rows in files, not in the catalog: table {'.'.join(spec.target)}")
    return made


class _Options:
    """The limit of rows that clients keep in the catalog, where the lake says one."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        found = rows(
            connection,
            "select scope, scope_entry, value from ducklake_options(?) where option_name = ?",
            sql.DATABASE,
            OPTION,
        )
        self._limits = {(str(scope), str(entry or "")): int(value) for scope, entry, value in found}

    def limit(self, schema: str, table: str | None = None) -> int | None:
        """Return the limit that counts for a schema or a table; None if the lake says none."""
        places = [("SCHEMA", schema), ("GLOBAL", "")]
        if table is not None:
            places.insert(0, ("TABLE", f"{schema}.{table}"))
        return next((self._limits[place] for place in places if place in self._limits), None)


def look(connection: duckdb.DuckDBPyConnection, specs: Sequence[TableSpec]) -> list[tuple[str, bool, str]]:
    """Return what ``doctor`` tells of a lake, beside what it tells of every database."""
    (version, extension) = rows(
        connection, "select version(), extension_version from ducklake_settings(?)", sql.DATABASE
    )[0]
    plain = str(version).removeprefix("v")
    said = f"DuckLake {extension} of DuckDB {plain}"
    facts = [
        ("lake", True, said)
        if plain in TESTED_VERSIONS
        else ("lake", False, f"{said} was not tried with onerow; tried: {', '.join(sorted(TESTED_VERSIONS))}")
    ]
    options = _Options(connection)
    for spec in specs:
        schema, table = installation.schema_of(spec), spec.target[-1]
        identity = _table_id(connection, schema, table)
        if identity is None:
            continue
        problems = []
        if options.limit(schema, table) != 0:
            problems.append(
                "clients keep few rows in the catalog instead of files, where deletions are known to be lost; "
                "`onerow init` switches it off"
            )
        inlined = _kept_in_catalog(connection, identity)
        if inlined:
            problems.append(
                f"{inlined} rows or deletions are kept in the catalog, where they are known to be lost; write them to "
                f"files with CALL ducklake_flush_inlined_data(...) while nobody writes, then `onerow check`"
            )
        if problems:
            facts.append((f"files of {spec.name}", False, "; ".join(problems)))
    return facts


def look_at_folder(root: Path | None) -> list[tuple[str, bool, str]]:
    """Return what ``doctor`` tells of the folder of a lake's files; None for an object store."""
    found = [] if root is None else kept.left_over(root)
    said = (
        f"{len(found)} processes died in a commit whose end they did not see. What the catalog names of their files "
        "is there; `onerow gc --apply` removes their second names"
    )
    return [("interrupted commits", False, said)] if found else []


def _table_id(connection: duckdb.DuckDBPyConnection, schema: str, table: str) -> int | None:
    found = rows(
        connection,
        f"select t.table_id from {METADATA}.ducklake_table t join {METADATA}.ducklake_schema s using (schema_id) "  # noqa: S608 -- the names are ours
        "where t.end_snapshot is null and s.end_snapshot is null "
        "and lower(s.schema_name) = lower(?) and lower(t.table_name) = lower(?)",
        schema,
        table,
    )
    return int(found[0][0]) if found else None


def _kept_in_catalog(connection: duckdb.DuckDBPyConnection, table_id: int) -> int:
    """Return how many rows and deletions of a table are kept in the catalog."""
    tables = rows(
        connection,
        f"select table_name from {METADATA}.ducklake_inlined_data_tables where table_id = ?",  # noqa: S608 -- the names are ours
        table_id,
    )
    names = [name for (name,) in tables] + [f"ducklake_inlined_delete_{table_id}"]
    total = 0
    for name in names:
        try:
            ((found,),) = rows(connection, f"select count(*) from {METADATA}.{sql.table(name).sql(sql.DIALECT)}")  # noqa: S608 -- the names are ours
        except duckdb.CatalogException:  # a table of deletions is there once there was one
            continue
        total += int(found)
    return total
