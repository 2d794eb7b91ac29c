"""Creating what is missing, in one transaction, and looking whether what is there fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from onerow.adapters.postgresql.connection import MAX_NAME_BYTES, row, rows, run
from onerow.adapters.warehouse.postgresql import sql
from onerow.adapters.warehouse.postgresql.control import CONTROL_TABLES
from onerow.adapters.warehouse.postgresql.layout import staging_name, staging_table, staging_type
from onerow.adapters.warehouse.postgresql.numbering import take_into_versions
from onerow.adapters.warehouse.postgresql.removed import install_removed
from onerow.adapters.warehouse.postgresql.target import (
    find_columns,
    holds_key,
    misfit,
    related_name,
    schema_of,
    target_table,
)
from onerow.adapters.warehouse.postgresql.views import install_views
from onerow.errors import ConfigurationError, DuplicatesError, LockStoreMismatchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.adapters.postgresql.connection import Connection
    from onerow.adapters.warehouse.postgresql.target import TargetColumn
    from onerow.core.spec import Column, TableSpec

MAX_INDEX_COLUMNS: Final = 32
SYSTEM_COLUMNS: Final = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
HAS_SCHEMA: Final = sql.SQL("select exists (select from pg_catalog.pg_namespace where nspname = $1)")
UNIQUE_SUFFIX: Final = "_onerow_key"
LOOKUP_SUFFIX: Final = "_onerow_lookup"


def install(
    connection: Connection,
    specs: Sequence[TableSpec],
    control: Mapping[str, sql.Composed],
    *,
    control_schema: str,
    lock_store: str,
    adopt_locks: bool,
) -> list[str]:
    """Create control tables, staging tables, targets and missing columns; see ``Warehouse.install``.

    The caller has begun the transaction. Of several installs at once the later ones wait here.
    """
    run(connection, control["lock_install"], control_schema)
    made: list[str] = []
    present = {name for (name,) in rows(connection, control["read_control_tables"], control_schema)}
    (there,) = row(connection, HAS_SCHEMA, control_schema)
    if not there:  # asked first: even "if not exists" needs the right to create one
        run(connection, control["create_schema"])
    for name in CONTROL_TABLES:
        if name not in present:
            connection.execute(control[f"create_{name}"])
            made.append(f"control table {control_schema}.{name}")
    for spec in specs:
        _check_names(spec)
        found, kind = find_columns(connection, schema_of(spec), spec.target[-1])
        made += _install_target(connection, spec, found, kind)
        made += _install_staging(connection, spec, control_schema)
        known = rows(connection, control["read_table"], spec.name)
        if not known:
            run(connection, control["insert_table"], spec.name, lock_store, "adopted" if found else "created")
            made.append(f"control rows of {spec.name}")
            known = rows(connection, control["read_table"], spec.name)
        elif known[0][0] != lock_store:
            if not adopt_locks:
                raise LockStoreMismatchError(
                    f"The table {spec.name!r} is used with the lock store {known[0][0]}, not with {lock_store}: "
                    "two stores would be two locks.",
                    hint="If the old one is really out of use, run `onerow init --adopt-locks`.",
                )
            run(connection, control["lock_table"], control_schema, spec.name)
            run(connection, control["adopt_lock_store"], spec.name, lock_store)
            made.append(f"lock store {lock_store} adopted for {spec.name}")
        if not found and spec.enforce is False:
            made += _index_identity(connection, spec)
        elif spec.enforce or not found or (known[0][1] == "created" and _enters_versions(spec, found)):
            made += _enforce(connection, spec)
        columns, _ = find_columns(connection, schema_of(spec), spec.target[-1])
        made += install_removed(connection, spec, columns)
        made += install_views(connection, spec, columns)
    return made


def _install_target(
    connection: Connection, spec: TableSpec, found: Sequence[TargetColumn], kind: str
) -> list[str]:
    name = ".".join(spec.target)
    table = target_table(spec)
    if not found:
        (there,) = row(connection, HAS_SCHEMA, schema_of(spec))
        if not there:
            run(connection, sql.SQL("create schema if not exists {}").format(sql.Identifier(schema_of(spec))))
        definitions = sql.SQL(", ").join(_definition(spec, column) for column in spec.stored_columns)
        run(connection, sql.SQL("create table {} ({})").format(table, definitions))
        return [f"table {name}"]
    problems = misfits(spec, found, kind)
    if problems:
        raise ConfigurationError(
            f"The table {name} is there but does not fit its declaration: {' '.join(problems)}",
            hint="Nothing was created. Correct the declaration or the table.",
        )
    made = []
    there = {column.name for column in found}
    for column in spec.columns:
        if column.name not in there:
            # A NOT NULL column cannot be added to rows that lack it; the row contract holds it for new ones.
            definition = _definition(spec, column, nullable=True)
            run(connection, sql.SQL("alter table {} add column {}").format(table, definition))
            made.append(f"column {name}.{column.name}")
    if spec.mode == "versions" and spec.version_column not in there:
        columns, _ = find_columns(connection, schema_of(spec), spec.target[-1])
        made += take_into_versions(connection, spec, columns, own_index=index_name(spec))
    return made


def _install_staging(connection: Connection, spec: TableSpec, control_schema: str) -> list[str]:
    table, name = staging_table(control_schema, spec.name), staging_name(spec.name)
    found, _ = find_columns(connection, control_schema, name)
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.column(column.name), staging_type(column.type)) for column in spec.columns
    )
    if not found:
        part = sql.column(sql.PART)
        run(connection, sql.SQL("create table {} ({} bigint not null, {})").format(table, part, columns))
        # Measured with a million rows of other parts: 15 parts of 40 rows are read in 0.5 ms (no index: 250 ms, BRIN:
        # as long), and copying 100,000 rows takes 7 % longer.
        run(connection, sql.SQL("create index on {} ({})").format(table, part))
        return [f"staging table {control_schema}.{name}"]
    made = []
    there = {column.name: column.type_text for column in found}
    for column in spec.columns:
        if column.name not in there:
            run(
                connection,
                sql.SQL("alter table {} add column {} {}").format(
                    table, sql.column(column.name), staging_type(column.type)
                ),
            )
            made.append(f"column {control_schema}.{name}.{column.name}")
        elif there[column.name] != _staging_text(column):
            made.append(_change_staging(connection, spec, column, table))
    return made


def _change_staging(connection: Connection, spec: TableSpec, column: Column, table: sql.Identifier) -> str:
    """Give a staged column its new type, which is possible while no rows wait in the old one."""
    (waiting,) = row(connection, sql.SQL("select exists (select from {})").format(table))
    if waiting:
        raise ConfigurationError(
            f"Table {spec.name!r}: the column {column.name!r} was declared with another type when parts were staged, "
            "and these parts are still there.",
            hint="Consolidate or discard them under the old declaration and run `onerow gc --older-than 0s --apply`.",
        )
    run(
        connection,
        sql.SQL("alter table {table} drop column {name}, add column {name} {type}").format(
            table=table, name=sql.column(column.name), type=staging_type(column.type)
        ),
    )
    return f"type of staged column {column.name}"


def _staging_text(column: Column) -> str:
    return "text" if column.type.kind == "json" else sql.pg_type(column.type)


def _enters_versions(spec: TableSpec, found: Sequence[TargetColumn]) -> bool:
    """Say whether the table had no versions before, so that the index on its key had to go."""
    names = {column.name for column in found}
    return spec.enforce is None and spec.mode == "versions" and spec.version_column not in names


def _enforce(connection: Connection, spec: TableSpec) -> list[str]:
    """Have the engine hold the key: for tables made here unless declared otherwise, for others only if declared."""
    if holds_key(connection, spec):
        return []
    names = list(spec.row_identity)
    if len(names) > MAX_INDEX_COLUMNS:
        raise ConfigurationError(
            f"Table {spec.name!r}: an index of PostgreSQL has at most {MAX_INDEX_COLUMNS} columns.",
            hint="Write enforce = false; onerow keeps one row per key without it.",
        )
    _refuse_duplicates(connection, spec, names)
    lookup = sql.Identifier(schema_of(spec), index_name(spec, LOOKUP_SUFFIX))
    run(connection, sql.SQL("drop index if exists {}").format(lookup))
    name = index_name(spec)
    run(
        connection,
        sql.SQL("create unique index {} on {} ({}) nulls not distinct").format(
            sql.Identifier(name), target_table(spec), sql.columns(names)
        ),
    )
    return [f"unique index {name}"]


def _index_identity(connection: Connection, spec: TableSpec) -> list[str]:
    name = index_name(spec, LOOKUP_SUFFIX)
    run(
        connection,
        sql.SQL("create index {} on {} ({})").format(
            sql.Identifier(name), target_table(spec), sql.columns(spec.identity)
        ),
    )
    return [f"index {name}"]


def _refuse_duplicates(connection: Connection, spec: TableSpec, names: Sequence[str]) -> None:
    found = rows(
        connection,
        sql.SQL("select {0}, count(*) from {1} group by {0} having count(*) > 1 order by {0} limit 11").format(
            sql.columns(names), target_table(spec)
        ),
    )
    if found:
        keys = ["; ".join(f"{name}={value}" for name, value in zip(names, values, strict=False)) for values in found]
        raise DuplicatesError(
            f"Table {spec.name!r}: the key cannot be enforced, it stands more than once already: {keys[0]}"
            f"{' and others' if len(keys) > 1 else ''}.",
            keys=keys,
            hint="Nothing was created. Remove the extra rows first, or leave enforce out.",
        )


def index_name(spec: TableSpec, suffix: str = UNIQUE_SUFFIX) -> str:
    """Return the name of an index on the key."""
    return related_name(spec, suffix)


def misfits(spec: TableSpec, found: Sequence[TargetColumn], kind: str) -> list[str]:
    """Return why an existing table cannot be used as declared, as sentences."""
    if kind not in {"r", "p"}:
        return ["It is a view, a materialized view or a foreign table; a table is needed."]
    problems = []
    actual: dict[str, Any] = {column.name: column for column in found}
    for column in spec.stored_columns:
        there = actual.get(column.name)
        if there is None:
            if column.name in {*spec.identity, *spec.order_by}:
                problems.append(f"It has no column {column.name!r}, which key, partition or order_by name.")
        elif problem := misfit(column, there, is_key=column.name in spec.key):
            problems.append(problem)
    known = {column.name for column in spec.stored_columns}
    problems += [
        f"Column {name!r} is there but not declared; a row is replaced whole, so its values would be lost."
        for name in actual
        if name not in known
    ]
    return problems


def _check_names(spec: TableSpec) -> None:
    if len(spec.target) > 2:  # noqa: PLR2004 -- schema and table
        raise ConfigurationError(
            f"Table {spec.name!r}: a target in PostgreSQL is table or schema.table, not {'.'.join(spec.target)!r}."
        )
    for name in (*spec.target, *(column.name for column in spec.stored_columns)):
        if len(name.encode()) > MAX_NAME_BYTES:
            raise ConfigurationError(
                f"Table {spec.name!r}: the name {name!r} is longer than {MAX_NAME_BYTES} bytes, which is all that "
                "PostgreSQL keeps of a name."
            )
    for column in spec.stored_columns:
        if column.name in SYSTEM_COLUMNS or column.name.casefold().startswith("__onerow"):
            raise ConfigurationError(
                f"Table {spec.name!r}: a column cannot be called {column.name!r} in PostgreSQL; rename it."
            )


def _definition(spec: TableSpec, column: Column, *, nullable: bool = False) -> sql.Piece:
    required = (column.required or column.name == spec.partition) and not nullable
    return sql.SQL("{} {}{}").format(
        sql.column(column.name), sql.definition(column.type), sql.SQL(" not null") if required else sql.SQL("")
    )
