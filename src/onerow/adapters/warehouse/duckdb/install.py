"""Creating what is missing, and looking whether what is there fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from onerow.adapters.warehouse.duckdb import companions, numbering, removed, sql
from onerow.adapters.warehouse.duckdb.database import row, rows, types_of
from onerow.errors import ConfigurationError, LockStoreMismatchError, NotInstalledError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb
    from sqlglot import exp

    from onerow.core.spec import Column, TableSpec

CONTROL_TABLES: Final = ("meta", "guards", "fences", "ledger", "history")
OF_A_TABLE: Final = ("guards", "fences")
UNPRUNED: Final = frozenset({"table_name", "attempt", "action"})
"""Columns by which a lake need not skip files: `batch` and `consolidation` tell more, guards and fences are small."""
SCHEMA_VERSION: Final = "1"
MAIN: Final = "main"

# Engine types that hold a declared type's values exactly, beside the type itself.
_HARMLESS: Final[dict[str, frozenset[str]]] = {
    "int64": frozenset({"INTEGER", "SMALLINT", "TINYINT", "UINTEGER", "USMALLINT", "UTINYINT"}),
    "timestamp": frozenset({"TIMESTAMP WITH TIME ZONE"}),
    "json": frozenset({"VARCHAR"}),
}


@dataclass(frozen=True)
class Layout:
    """How an engine of the family lays tables out.

    Attributes:
        own_guards: each target has its guard and its fences in control tables of its own, since two
            transactions that change one table conflict, whichever rows they change.
        partitioned: targets that are created are partitioned by their partition column.
        required_later: a column that is added to rows can be made NOT NULL in the same transaction; where it cannot,
            the verification alone refuses rows without a version in an adopted table.
    """

    own_guards: bool = False
    partitioned: bool = False
    required_later: bool = True


class Control(Mapping[str, str]):
    """The statements of ``control.sql`` on the control tables of a schema."""

    def __init__(self, schema: str, *, own_guards: bool = False, table: str | None = None) -> None:
        self.schema = schema
        self.own_guards = own_guards
        self.table = table
        names = {f"control.{name}": sql.table(sql.DATABASE, schema, self.real_name(name)) for name in CONTROL_TABLES}
        trees = sql.templates("control.sql")
        if own_guards:
            alone = {f"control.{name}": table for name in OF_A_TABLE} if table is not None else {}
            trees = {name: _of_a_lake(tree, alone) for name, tree in trees.items()}
        self._statements = {name: sql.render(tree, tables=names) for name, tree in trees.items()}
        namespace = sql.table(sql.DATABASE, schema).sql(sql.DIALECT)
        self._statements["create_schema"] = f"CREATE SCHEMA IF NOT EXISTS {namespace}"

    def __getitem__(self, name: str) -> str:
        return self._statements[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._statements)

    def __len__(self) -> int:
        return len(self._statements)

    @property
    def shared(self) -> tuple[str, ...]:
        """The control tables that all targets share."""
        return tuple(name for name in CONTROL_TABLES if not (self.own_guards and name in OF_A_TABLE))

    def of(self, table: str) -> Control:
        """Return the statements for one target: where the guards stand alone, on its own."""
        return control_statements(self.schema, own_guards=True, table=table) if self.own_guards else self

    def real_name(self, name: str) -> str:
        """Return how the control table ``name`` is called."""
        alone = self.own_guards and self.table is not None and name in OF_A_TABLE
        return f"{name}_{self.table}" if alone else name


def _of_a_lake(tree: sql.Node, alone: Mapping[str, str]) -> sql.Node:
    """Return a statement that has the catalog asked for few statistics: those of every column that a scan is told of.

    A control table that belongs to one target is not searched for the target's name; it is compared with the name.
    """
    only = next((alone[str(found)] for found in tree.find_all(sql.exp.Table) if str(found) in alone), None)

    def hide(node: sql.Node) -> sql.Node:
        if not (isinstance(node, sql.exp.EQ) and isinstance(node.expression, sql.exp.Placeholder | sql.exp.Literal)):
            return node
        column, value = node.this, node.expression
        if not (isinstance(column, sql.exp.Column) and column.name in UNPRUNED):
            return node
        if only is not None and column.name == "table_name":
            return sql.exp.EQ(this=value, expression=sql.exp.Literal.string(only))
        return sql.exp.EQ(this=sql.exp.Array(expressions=[column]), expression=sql.exp.Array(expressions=[value]))

    return tree.transform(hide)


@lru_cache
def control_statements(schema: str, *, own_guards: bool = False, table: str | None = None) -> Control:
    """Return the statements of ``control.sql`` on the control tables of ``schema``, rendered once."""
    return Control(schema, own_guards=own_guards, table=table)


def schema_of(spec: TableSpec) -> str:
    """Return the schema that the target stands in."""
    return spec.target[-2] if len(spec.target) > 1 else MAIN


def target_table(spec: TableSpec) -> exp.Table:
    """Return the target's full name."""
    return sql.table(sql.DATABASE, schema_of(spec), spec.target[-1])


