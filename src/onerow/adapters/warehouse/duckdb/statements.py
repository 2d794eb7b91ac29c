"""The statements of ``merge.sql`` and ``versions.sql`` for a table and its partitions, rendered once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from onerow.adapters.warehouse.duckdb import sql
from onerow.adapters.warehouse.duckdb.install import target_table
from onerow.errors import WarehouseError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlglot import exp

    from onerow.core.partitions import PartitionValue
    from onerow.core.spec import Column, TableSpec


@dataclass(frozen=True)
class Statements:
    """The statements of a table's write mode for one plan; rendered once for a table and kept."""

    spec: TableSpec
    values: tuple[PartitionValue, ...]
    target_types: tuple[tuple[str, str], ...] = ()
    seed: int = 0

    def __getitem__(self, name: str) -> str:
        values = self.values if name in _OF_PARTITIONS else ()
        return _statement(name, self.spec, values, self.target_types, self.seed)


_OF_PARTITIONS = frozenset({"view_touched", "delete_replaced"})
_KEPT_STATEMENTS = 2048


@lru_cache(_KEPT_STATEMENTS)
def _statement(
    name: str,
    spec: TableSpec,
    values: tuple[PartitionValue, ...],
    target_types: tuple[tuple[str, str], ...],
    seed: int,
) -> str:
    pieces = _pieces(spec, seed)
    if name in _OF_PARTITIONS:
        on = "target" if name == "delete_replaced" else None
        pieces["touched_partitions"] = sql.in_partitions(spec, values, on=on)
        types = dict(target_types)
        pieces["target_columns"] = [target_column(column, types) for column in spec.stored_columns]
    tables = {"target": target_table(spec)}
    return sql.render(_templates(spec)[name], tables=tables, pieces=pieces)


def _templates(spec: TableSpec) -> Mapping[str, sql.Node]:
    merge = sql.templates("merge.sql")
    return merge if spec.mode == "upsert" else {**merge, **sql.templates("versions.sql")}


@lru_cache(_KEPT_STATEMENTS)
def stage_statement(
    spec: TableSpec,
    seed: int,
    several: bool,  # noqa: FBT001 -- private, and a key of the cache
    sources: tuple[tuple[frozenset[str], tuple[PartitionValue, ...]], ...],
) -> str:
    """Return the statement that reads files, a parameter for each group of files that are read alike."""
    query: exp.Query | None = None
    for present, values in sources:
        select = sql.exp.select(
            *(sql.staged_column(column, present=column.name in present) for column in spec.columns)
        ).from_(sql.exp.Anonymous(this="read_parquet", expressions=[sql.exp.Placeholder()]))
        if values:
            select = select.where(sql.in_partitions(spec, values))
        query = select if query is None else sql.exp.union(query, select, distinct=False)
    if query is None:
        raise WarehouseError("A plan without parts cannot be prepared.")
    pieces = _pieces(spec, seed)
    pieces["source"] = query.subquery("parts")
    return sql.render(_templates(spec)["stage_sorted" if several else "stage"], tables={}, pieces=pieces)


def _pieces(spec: TableSpec, seed: int) -> dict[str, sql.Piece]:
    """Return the pieces that depend on the table alone, in a dictionary to add to; whoever renders copies them."""
    return dict(_pieces_of_table(spec, seed))


@lru_cache
def _pieces_of_table(spec: TableSpec, seed: int) -> Mapping[str, sql.Piece]:
    order = spec.comparison[: len(set(spec.order_by))]
    pieces: dict[str, sql.Piece] = {
        "partition": _partition(spec),
        "sorting": sql.column(spec.partition or spec.key[0]),
        "staged_partition": _partition(spec, "s"),
        "key_hash": sql.hash_of(spec.identity, seed=seed),
        "order_hash": sql.hash_of(order, seed=seed),
        "identity": sql.columns(spec.identity),
        "newest_first": list(sql.newest_first(spec.comparison).expressions),
        "columns": sql.columns(spec.column_names),
        "column_list": sql.columns(spec.column_names),
        "classify_columns": sql.columns(tuple(dict.fromkeys((*spec.identity, spec.comparison[0])))),
        "compare_first": sql.compare(spec.comparison[:1], "s", "t"),
        "compare_all": sql.compare(spec.comparison, "s", "t"),
        "same_key": sql.same_key(spec.identity, "s", "t"),
    }
    return pieces if spec.version_column is None else {**pieces, **_pieces_of_versions(spec, spec.version_column, seed)}


def _pieces_of_versions(spec: TableSpec, version_column: str, seed: int) -> Mapping[str, sql.Piece]:
    return {
        "version": sql.column(version_column),
        "row_identity": sql.columns(spec.row_identity),
        "row_hash": sql.hash_of(spec.row_identity, seed=seed),
        "content_hash": sql.hash_of(spec.column_names, seed=seed),
        "same_content": sql.same_key(spec.column_names, "s", "t"),
        "oldest_first": list(sql.oldest_first(spec.comparison).expressions),
        "stored_columns": sql.columns([column.name for column in spec.stored_columns]),
    }


def target_column(column: Column, types: Mapping[str, str]) -> sql.Node:
    """Return the target's column in the declared type; adopted tables may differ harmlessly."""
    declared = sql.duckdb_type(column.type)
    actual = types.get(column.name, declared)
    node: sql.Node = sql.column(column.name)
    if actual == declared:
        return node
    node = sql.from_utc(node) if actual == "TIMESTAMP WITH TIME ZONE" else sql.cast(node, declared)
    return sql.exp.alias_(node, column.name, quoted=True)


def _partition(spec: TableSpec, table: str | None = None) -> sql.Node:
    if spec.partition is None:
        return sql.cast(sql.exp.Literal.string(""), "VARCHAR")
    return sql.column(spec.partition, table)
