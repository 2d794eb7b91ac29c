"""Looking at a table: duplicates, declared checks, and rows that the ledger does not explain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlglot

from onerow.adapters.postgresql.connection import row, rows
from onerow.adapters.warehouse.postgresql import sql
from onerow.adapters.warehouse.postgresql.statements import in_partitions
from onerow.adapters.warehouse.postgresql.target import TargetColumn, compared, find_columns, schema_of, target_table
from onerow.core.partitions import decode_partition
from onerow.errors import NotInstalledError
from onerow.ports.warehouse import DuplicateKey, Finding, TableCheck

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onerow.adapters.postgresql.connection import Connection
    from onerow.core.spec import TableSpec
    from onerow.ports.warehouse import InspectRequest

MAX_IDS = 10
CHECK_DIALECT = "duckdb"
"""The dialect that declared checks are written in, whatever the warehouse."""


def inspect(connection: Connection, request: InspectRequest, control: Mapping[str, sql.Composed]) -> TableCheck:
    """Return what is found in the rows that ``request`` names. Runs in the caller's transaction."""
    spec = request.spec
    columns, _ = find_columns(connection, schema_of(spec), spec.target[-1])
    if not columns:
        raise NotInstalledError(
            f"There is no table {'.'.join(spec.target)} in the warehouse.", hint="Run `onerow init`."
        )
    pieces = _pieces(request, {column.name: column for column in columns})

    def statement(name: str, **more: sql.Piece) -> sql.Composed:
        return sql.templates("inspection.sql")[name].format(**{**pieces, **more})

    connection.execute(statement("settle"))
    counts: dict[str | None, int] = dict(rows(connection, statement("count_rows")))
    duplicate_keys, extra_rows = row(connection, statement("count_duplicates"))
    duplicates = []
    if duplicate_keys:
        found = rows(connection, statement("list_duplicates"), request.limit)
        duplicates = [_duplicate(spec, values) for values in found]
    findings = []
    for name, text in spec.checks:
        (broken,) = row(connection, statement("broken_check", condition=_condition(text)))
        if broken:
            findings.append(
                Finding(f"check:{name}", request.partition, f"{broken} rows break the check {name}.", broken)
            )
    if spec.mode == "versions":
        (repeated,) = row(connection, statement("repeated_contents"))
        if repeated:
            said = f"{repeated} rows have the content of another version of their key."
            findings.append(Finding("version_twice", request.partition, said, repeated))
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
    return TableCheck(
        spec.name, sum(counts.values()), len(counts), duplicate_keys, extra_rows, tuple(duplicates), tuple(findings)
    )


def _condition(text: str) -> sql.Piece:
    """Return a declared check in the engine's dialect; it is parsed as one expression and written anew."""
    tree = sqlglot.parse_one(text, dialect=CHECK_DIALECT)
    # The parser has made a tree of it; what comes out is an expression and nothing else.
    return sql.SQL(sql.own(tree.sql("postgres", identify=True).replace("{", "{{").replace("}", "}}"))).format()


def _pieces(request: InspectRequest, columns: Mapping[str, TargetColumn]) -> dict[str, sql.Piece]:
    spec = request.spec

    def exact(name: str) -> sql.Piece:
        return compared(columns.get(name), name, "t")

    touched: sql.Piece = sql.SQL("true")
    partition: sql.Piece = sql.SQL("null")
    if spec.partition is not None:
        partition = exact(spec.partition)
        kind = spec.by_name[spec.partition].type
        if request.partition is not None:
            touched = in_partitions(spec, [decode_partition(request.partition, kind)], "t")
        elif request.since is not None:
            touched = sql.SQL("{} >= {}").format(partition, sql.literal(decode_partition(request.since, kind), kind))
    ids: sql.Piece = sql.SQL("null::text[]")
    if spec.id_column is not None:
        ids = sql.SQL("(array_agg({}::text))[1:{}]").format(sql.column(spec.id_column, "t"), sql.Literal(MAX_IDS))
    return {
        "target": target_table(spec),
        "touched": touched,
        "partition": partition,
        "partition_text": sql.SQL("{}::text").format(partition),
        "identity": sql.SQL(", ").join(exact(name) for name in spec.row_identity),
        "identity_text": sql.SQL(", ").join(sql.SQL("{}::text").format(exact(name)) for name in spec.row_identity),
        "business_key": sql.SQL(", ").join(exact(name) for name in spec.key if name != spec.partition),
        "content": sql.SQL(", ").join(exact(name) for name in dict.fromkeys((*spec.identity, *spec.comparison))),
        "ids": ids,
    }


def _duplicate(spec: TableSpec, values: tuple[object, ...]) -> DuplicateKey:
    *identity, count, ids = values
    key = {
        name: None if value is None else str(value) for name, value in zip(spec.row_identity, identity, strict=True)
    }
    partition = key.get(spec.partition) if spec.partition is not None else None
    names = tuple(str(value) for value in ids) if isinstance(ids, list) else ()
    return DuplicateKey(partition, key, int(str(count)), names)


def _against_ledger(
    connection: Connection,
    request: InspectRequest,
    counts: Mapping[str | None, int],
    control: Mapping[str, sql.Composed],
) -> list[Finding]:
    """Compare rows with what was inserted: exactly for tables that onerow made, at least for adopted ones."""
    spec = request.spec
    known = rows(connection, control["read_table"], spec.name)
    if not known:
        return [Finding("ledger", None, f"The table {spec.name!r} has no control row; run `onerow init`.", 0)]
    exact = known[0][1] == "created"
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
