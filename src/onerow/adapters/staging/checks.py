"""Declared checks: SQL conditions over a row's own columns, evaluated when it is staged.

A condition may use the table's columns, literals and a list of pure functions, nothing else: what
it says of a row depends on the row alone, today and tomorrow, on every engine.
"""

from __future__ import annotations

import difflib
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from onerow.core.convert import arrow_type
from onerow.errors import ConfigurationError, PartRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onerow.core.spec import Column, TableSpec

# By name: not every version of sqlglot has all of them.
_ALLOWED_NAMES: Final = (
    # structure and literals
    "Paren Column Identifier Literal Boolean Null DataType DataTypeParam Tuple "
    # logic and comparison
    "And Or Not Xor EQ NEQ GT GTE LT LTE Is Between In NullSafeEQ NullSafeNEQ Like ILike Escape "
    # arithmetic
    "Add Sub Mul Div IntDiv Mod Neg Abs Round Floor Ceil Greatest Least "
    # choice
    "Case If Coalesce Nullif "
    # text
    "Length Lower Upper Trim Substring Concat DPipe StartsWith EndsWith Contains RegexpLike RegexpFullMatch "
    "Left Right Replace "
    # types and dates
    "Cast TryCast Extract Year Month Day DayOfWeek Var IsNan IsInf"
)
_ALLOWED: Final = tuple(getattr(exp, name) for name in _ALLOWED_NAMES.split() if hasattr(exp, name))

_FUNCTIONS: Final = (
    "abs round floor ceil greatest least coalesce nullif length lower upper trim substring concat "
    "starts_with ends_with contains regexp_matches left right replace cast try_cast extract year month day "
    "isnan isinf case"
)


def parse_check(text: str, columns: Iterable[Column]) -> exp.Expression:
    """Return the condition ``text`` with every column quoted and spelled as it is declared.

    Raises:
        ConfigurationError: it is no condition over these columns.
    """
    try:
        tokens = sqlglot.tokenize(text, dialect="duckdb")
        found = [tree for tree in sqlglot.parse(text, dialect="duckdb") if tree is not None]
    except SqlglotError as error:
        raise ConfigurationError(f"{text!r} is no SQL condition.") from error
    if len(found) != 1:
        raise ConfigurationError(f"{text!r} is not one SQL condition but {len(found)}.")
    if any(token.text == "~" for token in tokens):
        raise ConfigurationError(
            f"{text!r} uses the operator ~, which engines read differently.",
            hint="Use regexp_matches(text, pattern).",
        )
    names = {column.name.casefold(): column.name for column in columns}
    tree: Any = found[0]
    for node in list(tree.walk()):
        node.comments = None
        if not isinstance(node, _ALLOWED):
            what = node.sql(dialect="duckdb")[:60]
            raise ConfigurationError(
                f"{text!r} uses {what!r}, which a check cannot have.",
                hint=f"A check is a condition over the row's own columns; functions are {_FUNCTIONS}.",
            )
        if isinstance(node, exp.In) and not node.expressions:
            raise ConfigurationError(f"{text!r}: behind IN stands a list of values, nothing else.")
        if isinstance(node, exp.Column):
            _resolve(node, names, text)
    condition: exp.Expression = tree
    return condition


def _resolve(node: exp.Column, names: dict[str, str], text: str) -> None:
    name = names.get(node.name.casefold())
    if len(node.parts) != 1 or name is None:
        shown = node.sql(dialect="duckdb")
        near = difflib.get_close_matches(node.name.casefold(), names, n=3)
        raise ConfigurationError(
            f"{text!r} names the column {shown}, which is not declared.",
            hint=f"Near it: {', '.join(names[match] for match in near)}." if near else "",
        )
    node.set("this", exp.to_identifier(name, quoted=True))


