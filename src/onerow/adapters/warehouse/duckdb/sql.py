"""Statements for a table: named templates, parsed once, with the table's pieces put into the tree.

Identifiers and literals enter as nodes of the tree and are quoted by sqlglot; values are parameters.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, TypeAlias

import sqlglot
from sqlglot import exp as exp  # noqa: PLC0414 -- the others take the nodes from here

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.core.partitions import PartitionValue
    from onerow.core.spec import Column, TableSpec
    from onerow.core.types import ColumnType

    Node = exp.Expr

DIALECT = "duckdb"
DATABASE = "onerow_db"
"""Name under which the file is attached."""

Piece: TypeAlias = "Node | list[Node]"

_TYPES = {
    "string": "VARCHAR",
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "bool": "BOOLEAN",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
    "json": "JSON",
}


def duckdb_type(column_type: ColumnType) -> str:
    """Return the engine's type for a declared one. Timestamps are UTC without a zone."""
    if column_type.kind == "decimal":
        return f"DECIMAL({column_type.precision},{column_type.scale})"
    return _TYPES[column_type.kind]


@lru_cache
def templates(name: str) -> Mapping[str, Node]:
    """Return the statements of a file of this folder, by name."""
    text = files("onerow.adapters.warehouse.duckdb").joinpath(name).read_text(encoding="utf-8")
    found = re.findall(r"^-- name: (\w+)\n(.*?;)\s*(?=^-- name|\Z)", text, re.MULTILINE | re.DOTALL)
    return {label: sqlglot.parse_one(body, dialect=DIALECT) for label, body in found}


def render(
    tree: Node, *, tables: Mapping[str, exp.Table], pieces: Mapping[str, Piece] | None = None
) -> str:
    """Return the text of ``tree`` with real tables and pieces put in."""
    tree = tree.copy()
    for table in list(tree.find_all(exp.Table)):
        key = f"{table.db}.{table.name}" if table.db else table.name
        if key in tables:
            real: Node = tables[key].copy()
            if table.alias:
                real.set("alias", table.args["alias"])
            elif key == "target":
                real = exp.alias_(real, "target", table=True)
            table.replace(real)
    for placeholder in list(tree.find_all(exp.Placeholder)):
        name = placeholder.this
        if isinstance(name, str) and pieces is not None and name in pieces:
            _put(placeholder, pieces[name])
    return tree.sql(dialect=DIALECT, comments=False)


def _put(placeholder: Node, piece: Piece) -> None:
    """Replace a placeholder; several expressions take the place of the list item that it is or stands in."""
    if not isinstance(piece, list):
        placeholder.replace(piece.copy())
        return
    item, parent = placeholder, placeholder.parent
    while parent is not None and not isinstance(parent.args[str(item.arg_key)], list):
        item, parent = parent, parent.parent
    if parent is None:
        raise TypeError("a list of expressions needs a list to stand in")
    key = str(item.arg_key)
    siblings = parent.args[key]
    at = next(i for i, sibling in enumerate(siblings) if sibling is item)
    parent.set(key, [*siblings[:at], *(node.copy() for node in piece), *siblings[at + 1 :]])


def column(name: str, table: str | None = None) -> exp.Column:
    """Return a quoted column."""
    return exp.column(exp.to_identifier(name, quoted=True), table=table)


def columns(names: Sequence[str], table: str | None = None) -> list[Node]:
    """Return quoted columns."""
    return [column(name, table) for name in names]


def table(*names: str) -> exp.Table:
    """Return a quoted table from one to three names, outermost first."""
    parts = [exp.to_identifier(name, quoted=True) for name in names]
    return exp.Table(
        this=parts[-1],
        db=parts[-2] if len(parts) > 1 else None,
        catalog=parts[-3] if len(parts) > 2 else None,  # noqa: PLR2004 -- catalog, schema, table
    )


def cast(node: Node, type_text: str) -> Node:
    """Return ``node`` cast to an engine's type."""
    return exp.cast(node, exp.DataType.build(type_text, dialect=DIALECT))


def literal(value: PartitionValue, column_type: ColumnType) -> Node:
    """Return a value of a partition column as a typed constant; a constant prunes, a parameter may not."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return cast(exp.Literal.string(text), duckdb_type(column_type))


def hash_of(names: Sequence[str], *, seed: int = 0, table: str | None = None) -> Node:
    """Return a 64-bit hash of columns; another seed gives another hash."""
    return exp.func("hash", exp.Literal.number(seed), *columns(names, table), dialect=DIALECT)


def same_key(identity: Sequence[str], left: str, right: str) -> Node:
    """Return the exact, null-safe equality of the identity of two tables' rows."""
    return exp.and_(
        *(exp.NullSafeEQ(this=column(name, left), expression=column(name, right)) for name in identity)
    )


def compare(names: Sequence[str], left: str, right: str) -> Node:
    """Return 1, 0 or -1: whether the left row is newer, tied or older, column by column, NULL lowest."""
    case = exp.Case()
    for name in names:
        a, b = column(name, left), column(name, right)
        newer = exp.or_(exp.Is(this=b, expression=exp.Null()), exp.GT(this=a, expression=b.copy()))
        inner = exp.Case().when(newer, exp.Literal.number(1)).else_(exp.Literal.number(-1))
        case = case.when(exp.NullSafeNEQ(this=a.copy(), expression=b.copy()), inner)
    return exp.paren(case.else_(exp.Literal.number(0)))


def newest_first(names: Sequence[str]) -> exp.Order:
    """Return an ORDER BY that puts the newest row first."""
    return exp.Order(
        expressions=[exp.Ordered(this=column(name), desc=True, nulls_first=False) for name in names]
    )


def oldest_first(names: Sequence[str]) -> exp.Order:
    """Return an ORDER BY that puts the oldest row first."""
    return exp.Order(
        expressions=[exp.Ordered(this=column(name), desc=False, nulls_first=True) for name in names]
    )


def in_partitions(
    spec: TableSpec, values: Sequence[PartitionValue], *, on: str | None = None
) -> Node:
    """Return the condition that a row is in one of the partitions; TRUE for a table without."""
    if spec.partition is None:
        return exp.true()
    partition = column(spec.partition, on)
    kind = spec.by_name[spec.partition].type
    constants = [literal(value, kind) for value in values]
    if len(constants) == 1:
        return exp.EQ(this=partition, expression=constants[0])
    return exp.In(this=partition, expressions=constants)


def from_utc(node: Node) -> Node:
    """Return a timestamp with zone as one without, in UTC, whatever the session's zone."""
    return exp.func("make_timestamp", exp.func("epoch_us", node, dialect=DIALECT), dialect=DIALECT)


def staged_column(declared: Column, *, present: bool) -> Node:
    """Return a column of a part's file in the engine's type; NULL where no part has it."""
    type_text = duckdb_type(declared.type)
    if not present:
        node: Node = cast(exp.null(), type_text)
    elif declared.type.kind == "timestamp":
        node = from_utc(column(declared.name))
    else:
        node = cast(column(declared.name), type_text)
    return exp.alias_(node, declared.name, quoted=True)
