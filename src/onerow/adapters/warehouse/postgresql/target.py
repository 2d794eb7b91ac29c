"""What a target table is in the engine: columns, types, collations, and whether an index holds its key."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from onerow.adapters.postgresql.connection import MAX_NAME_BYTES, in_turn, rows
from onerow.adapters.warehouse.postgresql import sql
from onerow.errors import ConfigurationError, NotInstalledError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.adapters.postgresql.connection import Connection
    from onerow.core.spec import Column, TableSpec
    from onerow.core.types import ColumnType

PUBLIC: Final = "public"
"""Where a target without a schema stands, whatever the session's search path is."""

READABLE_CHARS: Final = 40
"""How much of a long name is kept of it where it had to be cut."""

_DECIMAL_SCALE_BITS: Final = 0x7FF
_MODIFIER_HEADER: Final = 4
_SHORT_INTEGERS: Final = frozenset({"int4", "int2"})


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """A column as the engine has it.

    Attributes:
        type_name: the type's plain name, such as ``varchar``.
        type_text: the type as people write it.
        modifier: its type modifier; -1 for none.
        collation: schema and name; None where the type has none.
        deterministic: whether equal under the collation means equal bytes.
    """

    name: str
    type_name: str
    type_text: str
    modifier: int
    required: bool
    collation: tuple[str, str] | None
    deterministic: bool
    generated: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A target table.

    Attributes:
        enforced: a valid unique index makes two rows of one key impossible.
    """

    table: sql.Identifier
    columns: tuple[TargetColumn, ...]
    enforced: bool
    kind: str

    @property
    def by_name(self) -> Mapping[str, TargetColumn]:
        """The columns by name."""
        return {column.name: column for column in self.columns}


_COLUMNS = sql.SQL(
    """
    select a.attname, t.typname, format_type(a.atttypid, a.atttypmod), a.atttypmod, a.attnotnull,
        cn.nspname, co.collname, coalesce(co.collisdeterministic, true), a.attgenerated <> '' or a.attidentity <> '',
        c.relkind::text
    from pg_catalog.pg_class as c
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    join pg_catalog.pg_type as t on t.oid = a.atttypid
    left join pg_catalog.pg_collation as co on co.oid = a.attcollation
    left join pg_catalog.pg_namespace as cn on cn.oid = co.collnamespace
    where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p', 'v', 'm', 'f')
    order by a.attnum
    """
)

# An index proves one row per key if it is whole, at once, of plain columns of the identity, and NULLs count as equal
# (or there are none).
_UNIQUE = sql.SQL(
    """
    select array_agg(a.attname::text)
    from pg_catalog.pg_index as i
    join pg_catalog.pg_class as c on c.oid = i.indrelid
    join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
    cross join lateral unnest(i.indkey::smallint[]) with ordinality as k(attnum, place)
    left join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
    where n.nspname = $1 and c.relname = $2 and i.indisunique and i.indisvalid and i.indimmediate
        and i.indpred is null and k.place <= i.indnkeyatts
    group by i.indexrelid, i.indnullsnotdistinct
    having bool_and(a.attname is not null and (i.indnullsnotdistinct or a.attnotnull))
    """
)


def schema_of(spec: TableSpec) -> str:
    """Return the schema that the target stands in."""
    return spec.target[-2] if len(spec.target) > 1 else PUBLIC


def target_table(spec: TableSpec) -> sql.Identifier:
    """Return the target's full name."""
    return sql.Identifier(schema_of(spec), spec.target[-1])


def related_name(spec: TableSpec, suffix: str) -> str:
    """Return the name of what stands beside the target; where the server would cut it, a digest tells it apart."""
    name = spec.target[-1]
    if len(f"{name}{suffix}".encode()) <= MAX_NAME_BYTES:
        return f"{name}{suffix}"
    digest = f"_{hashlib.sha256(name.encode()).hexdigest()[:8]}{suffix}"
    readable = name.encode()[: min(READABLE_CHARS, MAX_NAME_BYTES - len(digest))]
    return f"{readable.decode(errors='ignore')}{digest}"


def related_table(spec: TableSpec, suffix: str) -> sql.Identifier:
    """Return the full name of a table or view beside the target."""
    return sql.Identifier(schema_of(spec), related_name(spec, suffix))


def find_columns(connection: Connection, schema: str, name: str) -> tuple[list[TargetColumn], str]:
    """Return a table's columns and what kind of relation it is; nothing and "" if there is none."""
    return _columns(rows(connection, _COLUMNS, schema, name))


def _columns(found: Sequence[tuple[Any, ...]]) -> tuple[list[TargetColumn], str]:
    columns = [
        TargetColumn(
            column,
            type_name,
            type_text,
            modifier,
            required,
            None if collation is None else (collation_schema, collation),
            deterministic,
            generated,
        )
        for (
            column, type_name, type_text, modifier, required, collation_schema, collation, deterministic, generated, _
        ) in found
    ]  # fmt: skip
    return columns, found[0][-1] if found else ""


def holds_key(connection: Connection, spec: TableSpec) -> bool:
    """Say whether a unique index of the target makes two rows of one key (of one version of it) impossible."""
    statement, values = unique_indexes(spec)
    return holds(spec, rows(connection, statement, *values))