class RowChecks:
    """The checks of a table, ready to be asked.

    Raises:
        ConfigurationError: a check is no condition over the table's columns; it is named.
    """

    def __init__(self, spec: TableSpec) -> None:
        self._spec = spec
        self._names = [name for name, _ in spec.checks]
        self._connection: Any = None
        if spec.checks:
            conditions = [_parse_named(name, text, spec) for name, text in spec.checks]
            used = {column.name for tree in conditions for column in tree.find_all(exp.Column)}
            self._used = [column for column in spec.columns if column.name in used]
            self._index = _free_name(spec)
            self._query = _violations_query(conditions, self._index)
            self._connect()

    def violations(self, batch: pa.RecordBatch) -> list[tuple[int, str]]:
        """Return the rows that make a check false, as (index in the batch, name of the check), sorted.

        Args:
            batch: rows in the spec's types; a column that it lacks is NULL. NULL makes nothing false.

        Raises:
            PartRefusedError: a check cannot be evaluated on these rows.
        """
        if self._connection is None or batch.num_rows == 0:
            return []
        import duckdb  # noqa: PLC0415 -- only tables with checks need it here

        try:
            found = self._run(batch)
        except duckdb.Error as error:
            detail = " ".join(str(error).split())[:200]
            raise PartRefusedError(
                f"The checks of table {self._spec.name!r} cannot be evaluated on these rows: {detail}",
                hint="Nothing was staged. Use try_cast where a value may not convert.",
            ) from error
        return sorted((index, self._names[number]) for number, rows in enumerate(found) for index in (rows or ()))

    def _connect(self) -> None:
        """Connect to the database that can reach nothing, and try every check on no rows."""
        import duckdb  # noqa: PLC0415 -- only tables with checks need it here

        self._connection = _database(os.getpid()).cursor()
        empty = pa.RecordBatch.from_pylist([], schema=pa.schema([]))
        for name, text in self._spec.checks:
            tree = _parse_named(name, text, self._spec)
            try:
                self._bind(empty)
                result = self._connection.execute(_select(tree))
                kind = result.description[0][1]
                result.fetchall()  # DuckDB 2 does nothing else before a result is at its end
            except duckdb.Error as error:
                detail = " ".join(str(error).split())[:200]
                raise ConfigurationError(
                    f"Table {self._spec.name!r}, check {name!r}: {text!r} cannot be evaluated: {detail}"
                ) from error
            if str(kind).upper() not in {"BOOLEAN", "BOOL"}:
                raise ConfigurationError(
                    f"Table {self._spec.name!r}, check {name!r}: {text!r} is no condition, it gives {kind}."
                )

    def _bind(self, batch: pa.RecordBatch) -> None:
        """Register the columns that the checks use, under their names."""
        arrays = {self._index: pa.array(range(batch.num_rows), pa.int64())}
        for column in self._used:
            if column.name in batch.schema.names:
                array = batch.column(column.name)
            else:
                array = pa.nulls(batch.num_rows, arrow_type(column.type))
            if column.type.kind == "timestamp":
                # As UTC without a zone: what a literal means then depends on no setting.
                array = array.view(pa.int64()).view(pa.timestamp("us"))
            arrays[column.name] = array
        self._connection.register("part", pa.table(arrays))

    def _run(self, batch: pa.RecordBatch) -> tuple[list[int] | None, ...]:
        self._bind(batch)
        try:
            row: tuple[list[int] | None, ...]
            (row,) = self._connection.execute(self._query).fetchall()  # to its end: DuckDB 2 asks for that
        finally:
            self._connection.unregister("part")
        return row


@lru_cache(1)
def _database(process: int) -> Any:  # noqa: ARG001 -- a fork makes its own
    """Return this process's in-memory database that can reach nothing: making one takes longer than most checks."""
    import duckdb  # noqa: PLC0415 -- only tables with checks need it here

    connection = duckdb.connect(":memory:", config={"threads": 1})
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _parse_named(name: str, text: str, spec: TableSpec) -> exp.Expression:
    try:
        return parse_check(text, spec.columns)
    except ConfigurationError as error:
        raise ConfigurationError(f"Table {spec.name!r}, check {name!r}: {error.message}", hint=error.hint) from error


def _free_name(spec: TableSpec) -> str:
    """Return a name that no column has."""
    taken = {name.casefold() for name in spec.column_names}
    name = "row_index"
    while name in taken:
        name += "_"
    return name


def _violations_query(conditions: list[exp.Expression], index: str) -> str:
    """Return the query whose one row has, for each condition, the list of rows that make it false."""
    lists = [
        exp.Filter(
            this=exp.Anonymous(this="list", expressions=[exp.column(index, quoted=True)]),
            expression=exp.Where(this=exp.Not(this=exp.Paren(this=tree.copy()))),
        )
        for tree in conditions
    ]
    return exp.select(*lists).from_("part").sql(dialect="duckdb")


def _select(tree: exp.Expression) -> str:
    return exp.select(tree.copy()).from_("part").sql(dialect="duckdb")
