"""The statements of ``repair.sql`` for a table and some of its partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from onerow.adapters.warehouse.postgresql import sql
from onerow.adapters.warehouse.postgresql.removed import removed_table
from onerow.adapters.warehouse.postgresql.statements import in_partitions
from onerow.adapters.warehouse.postgresql.target import compared, target_table
from onerow.core.partitions import decode_partition
from onerow.core.repairs import RACE_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onerow.adapters.warehouse.postgresql.target import TargetColumn
    from onerow.core.partitions import PartitionValue
    from onerow.core.spec import TableSpec

_COMMA: Final = sql.SQL(", ")


def partition_values(spec: TableSpec, partition: str | None) -> tuple[PartitionValue, ...]:
    """Return the value of a partition, nothing for a table without."""
    if spec.partition is None or partition is None:
        return ()
    return (decode_partition(partition, spec.by_name[spec.partition].type),)


class RepairStatements:
    """Renders the statements.

    Args:
        columns: the target's, by name.
        values: the partitions; None: all of them.
    """

    def __init__(
        self, spec: TableSpec, columns: Mapping[str, TargetColumn], values: Sequence[PartitionValue] | None
    ) -> None:
        self.spec = spec
        self._columns = columns
        if values is None and spec.partition is not None:
            # NULL is no partition: what stands there can be named by nobody, and `check` tells of it.
            touched: sql.Piece = sql.SQL("{} is not null").format(sql.column(spec.partition, "t"))
        else:
            touched = in_partitions(spec, values or (), "t")
        self._pieces = {**self._of_table(), **self._of_versions(), "touched": touched}

    def __getitem__(self, name: str) -> sql.Composed:
        return self.render(name)

    def render(self, name: str, **more: sql.Piece) -> sql.Composed:
        """Return a statement, with more pieces than those of the table."""
        return sql.templates("repair.sql")[name].format(**{**self._pieces, **more})

    def rounding(self, name: str) -> sql.Composed:
        """Return the statement that counts what a cast of the decimal key column ``name`` would fold together."""
        others = [self.exact(other) for other in self.spec.identity if other != name]
        return self.render(
            "count_rounding",
            decimal=sql.column(name, "t"),
            others=sql.SQL("").join(sql.SQL("{}, ").format(other) for other in others),
        )

    def exact(self, name: str) -> sql.Piece:
        """Return a column as it is compared."""
        return compared(self._columns.get(name), name, "t")

    def _list(self, names: Sequence[str], end: str = "") -> sql.Piece:
        return _COMMA.join(self.exact(name) + sql.SQL(sql.own(end)) for name in names)

    def _of_table(self) -> dict[str, sql.Piece]:
        spec = self.spec
        stored = [column.name for column in spec.stored_columns]
        moments = [name for name in spec.order_by if spec.by_name[name].type.kind == "timestamp"]
        identifier = sql.SQL("null") if spec.id_column is None else sql.column(spec.id_column, "t")
        named = [sql.column(f"__onerow_k{place}") for place, _ in enumerate(spec.identity)]
        return {
            "target": target_table(spec),
            "removed": removed_table(spec),
            "partition": sql.SQL("null::text") if spec.partition is None else self.exact(spec.partition),
            "identity": self._list(spec.identity),
            "identity_named": _COMMA.join(
                sql.SQL("{} as {}").format(self._told(name), label)
                for name, label in zip(spec.identity, named, strict=True)
            ),
            "identity_names": _COMMA.join(named),
            "row_identity": self._list(spec.row_identity),
            "row_identity_as_text": self._list(spec.row_identity, "::text"),
            "key_hash": sql.SQL("hash_record_extended(row({}), 0)").format(self._list(spec.identity)),
            "row_hash": sql.SQL("hashtextextended(row({})::text, 0)").format(sql.columns(stored, "t")),
            "newest_first": self._list(spec.comparison, " desc nulls last"),
            "oldest_first": self._list(spec.comparison, " asc nulls first"),
            "kept_first": sql.column("__onerow_place"),
            "near": _near(moments[0]) if moments else sql.SQL("false"),
            "id": sql.SQL("{}::text").format(identifier),
            "columns": sql.columns(spec.column_names),
            "stored": sql.columns(stored),
            "stored_of_repeated": sql.columns(stored, "t"),
        }

    def _of_versions(self) -> dict[str, sql.Piece]:
        spec = self.spec
        if spec.mode != "versions" or spec.version_column is None:
            return {}
        content = self._list(list(dict.fromkeys((*spec.identity, *spec.comparison))))
        version = sql.column(spec.version_column, "t")
        return {
            "version": version,
            "kept_first": version,
            "version_column": sql.column(spec.version_column),
            "content": content,
            "content_hash": sql.SQL("hash_record_extended(row({}), 0)").format(content),
        }

    def _told(self, name: str) -> sql.Piece:
        """Return a key column as people are told it: moments in UTC."""
        column = self._columns.get(name)
        if column is not None and column.type_name == "timestamp":
            return sql.SQL("{} at time zone 'UTC'").format(self.exact(name))
        return self.exact(name)


def _near(name: str) -> sql.Piece:
    """Return whether all moments of a group are known and within ``RACE_S`` of each other."""
    return sql.SQL(
        "coalesce(count({0}) = count(*) "
        "and extract(epoch from max({0})) - extract(epoch from min({0})) <= {1}, false)"
    ).format(sql.column(name, "t"), sql.Literal(RACE_S))