def unique_indexes(spec: TableSpec) -> tuple[sql.SQL, tuple[str, str]]:
    """Return what to ask for ``holds``."""
    return _UNIQUE, (schema_of(spec), spec.target[-1])


def holds(spec: TableSpec, found: Sequence[tuple[Any, ...]]) -> bool:
    """Say whether one of the unique indexes that were found is on columns of the key."""
    identity = set(spec.row_identity)
    return any(set(names) <= identity for (names,) in found)


def describe(connection: Connection, spec: TableSpec) -> Target:
    """Return the target as it is now; in a transaction.

    Raises:
        NotInstalledError: there is no such table, or it lacks a declared column.
        ConfigurationError: it has a column that is not declared.
    """
    name = ".".join(spec.target)
    there, unique = in_turn(connection, (_COLUMNS, (schema_of(spec), spec.target[-1])), unique_indexes(spec))
    columns, kind = _columns(there.fetchall())
    if not columns:
        raise NotInstalledError(f"There is no table {name} in the warehouse.", hint="Run `onerow init`.")
    known = {column.name for column in spec.stored_columns}
    extra = [column.name for column in columns if column.name not in known]
    if extra:
        raise ConfigurationError(
            f"The table {name} has the column {extra[0]!r}, which is not declared.",
            hint="Declare it: a row is replaced whole, so the values of a column that nobody declares would be lost.",
        )
    present = {column.name for column in columns}
    missing = [column.name for column in spec.stored_columns if column.name not in present]
    if missing:
        raise NotInstalledError(
            f"The table {name} lacks the column {missing[0]!r}.", hint="Run `onerow init` to add declared columns."
        )
    return Target(target_table(spec), tuple(columns), holds(spec, unique.fetchall()), kind)


def misfit(declared: Column, actual: TargetColumn, *, is_key: bool) -> str:
    """Return why a column cannot hold the declared values exactly, as a sentence; "" if it can."""
    kind = declared.type.kind
    advice = ""
    fits = False
    match kind:
        case "string":
            fits = actual.type_name in {"text", "varchar"}
            if actual.type_name == "bpchar":
                advice = " It pads with blanks: change it to text."
        case "int64":
            fits = actual.type_name in {"int8", *_SHORT_INTEGERS}
        case "float64":
            fits = actual.type_name == "float8"
        case "decimal":
            fits = actual.type_name == "numeric" and _holds(actual.modifier, declared.type)
            if actual.type_name in {"float8", "float4"} and is_key:
                advice = " A binary float is no key: change the column to numeric."
        case "timestamp":
            fits = actual.type_name in {"timestamptz", "timestamp"} and actual.modifier in {-1, 6}
        case "json":
            fits = actual.type_name in {"json", "jsonb", "text"}
        case _:
            fits = actual.type_name == sql.pg_type(declared.type).replace("boolean", "bool")
    if fits and actual.generated:
        return f"Column {declared.name!r} is generated by the table itself, so no value can be written to it."
    if fits:
        return ""
    return (
        f"Column {declared.name!r} is {actual.type_text}, declared as {declared.type} "
        f"({sql.pg_type(declared.type)}).{advice}"
    )


def _holds(modifier: int, declared: ColumnType) -> bool:
    """Say whether numeric with this type modifier holds every value of a declared decimal exactly."""
    if modifier < 0:
        return True
    precision, scale = (modifier - _MODIFIER_HEADER) >> 16, (modifier - _MODIFIER_HEADER) & _DECIMAL_SCALE_BITS
    return scale >= declared.scale and precision - scale >= declared.precision - declared.scale


def compared(column: TargetColumn | None, name: str, table: str) -> sql.Piece:
    """Return a column as it is compared: text and json byte by byte, whatever the column's collation is."""
    node = sql.column(name, table)
    if column is None:
        return node
    if column.type_name in {"json", "jsonb", "varchar"}:
        return sql.SQL('({}::text collate "C")').format(node)
    if column.collation is not None and column.collation != ("pg_catalog", "C"):
        return sql.SQL('({} collate "C")').format(node)
    return node


def equals(column: TargetColumn, name: str, target: str, staged: str) -> sql.Piece:
    """Return the equality of a key column, such that an index on the target's column serves."""
    ours, theirs = sql.column(name, target), sql.column(name, staged)
    if column.collation is None or column.collation == ("pg_catalog", "C"):
        return sql.SQL("{} = {}").format(ours, theirs)
    if column.deterministic:  # then equal means equal bytes
        return sql.SQL("{} = {} collate {}").format(ours, theirs, sql.Identifier(*column.collation))
    return sql.SQL('{} collate "C" = {}').format(ours, theirs)


def staged_value(declared: Column, actual: TargetColumn) -> sql.Piece:
    """Return a staged column in the target's terms; nothing is rounded or cut on the way."""
    node = sql.column(declared.name)
    if declared.type.kind == "timestamp" and actual.type_name == "timestamp":
        return sql.SQL("{} at time zone 'UTC'").format(node)
    if declared.type.kind == "json" and actual.type_name in {"json", "jsonb"}:
        return sql.SQL("{}::{}").format(node, sql.SQL("jsonb") if actual.type_name == "jsonb" else sql.SQL("json"))
    return node