def target_types(connection: duckdb.DuckDBPyConnection, spec: TableSpec) -> dict[str, str]:
    """Return the target's columns with their engine types.

    Raises:
        NotInstalledError: there is no such table, or it lacks a declared column.
    """
    types = types_of(connection, target_table(spec))
    if not types:
        raise NotInstalledError(
            f"There is no table {'.'.join(spec.target)} in the warehouse.", hint="Run `onerow init`."
        )
    declared = [column.name for column in spec.stored_columns]
    extra = [name for name in types if name not in declared]
    if extra:
        raise ConfigurationError(
            f"The table {'.'.join(spec.target)} has the column {extra[0]!r}, which is not declared.",
            hint="Declare it: a row is replaced whole, so the values of a column that nobody declares would be lost.",
        )
    missing = [name for name in declared if name not in types]
    if missing:
        raise NotInstalledError(
            f"The table {'.'.join(spec.target)} lacks the column {missing[0]!r}.",
            hint="Run `onerow init` to add declared columns.",
        )
    return types


def install(
    connection: duckdb.DuckDBPyConnection,
    specs: Sequence[TableSpec],
    control: Control,
    *,
    control_schema: str,
    lock_store: str,
    adopt_locks: bool,
    layout: Layout = Layout(),
) -> list[str]:
    """Create control tables, targets, missing columns, views and guard rows; see ``Warehouse.install``."""
    made: list[str] = []
    present = {name for (name,) in rows(connection, control["read_control_tables"], sql.DATABASE, control_schema)}
    connection.execute(control["create_schema"])
    for name in control.shared:
        if name not in present:
            connection.execute(control[f"create_{name}"])
            made.append(f"control table {control_schema}.{name}")
    for spec in specs:
        _check_names(spec)
        found = types_of(connection, target_table(spec))
        made += _install_target(connection, spec, found, layout)
        made += removed.install_removed(connection, spec)
        made += companions.install_views(connection, spec, schema_of(spec), target_types(connection, spec))
        own = control.of(spec.name)
        for name in OF_A_TABLE if layout.own_guards else ():
            if own.real_name(name) not in present:
                connection.execute(own[f"create_{name}"])
        guards = rows(connection, own["read_guard"], spec.name)
        if not guards:
            origin = "adopted" if found else "created"
            rows(connection, own["insert_guard"], spec.name, lock_store, origin)
            made.append(f"guard row of {spec.name}")
        elif guards[0][0] != lock_store:
            if not adopt_locks:
                raise LockStoreMismatchError(
                    f"The table {spec.name!r} is used with the lock store {guards[0][0]}, not with {lock_store}: "
                    "two stores would be two locks.",
                    hint="If the old one is really out of use, run `onerow init --adopt-locks`.",
                )
            rows(connection, own["adopt_lock_store"], lock_store, spec.name)
            made.append(f"lock store {lock_store} adopted for {spec.name}")
    if made and layout.own_guards:
        (counted,) = row(connection, control["count_installs"])
        if counted == 0:
            connection.execute(control["first_install"])
    return made


def _install_target(
    connection: duckdb.DuckDBPyConnection, spec: TableSpec, found: Mapping[str, str], layout: Layout
) -> list[str]:
    name = ".".join(spec.target)
    if not found:
        if len(spec.target) > 1:
            namespace = sql.table(sql.DATABASE, schema_of(spec)).sql(sql.DIALECT)
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {namespace}")
        schema = sql.exp.Schema(
            this=target_table(spec), expressions=[_definition(spec, column) for column in spec.stored_columns]
        )
        connection.execute(sql.exp.Create(this=schema, kind="TABLE").sql(sql.DIALECT))
        if layout.partitioned and spec.partition is not None:
            partition = sql.column(spec.partition).sql(sql.DIALECT)
            connection.execute(f"ALTER TABLE {target_table(spec).sql(sql.DIALECT)} SET PARTITIONED BY ({partition})")
        return [f"table {name}"]
    problems = misfits(spec, found)
    if problems:
        raise ConfigurationError(
            f"The table {name} is there but does not fit its declaration: {' '.join(problems)}",
            hint="Nothing was created. Correct the declaration or the table.",
        )
    made = []
    for column in spec.columns:
        if column.name not in found:
            # A NOT NULL column cannot be added to rows that lack it; the row contract holds it for new ones.
            definition = _definition(spec, column, nullable=True).sql(sql.DIALECT)
            connection.execute(f"ALTER TABLE {target_table(spec).sql(sql.DIALECT)} ADD COLUMN {definition}")
            made.append(f"column {name}.{column.name}")
    if spec.version_column is not None and spec.version_column not in found:
        numbering.number_rows(
            connection, spec, target_table(spec), spec.version_column, required=layout.required_later
        )
        made.append(f"column {name}.{spec.version_column}, in which the rows that are there are numbered")
    return made


