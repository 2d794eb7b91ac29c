"""The pieces of a table's statements: what ``merge.sql``, ``versions.sql`` and ``control.sql`` are filled with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from sqlglot import exp

from onerow.adapters.bigquery.names import DIALECT, column, columns
from onerow.adapters.warehouse.bigquery import sql
from onerow.core.partitions import decode_partition
from onerow.core.repairs import RACE_S
from onerow.errors import WarehouseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from onerow.adapters.bigquery.names import Names, TableName
    from onerow.core.partitions import PartitionValue
    from onerow.core.spec import TableSpec

REMOVED_SUFFIX: Final = "_removed_duplicates"
CONTROL: Final = "control.sql"


def control_pieces(names: Names, table: str) -> dict[str, sql.Piece]:
    """Return the control tables as ``table`` uses them, and its name as a literal."""
    return {
        "guards": names.control_table("guards", table).node(),
        "fences": names.control_table("fences", table).node(),
        "ledger": names.control_table("ledger", table).node(),
        "history": names.control_table("history", table).node(),
        "name": sql.string(table),
    }


def value_of(spec: TableSpec, name: str | None) -> PartitionValue:
    """Return the value that a partition's name stands for.

    Raises:
        WarehouseError: the table has no partitions.
    """
    if spec.partition is None or name is None:
        raise WarehouseError(f"The table {spec.name!r} has no partitions.")
    return decode_partition(name, spec.by_name[spec.partition].type)


def values_of(spec: TableSpec, names: Iterable[str | None]) -> tuple[PartitionValue, ...]:
    """Return the values of partitions; nothing for a table without."""
    return () if spec.partition is None else tuple(value_of(spec, name) for name in names)


def rows_literal(names: Sequence[str], rows: Iterable[Sequence[sql.Node]]) -> sql.Node:
    """Return a query of literal rows, of which there is at least one."""
    structs = [
        exp.Struct(expressions=[exp.alias_(node, name, quoted=True) for name, node in zip(names, row, strict=True)])
        for row in rows
    ]
    source = exp.Unnest(expressions=[exp.Array(expressions=structs)], alias=exp.TableAlias(this=exp.to_identifier("r")))
    return exp.select(*(exp.alias_(column(name, "r"), name, quoted=True) for name in names)).from_(source)


@dataclass(frozen=True)
class Statements:
    """The statements of a table's write mode for some partitions.

    Attributes:
        types: the target's columns with their actual types.
        values: the partitions that are touched; empty for a table without.
        staged: the scratch table of the staged rows, where there is one.
    """

    spec: TableSpec
    names: Names
    types: tuple[tuple[str, str], ...]
    values: tuple[PartitionValue, ...] = ()
    staged: TableName | None = None

    def __call__(self, file: str, name: str, **more: sql.Piece) -> str:
        """Return a statement of a file of this folder."""
        return sql.render(sql.templates(file)[name], {**self.pieces, **more})

    @cached_property
    def columns(self) -> sql.Columns:
        """The columns of both sides."""
        return sql.Columns(self.spec, dict(self.types))

    @property
    def touched(self) -> sql.Node:
        """The condition that a row of the target is in one of the partitions."""
        return sql.in_partitions(self.spec, self.values, sql.TARGET)

    @cached_property
    def pieces(self) -> Mapping[str, sql.Piece]:
        """Everything that depends on the table and the partitions alone."""
        spec, both = self.spec, self.columns
        target, staged = sql.TARGET, sql.STAGED
        stored = [found.name for found in spec.stored_columns]
        changed = [name for name in stored if name not in spec.identity]
        pieces: dict[str, sql.Piece] = {
            **control_pieces(self.names, spec.name),
            "target": self.names.target(spec).node(),
            "removed": self.names.related(spec, REMOVED_SUFFIX).node(),
            "touched": self.touched,
            "partition_text": sql.partition_text(spec),
            "staged_partition_text": sql.partition_text(spec, staged),
            "target_partition_text": sql.partition_text(spec, target),
            "identity": columns(spec.identity),
            "row_identity": columns(spec.row_identity),
            "identity_in_order": columns(spec.identity, "k"),
            "identity_texts": self._texts(spec.identity),
            "row_identity_texts": self._texts(spec.row_identity),
            "identity_of_target": both.all_stored(spec.identity),
            "row_identity_of_target": both.all_stored(spec.row_identity),
            "all_of_target": both.all_stored(stored),
            "compared_columns": both.all_stored(dict.fromkeys((*spec.identity, *spec.comparison))),
            "target_key": both.packed(spec.identity, target),
            "staged_key": both.packed(spec.identity, "s"),
            "row_key": both.packed(spec.row_identity, target),
            "target_content": both.packed(spec.column_names, target),
            "staged_content": both.packed(spec.column_names, "s"),
            "row_content": both.packed(stored, target),
            "newest_first": sql.in_order(columns(spec.comparison), newest=True),
            "oldest_first": sql.in_order(columns(spec.comparison), newest=False),
            "same_key": both.same(spec.identity, target, staged),
            "newer": both.compare(spec.comparison, staged, target),
            "columns": columns(spec.column_names),
            "values": [both.written(name) for name in spec.column_names],
            "stored_columns": columns(stored),
            "stored_values": [both.written(name) for name in stored],
            "assignments": [
                exp.EQ(this=column(name), expression=both.written(name))
                for name in changed
                if name in spec.column_names
            ],
            "id": sql.cast(exp.null() if spec.id_column is None else column(spec.id_column), "STRING"),
            "near": self._near(),
        }
        if self.staged is not None:
            pieces["staged"] = self.staged.node()
        if spec.version_column is not None and spec.mode == "versions":
            pieces["version"] = column(spec.version_column)
            pieces["version_of_target"] = column(spec.version_column, target)
        return pieces

    def _texts(self, names: Sequence[str]) -> list[sql.Node]:
        return [sql.key_text(column(name), self.columns.by_name[name].type) for name in names]

    def _near(self) -> sql.Node:
        """Return whether all moments of a group are known and within ``RACE_S`` of each other."""
        moments = [name for name in self.spec.order_by if self.spec.by_name[name].type.kind == "timestamp"]
        if not moments:
            return exp.false()
        moment = column(moments[0])
        newest, oldest = (
            exp.func("UNIX_MICROS", node, dialect=DIALECT)
            for node in (exp.Max(this=moment), exp.Min(this=moment.copy()))
        )
        known = exp.EQ(this=exp.Count(this=moment.copy()), expression=exp.Count(this=exp.Star()))
        limit = exp.LTE(
            this=exp.Sub(this=newest, expression=oldest), expression=exp.Literal.number(round(RACE_S * 1_000_000))
        )
        return exp.func("COALESCE", exp.and_(known, limit), exp.false(), dialect=DIALECT)
