"""Looking at a table: duplicates, declared checks, and rows that the ledger does not explain."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import sqlglot

from onerow.adapters.warehouse.duckdb import install as installation
from onerow.adapters.warehouse.duckdb import sql
from onerow.adapters.warehouse.duckdb.database import row, rows
from onerow.core.partitions import decode_partition, encode_partition
from onerow.ports.warehouse import DuplicateKey, Finding, TableCheck

if TYPE_CHECKING:
    from collections.abc import Mapping

    import duckdb

    from onerow.core.spec import TableSpec
    from onerow.ports.warehouse import InspectRequest

TEMPORARY = ("suspects", "duplicates")
MAX_IDS = 10


def inspect(
    connection: duckdb.DuckDBPyConnection,
    request: InspectRequest,
    target_types: Mapping[str, str],
    control: Mapping[str, str],
) -> TableCheck:
    """Return what is found in the rows that ``request`` names."""
    spec = request.spec
    pieces = _pieces(request, target_types)
    tables = {"target": installation.target_table(spec)}

    def statement(name: str, **more: sql.Piece) -> str:
        return sql.render(
            sql.templates("inspection.sql")[name], tables=tables, pieces={**pieces, **more}
        )

    try:
        connection.execute(statement("view_touched"))
        counts = {
            (encode_partition(value) if spec.partition and value is not None else None): found
            for value, found in rows(connection, statement("count_rows"))
        }
        connection.execute(statement("suspects"))
        (suspects,) = row(connection, statement("count_suspects"))
        duplicate_keys, extra_rows, duplicates = 0, 0, []
        if suspects:
            connection.execute(statement("duplicates"))
            duplicate_keys, extra_rows = row(connection, statement("count_duplicates"))
            found = rows(connection, statement("list_duplicates"), request.limit)
            duplicates = [_duplicate(spec, values) for values in found]
        findings = []
        if spec.mode == "versions":
            (repeated,) = row(connection, statement("repeated_contents"))
            if repeated:
                said = f"{repeated} rows have the content of another version of their key."
                findings.append(Finding("version_twice", request.partition, said, repeated))
        for name, text in spec.checks:
            condition = sql.exp.paren(sqlglot.parse_one(text, dialect=sql.DIALECT))
            (broken,) = row(connection, statement("broken_check", condition=condition))
            if broken:
                findings.append(
                    Finding(f"check:{name}", request.partition, f"{broken} rows break the check {name}.", broken)
                )
        if spec.partition is not None and request.partition is None and set(spec.key) != {spec.partition}:
            (wandering,) = row(connection, statement("wandering_keys"))
            if wandering:
                findings.append(
                    Finding(
                        "key_in_several_partitions",
                        None,
                        f"{wandering} keys stand in several partitions of {spec.partition!r}.",
                        wandering,
                    )
                )
        if request.against_ledger:
            findings += _against_ledger(connection, request, counts, control)
    finally:
        connection.execute("drop view if exists touched")
        for name in TEMPORARY:
            connection.execute(f"drop table if exists {name}")
    return TableCheck(
        spec.name, sum(counts.values()), len(counts), duplicate_keys, extra_rows, tuple(duplicates), tuple(findings)
    )


def _pieces(request: InspectRequest, target_types: Mapping[str, str]) -> dict[str, sql.Piece]:
    spec = request.spec
    partition: sql.Node = (
        sql.column(spec.partition)
        if spec.partition is not None
        else sql.cast(sql.exp.Literal.string(""), "VARCHAR")
    )
    touched: sql.Node = sql.exp.true()
    if spec.partition is not None:
        kind = spec.by_name[spec.partition].type
        if request.partition is not None:
            touched = sql.in_partitions(spec, [decode_partition(request.partition, kind)])
        elif request.since is not None:
            touched = sql.exp.GTE(
                this=partition.copy(), expression=sql.literal(decode_partition(request.since, kind), kind)
            )
    names = [column.name for column in spec.stored_columns if column.name in target_types]
    ids = (
        sql.exp.func("list", sql.cast(sql.column(spec.id_column), "VARCHAR"), dialect=sql.DIALECT)
        if spec.id_column is not None
        else sql.exp.null()
    )
    return {
        "partition": partition,
        "touched_partitions": touched,
        "target_columns": list(sql.columns(names)),
        "key_hash": sql.hash_of(spec.row_identity),
        "identity": sql.columns(spec.row_identity),
        "content_hash": sql.hash_of(spec.column_names),
        "columns": sql.columns(spec.column_names),
        "business_key": sql.columns([name for name in spec.key if name != spec.partition]),
        "ids": ids,
    }


def _duplicate(spec: TableSpec, values: tuple[object, ...]) -> DuplicateKey:
    *identity, count, ids = values
    key = {
        name: None if value is None else _text(value)
        for name, value in zip(spec.row_identity, identity, strict=True)
    }
    partition = key.get(spec.partition) if spec.partition is not None else None
    names = tuple(str(value) for value in ids[:MAX_IDS]) if isinstance(ids, list) else ()
    return DuplicateKey(partition, key, int(str(count)), names)


def _text(value: object) -> str:
    """Return a value of a key as text; a partition's value as it is named everywhere."""
    return encode_partition(value) if isinstance(value, bool | Decimal) else str(value)


def _against_ledger(
    connection: duckdb.DuckDBPyConnection,
    request: InspectRequest,
    counts: Mapping[str | None, int],
    control: Mapping[str, str],
) -> list[Finding]:
    """Compare rows with what was inserted: exactly for tables that onerow made, at least for adopted ones."""
    spec = request.spec
    guards = rows(connection, control["read_guard"], spec.name)
    if not guards:
        return [Finding("ledger", None, f"The table {spec.name!r} has no guard row; run `onerow init`.", 0)]
    exact = guards[0][1] == "created"
    inserted = dict(rows(connection, control["read_inserted"], spec.name))
    findings = []
    for partition in sorted({*inserted, *counts}, key=str):
        if request.partition is not None and partition != request.partition:
            continue
        found, said = counts.get(partition, 0), inserted.get(partition, 0)
        if partition not in counts and not request.covers(partition):
            continue
        where = f"Partition {partition}" if partition is not None else "The table"
        if found < said:
            findings.append(
                Finding("ledger", partition, f"{where} has {found} rows; the ledger says {said} were inserted: "
                        f"{said - found} were removed by somebody else.", said - found)
            )  # fmt: skip
        elif exact and found > said:
            findings.append(
                Finding("ledger", partition, f"{where} has {found} rows; the ledger explains {said}: "
                        f"{found - said} were written by somebody else.", found - said)
            )  # fmt: skip
    return findings
