"""Looking at a table: duplicates, declared checks, and rows that the ledger does not explain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlglot
from google.cloud import bigquery
from sqlglot import exp

from onerow.adapters.bigquery.names import column, columns
from onerow.adapters.warehouse.bigquery import sql
from onerow.adapters.warehouse.bigquery.statements import CONTROL, Statements, value_of
from onerow.errors import NotInstalledError
from onerow.ports.warehouse import DuplicateKey, Finding, TableCheck

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onerow.adapters.bigquery.client import BigQuery
    from onerow.core.spec import TableSpec
    from onerow.ports.warehouse import InspectRequest

FILE: Final = "inspection.sql"


def inspect(client: BigQuery, request: InspectRequest) -> TableCheck:
    """Return what is found in the rows that ``request`` names.

    Raises:
        NotInstalledError: the table is not there.
    """
    spec = request.spec
    target = client.table(client.names.target(spec))
    if target is None:
        raise NotInstalledError(f"The table {'.'.join(spec.target)} is not there.", hint="Run `onerow init`.")
    types = tuple((found.name, found.type) for found in target.columns)
    statements = Statements(spec, client.names, types)
    pieces = _pieces(request, statements)

    def rows(name: str, **more: sql.Piece) -> tuple[tuple[Any, ...], ...]:
        return client.run(statements(FILE, name, **{**pieces, **more})).rows

    counts = {name: int(found) for name, found in rows("count_rows")}
    found = rows("duplicates")
    duplicate_keys, all_rows = (int(found[0][-2]), int(found[0][-1])) if found else (0, 0)
    findings = _findings(request, rows)
    if request.against_ledger:
        findings += _against_ledger(client, request, counts, statements)
    return TableCheck(
        spec.name,
        sum(counts.values()),
        len(counts),
        duplicate_keys,
        all_rows - duplicate_keys,
        tuple(_duplicate(spec, values[:-2]) for values in found),
        tuple(findings),
    )


def _findings(request: InspectRequest, rows: Any) -> list[Finding]:
    """Return what is wrong with single rows, and keys that stand in several partitions."""
    spec = request.spec
    findings = []
    if spec.mode == "versions":
        ((repeated,),) = rows("repeated_contents")
        if repeated:
            said = f"{repeated} rows have the content of another version of their key."
            findings.append(Finding("version_twice", request.partition, said, int(repeated)))
    for name, text in spec.checks:
        condition = exp.paren(sqlglot.parse_one(text, dialect="duckdb"))
        ((broken,),) = rows("broken_check", condition=condition)
        if broken:
            said = f"{broken} rows break the check {name}."
            findings.append(Finding(f"check:{name}", request.partition, said, int(broken)))
    if spec.partition is not None and request.partition is None and set(spec.key) != {spec.partition}:
        ((wandering,),) = rows("wandering_keys")
        if wandering:
            said = f"{wandering} keys stand in several partitions of {spec.partition!r}."
            findings.append(Finding("key_in_several_partitions", None, said, int(wandering)))
    return findings


def _pieces(request: InspectRequest, statements: Statements) -> dict[str, sql.Piece]:
    spec = request.spec
    touched: sql.Node = exp.true()
    named: sql.Node = sql.cast(exp.null(), "STRING")
    if spec.partition is not None:
        kind, place = spec.by_name[spec.partition].type, column(spec.partition, sql.TARGET)
        named = sql.partition_text(spec, sql.TARGET)
        if request.partition is not None:
            touched = sql.in_partitions(spec, [value_of(spec, request.partition)], sql.TARGET)
        elif request.since is not None:
            touched = exp.GTE(this=place, expression=sql.literal(value_of(spec, request.since), kind))
    both = statements.columns
    looked_at = dict.fromkeys((*spec.row_identity, *((spec.id_column,) if spec.id_column is not None else ())))
    return {
        "touched": touched,
        "target_partition_or_null": named,
        "in_order": columns(spec.row_identity, "d"),
        "looked_at": both.all_stored(looked_at),
        "declared_of_target": both.all_stored(name for name in spec.column_names if name in both.types),
        "business_key": columns([name for name in spec.key if name != spec.partition]),
        "partition": column(spec.partition) if spec.partition is not None else exp.null(),
        "limit": sql.integer(request.limit),
    }


def _duplicate(spec: TableSpec, values: tuple[Any, ...]) -> DuplicateKey:
    *identity, count, ids = values
    key = dict(zip(spec.row_identity, identity, strict=True))
    partition = key.get(spec.partition) if spec.partition is not None else None
    names = tuple(str(ids).split("\n")) if spec.id_column is not None else ()
    return DuplicateKey(partition, key, int(count), names)


def _against_ledger(
    client: BigQuery, request: InspectRequest, counts: Mapping[str | None, int], statements: Statements
) -> list[Finding]:
    """Compare rows with what was inserted: exactly for tables that onerow made, at least for adopted ones."""
    spec = request.spec
    name = [bigquery.ScalarQueryParameter("name", "STRING", spec.name)]
    guards = client.run(statements(CONTROL, "read_guard"), name).rows
    if not guards:
        return [Finding("ledger", None, f"The table {spec.name!r} has no guard row; run `onerow init`.", 0)]
    exact = guards[0][1] == "created"
    inserted = {partition: int(said) for partition, said in client.run(statements(CONTROL, "read_inserted"), name).rows}
    findings = []
    for partition in sorted({*inserted, *counts}, key=str):
        if request.partition is not None and partition != request.partition:
            continue
        if partition not in counts and not request.covers(partition):
            continue
        found, said = counts.get(partition, 0), inserted.get(partition, 0)
        where = f"Partition {partition}" if partition is not None else "The table"
        if found < said:
            text = f"{where} has {found} rows; the ledger says {said} were inserted: {said - found} were removed by "
            findings.append(Finding("ledger", partition, f"{text}somebody else.", said - found))
        elif exact and found > said:
            text = f"{where} has {found} rows; the ledger explains {said}: {found - said} were written by "
            findings.append(Finding("ledger", partition, f"{text}somebody else.", found - said))
    return findings
