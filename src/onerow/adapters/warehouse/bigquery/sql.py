"""Statements for a table: named templates whose pieces are nodes of sqlglot's BigQuery dialect.

A piece is a node or a list of nodes and never a text, so that every identifier and every literal is quoted where it
is made. The scripts carry their values as literals; single statements carry them as query parameters.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final, TypeAlias

from sqlglot import exp

from onerow.adapters.bigquery.names import DIALECT, bigquery_type, column

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onerow.core.partitions import PartitionValue
    from onerow.core.spec import Column, TableSpec
    from onerow.core.types import ColumnType

    Node = exp.Expr

Piece: TypeAlias = "Node | Rendered | list[Node]"
Value: TypeAlias = "str | int | float | bool | Decimal | dt.date | dt.datetime | None"



@dataclass(frozen=True, slots=True)
class Rendered:
    """A statement that was rendered already, as a piece of another one: deep trees are not made again."""

    text: str


TARGET: Final = "T"
STAGED: Final = "S"

_PIECE: Final = re.compile(r"\{(\w+)\}")
_LABEL: Final = re.compile(r"^-- name: (\w+)\n(.*?);\s*(?=^-- name|\Z)", re.MULTILINE | re.DOTALL)
_REMARK: Final = re.compile(r"^--[^\n]*\n", re.MULTILINE)


@lru_cache
def templates(name: str) -> Mapping[str, str]:
    """Return the statements of a file of this folder, by name, without remarks."""
    text = files("onerow.adapters.warehouse.bigquery").joinpath(name).read_text(encoding="utf-8")
    return {label: _REMARK.sub("", body).strip() for label, body in _LABEL.findall(text)}


def render(template: str, pieces: Mapping[str, Piece]) -> str:
    """Return a template with its pieces put in."""

    def put(found: re.Match[str]) -> str:
        piece = pieces[found[1]]
        if isinstance(piece, list):
            return ", ".join(text_of(node) for node in piece)
        return text_of(piece)

    return _PIECE.sub(put, template)


def text_of(node: Node | Rendered) -> str:
    """Return a node as text of the dialect."""
    return node.text if isinstance(node, Rendered) else node.sql(DIALECT)


def string(value: str) -> Node:
    """Return a text as a literal."""
    return exp.Literal.string(value)


def integer(value: int) -> Node:
    """Return a number as a literal."""
    return exp.Neg(this=exp.Literal.number(-value)) if value < 0 else exp.Literal.number(value)


def optional(value: str | int | None) -> Node:
    """Return a text or a number as a literal; NULL for None."""
    if value is None:
        return exp.null()
    return string(value) if isinstance(value, str) else integer(value)


def cast(node: Node, type_text: str) -> Node:
    """Return ``node`` cast to an engine's type."""
    return exp.cast(node, exp.DataType.build(type_text, dialect=DIALECT), copy=False)


def base_type(column_type: ColumnType) -> str:
    """Return the engine's type for a declared one without length or scale: two of these compare exactly."""
    return bigquery_type(column_type).split("(", maxsplit=1)[0]


def literal(value: Value, column_type: ColumnType) -> Node:
    """Return a value as a typed constant; a constant prunes partitions, an expression over tables does not."""
    if value is None:
        return cast(exp.null(), base_type(column_type))
    if isinstance(value, bool):
        return exp.Boolean(this=value)
    if isinstance(value, int):
        return integer(value)
    if isinstance(value, str):
        return string(value)
    if isinstance(value, dt.datetime):
        return cast(string(value.astimezone(dt.UTC).isoformat(sep=" ")), "TIMESTAMP")
    if isinstance(value, Decimal):
        return exp.Anonymous(this=f"PARSE_{base_type(column_type)}", expressions=[string(format(value, "f"))])
    return cast(string(str(value)), base_type(column_type))


def in_partitions(spec: TableSpec, values: Sequence[PartitionValue], table: str | None = None) -> Node:
    """Return the condition that a row is in one of the partitions, made of constants; TRUE for a table without."""
    if spec.partition is None:
        return exp.true()
    kind = spec.by_name[spec.partition].type
    constants = [literal(value, kind) for value in values]
    place = column(spec.partition, table)
    if len(constants) == 1:
        return exp.EQ(this=place, expression=constants[0])
    return exp.In(this=place, expressions=constants)


def partition_text(spec: TableSpec, table: str | None = None) -> Node:
    """Return the canonical text of a row's partition; the empty text for a table without."""
    if spec.partition is None:
        return string("")
    kind, node = spec.by_name[spec.partition].type, column(spec.partition, table)
    return _text(node, kind)


