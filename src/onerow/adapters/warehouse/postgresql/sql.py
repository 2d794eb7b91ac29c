"""Statements for a table: named templates, with the table's pieces put in by psycopg, which quotes them.

In a template ``{name}`` is a piece and ``$1`` a value that is sent beside the text.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final, LiteralString, TypeAlias

from psycopg import sql
from psycopg.sql import SQL as SQL  # noqa: PLC0414 -- the others take the words from here
from psycopg.sql import Composed as Composed  # noqa: PLC0414
from psycopg.sql import Identifier as Identifier  # noqa: PLC0414
from psycopg.sql import Literal as Literal  # noqa: PLC0414

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onerow.core.partitions import PartitionValue
    from onerow.core.types import ColumnType

Piece: TypeAlias = sql.Composable

PART: Final = "__onerow_part"
"""The column of a staging table that tells which part a row belongs to."""

STAGED: Final = sql.Identifier("pg_temp", "__onerow_staged")
LOSERS: Final = sql.Identifier("pg_temp", "__onerow_losers")

_TYPES: Final[dict[str, LiteralString]] = {
    "string": "text",
    "int64": "bigint",
    "float64": "double precision",
    "bool": "boolean",
    "date": "date",
    "timestamp": "timestamp with time zone",
    "json": "json",
}


def pg_type(column_type: ColumnType) -> str:
    """Return the engine's type for a declared one, as ``format_type`` writes it."""
    if column_type.kind == "decimal":
        return f"numeric({column_type.precision},{column_type.scale})"
    return _TYPES[column_type.kind]


def type_sql(column_type: ColumnType) -> Piece:
    """Return the engine's type for a definition or a cast."""
    if column_type.kind == "decimal":
        return SQL("numeric({}, {})").format(Literal(column_type.precision), Literal(column_type.scale))
    return SQL(_TYPES[column_type.kind])


def definition(column_type: ColumnType) -> Piece:
    """Return type and collation of a column: text is compared byte by byte."""
    text = SQL(' collate "C"') if column_type.kind == "string" else SQL("")
    return type_sql(column_type) + text


@lru_cache
def templates(name: str) -> Mapping[str, SQL]:
    """Return the statements of a file of this folder, by name."""
    text = files("onerow.adapters.warehouse.postgresql").joinpath(name).read_text(encoding="utf-8")
    found = re.findall(r"^-- name: (\w+)\n(.*?);\s*(?=^-- name|\Z)", text, re.MULTILINE | re.DOTALL)
    return {label: SQL(own(_without_comments(body))) for label, body in found}


def own(text: str) -> LiteralString:
    """Return text that is no piece of user's input: from a file of this package, or written by a parser's tree."""
    return text


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))


def columns(names: Iterable[str], table: str | None = None) -> Composed:
    """Return a list of quoted columns."""
    return SQL(", ").join(column(name, table) for name in names)


def column(name: str, table: str | None = None) -> Identifier:
    """Return a quoted column."""
    return Identifier(name) if table is None else Identifier(table, name)


def literal(value: PartitionValue, column_type: ColumnType) -> Piece:
    """Return a value of a partition column as a typed constant; a constant prunes partitions of the engine."""
    return SQL("cast({} as {})").format(Literal(value), type_sql(column_type))


def all_of(conditions: Sequence[Piece]) -> Piece:
    """Return the conjunction; true for none."""
    return SQL(" and ").join(conditions) if conditions else SQL("true")


def any_of(conditions: Sequence[Piece]) -> Piece:
    """Return the disjunction, in parentheses; true for none."""
    return SQL("({})").format(SQL(" or ").join(conditions)) if conditions else SQL("true")