def misfits(spec: TableSpec, types: Mapping[str, str]) -> list[str]:
    """Return why an existing table with columns of ``types`` cannot be used as declared, as sentences."""
    problems = []
    for column in spec.stored_columns:
        actual = types.get(column.name)
        declared = sql.duckdb_type(column.type)
        if actual is None:
            if column.name in {*spec.identity, *spec.order_by}:
                problems.append(f"It has no column {column.name!r}, which key, partition or order_by name.")
        elif actual != declared and actual not in _HARMLESS.get(column.type.kind, frozenset()):
            advice = ""
            if actual in {"DOUBLE", "FLOAT"} and column.name in spec.key:
                advice = " A binary float is no key: change the column to DECIMAL."
            problems.append(f"Column {column.name!r} is {actual}, declared as {column.type} ({declared}).{advice}")
    problems += [
        f"Column {name!r} is there but not declared; a row is replaced whole, so its values would be lost."
        for name in types
        if name not in {column.name for column in spec.stored_columns}
    ]
    return problems


def _check_names(spec: TableSpec) -> None:
    if len(spec.target) > 2:  # noqa: PLR2004 -- schema and table
        raise ConfigurationError(
            f"Table {spec.name!r}: a target in a DuckDB file is table or schema.table, not {'.'.join(spec.target)!r}."
        )
    for column in spec.stored_columns:
        if column.name.casefold() == "rowid" or column.name.casefold().startswith("__onerow"):
            raise ConfigurationError(
                f"Table {spec.name!r}: a column cannot be called {column.name!r} in DuckDB; rename it."
            )


def _definition(spec: TableSpec, column: Column, *, nullable: bool = False) -> sql.Node:
    required = (column.required or column.name == spec.partition) and not nullable
    return sql.exp.ColumnDef(
        this=sql.exp.to_identifier(column.name, quoted=True),
        kind=sql.exp.DataType.build(sql.duckdb_type(column.type), dialect=sql.DIALECT),
        constraints=[sql.exp.ColumnConstraint(kind=sql.exp.NotNullColumnConstraint())] if required else [],
    )


def probe(
    connection: duckdb.DuckDBPyConnection,
    specs: Sequence[TableSpec],
    control: Control,
    *,
    control_schema: str,
) -> list[tuple[str, bool, str]]:
    """Return what ``doctor`` tells of an open database."""
    (version,) = rows(connection, "select version()")[0]
    facts = [("warehouse", True, f"opened, DuckDB {version}")]
    present = {name for (name,) in rows(connection, control["read_control_tables"], sql.DATABASE, control_schema)}
    missing = [name for name in control.shared if name not in present]
    if missing:
        facts.append(
            ("control tables", False, f"missing in schema {control_schema}: {', '.join(missing)}; run `onerow init`")
        )
        return facts
    facts.append(("control tables", True, f"schema {control_schema}"))
    for spec in specs:
        found = types_of(connection, target_table(spec))
        own = control.of(spec.name)
        guards = rows(connection, own["read_guard"], spec.name) if own.real_name("guards") in present else []
        if not found:
            facts.append((f"table {spec.name}", False, "missing; run `onerow init`"))
        elif problems := misfits(spec, found):
            facts.append((f"table {spec.name}", False, " ".join(problems)))
        elif len(guards) != 1:
            facts.append((f"table {spec.name}", False, f"{len(guards)} guard rows instead of one; run `onerow init`"))
        else:
            lacking = [column.name for column in spec.stored_columns if column.name not in found]
            wrong = [f"lacks {', '.join(lacking)}; run `onerow init`"] if lacking else []
            wrong = wrong or companions.problems(connection, spec, schema_of(spec), found)
            wrong += removed.problems(connection, spec)
            facts.append((f"table {spec.name}", not wrong, "; ".join(wrong) or f"fits ({guards[0][1]})"))
    return facts