def key_text(node: Node, column_type: ColumnType) -> Node:
    """Return a value of a key as text for people."""
    return _text(node, column_type)


def _text(node: Node, kind: ColumnType) -> Node:
    if kind.kind == "string":
        return node
    if kind.kind == "decimal" and kind.scale:
        # FORMAT keeps the zeros behind the point that a cast drops: 24.50, as the partition is called everywhere.
        return exp.func("FORMAT", string(f"%.{kind.scale}f"), node, dialect=DIALECT)
    return cast(node, "STRING")


class Columns:
    """The columns of the target and of what is staged for it, as expressions of exactly comparable types.

    Args:
        types: the target's columns with their actual types; an adopted table may have FLOAT64 where a decimal is
            declared, which is compared as NUMERIC: 24.5 and 25.0 differ, and nothing is rounded to a whole number.
    """

    def __init__(self, spec: TableSpec, types: Mapping[str, str]) -> None:
        self.spec = spec
        self.types = types
        self.by_name = {found.name: found for found in spec.stored_columns}

    def stored(self, name: str, table: str | None = TARGET) -> Node:
        """Return a column of the target in the declared type."""
        node = column(name, table)
        return node if self._is_as_declared(name) else cast(node, base_type(self.by_name[name].type))

    def all_stored(self, names: Iterable[str], table: str | None = TARGET) -> list[Node]:
        """Return columns of the target under their own names."""
        return [exp.alias_(self.stored(name, table), name, quoted=True) for name in names]

    def written(self, name: str, table: str | None = STAGED) -> Node:
        """Return a column of the staged rows in the target's actual type."""
        node = column(name, table)
        return node if self._is_as_declared(name) else cast(node, self.types[name].split("(", maxsplit=1)[0])

    def _is_as_declared(self, name: str) -> bool:
        declared = base_type(self.by_name[name].type)
        return self.types.get(name, declared).split("(", maxsplit=1)[0] == declared

    def _side(self, name: str, table: str | None) -> Node:
        return self.stored(name, table) if table == TARGET else column(name, table)

    def packed(self, names: Sequence[str], table: str | None) -> Node:
        """Return the values of some columns as one text, the same for equal rows and for no others."""
        fields = []
        for place, name in enumerate(names):
            kind = self.by_name[name].type
            node = self._side(name, table)
            if kind.kind == "float64":  # the sign of zero makes no difference
                zero = exp.EQ(this=node.copy(), expression=exp.Literal.number("0"))
                node = exp.If(this=zero, true=cast(exp.Literal.number("0"), "FLOAT64"), false=node)
            elif kind.kind == "decimal" and not self._is_as_declared(name):
                node = cast(node, base_type(kind))
            fields.append(exp.alias_(node, f"c{place}"))
        return exp.func("TO_JSON_STRING", exp.Struct(expressions=fields), dialect=DIALECT)

    def same(self, names: Sequence[str], left: str, right: str) -> Node:
        """Return the exact, null-safe equality of columns, one by one."""
        return exp.and_(
            *(
                exp.NullSafeEQ(this=self._side(name, left), expression=self._side(name, right))
                for name in names
            )
        )

    def compare(self, names: Sequence[str], left: str, right: str) -> Node:
        """Return 1, 0 or -1: whether the left row is newer, tied or older, column by column, NULL lowest."""
        case = exp.Case()
        for name in names:
            a, b = self._side(name, left), self._side(name, right)
            newer = exp.or_(exp.Is(this=b.copy(), expression=exp.Null()), exp.GT(this=a.copy(), expression=b.copy()))
            inner = exp.If(this=newer, true=integer(1), false=integer(-1))
            case = case.when(exp.NullSafeNEQ(this=a, expression=b), inner)
        return exp.paren(case.else_(integer(0)))


def in_order(nodes: Iterable[Node], *, newest: bool) -> list[Node]:
    """Return terms of an ORDER BY that puts the newest row first, or the oldest; NULL is the lowest value."""
    return [exp.Ordered(this=node, desc=newest, nulls_first=not newest) for node in nodes]


def staged_column(declared: Column, *, present: bool) -> Node:
    """Return a column of a part's table in the declared type; NULL where the part lacks it."""
    if present:
        return column(declared.name)
    return exp.alias_(cast(exp.null(), bigquery_type(declared.type)), declared.name, quoted=True)
